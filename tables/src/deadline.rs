//! The deadline of a scan.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A time after which a scan reads nothing more, or a flag that ends it earlier. The rest is an omission.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline<'a> {
    end: Option<Instant>,
    cancelled: Option<&'a AtomicBool>,
}

impl Deadline<'_> {
    /// A deadline after this time from now. A time too long to be represented never ends.
    pub(crate) fn after(time: Duration) -> Deadline<'static> {
        Deadline { end: Instant::now().checked_add(time), cancelled: None }
    }

    pub(crate) fn has_passed(self) -> bool {
        self.end.is_some_and(|end| Instant::now() >= end)
            || self.cancelled.is_some_and(|cancelled| cancelled.load(Ordering::Relaxed))
    }
}

#[cfg(any(target_os = "linux", test))]
impl<'a> Deadline<'a> {
    pub(crate) const NEVER: Deadline<'static> = Deadline { end: None, cancelled: None };

    /// A deadline at this time, or never; or when the flag is set.
    pub(crate) fn new(end: Option<Instant>, cancelled: &'a AtomicBool) -> Deadline<'a> {
        Deadline { end, cancelled: Some(cancelled) }
    }

    /// The earlier of this deadline and the time from now.
    pub(crate) fn or_after(self, time: Duration) -> Deadline<'a> {
        let other = Instant::now().checked_add(time);
        let end = match (self.end, other) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        Deadline { end, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earlier_of_two_deadlines_counts() {
        let hour = Duration::from_secs(3600);
        assert!(!Deadline::after(hour).has_passed());
        assert!(Deadline::after(Duration::ZERO).has_passed());
        assert!(Deadline::after(hour).or_after(Duration::ZERO).has_passed());
        assert!(Deadline::after(Duration::ZERO).or_after(hour).has_passed());
        assert!(!Deadline::NEVER.has_passed());
    }

    #[test]
    fn a_deadline_has_passed_once_it_is_cancelled() {
        let cancelled = AtomicBool::new(false);
        let deadline = Deadline::new(None, &cancelled);
        assert!(!deadline.has_passed());
        cancelled.store(true, Ordering::Relaxed);
        assert!(deadline.has_passed());
        assert!(deadline.or_after(Duration::from_secs(3600)).has_passed());
    }
}
