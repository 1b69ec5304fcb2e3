//! Ways to a network namespace, and what it takes to enter it (setns(2)).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::LazyLock;

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, StatxFlags, fstat, openat2, stat, statx};
use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::super::proc_root::{ProcRoot, Process};
use crate::model::NetNamespace;

/// A way to a namespace.
#[derive(Clone, Debug)]
pub(super) enum NetnsHandle {
    /// A process that is in it.
    Process(i32),
    /// A process, and a thread of it that is in it.
    Thread(i32, i32),
    /// A process that sees its file mounted, and where.
    Mount(i32, MountPoint),
}

/// A path below the root of a process.
#[derive(Clone, Debug)]
pub(super) struct MountPoint {
    pub(super) path: Vec<u8>,
    /// Whether it leads through a file system whose server may hang.
    pub(super) is_served: bool,
}

impl NetnsHandle {
    /// The process, or the process as the thread sees it, whose `net` shows the namespace, if it still
    /// exists; None for a mount.
    pub(super) fn process<'a>(
        &self,
        root: &'a ProcRoot,
    ) -> Option<rustix::io::Result<Process<'a>>> {
        match *self {
            NetnsHandle::Process(pid) => Some(root.process(pid)),
            NetnsHandle::Thread(pid, tid) => Some(thread(root, pid, tid)),
            NetnsHandle::Mount(..) => None,
        }
    }

    /// Whether its process still exists.
    pub(super) fn is_there(&self, root: &ProcRoot) -> bool {
        match *self {
            NetnsHandle::Process(pid) | NetnsHandle::Mount(pid, _) => root.process(pid).is_ok(),
            NetnsHandle::Thread(pid, tid) => thread(root, pid, tid).is_ok(),
        }
    }

    /// Where it is, for messages.
    pub(super) fn path(&self, root: &ProcRoot) -> String {
        let process = match self {
            NetnsHandle::Process(pid) => pid.to_string(),
            NetnsHandle::Thread(pid, tid) => format!("{pid}/task/{tid}"),
            // An untrusted path: escaped and cut.
            NetnsHandle::Mount(_, MountPoint { path, .. }) => {
                let path = path.get(..path.len().min(200)).unwrap_or_default();
                return format!("{:?}", String::from_utf8_lossy(path));
            }
        };
        root.path().join(process).display().to_string()
    }
}

/// Opens the namespace whose file a process sees mounted at that path.
///
/// The path can lead through a network file system or FUSE, whose server may hang; a thread that waits for
/// it cannot always be killed. So no server is asked: a mount point is always in the kernel's cache.
///
/// # Errors
/// EXDEV if another file system is mounted over it; EAGAIN if a server would be asked; otherwise why it
/// cannot be opened.
pub(super) fn open_mounted(
    root: &ProcRoot,
    pid: i32,
    mount_point: &MountPoint,
) -> rustix::io::Result<OwnedFd> {
    let path = &*mount_point.path;
    // The path is untrusted: it stays below that process's root, and no link in it is followed.
    let top = root.process(pid)?.pin("root")?;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let open = |cached| openat2(&top, path, flags, Mode::empty(), resolve | cached);
    let pinned = root.counted(open_cached(mount_point.is_served, open))?;
    // Another file may be mounted over it, and opening that may have effects.
    if device(pinned.as_fd())? != *NSFS_DEVICE {
        return Err(Errno::XDEV);
    }
    let path = format!("/proc/self/fd/{}", pinned.as_raw_fd());
    root.counted(rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()))
}

/// Calls `open` with the flag that has it fail instead of asking a server. Linux has it since 5.12; before, a
/// path that may lead to a server is not opened.
fn open_cached(
    is_served: bool,
    open: impl Fn(ResolveFlags) -> rustix::io::Result<OwnedFd>,
) -> rustix::io::Result<OwnedFd> {
    /// A rename elsewhere can make a lookup in the cache fail.
    const ATTEMPTS: usize = 8;
    let mut result = Err(Errno::AGAIN);
    for _ in 0..ATTEMPTS {
        result = open(ResolveFlags::CACHED);
        match result {
            Err(Errno::AGAIN) => {}
            Err(Errno::INVAL) if !is_served => return open(ResolveFlags::empty()),
            result => return result,
        }
    }
    result
}

/// The device number of the file system of namespaces.
static NSFS_DEVICE: LazyLock<Option<(u32, u32)>> = LazyLock::new(|| {
    let own = stat("/proc/self/ns/net").ok()?;
    Some((rustix::fs::major(own.st_dev), rustix::fs::minor(own.st_dev)))
});

/// The device number of the file system that a file is on, for which no server is asked.
fn device(file: BorrowedFd<'_>) -> rustix::io::Result<Option<(u32, u32)>> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let file = statx(file, "", flags, StatxFlags::empty())?;
    Ok(Some((file.stx_dev_major, file.stx_dev_minor)))
}

/// The number of an open namespace.
pub(super) fn number(handle: &OwnedFd) -> rustix::io::Result<NetNamespace> {
    Ok(NetNamespace(fstat(handle)?.st_ino))
}

fn thread(root: &ProcRoot, pid: i32, tid: i32) -> rustix::io::Result<Process<'_>> {
    root.process(pid)?.tasks().ok_or(Errno::NOENT)?.thread(tid)
}

/// Runs `f` in a thread of its own that has moved to a network namespace; the calling thread stays where it
/// is. This needs CAP_SYS_ADMIN here and in the user namespace that owns the other.
///
/// A netlink socket that `f` opens and returns keeps answering for that namespace.
pub(crate) fn in_net_namespace<T: Send>(
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
