//! A value that is loaded once, with retries after failures.

use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// The pause after the first failure; each further failure doubles it,
const FIRST_PAUSE: Duration = Duration::from_secs(60);
/// up to this one.
const MAX_PAUSE: Duration = Duration::from_secs(3600);

/// A value that is loaded when it is first needed, and kept.
///
/// Every failure is followed by another attempt. Temporary causes (ENOMEM, EAGAIN, EMFILE) and permanent ones, such
/// as an old kernel, are not distinguished: capabilities, sysctls and lockdown can change, an errno has different
/// meanings in different kernels, and an attempt per hour costs some milliseconds.
#[derive(Debug)]
pub(super) struct LoadOnce<T> {
    loaded: OnceLock<T>,
    /// Held during an attempt, so that there is only one at a time.
    failed: Mutex<Option<Failed>>,
}

#[derive(Clone, Copy, Debug)]
struct Failed {
    at: Instant,
    pause: Duration,
}

impl<T> LoadOnce<T> {
    pub(super) fn new() -> LoadOnce<T> {
        LoadOnce { loaded: OnceLock::new(), failed: Mutex::new(None) }
    }

    pub(super) fn get(&self) -> Option<&T> {
        self.loaded.get()
    }

    /// The value, loaded now if it is not yet and an attempt is due at that time. `load` gets the pause after
    /// which the next attempt is due should this one fail.
    pub(super) fn get_or_load(
        &self,
        now: Instant,
        load: impl FnOnce(Duration) -> Option<T>,
    ) -> Option<&T> {
        if let Some(loaded) = self.loaded.get() {
            return Some(loaded);
        }
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        // Another thread can have loaded it in the meantime.
        if self.loaded.get().is_none() {
            let pause = match *failed {
                None => FIRST_PAUSE,
                Some(last) if now.saturating_duration_since(last.at) < last.pause => return None,
                Some(last) => MAX_PAUSE.min(last.pause * 2),
            };
            match load(pause) {
                Some(value) => _ = self.loaded.set(value),
                None => *failed = Some(Failed { at: now, pause }),
            }
        }
        self.loaded.get()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    use super::*;

    #[test]
    fn a_failed_attempt_is_repeated_after_pauses_up_to_an_hour() {
        let once = LoadOnce::<u8>::new();
        let start = Instant::now();
        let mut attempts = Vec::new();
        // A query every ten seconds.
        for seconds in (0..20_000).step_by(10) {
            let now = start + Duration::from_secs(seconds);
            once.get_or_load(now, |_| {
                attempts.push(seconds);
                None
            });
        }
        assert_eq!(attempts, [0, 60, 180, 420, 900, 1860, 3780, 7380, 10_980, 14_580, 18_180]);
    }

    #[test]
    fn the_attempt_gets_the_pause_that_follows_its_failure() {
        let once = LoadOnce::<u8>::new();
        let mut pause = None;
        let mut fail = |seconds| {
            once.get_or_load(Instant::now() + Duration::from_secs(seconds), |next| {
                pause = Some(next);
                None
            });
            pause.take().map(|pause: Duration| pause.as_secs())
        };
        assert_eq!((fail(0), fail(59), fail(61)), (Some(60), None, Some(120)));
    }

    #[test]
    fn a_program_loaded_after_a_failure_stays() {
        let once = LoadOnce::new();
        let start = Instant::now();
        assert_eq!(once.get_or_load(start, |_| None), None);
        assert_eq!(once.get_or_load(start + FIRST_PAUSE, |_| Some(7)), Some(&7));
        let later = start + 10 * MAX_PAUSE;
        assert_eq!(once.get_or_load(later, |_| unreachable!("it is loaded")), Some(&7));
    }

    #[test]
    fn concurrent_callers_load_once() {
        let once = LoadOnce::new();
        let loads = AtomicUsize::new(0);
        let now = Instant::now();
        thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    let value = once.get_or_load(now, |_| {
                        loads.fetch_add(1, Ordering::SeqCst);
                        thread::yield_now();
                        Some(7)
                    });
                    assert_eq!(value, Some(&7));
                });
            }
        });
        assert_eq!(loads.into_inner(), 1);
    }

    #[test]
    fn concurrent_callers_share_a_failure() {
        let once = LoadOnce::<u8>::new();
        let loads = AtomicUsize::new(0);
        let now = Instant::now();
        thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    once.get_or_load(now, |_| {
                        loads.fetch_add(1, Ordering::SeqCst);
                        None
                    })
                });
            }
        });
        assert_eq!(loads.into_inner(), 1);
    }
}
