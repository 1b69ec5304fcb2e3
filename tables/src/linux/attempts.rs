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
    fn a_process_that_blocks_a_read_is_skipped_until_after_it_ends() {
        let processes = [(10, 1000), (11, 1001), (12, 1000)];
        let (tree, pids) = (tree(&processes), processes.map(|(pid, _)| pid));
        let (of, gate) = (Attempts::default(), Arc::default());
        assert_eq!(scan(&of, &tree, &pids, &[11], &gate), [10, 12]);
        // It is still blocked, and not waited for again.
        let start = Instant::now();
        assert_eq!(scan(&of, &tree, &pids, &[], &gate), [10, 12]);
        assert_eq!(of.blocked.steps(), 1);
        println!("with a process known to be blocked: {:?}", start.elapsed());
        gate.open();
        let released = Instant::now();
        while scan(&of, &tree, &pids, &[], &gate) != pids {
            assert!(released.elapsed() < Duration::from_secs(60));
            std::thread::sleep(POLL_INTERVAL);
        }
        assert_eq!(of.blocked.steps(), 0);
    }

    #[test]
    fn a_user_with_two_blocked_processes_is_not_read_further() {
        let processes = [(10, 1000), (11, 1000), (12, 1000), (13, 1001), (14, 0)];
        let (tree, pids) = (tree(&processes), processes.map(|(pid, _)| pid));
        let (of, gate) = (Attempts::default(), Arc::default());
        assert_eq!(scan(&of, &tree, &pids, &[10, 11, 12], &gate), [13, 14]);
        assert_eq!(of.blocked.steps(), 2);
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
    fn a_scan_whose_steps_are_blocked_for_too_long_makes_none() {
        let processes = [11, 12, 13, 14, 15, 16].map(|pid| (pid, 1000 + pid as u32));
        let (tree, pids) = (tree(&processes), processes.map(|(pid, _)| pid));
        let (of, gate) = (Attempts::default(), Arc::default());
        assert_eq!(scan(&of, &tree, &pids, &pids[1..], &gate), [0; 0]);
        // Each blocked step takes a second of three, and a little more.
        assert!((2..=3).contains(&of.blocked.steps()), "{of:?}");
        assert_eq!(of.stuck(), of.blocked.steps());
        gate.open();
    }

    #[test]
    fn a_scan_makes_no_step_while_too_many_attempts_are_stuck() {
        let (tree, of) = (tree(&[(10, 1000)]), Attempts::default());
        let read = || scan(&of, &tree, &[10], &[], &Arc::default());
        let stuck = vec![Arc::clone(&of.running); MAX_STUCK];
        assert_eq!(read(), [0; 0]);
        drop(stuck);
        assert_eq!(read(), [10]);
    }

    #[test]
    fn blocked_steps_take_no_more_than_half_of_the_timeout() {
        let (tree, of) = (tree(&[(10, 1000), (11, 1001)]), Attempts::default());
        let gate = Arc::<Gate>::default();
        let (path, waiting) = (tree.path().to_owned(), Arc::clone(&gate));
        let attempts = Arc::new(Mutex::new(Vec::new()));
        let began = Arc::clone(&attempts);
        let read = move |steps: Arc<Steps>, _| {
            began.lock().unwrap().push(Instant::now());
            let root = ProcRoot::open_for(&path, steps)?;
            let step = root.step(10).ok();
            if step.is_some() {
                waiting.wait();
            }
            Ok(step.is_some() || root.step(11).is_ok())
        };
        let timeout = Duration::from_millis(400);
        assert!(!of.run(timeout, tree.path(), read).unwrap());
        let attempts = attempts.lock().unwrap();
        assert_eq!(attempts.len(), 2);
        assert!(attempts[1] - attempts[0] >= timeout / 2);
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
            while start.elapsed() < 2 * PROCESS_LIMIT {
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

    /// A scan that reads all these processes, each of which blocks the read for so long. Returns which were
    /// read, and how many attempts there were.
    fn slow_scan(of: &Attempts, tree: &TempDir, pids: &[i32], time: Duration) -> (Vec<i32>, usize) {
        let attempts = Arc::new(AtomicUsize::new(0));
        let (path, pids, counted) = (tree.path().to_owned(), pids.to_vec(), Arc::clone(&attempts));
        let scan = move |steps: Arc<Steps>, _| {
            counted.fetch_add(1, Ordering::Relaxed);
            let root = ProcRoot::open_for(&path, steps)?;
            let read = |pid: &i32| {
                let _step = root.step(*pid).ok()?;
                std::thread::sleep(time);
                Some(*pid)
            };
            Ok(pids.iter().filter_map(read).collect())
        };
        (of.run(LONG, tree.path(), scan).unwrap(), attempts.load(Ordering::Relaxed))
    }

    /// Scans these processes until none of the user's is read, each blocked for so long; twice.
    fn is_skipped_after(time: Duration, most: usize) {
        let processes: Vec<(i32, u32)> = (10..50).map(|pid| (pid, 1000)).chain([(50, 7)]).collect();
        let pids: Vec<i32> = processes.iter().map(|(pid, _)| *pid).collect();
        let (tree, of) = (tree(&processes), Attempts::default());
        let (read, attempts) = slow_scan(&of, &tree, &pids, time);
        assert!(read.len() <= most + 1, "{read:?}");
        // That of the other user is read.
        assert_eq!((read.last(), attempts), (Some(&50), 1));
        // The user is known by now.
        assert_eq!(slow_scan(&of, &tree, &pids, time), (vec![50], 1));
    }

    #[test]
    fn steps_that_block_for_less_than_the_limit_are_bounded_together() {
        is_skipped_after(Duration::from_millis(700), 2);
    }

    #[test]
    fn short_steps_that_block_are_bounded_together() {
        is_skipped_after(Duration::from_millis(90), 14);
    }

    #[test]
    fn a_scan_without_steps_is_not_abandoned() {
        let processes: Vec<(i32, u32)> = (0..8).map(|number| (10 + number, 0)).collect();
        let pids: Vec<i32> = processes.iter().map(|(pid, _)| *pid).collect();
        let (tree, of) = (tree(&processes), Attempts::default());
        let (read, attempts) = slow_scan(&of, &tree, &pids, Duration::from_millis(1200));
        assert_eq!(read, [0; 0]);
        assert!(attempts <= 4, "{attempts} attempts");
    }
}
