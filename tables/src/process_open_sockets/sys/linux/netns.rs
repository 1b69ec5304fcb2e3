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
//!
//! A namespace that was seen is held open for as long as the scan takes: it stays what it is, with its
//! number, when all its processes end meanwhile.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags, Stat, stat};
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

use super::door::{self, Door, in_net_namespace, open_mounted};
use super::proc_root::{ProcRoot, Process, is_gone};
use crate::process_open_sockets::gap::{GapKind, Gaps};
use crate::process_open_sockets::model::NetNamespace;
use crate::process_open_sockets::parse::mountinfo::mounts_of;
use crate::process_open_sockets::parse::proc_link;

/// Device and inode number of a file in a namespace's `/proc/<pid>/net`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Mark(u64, u64);

/// A network namespace and ways to it.
#[derive(Debug)]
pub(super) struct Namespace {
    pub(super) mark: Mark,
    number: Option<NetNamespace>,
    /// What holds it open; None where that is not allowed, or too many are held open already.
    handle: Option<OwnedFd>,
    doors: Vec<Door>,
}

/// The namespaces seen so far.
#[derive(Debug, Default)]
pub(super) struct Namespaces {
    all: Vec<Namespace>,
    by_mark: HashMap<Mark, usize>,
    /// Those that are held open.
    by_number: HashMap<NetNamespace, usize>,
}

/// More ways to one namespace are not remembered.
const DOORS: usize = 64;
/// Anybody can make namespaces: more of them are not held open,
const MOST_HELD: usize = 128;
/// nor more than this part of the descriptors that we may have.
const PART_HELD: u64 = 4;
/// For how long the mounts of others are read. Anybody can make mounts, and the kernel may take long to
/// list them.
const PATIENCE: Duration = Duration::from_secs(1);

impl Namespaces {
    /// Puts a process into its namespace.
    pub(super) fn add(&mut self, root: &ProcRoot, pid: i32, gaps: &mut Gaps) {
        let door = Door::Process(pid);
        let link = root.link(pid, "ns/net", proc_link::net_namespace).ok().flatten();
        if let Some(&index) = link.and_then(|number| self.by_number.get(&number)) {
            return self.add_door(index, door);
        }
        let found = root.process(pid).and_then(find_mark);
        match found {
            Ok((mark, process)) => self.add_seen(root, mark, &process, door),
            // A zombie has no namespace.
            Err(errno) if is_gone(errno) || errno == Errno::INVAL => {}
            Err(errno) => gaps.add(GapKind::NetNamespace, || {
                format!("{}/net: {}", door.path(root), io::Error::from(errno))
            }),
        }
    }

    /// Puts each thread of a process into its namespace that is in another one than its process.
    ///
    /// What cannot be read of a thread is no gap: its process could not be read either.
    pub(super) fn add_threads(&mut self, root: &ProcRoot, pid: i32) {
        let Some(tasks) = root.process(pid).ok().and_then(|process| process.tasks()) else {
            return;
        };
        for tid in tasks.others() {
            match tasks.link(tid, "ns/net", proc_link::net_namespace) {
                Ok(Some(number)) if self.by_number.contains_key(&number) => {}
                Ok(None) => {}
                Err(errno) if is_gone(errno) => {}
                Ok(Some(_)) | Err(_) => {
                    let Ok(thread) = tasks.thread(tid) else { continue };
                    let Ok(mark) = mark_of(&thread) else { continue };
                    self.add_seen(root, mark, &thread, Door::Thread(pid, tid));
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
        let mut seen = HashSet::new();
        let deadline = Some(Instant::now() + PATIENCE);
        for pid in root.own_pid().into_iter().chain(pids) {
            let Ok(process) = root.process(pid) else { continue };
            // Which mounts it sees, and from where; whose link cannot be read sees mostly those of
            // others.
            let mounts = process.link("ns/mnt", proc_link::mount_namespace).ok().flatten();
            let top = process.stat("root").map(|top| (top.st_dev, top.st_ino)).ok();
            if !mounts.is_some_and(|mounts| seen.insert((mounts, top))) {
                continue;
            }
            let Ok((text, is_whole)) = process.read_until("mountinfo", deadline) else { continue };
            if !is_whole {
                gaps.add(GapKind::Mounts, || {
                    format!("{}/mountinfo", Door::Process(pid).path(root))
                });
            }
            for mount in mounts_of(&text, b"nsfs") {
                match proc_link::net_namespace(&mount.root) {
                    Some(number) if !self.by_number.contains_key(&number) => {
                        self.add_entered(root, number, (pid, mount.mount_point), gaps);
                    }
                    _ => {}
                }
            }
        }
    }

    /// Adds a namespace that has to be entered to be seen.
    fn add_entered(
        &mut self,
        root: &ProcRoot,
        number: NetNamespace,
        (pid, path): (i32, Vec<u8>),
        gaps: &mut Gaps,
    ) {
        let opened = open_mounted(root, pid, &path).map_err(io::Error::from);
        let entered = opened.and_then(|handle| {
            if door::number(&handle)? != number {
                return Err(Errno::NOENT.into());
            }
            let mark = in_net_namespace(handle.as_fd(), own_mark)??;
            Ok((mark, handle))
        });
        let door = Door::Mount(path);
        match entered {
            Ok((mark, handle)) => self.insert(mark, Some(number), Some(handle), door),
            // It is unmounted already.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                gaps.add(GapKind::MountedNetNamespace, || format!("{}: {error}", door.path(root)));
            }
        }
    }

    /// Adds the namespace of that mark, in which this process was seen.
    fn add_seen(&mut self, root: &ProcRoot, mark: Mark, process: &Process, door: Door) {
        if let Some(&index) = self.by_mark.get(&mark)
            && self.all.get(index).is_some_and(|namespace| namespace.number.is_some())
        {
            return self.add_door(index, door);
        }
        // It may have moved on since.
        let is_there_still = || mark_of(process) == Ok(mark);
        let opened = process.file("ns/net").ok().filter(|_| root.is_real() && is_there_still());
        let opened = opened.map(OwnedFd::from).and_then(|handle| {
            let number = door::number(&handle).ok()?;
            Some((handle, number))
        });
        if let Some((handle, number)) = opened {
            return self.insert(mark, Some(number), Some(handle), door);
        }
        let link = process.link("ns/net", proc_link::net_namespace).ok().flatten();
        self.insert(mark, link.filter(|_| is_there_still()), None, door);
    }

    fn insert(
        &mut self,
        mark: Mark,
        number: Option<NetNamespace>,
        handle: Option<OwnedFd>,
        door: Door,
    ) {
        let index = *self.by_mark.entry(mark).or_insert_with(|| {
            self.all.push(Namespace { mark, number: None, handle: None, doors: Vec::new() });
            self.all.len() - 1
        });
        let handle = handle.filter(|_| self.by_number.len() < most_held());
        if let Some(namespace) = self.all.get_mut(index) {
            namespace.number = namespace.number.or(number);
            if let (None, Some(handle), Some(number)) = (&namespace.handle, handle, number) {
                namespace.handle = Some(handle);
                self.by_number.insert(number, index);
            }
        }
        self.add_door(index, door);
    }

    fn add_door(&mut self, index: usize, door: Door) {
        let namespace = self.all.get_mut(index);
        if let Some(namespace) = namespace.filter(|namespace| namespace.doors.len() < DOORS) {
            namespace.doors.push(door);
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
    /// EACCES if the namespace cannot be opened; and why it cannot be entered.
    pub(super) fn enter<T: Send>(
        &self,
        root: &ProcRoot,
        f: impl FnOnce() -> T + Send,
    ) -> io::Result<T> {
        match &self.handle {
            Some(handle) => in_net_namespace(handle.as_fd(), f),
            None => in_net_namespace(self.reopen(root).ok_or(Errno::ACCESS)?.as_fd(), f),
        }
    }

    /// A handle of the namespace, if one of the processes that were in it is there still.
    fn reopen(&self, root: &ProcRoot) -> Option<OwnedFd> {
        const TRIED: usize = 8;
        let number = self.number.filter(|_| root.is_real())?;
        let processes = self.doors.iter().filter_map(|door| door.process(root)).take(TRIED);
        processes.flatten().find_map(|process| {
            let (mark, process) = find_mark(process).ok()?;
            let handle = OwnedFd::from(process.file("ns/net").ok()?);
            let is_it = mark == self.mark && door::number(&handle) == Ok(number);
            is_it.then_some(handle)
        })
    }

    /// Its number, if the link of a member was readable.
    pub(super) fn number(&self) -> Option<NetNamespace> {
        self.number
    }

    /// Where a file of it is found, for messages.
    pub(super) fn path(&self, root: &ProcRoot, file: &str) -> String {
        match self.doors.first() {
            Some(door @ Door::Mount(..)) => format!("{file} of {}", door.path(root)),
            Some(door) => format!("{}/{file}", door.path(root)),
            None => file.to_owned(),
        }
    }

    /// Opens a file of the namespace, such as `net/tcp`. None if the namespace has no such file.
    ///
    /// A process or a thread may end or move to another namespace at any moment; so each is asked
    /// again which namespace it is in once the file is open.
    ///
    /// # Errors
    /// ESRCH if no way to it is left.
    pub(super) fn open(&self, root: &ProcRoot, file: &str) -> rustix::io::Result<Option<File>> {
        for found in self.doors.iter().filter_map(|door| door.process(root)) {
            let Ok((mark, process)) = found.and_then(find_mark) else { continue };
            if mark != self.mark {
                continue;
            }
            let opened = process.file(file);
            if mark_of(&process) == Ok(self.mark) {
                return found_or_none(opened);
            }
        }
        let path = format!("/proc/thread-self/{file}");
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let open = || rustix::fs::open(path, flags, Mode::empty()).map(File::from);
        self.enter(root, open).map_or(Err(Errno::SRCH), found_or_none)
    }
}

fn most_held() -> usize {
    static MOST: LazyLock<usize> = LazyLock::new(|| {
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        usize::try_from(limit / PART_HELD).map_or(MOST_HELD, |part| part.min(MOST_HELD))
    });
    *MOST
}

fn found_or_none(opened: rustix::io::Result<File>) -> rustix::io::Result<Option<File>> {
    match opened {
        Ok(file) => Ok(Some(file)),
        Err(errno) if is_gone(errno) => Ok(None),
        Err(errno) => Err(errno),
    }
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
        assert_eq!(namespace.open(&root, "net/tcp").unwrap_err(), Errno::SRCH);
    }
}
