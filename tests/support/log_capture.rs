//! What the code under test logs, thread by thread.

use std::cell::RefCell;

use log::{LevelFilter, Log, Metadata, Record};

thread_local! {
    static LINES: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

struct Capture;

impl Log for Capture {
    fn enabled(&self, _: &Metadata) -> bool {
        true
    }

    fn log(&self, record: &Record) {
        LINES.with_borrow_mut(|lines| lines.push(format!("{} {}", record.level(), record.args())));
    }

    fn flush(&self) {}
}

/// What `run` returns, and what it logged as a warning or an error.
pub fn logged<T>(run: impl FnOnce() -> T) -> (T, Vec<String>) {
    // Another test of this process may have been first.
    let _ = log::set_logger(&Capture);
    log::set_max_level(LevelFilter::Warn);
    LINES.take();
    (run(), LINES.take())
}
