//! The holders of sockets: the links `/proc/<pid>/fd/N` → `socket:[inode]` (proc_pid_fd(5)).
//!
//! A thread can have its own file descriptor table, in `/proc/<pid>/task/<tid>/fd`. Few threads have one, and
//! the search costs a system call for each thread, so it is optional. To read the descriptors of another
//! user's process, PTRACE_MODE_READ_FSCREDS is required (ptrace(2)).
//!
//! A link costs the kernel microseconds, and a host can have a million of them. So the walk starts more
//! threads as it finds more work, and the threads share a process with many descriptors.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, Scope};

use rustix::fs::{AtFlags, Statx, StatxFlags, fstat, getxattr, statx};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::path::DecInt;

use super::cores;
use super::kcmp;
use super::proc_root::{ProcRoot, Process, first_number, for_each_number, is_gone, read_link};
use super::start_times::StartTimes;
use crate::deadline::Deadline;
use crate::formats::linux::proc_link;
use crate::model::holders::{Holder, HolderCollector, HolderLimits};
use crate::model::omission::{OmissionKind, Omissions};

/// What a walk reads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WalkOptions<'a> {
    /// Whether the walk reads the file descriptor tables of threads.
    pub(crate) threads: bool,
    pub(crate) limits: HolderLimits,
    pub(crate) deadline: Deadline<'a>,
    /// Where the walk notes when the processes started, if the query reads more of them.
    pub(crate) start_times: Option<&'a StartTimes>,
}

/// Collects the descriptors of these processes that refer to a socket and that `admits` accepts.
pub(crate) fn walk(
    root: &ProcRoot,
    pids: &[i32],
    options: WalkOptions<'_>,
    admits: impl Fn(&Holder) -> bool + Sync,
    omissions: &mut Omissions,
) -> HolderCollector {
    walk_with_threads(cores(), root, pids, options, admits, omissions)
}

/// The same with at most `max_walkers` threads.
fn walk_with_threads(
    max_walkers: usize,
    root: &ProcRoot,
    pids: &[i32],
    options: WalkOptions<'_>,
    admits: impl Fn(&Holder) -> bool + Sync,
    omissions: &mut Omissions,
) -> HolderCollector {
    let walk = Walk {
        root,
        admits,
        pids,
        options,
        can_compare: options.threads && root.has_own_pids(),
        begun: AtomicUsize::new(0),
        batches: Mutex::default(),
        walkers: AtomicUsize::new(1),
        max_walkers,
        found: Mutex::new(Found::new(options.limits)),
    };
    thread::scope(|scope| walk.run(scope));
    let found = walk.found.into_inner().unwrap_or_else(PoisonError::into_inner);
    omissions.extend(found.omissions);
    found.holders
}

/// A walk, shared by several threads.
struct Walk<'a, W> {
    root: &'a ProcRoot,
    admits: W,
    pids: &'a [i32],
    options: WalkOptions<'a>,
    /// Whether kcmp(2) can compare the file descriptor tables of threads.
    can_compare: bool,
    /// The number of processes that a thread has taken.
    begun: AtomicUsize,
    /// Batches that no thread has taken yet.
    batches: Mutex<Vec<Batch>>,
    walkers: AtomicUsize,
    /// The maximum of `walkers`.
    max_walkers: usize,
    found: Mutex<Found>,
}

/// The result of one thread.
struct Found {
    holders: HolderCollector,
    omissions: Omissions,
}

impl Found {
    fn new(limits: HolderLimits) -> Found {
        Found { holders: HolderCollector::new(limits), omissions: Omissions::default() }
    }
}

/// Some descriptors of a process.
struct Batch {
    of: Arc<Descriptors>,
    fds: Vec<i32>,
}

/// The open directory of a process's descriptors.
struct Descriptors {
    pid: i32,
    tid: Option<i32>,
    directory: OwnedFd,
    /// Whether an unreadable link was counted.
    denied: AtomicBool,
}

/// Descriptors in a batch.
const BATCH: usize = 512;
/// Processes that justify another thread.
const PROCESSES: usize = 32;

impl<W: Fn(&Holder) -> bool + Sync> Walk<'_, W> {
    /// Walks until no process and no batch is left.
    fn run<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>) {
        let HolderLimits { per_socket, max } = self.options.limits;
        // Together the walkers keep no more than the limit.
        let max = max.map(|max| max / self.max_walkers.max(1));
        let mut found = Found::new(HolderLimits { per_socket, max });
        while !self.options.deadline.has_passed() {
            // A new process first: two threads in one process compete for its locks in the kernel.
            let next = self.begun.fetch_add(1, Ordering::Relaxed);
            if let Some(&pid) = self.pids.get(next) {
                if self.pids.len() - next > PROCESSES {
                    self.call_another(scope);
                }
                self.list(pid, scope, &mut found);
                continue;
            }
            let batch = self.batches().pop();
            let Some(batch) = batch else { break };
            self.read_batch(&batch, &mut found);
        }
        self.walkers.fetch_sub(1, Ordering::Relaxed);
        let mut all = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        all.holders.append(found.holders);
        all.omissions.extend(found.omissions);
    }

    fn batches(&self) -> MutexGuard<'_, Vec<Batch>> {
        self.batches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts another thread, up to the maximum.
    fn call_another<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>) {
        let one_more = |walkers| (walkers < self.max_walkers).then_some(walkers + 1);
        let (set, fetch) = (Ordering::Relaxed, Ordering::Relaxed);
        if self.walkers.fetch_update(set, fetch, one_more).is_ok() {
            let walker = thread::Builder::new().name("walker".into());
            // If no thread can be started, the others do the work.
            if walker.spawn_scoped(scope, || self.run(scope)).is_err() {
                self.walkers.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    /// Lists the descriptors of a process, and reads those that it does not share.
    fn list<'scope>(&'scope self, pid: i32, scope: &'scope Scope<'scope, '_>, found: &mut Found) {
        let result = self.root.process(pid).and_then(|process| {
            let own = self.list_one(pid, None, &process, scope, found);
            if self.options.threads && own.is_ok() {
                self.list_threads(pid, &process, scope, found);
            }
            if own == Ok(true) {
                self.note_start(pid, &process);
                return own;
            }
            // If the first thread has ended, its directory is empty or belongs to root. A running thread shows
            // the descriptors.
            let Some(tasks) = process.tasks() else { return own };
            for thread in tasks.others().into_iter().map(|tid| tasks.thread(tid)) {
                match thread.and_then(|thread| self.list_one(pid, None, &thread, scope, found)) {
                    Ok(true) => {
                        self.note_start(pid, &process);
                        return Ok(true);
                    }
                    Ok(false) => {}
                    Err(errno) if is_gone(errno) => {}
                    Err(_) => break,
                }
            }
            own
        });
        match result {
            Ok(_) => {}
            Err(errno) if is_gone(errno) => {}
            Err(errno) => deny(self.root, pid, errno, &mut found.omissions),
        }
    }

    fn note_start(&self, pid: i32, process: &Process) {
        if let Some(start_times) = self.options.start_times {
            start_times.note_process(pid, process);
        }
    }

    /// Lists the file descriptor tables of threads that are not the table of the process.
    fn list_threads<'scope>(
        &'scope self,
        pid: i32,
        process: &Process,
        scope: &'scope Scope<'scope, '_>,
        found: &mut Found,
    ) {
        let Some(tasks) = process.tasks() else { return };
        // In the order of kcmp(2).
        let mut listed = vec![pid];
        for tid in tasks.others() {
            if self.can_compare {
                // The position of a thread that cannot be compared does not matter.
                let order = |&other: &i32| {
                    let Ok(_step) = self.root.step(pid) else { return std::cmp::Ordering::Less };
                    kcmp::compare_descriptors(other, tid).unwrap_or(std::cmp::Ordering::Less)
                };
                match listed.binary_search_by(order) {
                    Ok(_) => continue,
                    Err(index) => listed.insert(index, tid),
                }
            }
            if let Ok(thread) = tasks.thread(tid) {
                // A thread can end at any time, and other errors were counted for its process.
                let _ = self.list_one(pid, Some(tid), &thread, scope, found);
            }
        }
    }

    /// The same for one directory of descriptors; returns whether it has any.
    fn list_one<'scope>(
        &'scope self,
        pid: i32,
        tid: Option<i32>,
        process: &Process,
        scope: &'scope Scope<'scope, '_>,
        found: &mut Found,
    ) -> rustix::io::Result<bool> {
        let directory = process.directory("fd")?;
        let of = Arc::new(Descriptors { pid, tid, directory, denied: AtomicBool::new(false) });
        let mut any = false;
        let mut fds = Vec::new();
        let listed = for_each_number(of.directory.as_fd(), |fd| {
            any = true;
            if fds.len() == BATCH {
                let fds = std::mem::replace(&mut fds, Vec::with_capacity(BATCH));
                self.share(Batch { of: Arc::clone(&of), fds }, scope, found);
            }
            fds.push(fd);
        });
        self.read_batch(&Batch { of, fds }, found);
        listed.map(|()| any)
    }

    /// Leaves a batch to the other threads, unless enough batches are waiting.
    fn share<'scope>(
        &'scope self,
        batch: Batch,
        scope: &'scope Scope<'scope, '_>,
        found: &mut Found,
    ) {
        let mut batches = self.batches();
        if self.max_walkers == 1 || batches.len() >= 2 * self.max_walkers {
            drop(batches);
            return self.read_batch(&batch, found);
        }
        batches.push(batch);
        drop(batches);
        self.call_another(scope);
    }

    fn read_batch(&self, batch: &Batch, found: &mut Found) {
        let Descriptors { pid, tid, directory, denied } = &*batch.of;
        // A skipped process is counted elsewhere.
        let Ok(step) = self.root.step(*pid) else { return };
        for &fd in &batch.fds {
            match read_link(directory.as_fd(), DecInt::new(fd), proc_link::socket_inode) {
                Ok(Some(inode)) => {
                    let holder = Holder { inode, pid: *pid, fd, tid: *tid };
                    if (self.admits)(&holder) {
                        found.holders.push(holder);
                    }
                }
                Ok(None) => {}
                Err(errno) if is_gone(errno) => {}
                Err(errno) => {
                    // An unreadable thread belongs to an unreadable process, which is counted.
                    if tid.is_none() && !denied.swap(true, Ordering::Relaxed) {
                        deny(self.root, *pid, errno, &mut found.omissions);
                    }
                }
            }
        }
        drop(step);
        let root = self.root;
        found.holders.prune_if_large(|holder| !is_handle(root, holder), |pid| root.user(pid));
    }
}

/// Counts a process whose descriptors cannot be read.
pub(crate) fn note_if_denied(root: &ProcRoot, pid: i32, omissions: &mut Omissions) {
    let directory = root.process(pid).and_then(|process| process.directory("fd"));
    let Ok(_step) = root.step(pid) else { return };
    let denied = match &directory {
        Err(errno) => Some(*errno),
        Ok(directory) => {
            // If one link is unreadable, all are.
            let first = first_number(directory.as_fd()).ok().flatten();
            first.and_then(|fd| read_link(directory.as_fd(), DecInt::new(fd), |_| ()).err())
        }
    };
    if let Some(errno) = denied.filter(|&errno| !is_gone(errno)) {
        deny(root, pid, errno, omissions);
    }
}

fn deny(root: &ProcRoot, pid: i32, errno: Errno, omissions: &mut Omissions) {
    omissions.add(OmissionKind::Fds, || {
        let path = root.path().join(pid.to_string()).join("fd");
        format!("{}: {}", path.display(), std::io::Error::from(errno))
    });
}

/// Whether the descriptor is only an O_PATH handle of the socket (open(2)): a process opened the link of another
/// descriptor in proc, as this crate does. The link then has no mode bits (`tid_fd_update_inode`).
pub(crate) fn is_handle(root: &ProcRoot, holder: &Holder) -> bool {
    const MODE: u32 = 0o777;
    let process = root.process(holder.pid);
    let link = process.and_then(|process| process.lstat(&path_of(holder)));
    link.is_ok_and(|link| link.st_mode & MODE == 0)
}

/// The path of the link, relative to the directory of the process.
fn path_of(holder: &Holder) -> String {
    match holder.tid {
        None => format!("fd/{}", holder.fd),
        Some(tid) => format!("task/{tid}/fd/{}", holder.fd),
    }
}

/// Calls `read` with the protocol name of the socket, from the holder's descriptor; None if the descriptor
/// has no such name or no longer refers to the socket.
pub(crate) fn protocol_name<T>(
    root: &ProcRoot,
    holder: &Holder,
    read: impl FnOnce(&[u8]) -> T,
) -> Option<T> {
    let process = root.process(holder.pid).ok()?;
    let socket = process.pin(path_of(holder)).ok()?;
    // The descriptor can now refer to another file, whose server can hang or choose the inode number.
    let sockfs = root.counted(sockfs_device()).ok()?;
    let is_of_sockfs = |file: &Statx| sockfs == (file.stx_dev_major, file.stx_dev_minor);
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let file = statx(&socket, "", flags, StatxFlags::INO).ok()?;
    if file.stx_ino != holder.inode || !is_of_sockfs(&file) {
        return None;
    }
    // An attribute is read by path only: the path is that of a descriptor of this process.
    let path = format!("/proc/self/fd/{}", socket.as_raw_fd());
    let mut name = [0; 32];
    let length = getxattr(path, "system.sockprotoname", &mut name[..]).ok()?;
    name.get(..length)?.split(|&byte| byte == 0).next().map(read)
}

/// The device number of sockfs. A failure, such as EMFILE, is not cached.
fn sockfs_device() -> rustix::io::Result<(u32, u32)> {
    static DEVICE: OnceLock<(u32, u32)> = OnceLock::new();
    if let Some(device) = DEVICE.get() {
        return Ok(*device);
    }
    let (family, kind) = (AddressFamily::UNIX, SocketType::DGRAM);
    let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
    let device = fstat(socket)?.st_dev;
    Ok(*DEVICE.get_or_init(|| (rustix::fs::major(device), rustix::fs::minor(device))))
}

#[cfg(test)]
mod tests;
