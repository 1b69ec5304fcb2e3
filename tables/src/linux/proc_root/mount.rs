//! The open root directory of a mount of proc, and what a scan counts of the reads below it.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use rustix::fs::{AtFlags, Mode, OFlags, statat};
use rustix::io::Errno;

use super::super::steps::{Step, Steps};
use super::entries::read_link;
use crate::formats::linux::{proc_link, proc_status};
use crate::{Error, User};

/// The open root directory. Every path is resolved from here, so a scan reads one mount even if another file
/// system is mounted over it later.
#[derive(Debug)]
pub(super) struct ProcMount {
    path: PathBuf,
    directory: OwnedFd,
    steps: Arc<Steps>,
    own_pid: OnceLock<Option<i32>>,
    /// The number of files that could not be opened because of too many open files.
    without_descriptor: AtomicU64,
}

impl ProcMount {
    pub(super) fn open(path: &Path, steps: Arc<Steps>) -> Result<ProcMount, Error> {
        let directory = rustix::fs::open(path, DIRECTORY, Mode::empty())
            .map_err(|errno| Error::Read { path: path.into(), source: errno.into() })?;
        if statat(&directory, "self", AtFlags::SYMLINK_NOFOLLOW).is_err() {
            return Err(Error::NotProc { path: path.into() });
        }
        let (without_descriptor, own_pid) = (AtomicU64::new(0), OnceLock::new());
        Ok(ProcMount { path: path.into(), directory, steps, own_pid, without_descriptor })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn directory(&self) -> &OwnedFd {
        &self.directory
    }

    /// Counts the failures of a scan because of too many open files: of this process (EMFILE) or of the host
    /// (ENFILE).
    pub(super) fn counted<T>(&self, result: rustix::io::Result<T>) -> rustix::io::Result<T> {
        if let Err(Errno::MFILE | Errno::NFILE) = result {
            self.without_descriptor.fetch_add(1, Ordering::Relaxed);
        }
        result
    }

    /// The number of such failures.
    pub(super) fn without_descriptor(&self) -> u64 {
        self.without_descriptor.load(Ordering::Relaxed)
    }

    pub(super) fn openat(
        &self,
        at: &OwnedFd,
        path: impl rustix::path::Arg,
        flags: OFlags,
    ) -> rustix::io::Result<OwnedFd> {
        self.counted(rustix::fs::openat(at, path, flags, Mode::empty()))
    }

    pub(super) fn steps(&self) -> &Steps {
        &self.steps
    }

    /// Begins a read that the process can block.
    ///
    /// # Errors
    /// [`SKIPPED`] if the process must be skipped.
    pub(super) fn step(&self, pid: i32) -> rustix::io::Result<Option<Step<'_>>> {
        // No other process blocks a read of this one.
        if *self.own_pid.get_or_init(|| self.own_pid()) == Some(pid) {
            return Ok(None);
        }
        self.steps.begin(pid, |pid| self.user(pid)).map(Some).ok_or(SKIPPED)
    }

    /// The pid of the calling process, if the mount shows it.
    pub(super) fn own_pid(&self) -> Option<i32> {
        read_link(self.directory.as_fd(), "self", proc_link::number).ok()?
    }

    /// The real uid of a process.
    pub(super) fn real_uid(&self, pid: i32) -> Option<u32> {
        let path = format!("{pid}/status");
        let file = self.openat(&self.directory, path, OFlags::RDONLY | OFlags::CLOEXEC).ok()?;
        let mut status = [0; 1024];
        let length = File::from(file).read(&mut status).ok()?;
        proc_status::real_uid(status.get(..length)?)
    }

    /// The user of a process.
    fn user(&self, pid: i32) -> User {
        User::of_uid(self.real_uid(pid))
    }
}

/// The error of a read that is skipped, since the process blocks it or is expected to.
const SKIPPED: Errno = Errno::BUSY;

pub(super) const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
