//! Waits, in a thread of its own, until all programs that run now have ended: a grace period of RCU.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::super::calls;

/// The last grace period that was begun.
#[derive(Debug)]
pub(super) struct GracePeriod {
    is_over: Arc<AtomicBool>,
}

impl Default for GracePeriod {
    /// None was begun.
    fn default() -> GracePeriod {
        GracePeriod { is_over: Arc::new(AtomicBool::new(true)) }
    }
}

impl GracePeriod {
    /// Begins one. The last one must be over.
    pub(super) fn begin(&self) {
        self.is_over.store(false, Ordering::Release);
        let is_over = Arc::clone(&self.is_over);
        let wait = move || {
            calls::wait_for_programs();
            is_over.store(true, Ordering::Release);
        };
        // Without a thread, the time between two sweeps has to do.
        if thread::Builder::new().name("grace period".into()).spawn(wait).is_err() {
            self.is_over.store(true, Ordering::Release);
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn a_grace_period_ends() {
        let period = GracePeriod::default();
        assert!(period.is_over());
        period.begin();
        let start = Instant::now();
        while !period.is_over() {
            assert!(start.elapsed() < Duration::from_secs(60));
            thread::yield_now();
        }
    }
}
