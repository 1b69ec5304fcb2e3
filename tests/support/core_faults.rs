//! What the stand-in core can do wrong.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::core::PATIENCE;

/// None of them, until a test asks for it.
#[derive(Default)]
pub(crate) struct Faults {
    refusals: Mutex<VecDeque<String>>,
    /// The refusal of all registrations from then on.
    refusal: Mutex<Option<String>>,
    forgets: AtomicBool,
    /// Milliseconds before each answer.
    delay: AtomicU64,
    /// How many answers were begun while they are to be late.
    late: AtomicUsize,
    /// Registrations are taken and not answered.
    holds: AtomicBool,
    /// How many answers are still to be cut.
    cuts: AtomicUsize,
    /// How many answers were cut.
    cut: AtomicUsize,
}

impl Faults {
    /// The next registrations, that many, are refused in these words.
    pub(crate) fn refuse_next(&self, count: usize, words: &str) {
        let words = std::iter::repeat_n(words.to_owned(), count);
        self.refusals.lock().expect("a lock").extend(words);
    }

    /// Every registration is refused in these words.
    pub(crate) fn refuse(&self, words: &str) {
        *self.refusal.lock().expect("a lock") = Some(words.to_owned());
    }

    /// Registrations are said to have gone well, and forgotten at once.
    pub(crate) fn forget_registrations(&self) {
        self.forgets.store(true, Ordering::SeqCst);
    }

    pub(super) fn forgets(&self) -> bool {
        self.forgets.load(Ordering::SeqCst)
    }

    /// Each answer comes that much later.
    pub(crate) fn answer_after(&self, delay: Duration) {
        let delay = u64::try_from(delay.as_millis()).expect("a short time");
        self.delay.store(delay, Ordering::SeqCst);
    }

    /// Waits until an answer is late.
    pub(crate) fn wait_for_late_answer(&self) {
        wait_until(|| self.late.load(Ordering::SeqCst) > 0, "the core is not asked");
    }

    /// Registrations are taken, and answered when they are released.
    pub(crate) fn hold_registrations(&self) {
        self.holds.store(true, Ordering::SeqCst);
    }

    pub(crate) fn release_registrations(&self) {
        self.holds.store(false, Ordering::SeqCst);
    }

    pub(super) fn wait_for_release(&self) {
        wait_until(|| !self.holds.load(Ordering::SeqCst), "the registration is not released");
    }

    /// The next answers, that many, end in their middle.
    pub(crate) fn cut_next(&self, count: usize) {
        self.cuts.store(count, Ordering::SeqCst);
    }

    /// Waits until so many answers ended in their middle.
    pub(crate) fn wait_for_cuts(&self, count: usize) {
        wait_until(|| self.cut() == count, "the answers are not cut");
    }

    /// How many answers ended in their middle.
    pub(crate) fn cut(&self) -> usize {
        self.cut.load(Ordering::SeqCst)
    }

    pub(super) fn refusal(&self) -> Option<String> {
        let next = self.refusals.lock().expect("a lock").pop_front();
        next.or_else(|| self.refusal.lock().expect("a lock").clone())
    }

    fn is_cut(&self) -> bool {
        let less = |cuts: usize| cuts.checked_sub(1);
        let is_cut = self.cuts.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).is_ok();
        self.cut.fetch_add(usize::from(is_cut), Ordering::SeqCst);
        is_cut
    }
}

fn wait_until(is_so: impl Fn() -> bool, otherwise: &str) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "{otherwise}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// The way to a client, on which answers are late or end in their middle.
pub(super) struct Outgoing<'a> {
    pub(super) stream: &'a UnixStream,
    pub(super) faults: &'a Faults,
}

impl Write for Outgoing<'_> {
    /// Is given whole answers, as long as they are short.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let start = Instant::now();
        let is_late = self.faults.delay.load(Ordering::SeqCst) > 0;
        self.faults.late.fetch_add(usize::from(is_late), Ordering::SeqCst);
        // Looked at again and again: a core that ends does not wait.
        while start.elapsed() < Duration::from_millis(self.faults.delay.load(Ordering::SeqCst)) {
            thread::sleep(Duration::from_millis(10));
        }
        if self.faults.is_cut() {
            self.stream.write_all(&bytes[..bytes.len() / 2])?;
            self.stream.shutdown(Shutdown::Both)?;
            return Ok(bytes.len());
        }
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
