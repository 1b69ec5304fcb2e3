//! Reads of `/proc/<pid>` that the process can block.
//!
//! To follow a link below `/proc/<pid>`, the kernel takes the `exec_update_lock` of the process, which an execve
//! holds (`fs/exec.c`). An execve waits for file servers: a process with an open O_CLOEXEC file of its own FUSE
//! mount can hold the lock for any time. No signal but SIGKILL ends the wait.
//!
//! So each such read is a [`Step`] of a scan. A scan with a blocked step is abandoned, and a new attempt skips
//! the process: see `attempts`. The blocked thread remains until the step ends.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::blocked::{BlockedProcesses, Identity, PROCESS_LIMIT};
use super::sleep::Moment;
use crate::model::User;

/// A shorter step is not measured.
const SHORT: Duration = Duration::from_millis(1);
/// A step in progress is not checked for this time.
const MIN_AGE: Duration = Duration::from_millis(10);
/// A process is recorded if its step has been blocked for this time when the attempt ends.
const SLOW: Duration = Duration::from_millis(300);

/// The steps of one attempt to scan.
#[derive(Debug)]
pub(crate) struct Steps {
    blocked: Arc<BlockedProcesses>,
    procfs: PathBuf,
    /// The total blocked time after which every process is skipped.
    budget: Duration,
    abandoned: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    last: u64,
    /// The steps in progress, at most one for each thread.
    in_progress: Vec<InProgress>,
    skipped: BTreeSet<i32>,
    /// The total time in which any step was blocked.
    time: Time,
    /// The same for each process that blocked a step.
    processes: BTreeMap<i32, Time>,
}

#[derive(Debug)]
struct InProgress {
    id: u64,
    pid: i32,
    since: Instant,
    start: Moment,
    /// Set when the step is found blocked: the pid then surely belongs to the process.
    process: Option<Identity>,
    /// How long the step has been blocked.
    blocked: Duration,
    /// The user of the process, if the step was recorded as blocked.
    recorded: Option<User>,
}

/// A sum of times in which overlapping times count once.
#[derive(Clone, Copy, Debug, Default)]
struct Time {
    sum: Duration,
    until: Option<Instant>,
}

impl Time {
    /// Adds that time before `now`.
    fn add(&mut self, time: Duration, now: Instant) {
        let since_last = self.until.map(|until| now.saturating_duration_since(until));
        self.sum += since_last.map_or(time, |since_last| time.min(since_last));
        self.until = self.until.max(Some(now));
    }
}

/// A step that is in progress, until it is dropped.
#[derive(Debug)]
pub(crate) struct Step<'a> {
    steps: &'a Steps,
    id: u64,
    since: Instant,
    start: Moment,
}

impl Steps {
    /// The steps of an attempt on this mount of proc.
    pub(crate) fn new(blocked: Arc<BlockedProcesses>, procfs: &Path, budget: Duration) -> Steps {
        let (abandoned, state) = (AtomicBool::new(false), Mutex::default());
        Steps { blocked, procfs: procfs.into(), budget, abandoned, state }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a step that the process can block; None if the process must be skipped.
    pub(crate) fn begin(&self, pid: i32, user_of: impl FnOnce(i32) -> User) -> Option<Step<'_>> {
        let now = Instant::now();
        let is_expected = self.blocked.is_expected_of(pid, user_of, now);
        let start = Moment::before(now);
        let mut state = self.state();
        // It is set under the lock, so an abandoned attempt begins no step.
        let is_over = state.time.sum >= self.budget || self.abandoned.load(Ordering::Relaxed);
        if is_expected || is_over {
            state.skipped.insert(pid);
            return None;
        }
        state.last += 1;
        // The time for the lock does not count, since the process does not block it.
        let (id, since) = (state.last, Instant::now());
        let (process, blocked, recorded) = (None, Duration::ZERO, None);
        let step = InProgress { id, pid, since, start, process, blocked, recorded };
        state.in_progress.push(step);
        Some(Step { steps: self, id, since, start })
    }

    /// Set when the attempt is abandoned: it then ends as soon as possible.
    pub(crate) fn abandoned(&self) -> &AtomicBool {
        &self.abandoned
    }

    /// The processes that were skipped so far.
    pub(crate) fn skipped(&self) -> BTreeSet<i32> {
        self.state().skipped.clone()
    }

    /// The longest time that a step in progress has been blocked, if any. This counts the time of steps in
    /// progress, so the caller calls it at short intervals.
    pub(crate) fn observe(&self) -> Option<Duration> {
        let mut state = self.state();
        let mut longest = None;
        // `count` borrows the state, so the list is taken out of it.
        let mut in_progress = std::mem::take(&mut state.in_progress);
        for step in &mut in_progress {
            if step.since.elapsed() < MIN_AGE {
                continue;
            }
            let Some((asleep, now)) = step.start.sleeps_since() else { continue };
            step.blocked = asleep.min(now.saturating_duration_since(step.since));
            longest = longest.max(Some(step.blocked));
            self.count(&mut state, step, now, true);
        }
        state.in_progress = in_progress;
        longest
    }

    /// Counts a step that is blocked, or was until now.
    fn count(&self, state: &mut State, step: &mut InProgress, now: Instant, is_in_progress: bool) {
        let of_process = state.processes.entry(step.pid).or_default();
        let before = of_process.sum;
        of_process.add(step.blocked, now);
        let after = of_process.sum;
        state.time.add(step.blocked, now);
        let process = step.process.get_or_insert_with(|| Identity::of(&self.procfs, step.pid));
        let limited = after.min(PROCESS_LIMIT).saturating_sub(before);
        if !limited.is_zero() {
            self.blocked.add_time(process.user, limited, now);
        }
        // The attempt is abandoned if a step in progress is blocked for this time.
        if after >= PROCESS_LIMIT && !is_in_progress {
            of_process.sum = Duration::ZERO;
            if let Some(process) = step.process.take() {
                self.blocked.insert(step.pid, process, true, now);
            }
        }
    }

    /// Abandons the attempt, and records the processes that block a step of it.
    pub(crate) fn abandon(&self) {
        let now = Instant::now();
        let mut state = self.state();
        self.abandoned.store(true, Ordering::Relaxed);
        for step in state.in_progress.iter_mut().filter(|step| step.blocked >= SLOW) {
            if let Some(process) = step.process.take() {
                step.recorded = Some(process.user);
                self.blocked.insert(step.pid, process, false, now);
            }
        }
    }

    /// The total time in which any step was blocked.
    pub(crate) fn blocked_time(&self) -> Duration {
        self.state().time.sum
    }
}

impl Drop for Step<'_> {
    fn drop(&mut self) {
        let age = self.since.elapsed();
        let blocked = if age >= SHORT { self.start.slept().min(age) } else { Duration::ZERO };
        let mut state = self.steps.state();
        let Some(index) = state.in_progress.iter().position(|step| step.id == self.id) else {
            return;
        };
        let mut step = state.in_progress.swap_remove(index);
        if let Some(user) = step.recorded {
            self.steps.blocked.end_step(step.pid, user, Instant::now());
        } else if blocked >= SHORT {
            step.blocked = blocked;
            self.steps.count(&mut state, &mut step, Instant::now(), false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn steps(budget: Duration) -> Steps {
        Steps::new(Arc::default(), "/nowhere".as_ref(), budget)
    }

    fn user(_: i32) -> User {
        User::of_uid(Some(1000))
    }

    /// A step of that process that has been blocked for so long.
    fn step(pid: i32, blocked: Duration) -> InProgress {
        let since = Instant::now();
        let start = Moment::before(since);
        InProgress { id: 0, pid, since, start, process: None, blocked, recorded: None }
    }

    #[test]
    fn times_that_overlap_count_once() {
        let (mut time, start) = (Time::default(), Instant::now());
        let after = |seconds| start + seconds * SECOND;
        time.add(2 * SECOND, after(2));
        time.add(SECOND, after(2));
        time.add(2 * SECOND, after(3));
        time.add(SECOND, after(10));
        // A moment that was taken before the last one.
        time.add(SECOND, after(9));
        assert_eq!((time.sum, time.until), (4 * SECOND, Some(after(10))));
    }

    #[test]
    fn without_a_budget_every_process_is_skipped() {
        let steps = steps(Duration::ZERO);
        assert!(steps.begin(7, user).is_none());
        assert_eq!(steps.skipped(), BTreeSet::from([7]));
    }

    #[test]
    fn steps_end_once_the_budget_is_used_up() {
        let (steps, now) = (steps(SECOND), Instant::now());
        let count = |pid, blocked, now| {
            steps.count(&mut steps.state(), &mut step(pid, blocked), now, false);
        };
        count(7, SECOND - SHORT, now);
        // It overlaps the first.
        count(8, SHORT, now);
        assert!(steps.begin(9, user).is_some());
        count(8, SHORT, now + SHORT);
        assert!(steps.begin(9, user).is_none());
        assert_eq!(steps.skipped(), BTreeSet::from([9]));
    }

    #[test]
    fn a_process_is_skipped_after_a_second_of_blocked_steps() {
        let (steps, now) = (steps(Duration::MAX), Instant::now());
        let count = |blocked, now, is_in_progress| {
            steps.count(&mut steps.state(), &mut step(7, blocked), now, is_in_progress);
        };
        count(PROCESS_LIMIT - SHORT, now, false);
        assert!(steps.begin(7, user).is_some());
        // The limit is reached while a step is in progress; it counts when that ends.
        count(SHORT, now + SHORT, true);
        assert!(steps.begin(7, user).is_some());
        count(SHORT, now + SHORT, false);
        assert!(steps.begin(7, user).is_none() && steps.begin(8, user).is_some());
    }

    #[test]
    fn a_process_counts_for_its_user_for_no_more_than_a_second() {
        let (steps, now) = (steps(Duration::MAX), Instant::now());
        let count = |pid| {
            steps.count(&mut steps.state(), &mut step(pid, 600 * SECOND), now, true);
        };
        // The user of these processes cannot be read.
        let unknown = |_| User::of_uid(None);
        count(7);
        count(7);
        assert!(steps.begin(8, unknown).is_some());
        count(9);
        assert!(steps.begin(8, unknown).is_none() && steps.begin(8, user).is_some());
    }

    #[test]
    fn an_abandoned_attempt_begins_no_step() {
        let steps = steps(Duration::MAX);
        assert!(steps.begin(7, user).is_some());
        steps.abandon();
        assert!(steps.begin(7, user).is_none());
    }

    #[test]
    fn a_step_that_is_not_blocked_counts_nothing() {
        let steps = steps(Duration::MAX);
        let step = steps.begin(7, user);
        let start = Instant::now();
        while start.elapsed() < 3 * MIN_AGE {
            assert_eq!(steps.observe(), None);
        }
        drop(step);
        assert!(steps.blocked_time() < MIN_AGE, "{:?}", steps.blocked_time());
    }

    #[test]
    fn a_step_in_progress_is_counted_once() {
        let steps = steps(Duration::MAX);
        let (release, released) = std::sync::mpsc::channel::<()>();
        std::thread::scope(|scope| {
            let steps = &steps;
            scope.spawn(move || {
                let _step = steps.begin(7, user);
                released.recv().unwrap_or_default();
            });
            let start = Instant::now();
            while steps.observe() < Some(Duration::from_millis(100)) {
                assert!(start.elapsed() < 20 * SECOND);
            }
            drop(release);
        });
        let blocked = steps.blocked_time();
        assert!((Duration::from_millis(100)..20 * SECOND).contains(&blocked), "{blocked:?}");
        assert!(steps.state().processes.values().all(|time| time.sum == blocked));
    }
}
