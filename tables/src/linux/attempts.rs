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
//! is a wait that cannot be killed: no step waits in that way, see [`ProcRoot::root_of`].
//!
//! [`ProcRoot::root_of`]: super::proc_root::ProcRoot

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::proc_root::ProcRoot;
use super::steps::{BlockedProcesses, PROCESSES_OF_A_USER, Steps};
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
            let is_allowed = !budget.is_zero() && self.blocked.count() < MAX_BLOCKED;
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
            let blocked_for = loop {
                match result.recv_timeout(POLL_INTERVAL) {
                    Ok(Ok(result)) => return result,
                    Ok(Err(panic)) => resume_unwind(panic),
                    Err(_) => {}
                }
                let blocked = steps.abandon_if_blocked(STEP_LIMIT.min(budget), |pid| {
                    let root = ProcRoot::open(procfs);
                    User::of_uid(root.ok().and_then(|root| root.real_uid(pid)))
                });
                if let Some(time) = blocked {
                    break time;
                }
                if start.elapsed().saturating_sub(timeout) > GRACE {
                    steps.abandon();
                    return Err(Error::Timeout { after: start.elapsed() });
                }
            };
            budget = budget.saturating_sub(blocked_for);
            budget = budget.saturating_sub(self.find_blocked(procfs, STEP_LIMIT.min(budget)));
        }
    }

    /// Makes a step for every process, those of different users at the same time, so that all users who block
    /// steps are known after one wait. Returns for how long it waited.
    fn find_blocked(&self, procfs: &Path, limit: Duration) -> Duration {
        let steps = Arc::new(Steps::new(Arc::clone(&self.blocked), !limit.is_zero()));
        let Ok(root) = ProcRoot::open_for(procfs, Arc::clone(&steps)) else {
            return Duration::ZERO;
        };
        let mut by_user: BTreeMap<User, Vec<i32>> = BTreeMap::new();
        for pid in root.pids().unwrap_or_default() {
            by_user.entry(root.user(pid)).or_default().push(pid);
        }
        let root = Arc::new(root);
        let (running, all_ended) = sync_channel::<()>(0);
        let threads = MAX_BLOCKED.saturating_sub(self.blocked.count());
        let queues = by_user.into_values().map(|pids| Arc::new(Mutex::new(pids)));
        for pids in queues.flat_map(|pids| vec![pids; PROCESSES_OF_A_USER]).take(threads) {
            let (root, running) = (Arc::clone(&root), running.clone());
            let read_all = move |done: &dyn Fn()| {
                let next = || pids.lock().unwrap_or_else(PoisonError::into_inner).pop();
                while let Some(pid) = next() {
                    // Whatever it is: that it can be read is enough.
                    let _ = root.link(pid, "ns/net", |_| ());
                }
                done();
                drop(running);
            };
            if self.workers.run(read_all).is_err() {
                break;
            }
        }
        drop(running);
        loop {
            if all_ended.recv_timeout(POLL_INTERVAL) == Err(RecvTimeoutError::Disconnected) {
                return Duration::ZERO;
            }
            if let Some(time) = steps.abandon_if_blocked(limit, |pid| root.user(pid)) {
                return time;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Condvar, Mutex};

    use tempfile::TempDir;

    use super::*;

    const LONG: Duration = Duration::from_secs(600);

    /// Reads that wait until they are released.
    #[derive(Default)]
    struct Gate(Mutex<bool>, Condvar);

    impl Gate {
        fn wait(&self) {
            drop(self.1.wait_while(self.0.lock().unwrap(), |is_open| !*is_open).unwrap());
        }

        fn open(&self) {
            *self.0.lock().unwrap() = true;
            self.1.notify_all();
        }
    }

    /// A tree like proc with processes of these uids.
    fn tree(processes: &[(i32, u32)]) -> TempDir {
        let tree = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("1", tree.path().join("self")).unwrap();
        for (pid, uid) in processes {
            let directory = tree.path().join(pid.to_string());
            fs::create_dir(&directory).unwrap();
            fs::write(directory.join("status"), format!("Uid:\t{uid}\t0\t0\t0\n")).unwrap();
        }
        tree
    }

    /// A scan that reads all these processes; those in `blocked` wait at the gate. Returns which were read.
    fn scan(
        of: &Attempts,
        tree: &TempDir,
        pids: &[i32],
        blocked: &[i32],
        gate: &Arc<Gate>,
    ) -> Vec<i32> {
        let (path, gate) = (tree.path().to_owned(), Arc::clone(gate));
        let (pids, blocked) = (pids.to_vec(), blocked.to_vec());
        let scan = move |steps: Arc<Steps>, _| {
            let root = ProcRoot::open_for(&path, steps)?;
            let read = |pid: &i32| {
                let step = root.step(*pid).ok()?;
                if blocked.contains(pid) {
                    gate.wait();
                }
                drop(step);
                Some(*pid)
            };
            Ok(pids.iter().filter_map(read).collect())
        };
        of.run(LONG, tree.path(), scan).unwrap()
    }

    #[test]
    fn a_process_that_blocks_a_read_is_skipped_until_it_ends() {
        let processes = [(10, 1000), (11, 1001), (12, 1000)];
        let (tree, pids) = (tree(&processes), processes.map(|(pid, _)| pid));
        let (of, gate) = (Attempts::default(), Arc::default());
        assert_eq!(scan(&of, &tree, &pids, &[11], &gate), [10, 12]);
        // It is still blocked, and not waited for again.
        let start = Instant::now();
        assert_eq!(scan(&of, &tree, &pids, &[], &gate), [10, 12]);
        assert_eq!(of.blocked.count(), 1);
        println!("with a process known to be blocked: {:?}", start.elapsed());
        gate.open();
        while of.blocked.count() > 0 {
            std::thread::yield_now();
        }
        assert_eq!(scan(&of, &tree, &pids, &[], &gate), pids);
    }

    #[test]
    fn a_user_with_two_blocked_processes_is_not_read_further() {
        let processes = [(10, 1000), (11, 1000), (12, 1000), (13, 1001), (14, 0)];
        let (tree, pids) = (tree(&processes), processes.map(|(pid, _)| pid));
        let (of, gate) = (Attempts::default(), Arc::default());
        assert_eq!(scan(&of, &tree, &pids, &[10, 11, 12], &gate), [13, 14]);
        assert_eq!(of.blocked.count(), 2);
        gate.open();
    }

    #[test]
    fn blocked_processes_of_root_do_not_hide_others_of_root() {
        let processes = [(10, 0), (11, 0), (12, 0)];
        let (tree, pids) = (tree(&processes), processes.map(|(pid, _)| pid));
        let (of, gate) = (Attempts::default(), Arc::default());
        assert_eq!(scan(&of, &tree, &pids, &[10, 11], &gate), [12]);
        gate.open();
    }

    #[test]
    fn a_scan_with_too_many_blocked_steps_makes_none() {
        let processes = [1, 2, 3, 4, 5, 6].map(|number| (number, 1000 + number as u32));
        let (tree, pids) = (tree(&processes), processes.map(|(pid, _)| pid));
        let (of, gate) = (Attempts::default(), Arc::default());
        assert_eq!(scan(&of, &tree, &pids, &pids[1..], &gate), [0; 0]);
        // Each blocked step takes a second of three, and a little more.
        assert!((2..=3).contains(&of.blocked.count()), "{of:?}");
        gate.open();
    }

    #[test]
    fn a_thread_that_runs_is_not_abandoned() {
        let tree = tree(&[(10, 1000)]);
        let attempts = Arc::new(AtomicUsize::new(0));
        let path = tree.path().to_owned();
        let counted = Arc::clone(&attempts);
        let scan = move |steps, _| {
            counted.fetch_add(1, Ordering::Relaxed);
            let root = ProcRoot::open_for(&path, steps)?;
            let _step = root.step(10).ok();
            let start = Instant::now();
            while start.elapsed() < 2 * STEP_LIMIT {
                std::hint::spin_loop();
            }
            Ok(())
        };
        Attempts::default().run(LONG, tree.path(), scan).unwrap();
        assert_eq!(attempts.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_scan_that_does_not_end_is_an_error() {
        let gate = Arc::new(Gate::default());
        let waiting = Arc::clone(&gate);
        let scan = move |_, _| {
            waiting.wait();
            Ok(())
        };
        let result = Attempts::default().run(Duration::ZERO, "/proc".as_ref(), scan);
        assert!(matches!(result, Err(Error::Timeout { after }) if after >= GRACE), "{result:?}");
        gate.open();
    }

    #[test]
    fn scans_that_never_end_are_bounded_in_number() {
        let attempts = Attempts::default();
        let never = vec![Arc::clone(&attempts.running); MAX_RUNNING];
        let result = attempts.run(LONG, "/proc".as_ref(), |_, _| Ok(()));
        assert!(matches!(result, Err(Error::Blocked { scans: MAX_RUNNING })), "{result:?}");
        drop(never);
        attempts.run(LONG, "/proc".as_ref(), |_, _| Ok(())).unwrap();
    }
}
