//! Ways to a network namespace, and what it takes to go there (setns(2)).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags, fstat, fstatfs, openat2};
use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::proc_root::{ProcRoot, Process};
use crate::process_open_sockets::model::NetNamespace;

/// A way to a namespace.
#[derive(Debug)]
pub(super) enum Door {
    /// A process that is in it.
    Process(i32),
    /// A process, and a thread of it that is in it.
    Thread(i32, i32),
    /// Its file is mounted at this path.
    Mount(Vec<u8>),
}

impl Door {
    /// The process, or the process as the thread sees it, whose `net` shows the namespace, if it is
    /// there still; None if there is none.
    pub(super) fn process(&self, root: &ProcRoot) -> Option<rustix::io::Result<Process>> {
        match *self {
            Door::Process(pid) => Some(root.process(pid)),
            Door::Thread(pid, tid) => Some(thread(root, pid, tid)),
            Door::Mount(..) => None,
        }
    }

    /// Where it is, for messages.
    pub(super) fn path(&self, root: &ProcRoot) -> String {
        let process = match self {
            Door::Process(pid) => pid.to_string(),
            Door::Thread(pid, tid) => format!("{pid}/task/{tid}"),
            // A stranger's words.
            Door::Mount(path) => {
                let path = path.get(..path.len().min(200)).unwrap_or_default();
                return format!("{:?}", String::from_utf8_lossy(path));
            }
        };
        root.path().join(process).display().to_string()
    }
}

/// A handle of the namespace whose file a process sees mounted at that path.
///
/// # Errors
/// EXDEV if something else is mounted over it; and why it cannot be opened.
pub(super) fn open_mounted(root: &ProcRoot, pid: i32, path: &[u8]) -> rustix::io::Result<OwnedFd> {
    /// From `include/uapi/linux/magic.h`.
    const NSFS_MAGIC: rustix::fs::FsWord = 0x6e73_6673;
    // A stranger's path: it stays below their root, and no link in it is followed.
    let top = root.process(pid)?.pin("root")?;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let pinned = openat2(&top, path, flags, Mode::empty(), resolve)?;
    // Somebody may have mounted another thing over it, which it would not be safe to open.
    if fstatfs(&pinned)?.f_type != NSFS_MAGIC {
        return Err(Errno::XDEV);
    }
    let path = format!("/proc/self/fd/{}", pinned.as_raw_fd());
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
}

/// The number of the namespace that this is a handle of.
pub(super) fn number(handle: &OwnedFd) -> rustix::io::Result<NetNamespace> {
    Ok(NetNamespace(fstat(handle)?.st_ino))
}

fn thread(root: &ProcRoot, pid: i32, tid: i32) -> rustix::io::Result<Process> {
    root.process(pid)?.tasks().ok_or(Errno::NOENT)?.thread(tid)
}

/// Runs `f` in a thread of its own that has moved to a network namespace, and leaves the caller's
/// where it is. It takes CAP_SYS_ADMIN here and in the user namespace that owns the other.
///
/// A netlink socket that `f` opens and returns keeps answering for that namespace.
pub(super) fn in_net_namespace<T: Send>(
    namespace: BorrowedFd<'_>,
    f: impl FnOnce() -> T + Send,
) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().spawn_scoped(scope, || {
            move_into_link_name_space(namespace, Some(LinkNameSpaceType::Network))?;
            Ok(f())
        })?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
