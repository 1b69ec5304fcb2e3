//! The processes that block reads of their directories in proc, and the users of these processes.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;

use crate::formats::linux::proc_status;
use crate::model::User;

/// The maximum time that a process blocks one attempt, and that counts for its user.
pub(crate) const PROCESS_LIMIT: Duration = Duration::from_secs(1);
/// Once processes of a user have blocked steps for longer than this together, all processes of the user are
/// skipped: they can be blocked on purpose. One process alone does not take so long. Processes of root are
/// always read.
const USER_LIMIT: Duration = Duration::from_millis(1200);
/// The part of the elapsed time that is subtracted from the blocked time of a user: short waits are normal on a
/// busy host.
const DECAY_DIVISOR: u32 = 20;
/// How long a user is skipped after the last blocked step, and a process that blocks often.
const MINUTE: Duration = Duration::from_secs(60);
/// The maximum number of recorded processes: each takes a file descriptor.
const MAX_RECORDED: usize = 64;

/// The processes that block a step of any scan, or did so recently, and their users.
#[derive(Debug, Default)]
pub(crate) struct BlockedProcesses {
    /// The number of processes and users to skip: a scan with none does not wait for the lock.
    count: AtomicUsize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    processes: BTreeMap<i32, Blocked>,
    users: BTreeMap<User, UserRecord>,
}

#[derive(Debug)]
struct Blocked {
    process: Identity,
    /// The number of blocked steps that have not ended.
    steps: usize,
    /// How often the process blocked a step.
    times: u32,
    /// When the last step ended, if all have.
    ended: Instant,
}

/// The blocked steps of a user's processes.
#[derive(Debug)]
struct UserRecord {
    /// The blocked time.
    time: Duration,
    /// When a step was last blocked.
    last: Instant,
    /// The number of steps of abandoned attempts that are still blocked.
    steps: usize,
    is_skipped: bool,
}

/// A process, to be identified later.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) user: User,
    /// The directory of the process, which is empty once the process has ended.
    directory: Option<OwnedFd>,
}

impl Identity {
    pub(crate) fn of(procfs: &Path, pid: i32) -> Identity {
        let open = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = openat(CWD, procfs.join(pid.to_string()), open, Mode::empty()).ok();
        let uid = directory.as_ref().and_then(|directory| {
            let read = OFlags::RDONLY | OFlags::CLOEXEC;
            let file = openat(directory, "status", read, Mode::empty()).ok()?;
            let mut status = [0; 1024];
            let length = rustix::io::read(file, &mut status[..]).ok()?;
            proc_status::real_uid(status.get(..length)?)
        });
        Identity { user: User::of_uid(uid), directory }
    }
}

impl Blocked {
    /// How long the process is skipped after its last step: it grows with the number of blocked steps.
    fn pause(&self) -> Duration {
        match self.times {
            0 | 1 => Duration::from_secs(1),
            2 => Duration::from_secs(8),
            _ => MINUTE,
        }
    }

    fn has_ended_for(&self, time: Duration, now: Instant) -> bool {
        self.steps == 0 && now.saturating_duration_since(self.ended) >= time
    }

    /// Whether the process has ended. Another process can have its pid then.
    fn is_gone(&self) -> bool {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let open = |directory| openat(directory, "status", flags, Mode::empty());
        let result = self.process.directory.as_ref().map(open);
        // Another error, such as EMFILE, does not show it.
        self.steps == 0 && matches!(result, Some(Err(Errno::NOENT | Errno::SRCH)))
    }
}

impl UserRecord {
    fn is_over(&self, now: Instant) -> bool {
        self.steps == 0 && now.saturating_duration_since(self.last) >= MINUTE
    }

    fn add(&mut self, time: Duration, now: Instant) {
        if self.steps == 0 {
            let since = now.saturating_duration_since(self.last);
            self.time = self.time.saturating_sub(since / DECAY_DIVISOR);
        }
        self.time += time;
        self.last = now;
        self.is_skipped |= self.time > USER_LIMIT;
    }
}

impl State {
    /// The user, after expired users are removed.
    fn user(&mut self, user: User, now: Instant) -> &mut UserRecord {
        self.users.retain(|_, of_user| !of_user.is_over(now));
        let new = || UserRecord { time: Duration::ZERO, last: now, steps: 0, is_skipped: false };
        self.users.entry(user).or_insert_with(new)
    }

    fn skipped_users(&self) -> impl Iterator<Item = User> {
        let is_skipped = |(user, of): &(&User, &UserRecord)| of.is_skipped && **user != User::ROOT;
        self.users.iter().filter(is_skipped).map(|(user, _)| *user)
    }
}

impl BlockedProcesses {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_count(&self, state: &State) {
        let count = state.processes.len() + state.skipped_users().count();
        self.count.store(count, Ordering::Relaxed);
    }

    /// Adds the time that a process blocked a step to its user.
    pub(crate) fn add_time(&self, user: User, time: Duration, now: Instant) {
        let mut state = self.state();
        state.user(user, now).add(time, now);
        self.set_count(&state);
    }

    /// Adds a process that blocks a step, or that blocked one that has ended.
    pub(crate) fn insert(&self, pid: i32, process: Identity, has_ended: bool, now: Instant) {
        let mut state = self.state();
        let steps = usize::from(!has_ended);
        state.user(process.user, now).steps += steps;
        let processes = &mut state.processes;
        processes.retain(|_, process| !process.has_ended_for(10 * MINUTE, now));
        let recorded = processes.remove(&pid).filter(|recorded| !recorded.is_gone());
        let mut blocked = recorded.unwrap_or(Blocked { process, steps: 0, times: 0, ended: now });
        blocked.times += 1;
        blocked.steps += steps;
        blocked.ended = now;
        if processes.len() >= MAX_RECORDED {
            let oldest = processes.iter().filter(|(_, process)| process.steps == 0);
            if let Some(pid) = oldest.min_by_key(|(_, process)| process.ended).map(|(pid, _)| *pid)
            {
                processes.remove(&pid);
            }
        }
        processes.insert(pid, blocked);
        self.set_count(&state);
    }

    /// Ends a step that had not ended when its process was added.
    pub(crate) fn end_step(&self, pid: i32, user: User, now: Instant) {
        let mut state = self.state();
        if let Some(process) = state.processes.get_mut(&pid) {
            process.steps = process.steps.saturating_sub(1);
            process.ended = now;
        }
        if let Some(of_user) = state.users.get_mut(&user) {
            of_user.steps = of_user.steps.saturating_sub(1);
            of_user.last = now;
        }
    }

    /// Whether a read of the process is expected to block.
    pub(crate) fn is_expected_of(
        &self,
        pid: i32,
        user_of: impl FnOnce(i32) -> User,
        now: Instant,
    ) -> bool {
        if self.count.load(Ordering::Relaxed) == 0 {
            return false;
        }
        let mut state = self.state();
        if let Some(process) = state.processes.get(&pid) {
            if process.is_gone() {
                state.processes.remove(&pid);
            } else if !process.has_ended_for(process.pause(), now) {
                return true;
            }
        }
        state.users.retain(|_, of_user| !of_user.is_over(now));
        self.set_count(&state);
        let skipped: Vec<User> = state.skipped_users().collect();
        drop(state);
        !skipped.is_empty() && skipped.contains(&user_of(pid))
    }

    /// The number of blocked steps that have not ended.
    #[cfg(test)]
    pub(crate) fn steps(&self) -> usize {
        self.state().processes.values().map(|process| process.steps).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;

    const USER: User = User::ROOT;
    const SECOND: Duration = Duration::from_secs(1);

    fn user(uid: u32) -> User {
        User::of_uid(Some(uid))
    }

    /// A tree like proc with a process of that uid.
    fn tree(pid: i32, uid: u32) -> TempDir {
        let tree = tempfile::tempdir().unwrap();
        start(&tree, pid, uid);
        tree
    }

    fn start(tree: &TempDir, pid: i32, uid: u32) {
        let directory = tree.path().join(pid.to_string());
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("status"), format!("Uid:\t{uid}\t0\t0\t0\n")).unwrap();
    }

    fn end(tree: &TempDir, pid: i32) {
        fs::remove_dir_all(tree.path().join(pid.to_string())).unwrap();
    }

    #[test]
    fn a_user_is_skipped_above_the_limit_and_for_a_minute() {
        let (of, now) = (BlockedProcesses::default(), Instant::now());
        let is_skipped = |uid, now| of.is_expected_of(1, |_| user(uid), now);
        of.add_time(user(1000), Duration::ZERO, now);
        of.add_time(user(1000), USER_LIMIT, now);
        assert!(!is_skipped(1000, now));
        of.add_time(user(1000), Duration::from_nanos(1), now);
        assert!(is_skipped(1000, now) && !is_skipped(1001, now));
        assert!(is_skipped(1000, now + MINUTE - SECOND) && !is_skipped(1000, now + MINUTE));
        assert_eq!(of.count.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn root_is_never_skipped() {
        let (of, now) = (BlockedProcesses::default(), Instant::now());
        of.add_time(User::ROOT, MINUTE, now);
        assert!(!of.is_expected_of(1, |_| User::ROOT, now));
    }

    #[test]
    fn short_waits_now_and_then_do_not_add_up() {
        let (of, start) = (BlockedProcesses::default(), Instant::now());
        for second in 0..10_000 {
            let now = start + second * SECOND;
            of.add_time(user(1000), SECOND / DECAY_DIVISOR, now);
            assert!(!of.is_expected_of(1, |_| user(1000), now), "after {second} s");
        }
    }

    #[test]
    fn a_user_with_steps_that_have_not_ended_is_skipped_on() {
        let (of, now) = (BlockedProcesses::default(), Instant::now());
        let tree = tree(1, 1000);
        of.insert(1, Identity::of(tree.path(), 1), false, now);
        of.add_time(user(1000), PROCESS_LIMIT, now);
        // Nothing is subtracted in this time.
        let later = now + 10 * MINUTE;
        of.add_time(user(1000), PROCESS_LIMIT, later);
        let is_skipped = |now| of.is_expected_of(2, |_| user(1000), now);
        assert!(is_skipped(later) && is_skipped(later + 10 * MINUTE));
        let ended = later + 10 * MINUTE;
        of.end_step(1, user(1000), ended);
        assert!(is_skipped(ended + MINUTE - SECOND) && !is_skipped(ended + MINUTE));
    }

    #[test]
    fn a_process_is_skipped_until_a_second_after_its_step() {
        let (of, now) = (BlockedProcesses::default(), Instant::now());
        let tree = tree(1, 0);
        of.insert(1, Identity::of(tree.path(), 1), false, now);
        let is_skipped = |now| of.is_expected_of(1, |_| USER, now);
        assert!(is_skipped(now + 100 * MINUTE));
        of.end_step(1, USER, now + MINUTE);
        assert!(is_skipped(now + MINUTE) && !is_skipped(now + MINUTE + SECOND));
    }

    #[test]
    fn a_process_with_the_pid_of_one_that_ended_is_not_skipped() {
        let (of, now) = (BlockedProcesses::default(), Instant::now());
        let tree = tree(1, 1000);
        of.insert(1, Identity::of(tree.path(), 1), true, now);
        assert!(of.is_expected_of(1, |_| user(1000), now));
        end(&tree, 1);
        start(&tree, 1, 1001);
        assert!(!of.is_expected_of(1, |_| user(1001), now));
        // Nor does it inherit how often the other one blocked.
        of.insert(1, Identity::of(tree.path(), 1), true, now);
        assert!(!of.is_expected_of(1, |_| user(1001), now + SECOND));
    }

    #[test]
    fn a_process_with_an_unreadable_directory_has_not_ended() {
        let (of, now) = (BlockedProcesses::default(), Instant::now());
        let tree = tree(1, 1000);
        let status = tree.path().join("1/status");
        let process = Identity::of(tree.path(), 1);
        fs::remove_file(&status).unwrap();
        std::os::unix::fs::symlink("status", &status).unwrap();
        // To open a link to itself fails with ELOOP.
        of.insert(1, process, true, now);
        assert!(of.is_expected_of(1, |_| user(1000), now));
    }

    #[test]
    fn a_process_that_has_ended_has_no_user() {
        let tree = tree(1, 1000);
        assert_eq!(Identity::of(tree.path(), 1).user, user(1000));
        end(&tree, 1);
        assert_eq!(Identity::of(tree.path(), 1).user, User::of_uid(None));
    }

    #[test]
    fn the_number_of_recorded_processes_is_bounded() {
        let (of, now) = (BlockedProcesses::default(), Instant::now());
        let tree = tree(1, 1000);
        for pid in 1..200 {
            of.insert(pid, Identity::of(tree.path(), 1), true, now);
        }
        assert_eq!(of.count.load(Ordering::Relaxed), MAX_RECORDED);
    }
}
