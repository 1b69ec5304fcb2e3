//! Scans that a process cannot stop.
//!
//! A scan runs in a thread of its own. If one of its [steps](super::steps) is blocked, the scan is abandoned:
//! its thread stays behind until the step ends, other processes that are blocked are looked for, and the scan is
//! made once more without them. A step that is blocked for less time counts for its process and its user, who are
//! skipped from then on if it is much: see `blocked`. When blocked steps have taken [`BUDGET`] together, no further
//! step is made.
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

use super::blocked::{BlockedProcesses, PROCESS_LIMIT};
use super::proc_root::ProcRoot;
use super::steps::Steps;
use super::workers::Workers;
use crate::{Error, User};

/// All blocked steps of a scan together are waited for so long, and no longer than half of its timeout: the rest
/// is for an attempt without them.
const BUDGET: Duration = Duration::from_secs(3);
/// While so many abandoned attempts have not ended, no step is made: one that is blocked keeps the threads,
/// descriptors and sockets of its attempt.
const MAX_STUCK: usize = 16;
/// More attempts do not run at a time, those that were abandoned among them.
const MAX_RUNNING: usize = 64;
/// More threads do not look for blocked processes, those that are blocked among them.
const MAX_SEARCHERS: usize = 32;
/// So many processes of a user are read at the same time in that search.
const PROCESSES_OF_A_USER: usize = 2;
/// How often it is looked whether a step is blocked.
const POLL_INTERVAL: Duration = Duration::from_millis(25);
/// How long after its deadline a scan is still waited for. It ends by itself, unless the kernel holds it.
const GRACE: Duration = Duration::from_secs(5);

/// Makes scans, and remembers which processes block them.
#[derive(Debug, Default)]
pub(crate) struct Attempts {
    blocked: Arc<BlockedProcesses>,
    workers: Arc<Workers>,
    /// Each attempt that has not ended, abandoned or not, has a clone.
    running: Arc<()>,
    /// Each scan has a clone, which waits for one attempt at a time.
    scans: Arc<()>,
    /// Each thread that looks for blocked processes has a clone.
    searchers: Arc<()>,
}

/// How many others have a clone.
fn clones(of: &Arc<()>) -> usize {
    Arc::strong_count(of) - 1
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
        let (scan, _counted) = (Arc::new(scan), Arc::clone(&self.scans));
        let mut budget = BUDGET.min(timeout / 2);
        loop {
            let running = clones(&self.running);
            if running >= MAX_RUNNING {
                return Err(Error::Blocked { scans: running });
            }
            let budget_now = if self.stuck() < MAX_STUCK { budget } else { Duration::ZERO };
            let steps = Arc::new(Steps::new(Arc::clone(&self.blocked), procfs, budget_now));
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
            while !is_too_long(steps.observe(), budget) {
                match result.recv_timeout(POLL_INTERVAL) {
                    Ok(Ok(result)) => return result,
                    Ok(Err(panic)) => resume_unwind(panic),
                    Err(_) => {}
                }
                if start.elapsed().saturating_sub(timeout) > GRACE {
                    steps.abandon();
                    return Err(Error::Timeout { after: start.elapsed() });
                }
            }
            steps.abandon();
            budget = budget.saturating_sub(steps.blocked_time());
            budget = budget.saturating_sub(self.find_blocked(procfs, budget));
        }
    }

    /// How many attempts have not ended although no scan waits for them.
    fn stuck(&self) -> usize {
        // The calling scan has no attempt now.
        clones(&self.running).saturating_sub(clones(&self.scans).saturating_sub(1))
    }

    /// Makes a step for every process, as far as there is time for it, those of different users at the same
    /// time: all users who block steps are known after one wait. Returns for how long steps were blocked.
    fn find_blocked(&self, procfs: &Path, budget: Duration) -> Duration {
        let steps = Arc::new(Steps::new(Arc::clone(&self.blocked), procfs, budget));
        let root = ProcRoot::open_for(procfs, Arc::clone(&steps));
        let Some(root) = root.ok().filter(|_| !budget.is_zero()).map(Arc::new) else {
            return Duration::ZERO;
        };
        let queue = Arc::new(Mutex::new(Queue::of_all(&root)));
        let (running, all_ended) = sync_channel::<()>(0);
        for _ in clones(&self.searchers)..MAX_SEARCHERS {
            let (root, queue) = (Arc::clone(&root), Arc::clone(&queue));
            let counted = (running.clone(), Arc::clone(&self.searchers));
            let read_all = move |done: &dyn Fn()| {
                let lock = || queue.lock().unwrap_or_else(PoisonError::into_inner);
                let mut next = lock().next(None);
                while let Some((user, pid)) = next {
                    // Whatever it is: that it can be read is enough.
                    let _ = root.link(pid, "ns/net", |_| ());
                    next = lock().next(Some(user));
                }
                done();
                drop(counted);
            };
            if self.workers.run(read_all).is_err() {
                break;
            }
        }
        drop(running);
        let start = Instant::now();
        while !is_too_long(steps.observe(), budget) && start.elapsed() < 2 * PROCESS_LIMIT {
            if all_ended.recv_timeout(POLL_INTERVAL) == Err(RecvTimeoutError::Disconnected) {
                break;
            }
        }
        steps.abandon();
        steps.blocked_time()
    }
}

/// Whether a step that has been blocked for so long is not waited for any more.
fn is_too_long(longest: Option<Duration>, budget: Duration) -> bool {
    longest.is_some_and(|longest| longest >= PROCESS_LIMIT.min(budget))
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
