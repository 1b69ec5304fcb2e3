//! Who holds what: the links `/proc/<pid>/fd/N` → `socket:[inode]` (proc_pid_fd(5)).
//!
//! A thread can have a table of descriptors of its own, in `/proc/<pid>/task/<tid>/fd`. Few have, and to
//! find them costs a call for each thread, so they are looked for only if that is asked for. Reading another
//! user's needs PTRACE_MODE_READ_FSCREDS (ptrace(2)).
//!
//! A link costs the kernel microseconds, and a host may have a million of them. So the walk calls in
//! more threads as it finds more to do, and a process with many descriptors is shared among them.

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
use crate::deadline::Deadline;
use crate::formats::linux::proc_link;
use crate::model::holders::{Holder, HolderCollector, HolderLimits};
use crate::model::omission::{OmissionKind, Omissions};

/// What a walk reads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WalkOptions<'a> {
    /// Whether the file descriptor tables that threads have of their own are read.
    pub(crate) threads: bool,
    pub(crate) limits: HolderLimits,
    pub(crate) deadline: Deadline<'a>,
}

/// The descriptors of these processes that refer to a socket and that `wanted` accepts.
pub(crate) fn walk(
    root: &ProcRoot,
    pids: &[i32],
    options: WalkOptions<'_>,
    wanted: impl Fn(&Holder) -> bool + Sync,
    omissions: &mut Omissions,
) -> HolderCollector {
    walk_on(cores(), root, pids, options, wanted, omissions)
}

/// The same on that many threads at the most.
fn walk_on(
    most: usize,
    root: &ProcRoot,
    pids: &[i32],
    options: WalkOptions<'_>,
    wanted: impl Fn(&Holder) -> bool + Sync,
    omissions: &mut Omissions,
) -> HolderCollector {
    let walk = Walk {
        root,
        wanted,
        pids,
        options,
        can_compare: options.threads && root.has_own_pids(),
        begun: AtomicUsize::new(0),
        batches: Mutex::default(),
        walkers: AtomicUsize::new(1),
        most,
        found: Mutex::new(Found::new(options.limits)),
    };
    thread::scope(|scope| walk.run(scope));
    let found = walk.found.into_inner().unwrap_or_else(PoisonError::into_inner);
    omissions.extend(found.omissions);
    found.holders
}

/// A walk that several threads are on.
struct Walk<'a, W> {
    root: &'a ProcRoot,
    wanted: W,
    pids: &'a [i32],
    options: WalkOptions<'a>,
    /// Whether the kernel can be asked if two of them share a table.
    can_compare: bool,
    /// How many of these somebody has begun with.
    begun: AtomicUsize,
    /// What somebody has listed and nobody has begun with.
    batches: Mutex<Vec<Batch>>,
    walkers: AtomicUsize,
    /// The most walkers at a time.
    most: usize,
    found: Mutex<Found>,
}

/// What a walker has found.
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
    /// Whether it was said that a link cannot be read.
    denied: AtomicBool,
}

/// How many descriptors are looked at together.
const BATCH: usize = 512;
/// How many processes are worth another thread.
const PROCESSES: usize = 32;

impl<W: Fn(&Holder) -> bool + Sync> Walk<'_, W> {
    /// Walks until nothing is left to begin with.
    fn run<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>) {
        let HolderLimits { per_socket, max } = self.options.limits;
        // Together the walkers keep no more than the limit.
        let max = max.map(|max| max / self.most.max(1));
        let mut found = Found::new(HolderLimits { per_socket, max });
        while !self.options.deadline.has_passed() {
            // A process of one's own first: two walkers in one are in each other's way in the kernel.
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
            self.look_at(&batch, &mut found);
        }
        self.walkers.fetch_sub(1, Ordering::Relaxed);
        let mut all = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        all.holders.append(found.holders);
        all.omissions.extend(found.omissions);
    }

    fn batches(&self) -> MutexGuard<'_, Vec<Batch>> {
        self.batches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts another walker, unless there are as many as there may be.
    fn call_another<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>) {
        let one_more = |walkers| (walkers < self.most).then_some(walkers + 1);
        let (set, fetch) = (Ordering::Relaxed, Ordering::Relaxed);
        if self.walkers.fetch_update(set, fetch, one_more).is_ok() {
            let walker = thread::Builder::new().name("walker".into());
            // If the system has no thread for it, those that there are do the work.
            if walker.spawn_scoped(scope, || self.run(scope)).is_err() {
                self.walkers.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    /// Lists the descriptors of a process, and looks at those that it does not leave to others.
    fn list<'scope>(&'scope self, pid: i32, scope: &'scope Scope<'scope, '_>, found: &mut Found) {
        let result = self.root.process(pid).and_then(|process| {
            let own = self.list_one(pid, None, &process, scope, found);
            if self.options.threads && own.is_ok() {
                self.list_threads(pid, &process, scope, found);
            }
            if own == Ok(true) {
                return own;
            }
            // The descriptors of a zombie are none, or root's; a thread of it that lives has them all.
            let Some(tasks) = process.tasks() else { return own };
            for thread in tasks.others().into_iter().map(|tid| tasks.thread(tid)) {
                match thread.and_then(|thread| self.list_one(pid, None, &thread, scope, found)) {
                    Ok(true) => return Ok(true),
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

    /// Lists the tables of its threads that are not the process's own.
    fn list_threads<'scope>(
        &'scope self,
        pid: i32,
        process: &Process,
        scope: &'scope Scope<'scope, '_>,
        found: &mut Found,
    ) {
        let Some(tasks) = process.tasks() else { return };
        // In the order of their tables.
        let mut listed = vec![pid];
        for tid in tasks.others() {
            if self.can_compare {
                // One that cannot be compared stands anywhere.
                let order = |&other: &i32| {
                    let Ok(_step) = self.root.step(pid) else { return std::cmp::Ordering::Less };
                    kcmp::compare_descriptors(other, tid).unwrap_or(std::cmp::Ordering::Less)
                };
                match listed.binary_search_by(order) {
                    Ok(_) => continue,
                    Err(place) => listed.insert(place, tid),
                }
            }
            if let Ok(thread) = tasks.thread(tid) {
                // It ends when it likes; and who may read the process may read it.
                let _ = self.list_one(pid, Some(tid), &thread, scope, found);
            }
        }
    }

    /// The same as one thread of it shows them; says whether there was any.
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
        self.look_at(&Batch { of, fds }, found);
        listed.map(|()| any)
    }

    /// Leaves a batch to others, unless they have enough to do.
    fn share<'scope>(
        &'scope self,
        batch: Batch,
        scope: &'scope Scope<'scope, '_>,
        found: &mut Found,
    ) {
        let mut batches = self.batches();
        if self.most == 1 || batches.len() >= 2 * self.most {
            drop(batches);
            return self.look_at(&batch, found);
        }
        batches.push(batch);
        drop(batches);
        self.call_another(scope);
    }

    fn look_at(&self, batch: &Batch, found: &mut Found) {
        let Descriptors { pid, tid, directory, denied } = &*batch.of;
        // A process that is skipped is counted as such.
        let Ok(step) = self.root.step(*pid) else { return };
        for &fd in &batch.fds {
            match read_link(directory.as_fd(), DecInt::new(fd), proc_link::socket_inode) {
                Ok(Some(inode)) => {
                    let holder = Holder { inode, pid: *pid, fd, tid: *tid };
                    if (self.wanted)(&holder) {
                        found.holders.push(holder);
                    }
                }
                Ok(None) => {}
                Err(errno) if is_gone(errno) => {}
                Err(errno) => {
                    // Who may not read a thread's may not read its process's, and that is said.
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
            // One stands for all.
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

/// Whether the descriptor only is a handle of the socket (O_PATH in open(2)): another one's descriptor that was
/// looked up in proc, as we do ourselves. Its link can be neither read nor written through
/// (`tid_fd_update_inode`).
pub(crate) fn is_handle(root: &ProcRoot, owner: &Holder) -> bool {
    const MODE: u32 = 0o777;
    let process = root.process(owner.pid);
    let link = process.and_then(|process| process.lstat(&path_of(owner)));
    link.is_ok_and(|link| link.st_mode & MODE == 0)
}

/// From the process's directory.
fn path_of(owner: &Holder) -> String {
    match owner.tid {
        None => format!("fd/{}", owner.fd),
        Some(tid) => format!("task/{tid}/fd/{}", owner.fd),
    }
}

/// Calls `read` with the name of the socket's protocol, as the holder's descriptor gives it; None if
/// it gives none, or is no longer of that socket.
pub(crate) fn protocol_name<T>(
    root: &ProcRoot,
    owner: &Holder,
    read: impl FnOnce(&[u8]) -> T,
) -> Option<T> {
    let process = root.process(owner.pid).ok()?;
    let socket = process.pin(path_of(owner)).ok()?;
    // It can be another file by now, whose server may hang or choose the inode number.
    let sockfs = root.counted(sockfs_device()).ok()?;
    let is_of_sockfs = |file: &Statx| sockfs == (file.stx_dev_major, file.stx_dev_minor);
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let file = statx(&socket, "", flags, StatxFlags::INO).ok()?;
    if file.stx_ino != owner.inode || !is_of_sockfs(&file) {
        return None;
    }
    // An attribute is read by path only: here the path is that of our own descriptor.
    let path = format!("/proc/self/fd/{}", socket.as_raw_fd());
    let mut name = [0; 32];
    let length = getxattr(path, "system.sockprotoname", &mut name[..]).ok()?;
    name.get(..length)?.split(|&byte| byte == 0).next().map(read)
}

/// The device number of the file system of sockets. A failure, as for want of a descriptor, is not kept.
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
