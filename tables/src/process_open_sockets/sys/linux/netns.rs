//! Which network namespaces there are, and who is in them (network_namespaces(7)).
//!
//! The link `/proc/<pid>/ns/net` names a namespace, but reading it needs ptrace rights
//! (PTRACE_MODE_READ_FSCREDS) that even root may lack. The files in `/proc/<pid>/net` need none, and
//! their inode numbers are one namespace's own. So these tell namespaces apart, and the name comes
//! from whichever member's link is readable.
//!
//! A thread may have moved to another namespace than its process. And a namespace lives without any
//! process where somebody has mounted its nsfs file, as `ip netns add` and container engines do: it is
//! found in the mounts of every mount namespace, and read from a thread that goes there. One that only a
//! descriptor or a socket keeps alive is not seen.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{Mode, OFlags, Stat, fstat, fstatfs, stat};
use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::proc_root::{ProcRoot, Process, is_gone};
use crate::process_open_sockets::model::{GapKind, Gaps, NetNamespace};
use crate::process_open_sockets::parse::mountinfo::mounts_of;
use crate::process_open_sockets::parse::proc_link;

/// Device and inode number of a file in a namespace's `/proc/<pid>/net`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Mark(u64, u64);

/// A network namespace and the ways to it.
#[derive(Debug)]
pub(super) struct Namespace {
    pub(super) mark: Mark,
    number: Option<NetNamespace>,
    doors: Vec<Door>,
}

/// A way to a namespace.
#[derive(Debug)]
enum Door {
    /// A process that is in it.
    Process(i32),
    /// A process, and a thread of it that is in it.
    Thread(i32, i32),
    /// A process that sees its file mounted at this path.
    Mount(i32, Vec<u8>),
}

/// The namespaces seen so far.
#[derive(Debug, Default)]
pub(super) struct Namespaces {
    all: Vec<Namespace>,
    by_mark: HashMap<Mark, usize>,
    numbers: HashSet<NetNamespace>,
}

impl Namespaces {
    /// Puts a process into its namespace.
    pub(super) fn add(&mut self, root: &ProcRoot, pid: i32, gaps: &mut Gaps) {
        let result = root.process(pid).and_then(|process| {
            let (mark, process) = find_mark(process)?;
            self.add_door(mark, Door::Process(pid), || {
                let number = process.link("ns/net", proc_link::net_namespace).ok().flatten();
                // It may have moved on since.
                number.filter(|_| mark_of(&process) == Ok(mark))
            });
            Ok(())
        });
        match result {
            Ok(()) => {}
            // A zombie has no namespace.
            Err(errno) if is_gone(errno) || errno == Errno::INVAL => {}
            Err(errno) => gaps.add(GapKind::NetNamespace, || {
                let path = root.path().join(pid.to_string()).join("net");
                format!("{}: {}", path.display(), std::io::Error::from(errno))
            }),
        }
    }

    /// Puts each thread of a process into its namespace that is in another one than its process.
    ///
    /// What cannot be read of a thread is no gap: its process could not be read either.
    pub(super) fn add_threads(&mut self, root: &ProcRoot, pid: i32) {
        let Ok(process) = root.process(pid) else { return };
        let Some(tasks) = process.tasks() else { return };
        for tid in tasks.others() {
            match tasks.link(tid, "ns/net", proc_link::net_namespace) {
                Ok(Some(number)) if self.numbers.contains(&number) => {}
                Ok(None) => {}
                Err(errno) if is_gone(errno) => {}
                Ok(Some(_)) | Err(_) => {
                    let Ok(thread) = tasks.thread(tid) else { continue };
                    let Ok(mark) = mark_of(&thread) else { continue };
                    self.add_door(mark, Door::Thread(pid, tid), || {
                        let number = thread.link("ns/net", proc_link::net_namespace).ok()?;
                        number.filter(|_| mark_of(&thread) == Ok(mark))
                    });
                }
            }
        }
    }

    /// Adds the namespaces whose files are mounted somewhere.
    pub(super) fn add_mounted(
        &mut self,
        root: &ProcRoot,
        pids: impl Iterator<Item = i32>,
        gaps: &mut Gaps,
    ) {
        if !root.is_real() {
            return;
        }
        let own = root.own_process().into_iter();
        let mut seen = HashSet::new();
        for process in own.chain(pids.filter_map(|pid| root.process(pid).ok())) {
            // Which mounts it sees; whose link cannot be read sees mostly those of others.
            let Ok(Some(mounts)) = process.link("ns/mnt", proc_link::mount_namespace) else {
                continue;
            };
            if !seen.insert(mounts) {
                continue;
            }
            let Ok(text) = process.read("mountinfo") else { continue };
            for mount in mounts_of(&text, b"nsfs") {
                match proc_link::net_namespace(&mount.root) {
                    Some(number) if !self.numbers.contains(&number) => {
                        let door = Door::Mount(process.pid(), mount.mount_point);
                        self.enter(root, number, door, gaps);
                    }
                    _ => {}
                }
            }
        }
    }

    /// Adds a namespace that has to be entered to be seen.
    fn enter(&mut self, root: &ProcRoot, number: NetNamespace, door: Door, gaps: &mut Gaps) {
        let entered = door
            .open(root, number)
            .map_err(io::Error::from)
            .and_then(|handle| in_net_namespace(handle.as_fd(), own_mark));
        match entered {
            Ok(Ok(mark)) => self.add_door(mark, door, || Some(number)),
            // It is unmounted already.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Ok(Err(errno)) => {
                let error = io::Error::from(errno);
                gaps.add(GapKind::MountedNetNamespace, || format!("{}: {error}", door.path(root)));
            }
            Err(error) => {
                gaps.add(GapKind::MountedNetNamespace, || format!("{}: {error}", door.path(root)));
            }
        }
    }

    fn add_door(&mut self, mark: Mark, door: Door, number: impl FnOnce() -> Option<NetNamespace>) {
        let index = *self.by_mark.entry(mark).or_insert_with(|| {
            self.all.push(Namespace { mark, number: None, doors: Vec::new() });
            self.all.len() - 1
        });
        if let Some(namespace) = self.all.get_mut(index) {
            namespace.doors.push(door);
            if namespace.number.is_none() {
                namespace.number = number();
                self.numbers.extend(namespace.number);
            }
        }
    }

    /// All namespaces, in the order in which they were first seen.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Namespace> {
        self.all.iter()
    }

    /// The number of the namespace that the host's first process is in, as this mount of proc shows it.
    /// Where the link of that one cannot be read, another member knows it.
    pub(super) fn host(&self, root: &ProcRoot) -> Option<NetNamespace> {
        let first = root.process(1).ok()?;
        let number = |process: &Process| process.link("ns/net", proc_link::net_namespace).ok()?;
        if let Some(number) = number(&first) {
            return Some(number);
        }
        let mark = mark_of(&first).ok()?;
        if let Some(number) = self.by_mark.get(&mark).and_then(|&index| self.all.get(index)?.number)
        {
            return Some(number);
        }
        let own = root.own_process().ok()?;
        (mark_of(&own) == Ok(mark)).then(|| number(&own)).flatten()
    }

    /// Counts those whose number no member's link gave.
    pub(super) fn note_unnumbered(&self, root: &ProcRoot, gaps: &mut Gaps) {
        for namespace in self.all.iter().filter(|namespace| namespace.number.is_none()) {
            gaps.add(GapKind::NetNamespaceNumber, || namespace.path(root, "ns/net"));
        }
    }
}

impl Namespace {
    /// Whether the calling process is in it.
    pub(super) fn is_own(&self, root: &ProcRoot) -> bool {
        // The files are the same in every mount of proc, and their numbers with them.
        root.is_real() && own_mark().is_ok_and(|own| own.1 == self.mark.1)
    }

    /// Runs `f` in the namespace, as [`in_net_namespace`] does.
    ///
    /// # Errors
    /// ENOENT if its number is not known, or no way to it is left; and why none can be taken.
    pub(super) fn enter<T: Send>(
        &self,
        root: &ProcRoot,
        f: impl FnOnce() -> T + Send,
    ) -> io::Result<T> {
        const DOORS: usize = 8;
        let mut result = Err(Errno::NOENT);
        if let Some(number) = self.number.filter(|_| root.is_real()) {
            for door in self.doors.iter().take(DOORS) {
                result = door.open(root, number);
                if result.is_ok() {
                    break;
                }
            }
        }
        in_net_namespace(result?.as_fd(), f)
    }

    /// Its number, if the link of a member was readable.
    pub(super) fn number(&self) -> Option<NetNamespace> {
        self.number
    }

    /// Where a file of it is found, for messages.
    pub(super) fn path(&self, root: &ProcRoot, file: &str) -> String {
        match self.doors.first() {
            Some(Door::Mount(..)) | None => {
                let place = self.doors.first().map(|door| door.path(root)).unwrap_or_default();
                format!("{file} of {place}")
            }
            Some(door) => format!("{}/{file}", door.path(root)),
        }
    }

    /// Opens a file of the namespace, such as `net/tcp`. None if the namespace has no such file, or if
    /// no way to it is left.
    ///
    /// A process or a thread may end or move to another namespace at any moment; so each is asked
    /// again which namespace it is in once the file is open.
    pub(super) fn open(&self, root: &ProcRoot, file: &str) -> rustix::io::Result<Option<File>> {
        let mut is_mounted = false;
        for door in &self.doors {
            let found = match *door {
                Door::Process(pid) => root.process(pid).and_then(find_mark),
                Door::Thread(pid, tid) => {
                    thread(root, pid, tid).and_then(|thread| Ok((mark_of(&thread)?, thread)))
                }
                Door::Mount(..) => {
                    is_mounted = true;
                    continue;
                }
            };
            let Ok((mark, process)) = found else { continue };
            if mark != self.mark {
                continue;
            }
            let opened = process.file(file);
            if mark_of(&process) == Ok(self.mark) {
                return found_or_none(opened);
            }
        }
        if !is_mounted {
            return Ok(None);
        }
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let path = format!("/proc/thread-self/{file}");
        let opened =
            self.enter(root, || rustix::fs::open(path, flags, Mode::empty()).map(File::from));
        found_or_none(
            opened.unwrap_or_else(|error| Err(Errno::from_io_error(&error).unwrap_or(Errno::IO))),
        )
    }
}

fn found_or_none(opened: rustix::io::Result<File>) -> rustix::io::Result<Option<File>> {
    match opened {
        Ok(file) => Ok(Some(file)),
        Err(errno) if is_gone(errno) => Ok(None),
        Err(errno) => Err(errno),
    }
}

impl Door {
    /// A handle of the namespace of that number, to which this was the way.
    ///
    /// # Errors
    /// ENOENT if it leads somewhere else now; and why it cannot be taken.
    fn open(&self, root: &ProcRoot, number: NetNamespace) -> rustix::io::Result<OwnedFd> {
        let handle = match self {
            Door::Process(pid) => {
                let (_, process) = root.process(*pid).and_then(find_mark)?;
                OwnedFd::from(process.file("ns/net")?)
            }
            Door::Thread(pid, tid) => OwnedFd::from(thread(root, *pid, *tid)?.file("ns/net")?),
            // Somebody may have mounted another thing over it, which it would not be safe to open.
            Door::Mount(pid, path) => {
                let path = [&b"root"[..], path].concat();
                let pinned = root.process(*pid)?.pin(&path)?;
                /// From `include/uapi/linux/magic.h`.
                const NSFS_MAGIC: rustix::fs::FsWord = 0x6e73_6673;
                if fstatfs(&pinned)?.f_type != NSFS_MAGIC {
                    return Err(Errno::NOENT);
                }
                let path = format!("/proc/self/fd/{}", pinned.as_raw_fd());
                rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?
            }
        };
        let is_it = fstat(&handle)?.st_ino == number.0;
        if is_it { Ok(handle) } else { Err(Errno::NOENT) }
    }

    /// Where it is, for messages.
    fn path(&self, root: &ProcRoot) -> String {
        let path = match self {
            Door::Process(pid) => root.path().join(pid.to_string()),
            Door::Thread(pid, tid) => root.path().join(format!("{pid}/task/{tid}")),
            Door::Mount(_, path) => std::ffi::OsStr::from_bytes(path).into(),
        };
        path.display().to_string()
    }
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

fn thread(root: &ProcRoot, pid: i32, tid: i32) -> rustix::io::Result<Process> {
    root.process(pid)?.tasks().ok_or(Errno::NOENT)?.thread(tid)
}

/// The mark of the process's namespace, and the process or the thread that shows it.
fn find_mark(process: Process) -> rustix::io::Result<(Mark, Process)> {
    let mark = mark_of(&process);
    if mark.is_err()
        && let Some(tasks) = process.tasks()
    {
        for tid in tasks.others() {
            if let Ok(thread) = tasks.thread(tid)
                && let Ok(mark) = mark_of(&thread)
            {
                return Ok((mark, thread));
            }
        }
    }
    Ok((mark?, process))
}

fn mark_of(process: &Process) -> rustix::io::Result<Mark> {
    mark(|file| process.stat(&format!("net/{file}")))
}

/// That of the calling thread's namespace.
fn own_mark() -> rustix::io::Result<Mark> {
    mark(|file| stat(format!("/proc/thread-self/net/{file}")))
}

fn mark(stat: impl Fn(&str) -> rustix::io::Result<Stat>) -> rustix::io::Result<Mark> {
    // Both are in every namespace; the second is for kernels without IPv4.
    let stat = stat("tcp").or_else(|_| stat("unix"))?;
    Ok(Mark(stat.st_dev, stat.st_ino))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_member_that_has_moved_on_does_not_show_its_old_namespace() {
        let tree = tempfile::tempdir().unwrap();
        let path = |name: &str| tree.path().join(name);
        symlink("1", path("self")).unwrap();
        for namespace in ["old", "new"] {
            fs::create_dir(path(namespace)).unwrap();
            fs::write(path(namespace).join("tcp"), namespace).unwrap();
        }
        fs::create_dir(path("1")).unwrap();
        symlink(path("old"), path("1/net")).unwrap();
        let root = ProcRoot::open(tree.path()).unwrap();
        let mut namespaces = Namespaces::default();
        namespaces.add(&root, 1, &mut Gaps::default());
        let namespace = namespaces.iter().next().unwrap();
        assert!(namespace.open(&root, "net/tcp").unwrap().is_some());

        fs::remove_file(path("1/net")).unwrap();
        symlink(path("new"), path("1/net")).unwrap();
        assert!(namespace.open(&root, "net/tcp").unwrap().is_none());
    }
}
