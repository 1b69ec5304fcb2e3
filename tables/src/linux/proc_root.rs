//! A mount of proc (proc(5)) and the processes in it.

use std::fs::File;
use std::io::Read;
use std::mem::MaybeUninit;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustix::fs::{
    AtFlags, Mode, OFlags, PROC_SUPER_MAGIC, RawDir, Statx, StatxFlags, fstat, fstatfs,
    readlinkat_raw, statat, statx,
};
use rustix::io::Errno;

use super::blocked::BlockedProcesses;
use super::steps::{Step, Steps};
use crate::deadline::Deadline;
use crate::formats::linux::{proc_link, proc_status};
use crate::model::gap::GapKind;
use crate::{Error, User};

/// An open mount of proc. Every path below it is looked up from here, so it reads the same mount
/// whatever is mounted over its path later.
#[derive(Debug)]
pub(crate) struct ProcRoot {
    path: PathBuf,
    directory: OwnedFd,
    is_real: bool,
    steps: Arc<Steps>,
    own_pid: OnceLock<Option<i32>>,
    /// How many files could not be opened since there are too many open files.
    without_descriptor: AtomicU64,
}

impl ProcRoot {
    /// For reads that are not part of a scan.
    pub(crate) fn open(path: &Path) -> Result<ProcRoot, Error> {
        let blocked: Arc<BlockedProcesses> = Arc::default();
        ProcRoot::open_for(path, Arc::new(Steps::new(blocked, path, Duration::MAX)))
    }

    /// What a process can block is among these steps.
    pub(crate) fn open_for(path: &Path, steps: Arc<Steps>) -> Result<ProcRoot, Error> {
        let directory = rustix::fs::open(path, DIRECTORY, Mode::empty())
            .map_err(|errno| Error::Read { path: path.into(), source: errno.into() })?;
        if statat(&directory, "self", AtFlags::SYMLINK_NOFOLLOW).is_err() {
            return Err(Error::NotProc { path: path.into() });
        }
        let filesystem = fstatfs(&directory);
        let is_real = filesystem.is_ok_and(|filesystem| filesystem.f_type == PROC_SUPER_MAGIC);
        let without_descriptor = AtomicU64::new(0);
        let own_pid = OnceLock::new();
        Ok(ProcRoot { path: path.into(), directory, is_real, steps, own_pid, without_descriptor })
    }

    /// Counts the failures of a scan that are for want of a descriptor: of this process (EMFILE) or of the host
    /// (ENFILE).
    pub(crate) fn counted<T>(&self, result: rustix::io::Result<T>) -> rustix::io::Result<T> {
        if let Err(Errno::MFILE | Errno::NFILE) = result {
            self.without_descriptor.fetch_add(1, Ordering::Relaxed);
        }
        result
    }

    /// How many there were.
    pub(crate) fn without_descriptor(&self) -> u64 {
        self.without_descriptor.load(Ordering::Relaxed)
    }

    fn openat(
        &self,
        at: &OwnedFd,
        path: impl rustix::path::Arg,
        flags: OFlags,
    ) -> rustix::io::Result<OwnedFd> {
        self.counted(rustix::fs::openat(at, path, flags, Mode::empty()))
    }

    pub(crate) fn steps(&self) -> &Steps {
        &self.steps
    }

    /// Begins a read that the process can block.
    ///
    /// # Errors
    /// [`SKIPPED`] if the process is to be skipped.
    pub(crate) fn step(&self, pid: i32) -> rustix::io::Result<Option<Step<'_>>> {
        // No other process blocks a read of this one.
        if *self.own_pid.get_or_init(|| self.own_pid()) == Some(pid) {
            return Ok(None);
        }
        self.steps.begin(pid, |pid| self.user(pid)).map(Some).ok_or(SKIPPED)
    }

    /// Whether it is a mount of the kernel's proc, and no tree that looks like one.
    pub(crate) fn is_real(&self) -> bool {
        self.is_real
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The pids of all processes that the mount shows, in its order.
    pub(crate) fn pids(&self) -> Result<Vec<i32>, Error> {
        let mut pids = Vec::new();
        self.openat(&self.directory, ".", DIRECTORY)
            .and_then(|directory| for_each_number(directory.as_fd(), |pid| pids.push(pid)))
            .map_err(|errno| Error::Read { path: self.path.clone(), source: errno.into() })?;
        Ok(pids)
    }

    /// Whether that is the pid of a process, and not of a thread of one: the mount has a directory
    /// for those too, although it does not list them.
    pub(crate) fn is_process(&self, pid: i32) -> bool {
        let mut status = [0; 1024];
        let read = self
            .process(pid)
            .and_then(|process| process.file("status"))
            .map_err(std::io::Error::from)
            .and_then(|mut file| file.read(&mut status));
        // What cannot be read is taken for one: its descriptors will tell.
        read.ok()
            .and_then(|length| proc_status::thread_group(status.get(..length)?))
            .is_none_or(|group| group == pid)
    }

    /// The real uid of a process.
    pub(crate) fn real_uid(&self, pid: i32) -> Option<u32> {
        let mut status = [0; 1024];
        let mut file = self.process(pid).and_then(|process| process.file("status")).ok()?;
        let length = file.read(&mut status).ok()?;
        proc_status::real_uid(status.get(..length)?)
    }

    /// The user of a process.
    pub(crate) fn user(&self, pid: i32) -> User {
        User::of_uid(self.real_uid(pid))
    }

    /// The number of the mount's file system, if it is the kernel's proc.
    pub(crate) fn device(&self) -> Option<u64> {
        let directory = fstat(&self.directory).ok().filter(|_| self.is_real)?;
        Some(directory.st_dev)
    }

    /// How many files the host has open; as many as can be if that cannot be read.
    pub(crate) fn open_files(&self) -> u64 {
        let mut text = [0; 64];
        let file = self.openat(&self.directory, "sys/fs/file-nr", OFlags::RDONLY | OFlags::CLOEXEC);
        let read = file.and_then(|file| rustix::io::read(file, &mut text[..]));
        let text = text.get(..read.unwrap_or_default()).unwrap_or_default();
        let first = text.split(|byte| byte.is_ascii_whitespace()).next().unwrap_or_default();
        str::from_utf8(first).ok().and_then(|number| number.parse().ok()).unwrap_or(u64::MAX)
    }

    /// Why it does not show every process of the machine, if so: it is mounted with hidepid (proc(5)),
    /// under which others' processes are not there, or it is not of the first PID namespace.
    pub(crate) fn hides_processes(&self) -> Option<GapKind> {
        // It can be opened even where it is not shown.
        if statat(&self.directory, "1", AtFlags::empty()).is_err() {
            return self.is_real().then_some(GapKind::Hidepid);
        }
        let is_another = self.pid_namespace().is_some_and(|number| number != FIRST_PID_NAMESPACE);
        is_another.then_some(GapKind::PidNamespace)
    }

    /// The number of its PID namespace, if the link of a process in it can be read.
    fn pid_namespace(&self) -> Option<u64> {
        let read = |process: &Process| process.link("ns/pid", proc_link::pid_namespace).ok()?;
        // No other process can block the read of this one's.
        if self.has_own_pids() {
            return read(&self.own_process().ok()?);
        }
        read(&self.process(1).ok()?).or_else(|| read(&self.own_process().ok()?))
    }

    /// Whether it is known to be of the first PID namespace.
    pub(crate) fn has_first_pids(&self) -> bool {
        self.pid_namespace() == Some(FIRST_PID_NAMESPACE)
    }

    /// Whether its pids are those that system calls take: it is of the calling process's PID namespace.
    pub(crate) fn has_own_pids(&self) -> bool {
        let status = self.own_process().map_err(std::io::Error::from);
        status.and_then(|own| own.read("status")).is_ok_and(|status| {
            // Its pid in the namespace of the mount, and then in each one within.
            let pids = status.split(|&byte| byte == b'\n').find_map(|l| l.strip_prefix(b"NSpid:"));
            let count = |pids: &[u8]| String::from_utf8_lossy(pids).split_whitespace().count();
            pids.is_some_and(|pids| count(pids) == 1)
        })
    }

    /// The pid of the calling process, if the mount shows it.
    pub(crate) fn own_pid(&self) -> Option<i32> {
        read_link(self.directory.as_fd(), "self", proc_link::number).ok()?
    }

    /// Hands the text of a symbolic link of a process to `read`.
    pub(crate) fn link<T>(
        &self,
        pid: i32,
        path: &str,
        read: impl Fn(&[u8]) -> T,
    ) -> rustix::io::Result<T> {
        let _step = self.step(pid)?;
        read_link(self.directory.as_fd(), format!("{pid}/{path}"), read)
    }

    /// The calling process, if the mount shows it.
    pub(crate) fn own_process(&self) -> rustix::io::Result<Process<'_>> {
        self.process(self.own_pid().ok_or(Errno::NOENT)?)
    }

    pub(crate) fn process(&self, pid: i32) -> rustix::io::Result<Process<'_>> {
        let directory = self.openat(&self.directory, pid.to_string(), DIRECTORY | OFlags::PATH)?;
        Ok(Process { root: self, pid, directory })
    }
}

/// The error of a read that is not made, since the process blocks it, or is expected to.
pub(crate) const SKIPPED: Errno = Errno::BUSY;

/// The same on every machine (`PROC_PID_INIT_INO` in `include/linux/proc_ns.h`).
const FIRST_PID_NAMESPACE: u64 = 0xefff_fffc;

/// The directory of a process. It stays with that process: once it has ended nothing can be read
/// here, even if its pid is given to another.
#[derive(Debug)]
pub(crate) struct Process<'a> {
    root: &'a ProcRoot,
    pid: i32,
    directory: OwnedFd,
}

impl<'a> Process<'a> {
    /// Its threads; None if it has but one.
    pub(crate) fn tasks(&self) -> Option<Tasks<'a>> {
        // A directory has a link for itself, one for its name, and one for each directory in it.
        let several = self.stat("task").is_ok_and(|task| task.st_nlink > 3);
        let directory = several.then(|| self.directory("task").ok())??;
        Some(Tasks { root: self.root, pid: self.pid, directory })
    }

    /// Opens a file below the process's directory for reading.
    pub(crate) fn file(&self, path: &str) -> rustix::io::Result<File> {
        self.root.openat(&self.directory, path, OFlags::RDONLY | OFlags::CLOEXEC).map(File::from)
    }

    /// Reads a file below it whole, unless it is longer than any that the kernel should write: then it
    /// is cut.
    pub(crate) fn read(&self, path: &str) -> std::io::Result<Vec<u8>> {
        self.read_until(path, Deadline::NEVER).map(|(text, _)| text)
    }

    /// The same as far as it can be read until then, and whether that is all.
    pub(crate) fn read_until(
        &self,
        path: &str,
        deadline: Deadline<'_>,
    ) -> std::io::Result<(Vec<u8>, bool)> {
        const MOST: usize = 16 * 1024 * 1024;
        let mut file = self.file(path)?;
        let mut text = Vec::new();
        let mut part = vec![0; 64 * 1024];
        while text.len() < MOST && !deadline.has_passed() {
            let length = file.read(&mut part)?;
            if length == 0 {
                return Ok((text, true));
            }
            text.extend_from_slice(part.get(..length).unwrap_or_default());
        }
        Ok((text, false))
    }

    /// Opens a directory below it, to be listed.
    pub(crate) fn directory(&self, path: &str) -> rustix::io::Result<OwnedFd> {
        self.root.openat(&self.directory, path, DIRECTORY)
    }

    /// A handle of what a link below it leads to, which is not opened.
    pub(crate) fn pin(&self, path: impl rustix::path::Arg) -> rustix::io::Result<OwnedFd> {
        let _step = self.root.step(self.pid)?;
        self.root.openat(&self.directory, path, OFlags::PATH | OFlags::CLOEXEC)
    }

    /// Opens its network namespace.
    pub(crate) fn net_namespace(&self) -> rustix::io::Result<OwnedFd> {
        let _step = self.root.step(self.pid)?;
        self.root.openat(&self.directory, "ns/net", OFlags::RDONLY | OFlags::CLOEXEC)
    }

    /// Device and inode number of its root directory. The server of a network file system, which may hang,
    /// is not asked for them.
    pub(crate) fn root_identity(&self) -> rustix::io::Result<(u32, u32, u64)> {
        let _step = self.root.step(self.pid)?;
        let Statx { stx_dev_major, stx_dev_minor, stx_ino, .. } =
            statx(&self.directory, "root", AtFlags::STATX_DONT_SYNC, StatxFlags::INO)?;
        Ok((stx_dev_major, stx_dev_minor, stx_ino))
    }

    /// What a path below it is that leads through no link.
    pub(crate) fn stat(&self, path: &str) -> rustix::io::Result<rustix::fs::Stat> {
        statat(&self.directory, path, AtFlags::empty())
    }

    /// What a path below it is, and not what it leads to.
    pub(crate) fn lstat(&self, path: &str) -> rustix::io::Result<rustix::fs::Stat> {
        statat(&self.directory, path, AtFlags::SYMLINK_NOFOLLOW)
    }

    /// Hands the text of a symbolic link below it to `read`.
    pub(crate) fn link<T>(&self, path: &str, read: impl Fn(&[u8]) -> T) -> rustix::io::Result<T> {
        let _step = self.root.step(self.pid)?;
        read_link(self.directory.as_fd(), path, read)
    }
}

/// The threads of a process, each of which shows the process as it sees it.
///
/// Where the first has ended and others live on, the process itself looks like a zombie, without
/// descriptors and namespaces, and only the others show them.
#[derive(Debug)]
pub(crate) struct Tasks<'a> {
    root: &'a ProcRoot,
    pid: i32,
    directory: OwnedFd,
}

impl<'a> Tasks<'a> {
    /// The ids of all but the first.
    pub(crate) fn others(&self) -> Vec<i32> {
        let mut tids = Vec::new();
        // What was listed before an error is as good as without it.
        let _ = for_each_number(self.directory.as_fd(), |tid| tids.push(tid));
        tids.retain(|&tid| tid != self.pid);
        tids
    }

    /// The process as that thread shows it.
    pub(crate) fn thread(&self, tid: i32) -> rustix::io::Result<Process<'a>> {
        let directory =
            self.root.openat(&self.directory, tid.to_string(), DIRECTORY | OFlags::PATH)?;
        Ok(Process { root: self.root, pid: self.pid, directory })
    }

    /// Hands the text of a symbolic link of that thread to `read`.
    pub(crate) fn link<T>(
        &self,
        tid: i32,
        path: &str,
        read: impl Fn(&[u8]) -> T,
    ) -> rustix::io::Result<T> {
        let _step = self.root.step(self.pid)?;
        read_link(self.directory.as_fd(), format!("{tid}/{path}"), read)
    }
}

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Hands the text of a symbolic link to `read`, cut after 64 bytes: longer than any that names a
/// socket or a namespace.
pub(crate) fn read_link<T>(
    at: BorrowedFd<'_>,
    path: impl rustix::path::Arg,
    read: impl Fn(&[u8]) -> T,
) -> rustix::io::Result<T> {
    let mut text = [MaybeUninit::<u8>::uninit(); 64];
    let (text, _) = readlinkat_raw(at, path, &mut text[..])?;
    Ok(read(text))
}

/// Calls `each` with every entry of a directory whose name is a number.
pub(crate) fn for_each_number(
    directory: BorrowedFd<'_>,
    mut each: impl FnMut(i32),
) -> rustix::io::Result<()> {
    visit_numbers(directory, |number| {
        each(number);
        ControlFlow::Continue(())
    })
}

/// The first entry of a directory whose name is a number.
pub(crate) fn first_number(directory: BorrowedFd<'_>) -> rustix::io::Result<Option<i32>> {
    let mut first = None;
    visit_numbers(directory, |number| {
        first = Some(number);
        ControlFlow::Break(())
    })?;
    Ok(first)
}

fn visit_numbers(
    directory: BorrowedFd<'_>,
    mut visit: impl FnMut(i32) -> ControlFlow<()>,
) -> rustix::io::Result<()> {
    let mut buffer = [MaybeUninit::<u8>::uninit(); 32 * 1024];
    let mut entries = RawDir::new(directory, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        if let Some(number) = proc_link::number(entry.file_name().to_bytes())
            && visit(number).is_break()
        {
            break;
        }
    }
    Ok(())
}

/// Whether the error says that the process or the descriptor is no longer there.
pub(crate) fn is_gone(errno: Errno) -> bool {
    matches!(errno, Errno::NOENT | Errno::SRCH)
}
