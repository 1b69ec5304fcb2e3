//! Scans that a process cannot stop.
//!
//! A scan runs in a thread of its own. If one of its [steps](super::steps) is blocked, the scan is abandoned:
//! its thread stays behind until the step ends, and the scan is made once more without the process. When
//! blocked steps have taken [`BUDGET`] together, the last attempt makes no step at all.
//!
//! The alternative is a worker process that is killed and started again. It would have to pass on every row,
//! load the BPF program after each restart, and take the memory of a second process; and a scan that is
//! killed takes the other scans of the worker with it. What a killed process gives up that a thread does not
//! is a wait that cannot be killed: no step waits in that way, see [`ProcRoot::root_of`].
//!
//! [`ProcRoot::root_of`]: super::proc_root::ProcRoot

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use super::proc_root::ProcRoot;
use super::steps::{BlockedProcesses, Steps};
use crate::{Error, User};

/// A step that is blocked for that long is abandoned.
const STEP_LIMIT: Duration = Duration::from_secs(1);
/// All blocked steps of a scan together are waited for so long.
const BUDGET: Duration = Duration::from_secs(3);
/// With that many blocked processes no step is made any more: each has a thread wait, and a thread keeps what
/// its scan had read.
const MAX_BLOCKED: usize = 16;
/// How often it is looked whether a step is blocked.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// How long after its deadline a scan is still waited for. It ends by itself, unless the kernel holds it.
const GRACE: Duration = Duration::from_secs(5);

/// Scans, as often as it takes until no step is blocked.
///
/// # Errors
/// What the scan returns; or that it does not end although its deadline has passed.
pub(super) fn run<T: Send + 'static>(
    blocked: &Arc<BlockedProcesses>,
    timeout: Duration,
    procfs: &Path,
    scan: impl Fn(Arc<Steps>, Option<Instant>) -> Result<T, Error> + Send + Sync + 'static,
) -> Result<T, Error> {
    let start = Instant::now();
    // A time too long to be represented never ends.
    let end = start.checked_add(timeout);
    let scan = Arc::new(scan);
    let user_of =
        |pid| User::of_uid(ProcRoot::open(procfs).ok().and_then(|root| root.real_uid(pid)));
    let mut budget = BUDGET;
    loop {
        let is_allowed = !budget.is_zero() && blocked.count() < MAX_BLOCKED;
        let steps = Arc::new(Steps::new(Arc::clone(blocked), is_allowed));
        let (send, result) = sync_channel(1);
        let attempt = {
            let (scan, steps) = (Arc::clone(&scan), Arc::clone(&steps));
            move || drop(send.send(scan(steps, end)))
        };
        let spawned = thread::Builder::new().name("scan".into()).spawn(attempt);
        let Ok(attempt) = spawned else {
            // Without a thread that can be abandoned no step is made.
            return scan(Arc::new(Steps::new(Arc::clone(blocked), false)), end);
        };
        loop {
            match result.recv_timeout(POLL_INTERVAL) {
                Ok(result) => return result,
                Err(RecvTimeoutError::Disconnected) => match attempt.join() {
                    Err(panic) => std::panic::resume_unwind(panic),
                    Ok(()) => return Err(Error::Timeout { after: start.elapsed() }),
                },
                Err(RecvTimeoutError::Timeout) => {}
            }
            if let Some(time) = steps.abandon_if_blocked(STEP_LIMIT.min(budget), user_of) {
                budget = budget.saturating_sub(time);
                break;
            }
            if start.elapsed().saturating_sub(timeout) > GRACE {
                steps.abandon();
                return Err(Error::Timeout { after: start.elapsed() });
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

    /// Scans that read all these processes; those in `blocked` wait at the gate. Returns which were read.
    fn scan(
        of: &Arc<BlockedProcesses>,
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
        run(of, LONG, tree.path(), scan).unwrap()
    }

    #[test]
    fn a_process_that_blocks_a_read_is_skipped_until_it_ends() {
        let processes = [(10, 1000), (11, 1001), (12, 1000)];
        let (tree, pids) = (tree(&processes), processes.map(|(pid, _)| pid));
        let (of, gate) = (Arc::default(), Arc::default());
        assert_eq!(scan(&of, &tree, &pids, &[11], &gate), [10, 12]);
        // It is still blocked, and not waited for again.
        let start = Instant::now();
        assert_eq!(scan(&of, &tree, &pids, &[], &gate), [10, 12]);
        assert_eq!(of.count(), 1);
        println!("with a process known to be blocked: {:?}", start.elapsed());
        gate.open();
        while of.count() > 0 {
            thread::yield_now();
        }
        assert_eq!(scan(&of, &tree, &pids, &[], &gate), pids);
    }

    #[test]
    fn a_user_with_two_blocked_processes_is_not_read_further() {
        let processes = [(10, 1000), (11, 1000), (12, 1000), (13, 1001), (14, 0)];
        let (tree, pids) = (tree(&processes), processes.map(|(pid, _)| pid));
        let (of, gate) = (Arc::default(), Arc::default());
        assert_eq!(scan(&of, &tree, &pids, &[10, 11, 12], &gate), [13, 14]);
        assert_eq!(of.count(), 2);
        gate.open();
    }

    #[test]
    fn blocked_processes_of_root_do_not_hide_others_of_root() {
        let processes = [(10, 0), (11, 0), (12, 0)];
        let (tree, pids) = (tree(&processes), processes.map(|(pid, _)| pid));
        let (of, gate) = (Arc::default(), Arc::default());
        assert_eq!(scan(&of, &tree, &pids, &[10, 11], &gate), [12]);
        gate.open();
    }

    #[test]
    fn a_scan_with_too_many_blocked_steps_makes_none() {
        let processes = [1, 2, 3, 4, 5, 6].map(|number| (number, 1000 + number as u32));
        let (tree, pids) = (tree(&processes), processes.map(|(pid, _)| pid));
        let (of, gate) = (Arc::default(), Arc::default());
        assert_eq!(scan(&of, &tree, &pids, &pids[1..], &gate), [0; 0]);
        // Each blocked step takes a second of three, and a little more.
        assert!((2..=3).contains(&of.count()), "{of:?}");
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
        run(&Arc::default(), LONG, tree.path(), scan).unwrap();
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
        let result = run(&Arc::default(), Duration::ZERO, "/proc".as_ref(), scan);
        assert!(matches!(result, Err(Error::Timeout { after }) if after >= GRACE), "{result:?}");
        gate.open();
    }
}
