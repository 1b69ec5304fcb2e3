//! When a scan has to end.

use std::time::{Duration, Instant};

/// The moment after which a scan starts no further step. What it has not read by then is an omission.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline(Option<Instant>);

impl Deadline {
    pub(super) const NEVER: Deadline = Deadline(None);

    /// That time from now. A time too long to be represented never ends.
    pub(super) fn after(time: Duration) -> Deadline {
        Deadline(Instant::now().checked_add(time))
    }

    /// The earlier of this deadline and that time from now.
    pub(super) fn or_after(self, time: Duration) -> Deadline {
        let other = Instant::now().checked_add(time);
        Deadline(match (self.0, other) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        })
    }

    pub(super) fn has_passed(self) -> bool {
        self.0.is_some_and(|end| Instant::now() >= end)
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
}
