//! Reads of `/proc/<pid>` that the process can block.
//!
//! To follow a link below `/proc/<pid>`, the kernel takes the process's `exec_update_lock`, which an execve
//! holds (`fs/exec.c`). An execve waits for file servers: a process that has a file of a FUSE mount of its own
//! open with O_CLOEXEC holds the lock for as long as it likes. No signal but SIGKILL ends the wait.
//!
//! So each such read is a [`Step`] of a scan. A scan whose step is blocked is abandoned, and is made anew
//! without that process: see `attempts`. The thread that is blocked stays, until the step ends.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::Pid;
use rustix::thread::gettid;

use crate::User;
use crate::formats::linux::proc_status;

/// The processes of which a step is blocked, in any scan. A process is among them until the step ends.
#[derive(Debug, Default)]
pub(crate) struct BlockedProcesses {
    /// How many there are, so that a scan with none to skip does not wait for the lock.
    count: AtomicUsize,
    users: Mutex<BTreeMap<i32, User>>,
}

/// So many blocked processes of a user are waited for. After them the user's other processes are not read
/// either: they can be blocked on purpose. Root's always are.
pub(crate) const PROCESSES_OF_A_USER: usize = 2;

impl BlockedProcesses {
    fn users(&self) -> MutexGuard<'_, BTreeMap<i32, User>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    fn insert(&self, pid: i32, user: User) {
        let mut users = self.users();
        users.insert(pid, user);
        self.count.store(users.len(), Ordering::Relaxed);
    }

    fn remove(&self, pid: i32) {
        let mut users = self.users();
        users.remove(&pid);
        self.count.store(users.len(), Ordering::Relaxed);
    }

    /// Whether a read of that process is expected to block.
    fn is_expected_of(&self, pid: i32, user_of: impl FnOnce(i32) -> User) -> bool {
        if self.count() == 0 {
            return false;
        }
        let users = self.users();
        if users.contains_key(&pid) {
            return true;
        }
        let mut counts: BTreeMap<User, usize> = BTreeMap::new();
        for user in users.values().filter(|user| **user != User::ROOT) {
            *counts.entry(*user).or_default() += 1;
        }
        drop(users);
        counts.retain(|_, count| *count >= PROCESSES_OF_A_USER);
        !counts.is_empty() && counts.contains_key(&user_of(pid))
    }
}

/// The steps of one attempt to scan.
#[derive(Debug)]
pub(crate) struct Steps {
    blocked: Arc<BlockedProcesses>,
    /// Whether steps are made at all; if not, every process is skipped.
    allowed: bool,
    abandoned: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    last: u64,
    /// One for each thread at most.
    in_progress: Vec<InProgress>,
    skipped: BTreeSet<i32>,
}

#[derive(Debug)]
struct InProgress {
    id: u64,
    pid: i32,
    thread: Pid,
    since: Instant,
    /// How many times in a row its thread was seen waiting.
    waiting: u32,
    /// Whether the process is among the blocked ones because of this step.
    is_blocked: bool,
}

/// A step that is in progress, until it is dropped.
#[derive(Debug)]
pub(crate) struct Step<'a> {
    steps: &'a Steps,
    id: u64,
}

impl Steps {
    pub(crate) fn new(blocked: Arc<BlockedProcesses>, allowed: bool) -> Steps {
        Steps { blocked, allowed, abandoned: AtomicBool::new(false), state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a step that the process can block; None if the process is skipped.
    pub(crate) fn begin(&self, pid: i32, user_of: impl FnOnce(i32) -> User) -> Option<Step<'_>> {
        let is_skipped = !self.allowed
            || self.abandoned.load(Ordering::Relaxed)
            || self.blocked.is_expected_of(pid, user_of);
        let mut state = self.state();
        if is_skipped {
            state.skipped.insert(pid);
            return None;
        }
        state.last += 1;
        let (id, thread, since) = (state.last, gettid(), Instant::now());
        let step = InProgress { id, pid, thread, since, waiting: 0, is_blocked: false };
        state.in_progress.push(step);
        Some(Step { steps: self, id })
    }

    /// Set once the attempt is abandoned: it then ends as soon as it can.
    pub(crate) fn abandoned(&self) -> &AtomicBool {
        &self.abandoned
    }

    /// The processes that were skipped so far.
    pub(crate) fn skipped(&self) -> BTreeSet<i32> {
        self.state().skipped.clone()
    }

    /// Abandons the attempt if a step of it has been blocked for that long, and returns for how long it
    /// has. To be called again and again.
    pub(crate) fn abandon_if_blocked(
        &self,
        limit: Duration,
        user_of: impl Fn(i32) -> User,
    ) -> Option<Duration> {
        /// A thread that waits for a processor is not blocked, nor is one that waits only now and then.
        const TIMES: u32 = 3;
        let now = Instant::now();
        let mut state = self.state();
        let mut longest = Duration::ZERO;
        for step in &mut state.in_progress {
            step.waiting = if is_waiting(step.thread) { step.waiting + 1 } else { 0 };
            if step.waiting >= TIMES {
                longest = longest.max(now.saturating_duration_since(step.since));
            }
        }
        if longest < limit {
            return None;
        }
        // Steps of other threads may have been blocked a little later.
        for step in state.in_progress.iter_mut().filter(|step| step.waiting >= TIMES) {
            step.is_blocked = true;
            self.blocked.insert(step.pid, user_of(step.pid));
        }
        self.abandon();
        Some(longest)
    }

    /// Has the attempt end as soon as it can.
    pub(crate) fn abandon(&self) {
        self.abandoned.store(true, Ordering::Relaxed);
    }
}

impl Drop for Step<'_> {
    fn drop(&mut self) {
        let mut state = self.steps.state();
        let Some(index) = state.in_progress.iter().position(|step| step.id == self.id) else {
            return;
        };
        let step = state.in_progress.swap_remove(index);
        if step.is_blocked {
            self.steps.blocked.remove(step.pid);
        }
    }
}

/// Whether a thread of this process sleeps. One whose state cannot be read is taken to.
fn is_waiting(thread: Pid) -> bool {
    let path = format!("/proc/self/task/{}/status", thread.as_raw_nonzero());
    std::fs::read(path).map_or(true, |status| !proc_status::is_running(&status))
}
