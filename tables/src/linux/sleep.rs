//! Measures how long a thread sleeps: the time in which it neither runs nor waits for a processor.
//!
//! The time that a system call takes does not show whether it was blocked: on a busy machine a thread waits for
//! a processor at any point. The scheduler counts that wait in `schedstat`, apart from sleep.

use std::cell::Cell;
use std::time::{Duration, Instant};

use rustix::process::Pid;
use rustix::thread::gettid;

use crate::formats::linux::proc_status;
use crate::formats::linux::schedstat::{self, SchedStat};

/// A point in time of a thread of this process, from which its sleep is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    thread: Pid,
    at: Instant,
    stat: SchedStat,
}

/// The maximum age of the statistics. To read them takes as long as a few short system calls, so they are
/// reused. At most this time is counted in excess.
const MAX_AGE: Duration = Duration::from_millis(5);

thread_local! {
    static LAST: Cell<Option<Moment>> = const { Cell::new(None) };
}

impl Moment {
    /// A point in time of the calling thread, at most [`MAX_AGE`] before `now`.
    pub(crate) fn before(now: Instant) -> Moment {
        let last = LAST.get().filter(|last| now.saturating_duration_since(last.at) <= MAX_AGE);
        last.unwrap_or_else(|| Moment::read(LAST.get().map_or_else(gettid, |last| last.thread)))
    }

    fn read(thread: Pid) -> Moment {
        let moment = Moment { thread, at: Instant::now(), stat: read_stat(thread) };
        LAST.set(Some(moment));
        moment
    }

    /// How long the calling thread has slept since then.
    pub(crate) fn slept(self) -> Duration {
        let now = Moment::read(self.thread);
        // The thread did not pause, so it did not sleep: the hypervisor used the time, or it is not counted yet.
        let is_counted = self.stat.slices > 0;
        if is_counted && now.stat.slices == self.stat.slices {
            return Duration::ZERO;
        }
        self.slept_until(now)
    }

    /// The same for another thread, and until when it is counted; None if the thread does not sleep now.
    pub(crate) fn sleeps_since(self) -> Option<(Duration, Instant)> {
        let stat = read_stat(self.thread);
        let is_asleep = is_asleep(self.thread);
        let now = Moment { thread: self.thread, at: Instant::now(), stat };
        is_asleep.then(|| (self.slept_until(now), now.at))
    }

    fn slept_until(self, now: Moment) -> Duration {
        let awake = now.stat.awake.saturating_sub(self.stat.awake);
        now.at.saturating_duration_since(self.at).saturating_sub(awake)
    }
}

/// Zero if it cannot be read: then the whole time counts.
fn read_stat(thread: Pid) -> SchedStat {
    let path = format!("/proc/self/task/{}/schedstat", thread.as_raw_nonzero());
    std::fs::read(path).ok().and_then(|text| schedstat::parse(&text)).unwrap_or_default()
}

/// Whether the thread sleeps; true if its state cannot be read.
fn is_asleep(thread: Pid) -> bool {
    let path = format!("/proc/self/task/{}/status", thread.as_raw_nonzero());
    std::fs::read(path).map_or(true, |status| !proc_status::is_running(&status))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment() -> Moment {
        Moment::read(gettid())
    }

    #[test]
    fn sleep_is_counted() {
        let start = moment();
        std::thread::sleep(Duration::from_millis(50));
        let slept = start.slept();
        // The end of the sleep is late on a busy machine, and that is no sleep.
        assert!((Duration::from_millis(45)..start.at.elapsed()).contains(&slept), "{slept:?}");
    }

    #[test]
    fn a_thread_that_runs_does_not_sleep() {
        let start = moment();
        // More threads than processors: each waits for one.
        std::thread::scope(|scope| {
            for _ in 0..2 * crate::linux::cores() {
                scope.spawn(move || {
                    let own = moment();
                    while own.at.elapsed() < Duration::from_millis(300) {
                        std::hint::spin_loop();
                    }
                    let slept = own.slept();
                    assert!(slept < Duration::from_millis(100), "{slept:?}");
                });
            }
        });
        // This one slept until they ended.
        assert!(start.slept() > Duration::from_millis(150));
    }

    #[test]
    fn the_sleep_of_another_thread_is_detected() {
        let (send, moments) = std::sync::mpsc::channel();
        let (release, released) = std::sync::mpsc::channel::<()>();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                send.send(moment()).unwrap();
                released.recv().unwrap_or_default();
            });
            let of_other = moments.recv().unwrap();
            let start = Instant::now();
            let is_seen = || {
                of_other.sleeps_since().is_some_and(|(slept, _)| slept >= Duration::from_millis(20))
            };
            while !is_seen() {
                assert!(start.elapsed() < Duration::from_secs(20));
            }
            drop(release);
        });
        assert_eq!(moment().sleeps_since(), None);
    }

    #[test]
    fn a_moment_is_used_again_only_for_a_while() {
        let first = moment();
        assert_eq!(Moment::before(first.at + MAX_AGE).at, first.at);
        let later = Moment::before(first.at + MAX_AGE + Duration::from_nanos(1));
        assert!(later.at > first.at);
    }
}
