//! A network namespace, and the handles of it that a scan has found.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::super::proc_root::{ProcRoot, is_gone};
use super::handle::{NetnsHandle, in_net_namespace, number_of, open_mounted};
use super::key::{NetnsKey, find_key, key_of, own_key};
use crate::model::NetNamespace;

/// A network namespace and handles of it.
#[derive(Debug)]
pub(crate) struct Namespace {
    pub(crate) key: NetnsKey,
    pub(super) number: Option<NetNamespace>,
    /// The open namespace; None if it cannot be opened, or too many are open already.
    pub(super) open: Option<OpenNetns>,
    pub(super) handles: Vec<NetnsHandle>,
}

/// An open namespace, counted over all scans of this process: an abandoned scan keeps its namespaces open.
#[derive(Debug)]
pub(super) struct OpenNetns(OwnedFd);

static OPEN: AtomicUsize = AtomicUsize::new(0);

impl OpenNetns {
    pub(super) fn new(namespace: OwnedFd) -> OpenNetns {
        OPEN.fetch_add(1, Ordering::Relaxed);
        OpenNetns(namespace)
    }

    pub(super) fn count() -> usize {
        OPEN.load(Ordering::Relaxed)
    }
}

impl Drop for OpenNetns {
    fn drop(&mut self) {
        OPEN.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Namespace {
    pub(super) fn new(key: NetnsKey) -> Namespace {
        Namespace { key, number: None, open: None, handles: Vec::new() }
    }

    /// Whether the calling process is in it.
    pub(crate) fn is_own(&self, root: &ProcRoot) -> bool {
        root.is_real() && own_key().is_ok_and(|own| own.has_inode_of(self.key))
    }

    /// Runs `f` in the namespace, as [`in_net_namespace`] does.
    ///
    /// # Errors
    /// EACCES if the namespace cannot be opened; otherwise why it cannot be entered.
    pub(crate) fn enter<T: Send>(
        &self,
        root: &ProcRoot,
        f: impl FnOnce() -> T + Send,
    ) -> rustix::io::Result<T> {
        match &self.open {
            Some(open) => in_net_namespace(open.0.as_fd(), f),
            None => in_net_namespace(self.reopen(root).ok_or(Errno::ACCESS)?.as_fd(), f),
        }
    }

    /// Opens the namespace again, if one of its handles is still valid.
    fn reopen(&self, root: &ProcRoot) -> Option<OwnedFd> {
        const ATTEMPTS: usize = 8;
        let number = self.number.filter(|_| root.is_real())?;
        let handles = self.handles.iter().take(ATTEMPTS);
        handles.filter_map(|handle| open_namespace(root, handle, number).ok()).find(|open| {
            in_net_namespace(open.as_fd(), own_key)
                .is_ok_and(|key| key.is_ok_and(|key| key.has_inode_of(self.key)))
        })
    }

    /// Whether a handle is still valid. A process in the namespace can end before the namespace is read.
    pub(crate) fn is_reachable(&self, root: &ProcRoot) -> bool {
        let leads_here = |handle: &NetnsHandle| match handle.process(root) {
            Some(process) => process.and_then(find_key).is_ok_and(|(key, _)| key == self.key),
            None => true,
        };
        self.open.is_some() || self.handles.iter().any(leads_here)
    }

    /// The number, if the link of a process in the namespace was readable.
    pub(crate) fn number(&self) -> Option<NetNamespace> {
        self.number
    }

    /// The path of a file of the namespace, for messages.
    pub(crate) fn path(&self, root: &ProcRoot, file: &str) -> String {
        match self.handles.first() {
            Some(handle @ NetnsHandle::Mount(..)) => format!("{file} of {}", handle.path(root)),
            Some(handle) => format!("{}/{file}", handle.path(root)),
            None => file.to_owned(),
        }
    }

    /// Opens a file of the namespace, such as `net/tcp`. None if the namespace has no such file.
    ///
    /// A process or a thread can end or move to another namespace at any time. So its namespace is checked
    /// again after the file is open.
    ///
    /// # Errors
    /// ESRCH if no handle is valid.
    pub(crate) fn open(&self, root: &ProcRoot, file: &str) -> rustix::io::Result<Option<File>> {
        for found in self.handles.iter().filter_map(|handle| handle.process(root)) {
            let Ok((key, process)) = found.and_then(find_key) else { continue };
            if key != self.key {
                continue;
            }
            let opened = process.file(file);
            if key_of(&process) == Ok(self.key) {
                return found_or_none(opened);
            }
        }
        let path = format!("/proc/thread-self/{file}");
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let open = || root.counted(rustix::fs::open(path, flags, Mode::empty())).map(File::from);
        self.enter(root, open).map_or(Err(Errno::SRCH), found_or_none)
    }
}

/// Opens the namespace with this number.
///
/// # Errors
/// EXDEV if the handle is of another namespace; otherwise why it cannot be opened.
pub(super) fn open_namespace(
    root: &ProcRoot,
    handle: &NetnsHandle,
    number: NetNamespace,
) -> rustix::io::Result<OwnedFd> {
    let open = match handle {
        NetnsHandle::Mount(pid, path) => open_mounted(root, *pid, path)?,
        NetnsHandle::Process(_) | NetnsHandle::Thread(..) => {
            let process = handle.process(root).ok_or(Errno::NOENT)??;
            find_key(process)?.1.net_namespace()?
        }
    };
    if number_of(&open)? == number { Ok(open) } else { Err(Errno::XDEV) }
}

fn found_or_none(opened: rustix::io::Result<File>) -> rustix::io::Result<Option<File>> {
    match opened {
        Ok(file) => Ok(Some(file)),
        Err(errno) if is_gone(errno) => Ok(None),
        Err(errno) => Err(errno),
    }
}
