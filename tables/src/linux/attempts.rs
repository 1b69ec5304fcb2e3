//! Scans that a process cannot stop.
//!
//! A scan runs in a thread of its own. If one of its [steps](super::steps) is blocked, the scan is abandoned:
//! its thread stays behind until the step ends, other processes that are blocked are looked for, and the scan is
//! made once more without them. When blocked steps have taken [`BUDGET`] together, the last attempt makes no
//! step at all.
//!
//! The alternative is a worker process that is killed and started again. It would have to pass on every row,
//! load the BPF program after each restart, and take the memory of a second process; and a scan that is
//! killed takes the other scans of the worker with it. What a killed process gives up that a thread does not
//! is a wait that cannot be killed: no step waits in that way, see [`Process::root_identity`].

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::proc_root::{ProcRoot, Process};
use super::steps::{BlockedProcesses, Identity, PROCESSES_OF_A_USER, Steps};
use super::workers::Workers;
use crate::{Error, User};

/// A step that is blocked for that long is abandoned.
const STEP_LIMIT: Duration = Duration::from_secs(1);
/// All blocked steps of a scan together are waited for so long.
const BUDGET: Duration = Duration::from_secs(3);
/// With that many blocked processes no step is made any more: each has a thread wait.
const MAX_BLOCKED: usize = 32;
/// More attempts do not run at a time, those that were abandoned among them.
const MAX_RUNNING: usize = 64;
/// How often it is looked whether a step is blocked.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// How long after its deadline a scan is still waited for. It ends by itself, unless the kernel holds it.
const GRACE: Duration = Duration::from_secs(5);

/// Makes scans, and remembers which processes block them.
#[derive(Debug, Default)]
pub(crate) struct Attempts {
    blocked: Arc<BlockedProcesses>,
    workers: Arc<Workers>,
    /// Each attempt that has not ended, abandoned or not, has a clone.
    running: Arc<()>,
}

impl Attempts {
    /// Scans, as often as it takes until no step is blocked.
    ///
    /// # Errors
    /// What the scan returns; or that it does not end although its deadline has passed, or that the system has
    /// no thread for it.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        timeout: Duration,
        procfs: &Path,
        scan: impl Fn(Arc<Steps>, Option<Instant>) -> Result<T, Error> + Send + Sync + 'static,
    ) -> Result<T, Error> {
        let start = Instant::now();
        // A time too long to be represented never ends.
        let end = start.checked_add(timeout);
        let scan = Arc::new(scan);
        let mut budget = BUDGET;
        loop {
            let running = Arc::strong_count(&self.running) - 1;
            if running >= MAX_RUNNING {
                return Err(Error::Blocked { scans: running });
            }
            let is_allowed = !budget.is_zero() && self.blocked.steps() < MAX_BLOCKED;
            let steps = Arc::new(Steps::new(Arc::clone(&self.blocked), is_allowed));
            let (send, result) = sync_channel(1);
            let attempt = {
                let (scan, steps) = (Arc::clone(&scan), Arc::clone(&steps));
                let running = Arc::clone(&self.running);
                move |done: &dyn Fn()| {
                    let result = catch_unwind(AssertUnwindSafe(|| scan(steps, end)));
                    drop((scan, running));
                    done();
                    // It is not waited for if the attempt was abandoned.
                    let _ = send.send(result);
                }
            };
            self.workers.run(attempt).map_err(|source| Error::Thread { source })?;
            let mut blocked = Wait::new(budget);
            while !is_allowed || !blocked.is_too_long(&steps) {
                match result.recv_timeout(POLL_INTERVAL) {
                    Ok(Ok(result)) => {
                        // Processes that blocked it for a while are remembered.
                        steps.abandon(|pid| identify(procfs, pid));
                        return result;
                    }
                    Ok(Err(panic)) => resume_unwind(panic),
                    Err(_) => {}
                }
                if start.elapsed().saturating_sub(timeout) > GRACE {
                    steps.abandon(|pid| identify(procfs, pid));
                    return Err(Error::Timeout { after: start.elapsed() });
                }
            }
            steps.abandon(|pid| identify(procfs, pid));
            budget = budget.saturating_sub(blocked.total);
            budget = budget.saturating_sub(self.find_blocked(procfs, budget));
        }
    }

    /// Makes a step for every process, as far as there is time for it, those of different users at the same
    /// time: all users who block steps are known after one wait. Returns for how long steps were blocked.
    fn find_blocked(&self, procfs: &Path, budget: Duration) -> Duration {
        let steps = Arc::new(Steps::new(Arc::clone(&self.blocked), true));
        let root = ProcRoot::open_for(procfs, Arc::clone(&steps));
        let Some(root) = root.ok().filter(|_| !budget.is_zero()).map(Arc::new) else {
            return Duration::ZERO;
        };
        let queue = Arc::new(Mutex::new(Queue::of_all(&root)));
        let (running, all_ended) = sync_channel::<()>(0);
        for _ in self.blocked.steps()..MAX_BLOCKED {
            let (root, queue, running) = (Arc::clone(&root), Arc::clone(&queue), running.clone());
            let read_all = move |done: &dyn Fn()| {
                let lock = || queue.lock().unwrap_or_else(PoisonError::into_inner);
                let mut next = lock().next(None);
                while let Some((user, pid)) = next {
                    // Whatever it is: that it can be read is enough.
                    let _ = root.link(pid, "ns/net", |_| ());
                    next = lock().next(Some(user));
                }
                done();
                drop(running);
            };
            if self.workers.run(read_all).is_err() {
                break;
            }
        }
        drop(running);
        let start = Instant::now();
        let mut blocked = Wait::new(budget);
        while !blocked.is_too_long(&steps) && start.elapsed() < 2 * STEP_LIMIT {
            if all_ended.recv_timeout(POLL_INTERVAL) == Err(RecvTimeoutError::Disconnected) {
                break;
            }
        }
        steps.abandon(|pid| identify(procfs, pid));
        blocked.total
    }
}

fn identify(procfs: &Path, pid: i32) -> Identity {
    let root = ProcRoot::open(procfs).ok();
    let user = User::of_uid(root.as_ref().and_then(|root| root.real_uid(pid)));
    let directory = root.and_then(|root| root.process(pid).ok().map(Process::into_directory));
    Identity { user, directory }
}

/// How long steps of an attempt are blocked.
struct Wait {
    budget: Duration,
    total: Duration,
    last: Instant,
    /// Whether a step was blocked when it was looked last.
    was_blocked: bool,
}

impl Wait {
    fn new(budget: Duration) -> Wait {
        Wait { budget, total: Duration::ZERO, last: Instant::now(), was_blocked: false }
    }

    /// Whether a step is blocked for so long, or all were together, that they are not waited for any more.
    fn is_too_long(&mut self, steps: &Steps) -> bool {
        let longest = steps.observe();
        let since_last = self.last.elapsed();
        self.last = Instant::now();
        self.total += match longest {
            Some(time) if !self.was_blocked => time,
            Some(_) => since_last,
            None => Duration::ZERO,
        };
        self.was_blocked = longest.is_some();
        longest.is_some_and(|time| time >= STEP_LIMIT) || self.total >= self.budget
    }
}

/// The processes of all users, of each user a few at a time.
struct Queue(BTreeMap<User, OfUser>);

#[derive(Default)]
struct OfUser {
    pids: Vec<i32>,
    in_progress: usize,
}

impl Queue {
    fn of_all(root: &ProcRoot) -> Queue {
        let mut users: BTreeMap<User, OfUser> = BTreeMap::new();
        for pid in root.pids().unwrap_or_default() {
            users.entry(root.user(pid)).or_default().pids.push(pid);
        }
        Queue(users)
    }

    /// The next process; `last` is the user of the one that was read before.
    fn next(&mut self, last: Option<User>) -> Option<(User, i32)> {
        if let Some(of_last) = last.and_then(|last| self.0.get_mut(&last)) {
            of_last.in_progress -= 1;
        }
        let is_free =
            |of: &&mut OfUser| of.in_progress < PROCESSES_OF_A_USER && !of.pids.is_empty();
        let (user, of) = self.0.iter_mut().find(|(_, of)| is_free(of))?;
        of.in_progress += 1;
        Some((*user, of.pids.pop()?))
    }
}

#[cfg(test)]
mod tests;
