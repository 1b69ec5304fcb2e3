use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::*;

const OPTIONS: WalkOptions<'static> = WalkOptions {
    threads: false,
    limits: HolderLimits { per_socket: None, max: None },
    deadline: Deadline::NEVER,
    start_times: None,
};

fn hold(root: &Path, pid: i32, fds: i32) {
    let directory = root.join(format!("{pid}/fd"));
    fs::create_dir_all(&directory).unwrap();
    for fd in 0..fds {
        let inode = u64::from(pid.unsigned_abs()) * 100_000 + u64::from(fd.unsigned_abs());
        symlink(format!("socket:[{inode}]"), directory.join(fd.to_string())).unwrap();
    }
}

/// However many walk, each descriptor of these processes is found once.
fn finds_all(processes: &[(i32, i32)]) {
    let tree = tempfile::tempdir().unwrap();
    symlink("1", tree.path().join("self")).unwrap();
    let mut expected = Vec::new();
    for &(pid, fds) in processes {
        hold(tree.path(), pid, fds);
        expected.extend((0..fds).map(|fd| (pid, fd)));
    }
    let root = ProcRoot::open(tree.path()).unwrap();
    let pids: Vec<i32> = processes.iter().map(|(pid, _)| *pid).collect();
    for max_walkers in [1, 2, 3, 8] {
        let mut omissions = Omissions::default();
        let holders =
            walk_with_threads(max_walkers, &root, &pids, OPTIONS, |_| true, &mut omissions);
        let holders = holders.finish(|_| true);
        let mut found: Vec<_> = holders.iter().map(|holder| (holder.pid, holder.fd)).collect();
        found.sort_unstable();
        assert_eq!(
            (found, omissions),
            (expected.clone(), Omissions::default()),
            "on {max_walkers} threads"
        );
    }
}

#[test]
fn a_process_with_many_descriptors_is_shared_and_none_is_lost() {
    finds_all(&[(1, 3), (2, 20 * BATCH as i32 + 1), (3, BATCH as i32), (4, 0)]);
}

#[test]
fn many_processes_are_shared_and_none_is_lost() {
    let processes: Vec<_> = (1..=10 * PROCESSES as i32).map(|pid| (pid, pid % 5)).collect();
    finds_all(&processes);
}

#[test]
fn a_process_with_denied_descriptors_is_one_omission() {
    let tree = tempfile::tempdir().unwrap();
    symlink("1", tree.path().join("self")).unwrap();
    for pid in 1..=100 {
        hold(tree.path(), pid, 1);
    }
    for pid in [7, 70] {
        let directory = tree.path().join(format!("{pid}/fd"));
        fs::remove_dir_all(&directory).unwrap();
        fs::write(&directory, "").unwrap();
    }
    let root = ProcRoot::open(tree.path()).unwrap();
    let pids: Vec<i32> = (1..=100).collect();
    let mut omissions = Omissions::default();
    let holders = walk_with_threads(4, &root, &pids, OPTIONS, |_| true, &mut omissions);
    let holders = holders.finish(|_| true);
    let counts: Vec<_> = omissions.iter().map(|omission| (omission.kind, omission.count)).collect();
    assert_eq!((holders.iter().count(), counts), (98, vec![(OmissionKind::Fds, 2)]));
}

#[test]
fn unreadable_processes_are_counted_and_ended_ones_are_not() {
    let tree = tempfile::tempdir().unwrap();
    symlink("1", tree.path().join("self")).unwrap();
    hold(tree.path(), 1, 2);
    hold(tree.path(), 2, 0);
    fs::create_dir(tree.path().join("3")).unwrap();
    fs::write(tree.path().join("3/fd"), "").unwrap();
    // A link that is none cannot be read.
    hold(tree.path(), 4, 0);
    fs::write(tree.path().join("4/fd/0"), "").unwrap();
    let root = ProcRoot::open(tree.path()).unwrap();
    for (pid, count) in [(1, 0), (2, 0), (3, 1), (4, 1), (5, 0)] {
        let mut omissions = Omissions::default();
        note_if_denied(&root, pid, &mut omissions);
        let counts: Vec<_> =
            omissions.iter().map(|omission| (omission.kind, omission.count)).collect();
        assert_eq!(counts, vec![(OmissionKind::Fds, 1); count], "{pid}");
    }
}
