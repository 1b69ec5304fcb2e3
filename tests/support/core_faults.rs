//! The faults of the stand-in core.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::core::TEST_TIMEOUT;

/// All faults are off until a test sets one.
#[derive(Default)]
pub(crate) struct Faults {
    refusals: Mutex<VecDeque<String>>,
    /// The reason of the refusal of all further registrations.
    refusal: Mutex<Option<String>>,
    loses_registrations: AtomicBool,
    /// Milliseconds before each answer.
    delay: AtomicU64,
    /// How many delayed answers were started.
    late: AtomicUsize,
    /// The core does not answer registrations.
    holds: AtomicBool,
    /// How many answers are still to be truncated.
    cuts: AtomicUsize,
    /// How many answers were truncated.
    cut: AtomicUsize,
}

impl Faults {
    /// Refuses the next `count` registrations with this reason.
    pub(crate) fn refuse_next(&self, count: usize, reason: &str) {
        let reasons = std::iter::repeat_n(reason.to_owned(), count);
        self.refusals.lock().expect("a lock").extend(reasons);
    }

    /// Refuses every registration with this reason.
    pub(crate) fn refuse(&self, reason: &str) {
        *self.refusal.lock().expect("a lock") = Some(reason.to_owned());
    }

    /// Answers registrations with success, and does not store them.
    pub(crate) fn lose_registrations(&self) {
        self.loses_registrations.store(true, Ordering::SeqCst);
    }

    pub(super) fn loses_registrations(&self) -> bool {
        self.loses_registrations.load(Ordering::SeqCst)
    }

    /// Delays each answer.
    pub(crate) fn answer_after(&self, delay: Duration) {
        let delay = u64::try_from(delay.as_millis()).expect("a short time");
        self.delay.store(delay, Ordering::SeqCst);
    }

    /// Waits until an answer is late.
    pub(crate) fn wait_for_late_answer(&self) {
        wait_until(|| self.late.load(Ordering::SeqCst) > 0, "the core receives no request");
    }

    /// Stores registrations, and answers them after the release.
    pub(crate) fn hold_registrations(&self) {
        self.holds.store(true, Ordering::SeqCst);
    }

    pub(crate) fn release_registrations(&self) {
        self.holds.store(false, Ordering::SeqCst);
    }

    pub(super) fn wait_for_release(&self) {
        wait_until(|| !self.holds.load(Ordering::SeqCst), "the registration is not released");
    }

    /// Truncates the next `count` answers in the middle.
    pub(crate) fn cut_next(&self, count: usize) {
        self.cuts.store(count, Ordering::SeqCst);
    }

    /// Waits until `count` answers were truncated.
    pub(crate) fn wait_for_cuts(&self, count: usize) {
        wait_until(|| self.cut() == count, "the answers are not cut");
    }

    /// How many answers were truncated.
    pub(crate) fn cut(&self) -> usize {
        self.cut.load(Ordering::SeqCst)
    }

    pub(super) fn refusal(&self) -> Option<String> {
        let next = self.refusals.lock().expect("a lock").pop_front();
        next.or_else(|| self.refusal.lock().expect("a lock").clone())
    }

    fn is_cut(&self) -> bool {
        let decrement = |cuts: usize| cuts.checked_sub(1);
        let is_cut = self.cuts.fetch_update(Ordering::SeqCst, Ordering::SeqCst, decrement).is_ok();
        self.cut.fetch_add(usize::from(is_cut), Ordering::SeqCst);
        is_cut
    }
}

fn wait_until(is_so: impl Fn() -> bool, otherwise: &str) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < TEST_TIMEOUT, "{otherwise}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// The connection to a client, with delayed or truncated answers.
pub(super) struct Outgoing<'a> {
    pub(super) stream: &'a UnixStream,
    pub(super) faults: &'a Faults,
}

impl Write for Outgoing<'_> {
    /// The caller passes whole answers, as long as they are short.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let start = Instant::now();
        let is_late = self.faults.delay.load(Ordering::SeqCst) > 0;
        self.faults.late.fetch_add(usize::from(is_late), Ordering::SeqCst);
        // The delay is read each time: a core that ends sets it to 0.
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
