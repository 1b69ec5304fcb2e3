//! Scans that a process cannot stop.
//!
//! A scan runs in its own thread. If one of its [steps](super::steps) is blocked, the scan is abandoned: its
//! thread remains until the step ends, a search finds other processes that block, and a new attempt skips them.
//! Shorter blocked times are counted for the process and its user, which are skipped if the sum is large: see
//! `blocked`. When the blocked steps of a scan have taken [`BUDGET`], it makes no further step.
//!
//! The alternative is a worker process that is killed and restarted. It would have to pass on every row, load
//! the BPF program after each restart, and use the memory of a second process. A killed worker also ends its
//! other scans. Its advantage would be that it can end every wait that SIGKILL ends, but no step waits in any
//! other way: see `Process::root_identity`.

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

/// The total time that a scan waits for blocked steps, at most half of its timeout: the rest is for an attempt
/// without them.
const BUDGET: Duration = Duration::from_secs(3);
/// With this number of abandoned attempts that have not ended, no step is made: a blocked step keeps the threads,
/// descriptors and sockets of its attempt.
const MAX_STUCK: usize = 16;
/// The maximum number of attempts at a time, including abandoned ones.
const MAX_RUNNING: usize = 64;
/// The maximum number of threads that search for blocking processes, including blocked threads.
const MAX_SEARCHERS: usize = 32;
/// The maximum number of processes of a user that the search reads at a time.
const PROCESSES_OF_A_USER: usize = 2;
/// The interval of the checks for blocked steps.
const POLL_INTERVAL: Duration = Duration::from_millis(25);
/// The time that a query waits for a scan after its deadline. A scan ends by itself, unless the kernel blocks it.
const GRACE: Duration = Duration::from_secs(5);

/// Runs scans, and records the processes that block them.
#[derive(Debug, Default)]
pub(crate) struct Attempts {
    probe: Probe,
    blocked: Arc<BlockedProcesses>,
    workers: Arc<Workers>,
    /// Each attempt that has not ended, including abandoned ones, has a clone.
    running: Arc<()>,
    /// Each scan has a clone; it waits for one attempt at a time.
    scans: Arc<()>,
    /// Each thread that searches for blocking processes has a clone.
    searchers: Arc<()>,
}

/// The read by which the search finds the processes that block: its content does not matter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Probe(pub(crate) fn(&ProcRoot, i32));

impl Default for Probe {
    /// Follows a link, which an execve in progress blocks.
    fn default() -> Self {
        Probe(|root, pid| {
            let _ = root.link(pid, "ns/net", |_| ());
        })
    }
}

/// The number of clones.
fn clones(of: &Arc<()>) -> usize {
    Arc::strong_count(of) - 1
}

impl Attempts {
    /// For scans whose steps are reads like this one.
    pub(crate) fn with_probe(probe: Probe) -> Attempts {
        Attempts { probe, ..Attempts::default() }
    }

    /// Runs attempts until one has no blocked step.
    ///
    /// # Errors
    /// The error of the scan. Also if the scan does not end after its deadline, or no thread can be started.
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
                    // No receiver waits if the attempt was abandoned.
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

    /// The number of abandoned attempts that have not ended.
    fn stuck(&self) -> usize {
        // The calling scan has no attempt at this point.
        clones(&self.running).saturating_sub(clones(&self.scans).saturating_sub(1))
    }

    /// Makes a step for every process, within the time limit, and for different users in parallel: one wait finds
    /// all users with blocking processes. Returns the blocked time.
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
            let Probe(probe) = self.probe;
            let read_all = move |done: &dyn Fn()| {
                let lock = || queue.lock().unwrap_or_else(PoisonError::into_inner);
                let mut next = lock().next(None);
                while let Some((user, pid)) = next {
                    // The step ends if the process does not block it.
                    probe(&root, pid);
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

/// Whether an attempt is abandoned because of a step that has been blocked for this time.
fn is_too_long(longest: Option<Duration>, budget: Duration) -> bool {
    longest.is_some_and(|longest| longest >= PROCESS_LIMIT.min(budget))
}

/// The processes of all users; at most a few of each user are read at a time.
struct Queue(BTreeMap<User, PendingProcesses>);

#[derive(Default)]
struct PendingProcesses {
    pids: Vec<i32>,
    in_progress: usize,
}

impl Queue {
    fn of_all(root: &ProcRoot) -> Queue {
        let mut users: BTreeMap<User, PendingProcesses> = BTreeMap::new();
        for pid in root.pids().unwrap_or_default() {
            users.entry(root.user(pid)).or_default().pids.push(pid);
        }
        Queue(users)
    }

    /// The next process; `last` is the user of the process that was read before.
    fn next(&mut self, last: Option<User>) -> Option<(User, i32)> {
        if let Some(of_last) = last.and_then(|last| self.0.get_mut(&last)) {
            of_last.in_progress -= 1;
        }
        let is_free = |of: &&mut PendingProcesses| {
            of.in_progress < PROCESSES_OF_A_USER && !of.pids.is_empty()
        };
        let (user, of) = self.0.iter_mut().find(|(_, of)| is_free(of))?;
        of.in_progress += 1;
        Some((*user, of.pids.pop()?))
    }
}

#[cfg(test)]
mod tests;
