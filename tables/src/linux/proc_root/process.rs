//! The directory of a process, and those of its threads (proc_pid(5), proc_pid_task(5)).

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, OFlags, Statx, StatxFlags, readlinkat, statat, statx};
use rustix::io::Errno;

use super::entries::{for_each_number, read_link};
use super::mount::{DIRECTORY, ProcMount};
use crate::deadline::Deadline;

/// The directory of a process. It belongs to that process only: after its end every read fails, even if another
/// process gets the pid.
#[derive(Debug)]
pub(crate) struct Process<'a> {
    mount: &'a ProcMount,
    pid: i32,
    directory: OwnedFd,
}

impl<'a> Process<'a> {
    /// The process with this pid in a mount.
    pub(super) fn open(mount: &'a ProcMount, pid: i32) -> rustix::io::Result<Process<'a>> {
        let flags = DIRECTORY | OFlags::PATH;
        let directory = mount.openat(mount.directory(), pid.to_string(), flags)?;
        Ok(Process { mount, pid, directory })
    }

    /// The threads; None if there is only one.
    pub(crate) fn tasks(&self) -> Option<Tasks<'a>> {
        // A directory has a link for itself, one for its name, and one for each directory in it.
        let several = self.stat("task").is_ok_and(|task| task.st_nlink > 3);
        let directory = several.then(|| self.directory("task").ok())??;
        Some(Tasks { mount: self.mount, pid: self.pid, directory })
    }

    /// Opens a file below the process's directory for reading.
    pub(crate) fn file(&self, path: &str) -> rustix::io::Result<File> {
        self.mount.openat(&self.directory, path, OFlags::RDONLY | OFlags::CLOEXEC).map(File::from)
    }

    /// Reads a file below the directory. The text is truncated at a size that no file of the kernel should have.
    pub(crate) fn read(&self, path: &str) -> std::io::Result<Vec<u8>> {
        self.read_until(path, Deadline::NEVER).map(|(text, _)| text)
    }

    /// The same, until a deadline; returns also whether the text is complete.
    pub(crate) fn read_until(
        &self,
        path: &str,
        deadline: Deadline<'_>,
    ) -> std::io::Result<(Vec<u8>, bool)> {
        const MAX_LENGTH: usize = 16 * 1024 * 1024;
        let mut file = self.file(path)?;
        let mut text = Vec::new();
        let mut part = vec![0; 64 * 1024];
        while text.len() < MAX_LENGTH && !deadline.has_passed() {
            let length = file.read(&mut part)?;
            if length == 0 {
                return Ok((text, true));
            }
            text.extend_from_slice(part.get(..length).unwrap_or_default());
        }
        Ok((text, false))
    }

    /// Reads the beginning of a file below the directory, as much as the buffer has room for. For files that no
    /// process can block.
    pub(crate) fn read_start<'b>(
        &self,
        path: &str,
        buffer: &'b mut [u8],
    ) -> rustix::io::Result<&'b [u8]> {
        let file = self.mount.openat(&self.directory, path, OFlags::RDONLY | OFlags::CLOEXEC)?;
        let mut filled = 0;
        while let Some(room) = buffer.get_mut(filled..).filter(|room| !room.is_empty()) {
            match rustix::io::read(&file, room) {
                Ok(0) => break,
                Ok(length) => filled += length,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(buffer.get(..filled).unwrap_or_default())
    }

    /// Reads `stat`. An execve in progress blocks this as it blocks links (seen on Linux 6.18: `do_task_stat`).
    pub(crate) fn stat_line<'b>(&self, buffer: &'b mut [u8]) -> rustix::io::Result<&'b [u8]> {
        let _step = self.mount.step(self.pid)?;
        self.read_start("stat", buffer)
    }

    /// Reads the beginning of the arguments, each with a NUL at its end. The kernel reads them from the memory of the
    /// process, which can block the read: by a long change of its memory map (`mmap_lock`), or with arguments in a
    /// mapped file of its own file server.
    pub(crate) fn arguments<'b>(&self, buffer: &'b mut [u8]) -> rustix::io::Result<&'b [u8]> {
        let _step = self.mount.step(self.pid)?;
        self.read_start("cmdline", buffer)
    }

    /// The path of the executable. A deleted one keeps its path, without the mark of the kernel.
    pub(crate) fn executable(&self) -> rustix::io::Result<Vec<u8>> {
        const DELETED: &[u8] = b" (deleted)";
        let _step = self.mount.step(self.pid)?;
        let mut path = readlinkat(&self.directory, "exe", Vec::with_capacity(256))?.into_bytes();
        if path.ends_with(DELETED) {
            // A file can have this name itself. Then it has a link in a directory. So has a file with several names of
            // which the executed one was removed; it keeps the mark. The path is not looked up: another process
            // can choose what is there, and its server can hang.
            let (flags, links) = (AtFlags::STATX_DONT_SYNC, StatxFlags::NLINK);
            if statx(&self.directory, "exe", flags, links).is_ok_and(|file| file.stx_nlink == 0) {
                path.truncate(path.len() - DELETED.len());
            }
        }
        Ok(path)
    }

    /// Opens a directory below it, for listing.
    pub(crate) fn directory(&self, path: &str) -> rustix::io::Result<OwnedFd> {
        self.mount.openat(&self.directory, path, DIRECTORY)
    }

    /// An O_PATH handle of the target of a link below it. The target itself is not opened.
    pub(crate) fn pin(&self, path: impl rustix::path::Arg) -> rustix::io::Result<OwnedFd> {
        let _step = self.mount.step(self.pid)?;
        self.mount.openat(&self.directory, path, OFlags::PATH | OFlags::CLOEXEC)
    }

    /// Opens its network namespace.
    pub(crate) fn net_namespace(&self) -> rustix::io::Result<OwnedFd> {
        let _step = self.mount.step(self.pid)?;
        self.mount.openat(&self.directory, "ns/net", OFlags::RDONLY | OFlags::CLOEXEC)
    }

    /// Device and inode number of the root directory of the process, without a request to the server of a network
    /// file system, which can hang.
    pub(crate) fn root_identity(&self) -> rustix::io::Result<(u32, u32, u64)> {
        let _step = self.mount.step(self.pid)?;
        let Statx { stx_dev_major, stx_dev_minor, stx_ino, .. } =
            statx(&self.directory, "root", AtFlags::STATX_DONT_SYNC, StatxFlags::INO)?;
        Ok((stx_dev_major, stx_dev_minor, stx_ino))
    }

    /// Status of a path below it without symbolic links.
    pub(crate) fn stat(&self, path: &str) -> rustix::io::Result<rustix::fs::Stat> {
        statat(&self.directory, path, AtFlags::empty())
    }

    /// Status of a path below it; of the link itself if it is one.
    pub(crate) fn lstat(&self, path: &str) -> rustix::io::Result<rustix::fs::Stat> {
        statat(&self.directory, path, AtFlags::SYMLINK_NOFOLLOW)
    }

    /// Hands the text of a symbolic link below it to `read`.
    pub(crate) fn link<T>(&self, path: &str, read: impl Fn(&[u8]) -> T) -> rustix::io::Result<T> {
        let _step = self.mount.step(self.pid)?;
        read_link(self.directory.as_fd(), path, read)
    }
}

/// The threads of a process, each with its own view of the process.
///
/// If the first thread has ended and others run, the directory of the process looks like that of a zombie,
/// without descriptors and namespaces. Only the other threads show them.
#[derive(Debug)]
pub(crate) struct Tasks<'a> {
    mount: &'a ProcMount,
    pid: i32,
    directory: OwnedFd,
}

impl<'a> Tasks<'a> {
    /// The ids of all threads but the first.
    pub(crate) fn others(&self) -> Vec<i32> {
        let mut tids = Vec::new();
        // The ids before an error are valid.
        let _ = for_each_number(self.directory.as_fd(), |tid| tids.push(tid));
        tids.retain(|&tid| tid != self.pid);
        tids
    }

    /// The process, as this thread shows it.
    pub(crate) fn thread(&self, tid: i32) -> rustix::io::Result<Process<'a>> {
        let directory =
            self.mount.openat(&self.directory, tid.to_string(), DIRECTORY | OFlags::PATH)?;
        Ok(Process { mount: self.mount, pid: self.pid, directory })
    }

    /// Hands the text of a symbolic link of that thread to `read`.
    pub(crate) fn link<T>(
        &self,
        tid: i32,
        path: &str,
        read: impl Fn(&[u8]) -> T,
    ) -> rustix::io::Result<T> {
        let _step = self.mount.step(self.pid)?;
        read_link(self.directory.as_fd(), format!("{tid}/{path}"), read)
    }
}

/// Whether the error means that the process or the descriptor no longer exists.
pub(crate) fn is_gone(errno: Errno) -> bool {
    matches!(errno, Errno::NOENT | Errno::SRCH)
}
