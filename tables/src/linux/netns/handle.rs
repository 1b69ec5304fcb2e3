//! Handles of network namespaces, and how to open and enter one (setns(2)).

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::LazyLock;

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, StatxFlags, fstat, openat2, stat, statx};
use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::super::proc_root::{ProcRoot, Process};
use crate::model::NetNamespace;

/// A handle of a namespace.
#[derive(Clone, Debug)]
pub(super) enum NetnsHandle {
    /// A process in the namespace.
    Process(i32),
    /// A thread in the namespace: the ids of its process and of the thread.
    Thread(i32, i32),
    /// A process that sees the file of the namespace mounted, and the mount point.
    Mount(i32, MountPoint),
}

/// A path below the root of a process.
#[derive(Clone, Debug)]
pub(super) struct MountPoint {
    pub(super) path: Vec<u8>,
    /// Whether the path leads through a file system whose server can hang.
    pub(super) is_served: bool,
}

impl NetnsHandle {
    /// The process or thread whose `net` shows the namespace; None for a mount.
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

    /// Whether the process or thread still exists.
    pub(super) fn is_there(&self, root: &ProcRoot) -> bool {
        match *self {
            NetnsHandle::Process(pid) | NetnsHandle::Mount(pid, _) => root.process(pid).is_ok(),
            NetnsHandle::Thread(pid, tid) => thread(root, pid, tid).is_ok(),
        }
    }

    /// The path, for messages.
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
/// The path can lead through a network file system or FUSE, whose server can hang; a thread that waits for it
/// cannot always be killed. So the lookup uses only the cache of the kernel, which always has mount points.
///
/// # Errors
/// EXDEV if another file system is mounted over it; EAGAIN if the lookup needs a server; otherwise why it cannot
/// be opened.
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
    // Another file can be mounted over it, and to open that can have side effects.
    if device(pinned.as_fd())? != *NSFS_DEVICE {
        return Err(Errno::XDEV);
    }
    let path = format!("/proc/self/fd/{}", pinned.as_raw_fd());
    root.counted(rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()))
}

/// Calls `open` with RESOLVE_CACHED, so that it fails instead of waiting for a server. Before Linux 5.12, a path
/// that can lead to a server is not opened.
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

/// The device number of the file system of a file, without a request to its server.
fn device(file: BorrowedFd<'_>) -> rustix::io::Result<Option<(u32, u32)>> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let file = statx(file, "", flags, StatxFlags::empty())?;
    Ok(Some((file.stx_dev_major, file.stx_dev_minor)))
}

/// The number of an open namespace.
pub(super) fn number_of(handle: &OwnedFd) -> rustix::io::Result<NetNamespace> {
    Ok(NetNamespace(fstat(handle)?.st_ino))
}

fn thread(root: &ProcRoot, pid: i32, tid: i32) -> rustix::io::Result<Process<'_>> {
    root.process(pid)?.tasks().ok_or(Errno::NOENT)?.thread(tid)
}

/// Runs `f` in a new thread that has entered a network namespace; the calling thread stays in its namespace. This
/// needs CAP_SYS_ADMIN in the user namespace of this process and in the one that owns the network namespace.
///
/// A netlink socket that `f` opens and returns stays in that namespace.
pub(crate) fn in_net_namespace<T: Send>(
    namespace: BorrowedFd<'_>,
    f: impl FnOnce() -> T + Send,
) -> rustix::io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().spawn_scoped(scope, || {
            move_into_link_name_space(namespace, Some(LinkNameSpaceType::Network))?;
            Ok(f())
        });
        // The error number of pthread_create(3).
        let thread =
            thread.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::AGAIN))?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
