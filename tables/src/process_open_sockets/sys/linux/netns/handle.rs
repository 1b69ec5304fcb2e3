//! Ways to a network namespace, and what it takes to enter it (setns(2)).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags, fstat, fstatfs, openat2};
use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::super::proc_root::{ProcRoot, Process};
use crate::process_open_sockets::model::NetNamespace;

/// A way to a namespace.
#[derive(Clone, Debug)]
pub(super) enum NetnsHandle {
    /// A process that is in it.
    Process(i32),
    /// A process, and a thread of it that is in it.
    Thread(i32, i32),
    /// A process that sees its file mounted, and the path at which it is.
    Mount(i32, Vec<u8>),
}

impl NetnsHandle {
    /// The process, or the process as the thread sees it, whose `net` shows the namespace, if it still
    /// exists; None for a mount.
    pub(super) fn process(&self, root: &ProcRoot) -> Option<rustix::io::Result<Process>> {
        match *self {
            NetnsHandle::Process(pid) => Some(root.process(pid)),
            NetnsHandle::Thread(pid, tid) => Some(thread(root, pid, tid)),
            NetnsHandle::Mount(..) => None,
        }
    }

    /// Where it is, for messages.
    pub(super) fn path(&self, root: &ProcRoot) -> String {
        let process = match self {
            NetnsHandle::Process(pid) => pid.to_string(),
            NetnsHandle::Thread(pid, tid) => format!("{pid}/task/{tid}"),
            // An untrusted path: escaped and cut.
            NetnsHandle::Mount(_, path) => {
                let path = path.get(..path.len().min(200)).unwrap_or_default();
                return format!("{:?}", String::from_utf8_lossy(path));
            }
        };
        root.path().join(process).display().to_string()
    }
}

/// Opens the namespace whose file a process sees mounted at that path.
///
/// # Errors
/// EXDEV if another file system is mounted over it; otherwise why it cannot be opened.
pub(super) fn open_mounted(root: &ProcRoot, pid: i32, path: &[u8]) -> rustix::io::Result<OwnedFd> {
    /// From `include/uapi/linux/magic.h`.
    const NSFS_MAGIC: rustix::fs::FsWord = 0x6e73_6673;
    // The path is untrusted: it stays below that process's root, and no link in it is followed.
    let top = root.process(pid)?.pin("root")?;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let pinned = openat2(&top, path, flags, Mode::empty(), resolve)?;
    // Another file may be mounted over it, and opening that may have effects.
    if fstatfs(&pinned)?.f_type != NSFS_MAGIC {
        return Err(Errno::XDEV);
    }
    let path = format!("/proc/self/fd/{}", pinned.as_raw_fd());
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
}

/// The number of an open namespace.
pub(super) fn number(handle: &OwnedFd) -> rustix::io::Result<NetNamespace> {
    Ok(NetNamespace(fstat(handle)?.st_ino))
}

fn thread(root: &ProcRoot, pid: i32, tid: i32) -> rustix::io::Result<Process> {
    root.process(pid)?.tasks().ok_or(Errno::NOENT)?.thread(tid)
}

/// Runs `f` in a thread of its own that has moved to a network namespace; the calling thread stays where it
/// is. This needs CAP_SYS_ADMIN here and in the user namespace that owns the other.
///
/// A netlink socket that `f` opens and returns keeps answering for that namespace.
pub(in super::super) fn in_net_namespace<T: Send>(
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
