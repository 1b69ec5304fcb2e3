//! Log lines of the code under test, by thread.

use std::cell::RefCell;

use log::{Level, LevelFilter, Log, Metadata, Record};

thread_local! {
    static LINES: RefCell<Vec<(Level, String)>> = const { RefCell::new(Vec::new()) };
}

struct Capture;

impl Log for Capture {
    fn enabled(&self, _: &Metadata) -> bool {
        true
    }

    fn log(&self, record: &Record) {
        let line = format!("{} {}", record.level(), record.args());
        LINES.with_borrow_mut(|lines| lines.push((record.level(), line)));
    }

    fn flush(&self) {}
}

/// The value of `run`, and the warnings and errors that it logged.
pub fn logged<T>(run: impl FnOnce() -> T) -> (T, Vec<String>) {
    logged_from(LevelFilter::Warn, run)
}

/// The value of `run`, and the lines that it logged at that level or a more severe one.
pub fn logged_from<T>(level: LevelFilter, run: impl FnOnce() -> T) -> (T, Vec<String>) {
    // Another test of this process may have set the logger. All tests share the maximum level.
    let _ = log::set_logger(&Capture);
    log::set_max_level(LevelFilter::Debug);
    LINES.take();
    let value = run();
    let lines = LINES.take().into_iter().filter(|(of, _)| *of <= level);
    (value, lines.map(|(_, line)| line).collect())
}
