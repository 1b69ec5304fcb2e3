//! A mount of proc (proc(5)), and the processes that it shows.

use std::io::Read;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{AtFlags, OFlags, PROC_SUPER_MAGIC, fstat, fstatfs, statat};
use rustix::io::Errno;

use super::super::blocked::BlockedProcesses;
use super::super::steps::{Step, Steps};
use super::entries::{for_each_number, read_link};
use super::mount::{DIRECTORY, ProcMount};
use super::process::Process;
use crate::formats::linux::{proc_link, proc_stat, proc_status};
use crate::model::omission::OmissionKind;
use crate::{Error, User};

/// An open mount of proc.
#[derive(Debug)]
pub(crate) struct ProcRoot {
    mount: ProcMount,
    is_real: bool,
}

impl ProcRoot {
    /// For reads that are not part of a scan.
    pub(crate) fn open(path: &Path) -> Result<ProcRoot, Error> {
        let blocked: Arc<BlockedProcesses> = Arc::default();
        ProcRoot::open_for(path, Arc::new(Steps::new(blocked, path, Duration::MAX)))
    }

    /// Reads that a process can block are steps of this attempt.
    pub(crate) fn open_for(path: &Path, steps: Arc<Steps>) -> Result<ProcRoot, Error> {
        let mount = ProcMount::open(path, steps)?;
        let filesystem = fstatfs(mount.directory());
        let is_real = filesystem.is_ok_and(|filesystem| filesystem.f_type == PROC_SUPER_MAGIC);
        Ok(ProcRoot { mount, is_real })
    }

    /// Counts a failure of a scan because of too many open files: of this process (EMFILE) or of the host
    /// (ENFILE).
    pub(crate) fn counted<T>(&self, result: rustix::io::Result<T>) -> rustix::io::Result<T> {
        self.mount.counted(result)
    }

    /// The number of such failures.
    pub(crate) fn without_descriptor(&self) -> u64 {
        self.mount.without_descriptor()
    }

    pub(crate) fn steps(&self) -> &Steps {
        self.mount.steps()
    }

    /// Begins a read that the process can block.
    ///
    /// # Errors
    /// EBUSY if the process must be skipped.
    pub(crate) fn step(&self, pid: i32) -> rustix::io::Result<Option<Step<'_>>> {
        self.mount.step(pid)
    }

    /// Whether it is a mount of the kernel's proc, not a directory tree with the same form.
    pub(crate) fn is_real(&self) -> bool {
        self.is_real
    }

    pub(crate) fn path(&self) -> &Path {
        self.mount.path()
    }

    /// The pids of all processes that the mount shows, in its order.
    pub(crate) fn pids(&self) -> Result<Vec<i32>, Error> {
        let mut pids = Vec::new();
        self.mount
            .openat(self.mount.directory(), ".", DIRECTORY)
            .and_then(|directory| for_each_number(directory.as_fd(), |pid| pids.push(pid)))
            .map_err(|errno| Error::Read { path: self.path().to_owned(), source: errno.into() })?;
        Ok(pids)
    }

    /// Whether this is the pid of a process, not of another thread: the mount has directories of threads too, but
    /// does not list them.
    pub(crate) fn is_process(&self, pid: i32) -> bool {
        let mut status = [0; 1024];
        let read = self
            .process(pid)
            .and_then(|process| process.file("status"))
            .map_err(std::io::Error::from)
            .and_then(|mut file| file.read(&mut status));
        // If it cannot be read, it counts as a process: a read of its descriptors then reports the error.
        read.ok()
            .and_then(|length| proc_status::thread_group(status.get(..length)?))
            .is_none_or(|group| group == pid)
    }

    /// The real uid of a process.
    pub(crate) fn real_uid(&self, pid: i32) -> Option<u32> {
        self.mount.real_uid(pid)
    }

    /// The user of a process.
    pub(crate) fn user(&self, pid: i32) -> User {
        User::of_uid(self.real_uid(pid))
    }

    /// The number of the mount's file system, if it is the kernel's proc.
    pub(crate) fn device(&self) -> Option<u64> {
        let directory = fstat(self.mount.directory()).ok().filter(|_| self.is_real)?;
        Some(directory.st_dev)
    }

    /// The number of open files of the host; the maximum number if it cannot be read.
    pub(crate) fn open_files(&self) -> u64 {
        let mut text = [0; 64];
        let file = self.mount.openat(
            self.mount.directory(),
            "sys/fs/file-nr",
            OFlags::RDONLY | OFlags::CLOEXEC,
        );
        let read = file.and_then(|file| rustix::io::read(file, &mut text[..]));
        let text = text.get(..read.unwrap_or_default()).unwrap_or_default();
        let first = text.split(|byte| byte.is_ascii_whitespace()).next().unwrap_or_default();
        str::from_utf8(first).ok().and_then(|number| number.parse().ok()).unwrap_or(u64::MAX)
    }

    /// Why the mount does not show every process of the machine; None if it does. With hidepid (proc(5)) it hides
    /// the processes of other users. A mount of another PID namespace lacks the processes outside.
    pub(crate) fn hides_processes(&self) -> Option<OmissionKind> {
        // It can be opened even if it is not listed.
        if statat(self.mount.directory(), "1", AtFlags::empty()).is_err() {
            return self.is_real().then_some(OmissionKind::Hidepid);
        }
        let is_another = self.pid_namespace().is_some_and(|number| number != FIRST_PID_NAMESPACE);
        is_another.then_some(OmissionKind::PidNamespace)
    }

    /// The number of its PID namespace, if the link of a process in it can be read.
    fn pid_namespace(&self) -> Option<u64> {
        let read = |process: &Process| process.link("ns/pid", proc_link::pid_namespace).ok()?;
        // No other process can block this read.
        if self.has_own_pids() {
            return read(&self.own_process().ok()?);
        }
        read(&self.process(1).ok()?).or_else(|| read(&self.own_process().ok()?))
    }

    /// Whether it is known to be of the first PID namespace.
    pub(crate) fn has_first_pids(&self) -> bool {
        self.pid_namespace() == Some(FIRST_PID_NAMESPACE)
    }

    /// Whether system calls accept its pids: it is of the PID namespace of the calling process.
    pub(crate) fn has_own_pids(&self) -> bool {
        let status = self.own_process().map_err(std::io::Error::from);
        status.and_then(|own| own.read("status")).is_ok_and(|status| {
            // The pid in the namespace of the mount, and then in each nested one.
            let pids = status.split(|&byte| byte == b'\n').find_map(|l| l.strip_prefix(b"NSpid:"));
            let count = |pids: &[u8]| String::from_utf8_lossy(pids).split_whitespace().count();
            pids.is_some_and(|pids| count(pids) == 1)
        })
    }

    /// When the host started, in seconds since 1970.
    pub(crate) fn boot_time(&self) -> Option<i64> {
        // The line follows one for each processor and the long line of interrupts.
        const MOST: u64 = 16 * 1024 * 1024;
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = self.mount.openat(self.mount.directory(), "stat", flags).ok()?;
        let mut text = Vec::new();
        std::fs::File::from(file).take(MOST).read_to_end(&mut text).ok()?;
        proc_stat::boot_time(&text)
    }

    /// The pid of the calling process, if the mount shows it.
    pub(crate) fn own_pid(&self) -> Option<i32> {
        self.mount.own_pid()
    }

    /// Hands the text of a symbolic link of a process to `read`.
    pub(crate) fn link<T>(
        &self,
        pid: i32,
        path: &str,
        read: impl Fn(&[u8]) -> T,
    ) -> rustix::io::Result<T> {
        let _step = self.step(pid)?;
        read_link(self.mount.directory().as_fd(), format!("{pid}/{path}"), read)
    }

    /// The calling process, if the mount shows it.
    pub(crate) fn own_process(&self) -> rustix::io::Result<Process<'_>> {
        self.process(self.own_pid().ok_or(Errno::NOENT)?)
    }

    pub(crate) fn process(&self, pid: i32) -> rustix::io::Result<Process<'_>> {
        Process::open(&self.mount, pid)
    }
}

/// The same on every machine (`PROC_PID_INIT_INO` in `include/linux/proc_ns.h`).
const FIRST_PID_NAMESPACE: u64 = 0xefff_fffc;
