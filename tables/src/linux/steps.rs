//! Reads of `/proc/<pid>` that the process can block.
//!
//! To follow a link below `/proc/<pid>`, the kernel takes the process's `exec_update_lock`, which an execve
//! holds (`fs/exec.c`). An execve waits for file servers: a process that has a file of a FUSE mount of its own
//! open with O_CLOEXEC holds the lock for as long as it likes. No signal but SIGKILL ends the wait.
//!
//! So each such read is a [`Step`] of a scan. A scan whose step is blocked is abandoned, and is made anew
//! without that process: see `attempts`. The thread that is blocked stays, until the step ends.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags, openat};
use rustix::process::Pid;
use rustix::thread::gettid;

use crate::formats::linux::proc_status;
use crate::model::User;

/// The processes that blocked a step of any scan, and do still or did a while ago.
#[derive(Debug, Default)]
pub(crate) struct BlockedProcesses {
    /// How many there are, so that a scan with none to skip does not wait for the lock.
    count: AtomicUsize,
    processes: Mutex<BTreeMap<i32, Blocked>>,
}

#[derive(Debug)]
struct Blocked {
    process: Identity,
    /// How many blocked steps have not ended.
    steps: usize,
    /// How often it was found to block.
    times: u32,
    /// When the last step ended, if all have.
    ended: Option<Instant>,
}

/// A process, to be known again.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) user: User,
    /// Its directory, which leads nowhere once the process has ended.
    pub(crate) directory: Option<OwnedFd>,
}

/// So many processes of a user are waited for. After them the user's other processes are skipped: they can
/// be blocked on purpose. Processes of root are always read.
pub(crate) const PROCESSES_OF_A_USER: usize = 2;
/// How long a process counts for that after its last step.
const MINUTE: Duration = Duration::from_secs(60);
/// More are not remembered: each takes a file descriptor.
const MAX_REMEMBERED: usize = 64;

impl Blocked {
    /// For how long it is skipped after its last step: the longer the more often it blocked.
    fn pause(&self) -> Duration {
        match self.times {
            0 | 1 => Duration::from_secs(1),
            2 => Duration::from_secs(8),
            _ => MINUTE,
        }
    }

    fn has_ended_for(&self, time: Duration, now: Instant) -> bool {
        let is_over = |ended| now.saturating_duration_since(ended) >= time;
        self.steps == 0 && self.ended.is_none_or(is_over)
    }

    /// Whether the process itself has ended. Its pid can be that of another one then.
    fn is_gone(&self) -> bool {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let open = |directory| openat(directory, "status", flags, Mode::empty());
        self.steps == 0 && self.process.directory.as_ref().is_some_and(|it| open(it).is_err())
    }
}

impl BlockedProcesses {
    fn processes(&self) -> MutexGuard<'_, BTreeMap<i32, Blocked>> {
        self.processes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many steps are blocked now: each has a thread wait.
    pub(crate) fn steps(&self) -> usize {
        if self.count.load(Ordering::Relaxed) == 0 {
            return 0;
        }
        self.processes().values().map(|process| process.steps).sum()
    }

    /// Adds a process that blocks a step, or that blocked one which has ended by now.
    fn insert(&self, pid: i32, process: Identity, has_ended: bool) {
        let mut processes = self.processes();
        let now = Instant::now();
        processes.retain(|_, process| !process.has_ended_for(10 * MINUTE, now));
        let known = processes.remove(&pid).filter(|known| !known.is_gone());
        let mut blocked = known.unwrap_or(Blocked { process, steps: 0, times: 0, ended: None });
        blocked.times += 1;
        blocked.steps += usize::from(!has_ended);
        blocked.ended = Some(now);
        if processes.len() >= MAX_REMEMBERED {
            let oldest = processes.iter().filter(|(_, process)| process.steps == 0);
            if let Some(pid) = oldest.min_by_key(|(_, process)| process.ended).map(|(pid, _)| *pid)
            {
                processes.remove(&pid);
            }
        }
        processes.insert(pid, blocked);
        self.count.store(processes.len(), Ordering::Relaxed);
    }

    fn end_step(&self, pid: i32) {
        if let Some(process) = self.processes().get_mut(&pid) {
            process.steps = process.steps.saturating_sub(1);
            process.ended = Some(Instant::now());
        }
    }

    /// Whether a read of that process is expected to block.
    fn is_expected_of(&self, pid: i32, user_of: impl FnOnce(i32) -> User) -> bool {
        if self.count.load(Ordering::Relaxed) == 0 {
            return false;
        }
        let now = Instant::now();
        let mut processes = self.processes();
        if let Some(process) = processes.get(&pid) {
            if process.is_gone() {
                processes.remove(&pid);
                self.count.store(processes.len(), Ordering::Relaxed);
            } else if !process.has_ended_for(process.pause(), now) {
                return true;
            }
        }
        let mut counts: BTreeMap<User, usize> = BTreeMap::new();
        for process in processes.values().filter(|process| !process.has_ended_for(MINUTE, now)) {
            *counts.entry(process.process.user).or_default() += 1;
        }
        drop(processes);
        counts.retain(|user, count| *user != User::ROOT && *count >= PROCESSES_OF_A_USER);
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
    /// Processes that blocked a step for a while.
    slow: BTreeSet<i32>,
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

impl InProgress {
    /// A thread that waits for a processor is not blocked, nor is one that waits only now and then.
    fn is_slow(&self) -> bool {
        const TIMES: u32 = 3;
        self.waiting >= TIMES
    }
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

    /// For how long the step has been blocked that has been for the longest. To be called at regular
    /// intervals.
    pub(crate) fn observe(&self) -> Option<Duration> {
        let now = Instant::now();
        let mut longest = None;
        for step in &mut self.state().in_progress {
            step.waiting = if is_waiting(step.thread) { step.waiting + 1 } else { 0 };
            if step.is_slow() {
                longest = longest.max(Some(now.saturating_duration_since(step.since)));
            }
        }
        longest
    }

    /// Has the attempt end as soon as it can. The processes that blocked a step of it are remembered.
    pub(crate) fn abandon(&self, identify: impl Fn(i32) -> Identity) {
        self.abandoned.store(true, Ordering::Relaxed);
        let mut state = self.state();
        for step in state.in_progress.iter_mut().filter(|step| step.is_slow()) {
            step.is_blocked = true;
            self.blocked.insert(step.pid, identify(step.pid), false);
        }
        for pid in std::mem::take(&mut state.slow) {
            self.blocked.insert(pid, identify(pid), true);
        }
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
            self.steps.blocked.end_step(step.pid);
        } else if step.is_slow() {
            state.slow.insert(step.pid);
        }
    }
}

/// Whether a thread of this process sleeps. One whose state cannot be read is taken to.
fn is_waiting(thread: Pid) -> bool {
    let path = format!("/proc/self/task/{}/status", thread.as_raw_nonzero());
    std::fs::read(path).map_or(true, |status| !proc_status::is_running(&status))
}
