//! Tests of attempts that processes block.

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
fn a_scan_makes_no_step_after_too_long_blocks() {
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
fn the_total_of_short_blocked_steps_is_bounded() {
    is_skipped_after(Duration::from_millis(700), 2);
}

#[test]
fn short_steps_that_block_are_bounded_together() {
    is_skipped_after(Duration::from_millis(90), 18);
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
