//! Which network namespaces there are, and ways to each (network_namespaces(7)).
//!
//! The link `/proc/<pid>/ns/net` names a namespace, but reading it needs ptrace rights
//! (PTRACE_MODE_READ_FSCREDS) that even root may lack. The files in `/proc/<pid>/net` need none, and
//! their inode numbers belong to one namespace. So these identify a namespace, and its number comes from
//! any member whose link is readable.
//!
//! A thread can move to another namespace than its process. And a namespace lives without any process
//! where its nsfs file is mounted, as `ip netns add` and container engines do: it is found in the mounts of
//! every mount namespace, and read from a thread that enters it. A namespace that only a descriptor or a
//! socket keeps alive is not found.
//!
//! A namespace is held open until the scan ends, so that it keeps its number when all its processes end.
//! Users can create any number of namespaces. Those beyond [`MAX_OPEN`] are handed to a [`Visit`] at once,
//! while they are open, and closed again.

mod handle;
mod session;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::fs::{Mode, OFlags, Stat, stat};
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

pub(crate) use self::handle::in_net_namespace;
use self::handle::{MountPoint, NetnsHandle, open_mounted};
pub(crate) use self::session::{OwnSockets, Sessions, SocketSource, Wanted};
use super::proc_root::{ProcRoot, Process, is_gone};
use crate::deadline::Deadline;
use crate::formats::linux::mountinfo::{leads_through, mounts_of, served_mount_points};
use crate::formats::linux::proc_link;
use crate::model::NetNamespace;
use crate::model::gap::{GapKind, Gaps};
use crate::model::report::Report;

/// Device and inode number of a file in a namespace's `/proc/<pid>/net`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct NetnsKey(u64, u64);

#[cfg(test)]
impl NetnsKey {
    pub(crate) fn of_test() -> NetnsKey {
        NetnsKey(0, 1)
    }
}

/// A network namespace and ways to it.
#[derive(Debug)]
pub(crate) struct Namespace {
    pub(crate) key: NetnsKey,
    number: Option<NetNamespace>,
    /// The open namespace; None where opening is not allowed, or too many are open already.
    open: Option<OpenNetns>,
    ways: Vec<NetnsHandle>,
}

/// The namespaces found so far.
#[derive(Debug, Default)]
pub(crate) struct Namespaces {
    all: Vec<Namespace>,
    by_key: HashMap<NetnsKey, usize>,
    /// A number that comes again in the same scan is either the same namespace, or one that was created
    /// after the scan began.
    by_number: HashMap<NetNamespace, usize>,
}

/// An open namespace, counted among all that this process has open: a scan that is abandoned keeps its own.
#[derive(Debug)]
struct OpenNetns(OwnedFd);

static OPEN: AtomicUsize = AtomicUsize::new(0);

impl OpenNetns {
    fn new(namespace: OwnedFd) -> OpenNetns {
        OPEN.fetch_add(1, Ordering::Relaxed);
        OpenNetns(namespace)
    }

    fn count() -> usize {
        OPEN.load(Ordering::Relaxed)
    }
}

impl Drop for OpenNetns {
    fn drop(&mut self) {
        OPEN.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Reads a namespace that cannot be held open for later, while it is open.
pub(crate) type Visit<'v> = &'v mut dyn FnMut(&Namespace, &mut Report);

/// More ways to one namespace are not kept.
const MAX_WAYS: usize = 64;
/// More namespaces are not held open,
const MAX_OPEN: u64 = 128;
/// nor more than this part of the descriptors that this process may have.
const DESCRIPTOR_SHARE: u64 = 4;
/// For how long the mounts of all processes are read. Users can create mounts, and the kernel may take long
/// to list them.
const MOUNTS_BUDGET: Duration = Duration::from_secs(1);

impl Namespaces {
    /// Adds the namespaces of these processes.
    pub(crate) fn add_processes(
        &mut self,
        root: &ProcRoot,
        pids: impl Iterator<Item = i32>,
        deadline: Deadline<'_>,
        report: &mut Report,
        visit: Visit,
    ) {
        for pid in pids {
            if deadline.has_passed() {
                return report.gaps.add(GapKind::Deadline, || root.path().display().to_string());
            }
            self.add_process(root, pid, report, visit);
        }
    }

    fn add_process(&mut self, root: &ProcRoot, pid: i32, report: &mut Report, visit: Visit) {
        let way = NetnsHandle::Process(pid);
        let link = root.link(pid, "ns/net", proc_link::net_namespace).ok().flatten();
        if let Some(&index) = link.and_then(|number| self.by_number.get(&number)) {
            return self.add_way(index, way);
        }
        let found = root.process(pid).and_then(find_key);
        match found {
            Ok((key, process)) => self.add_seen(root, key, &process, way, report, visit),
            // A zombie has no namespace.
            Err(errno) if is_gone(errno) || errno == Errno::INVAL => {}
            Err(errno) => report.gaps.add(GapKind::NetNamespace, || {
                format!("{}/net: {}", way.path(root), io::Error::from(errno))
            }),
        }
    }

    /// Adds the namespaces that only threads of these processes are in.
    ///
    /// What cannot be read of a thread is no omission: its process could not be read either.
    pub(crate) fn add_threads(
        &mut self,
        root: &ProcRoot,
        pids: impl Iterator<Item = i32>,
        deadline: Deadline<'_>,
        report: &mut Report,
        visit: Visit,
    ) {
        for pid in pids {
            if deadline.has_passed() {
                return report.gaps.add(GapKind::Deadline, || root.path().display().to_string());
            }
            let Some(tasks) = root.process(pid).ok().and_then(|process| process.tasks()) else {
                continue;
            };
            for tid in tasks.others() {
                match tasks.link(tid, "ns/net", proc_link::net_namespace) {
                    Ok(Some(number)) if self.by_number.contains_key(&number) => {}
                    Ok(None) => {}
                    Err(errno) if is_gone(errno) => {}
                    Ok(Some(_)) | Err(_) => {
                        let Ok(thread) = tasks.thread(tid) else { continue };
                        let Ok(key) = key_of(&thread) else { continue };
                        let way = NetnsHandle::Thread(pid, tid);
                        self.add_seen(root, key, &thread, way, report, visit);
                    }
                }
            }
        }
    }

    /// Adds the namespaces whose files are mounted in the mount namespaces of these processes.
    pub(crate) fn add_mounted(
        &mut self,
        root: &ProcRoot,
        pids: impl Iterator<Item = i32>,
        deadline: Deadline<'_>,
        report: &mut Report,
        visit: Visit,
    ) {
        if !root.is_real() {
            return;
        }
        for (number, ways) in self.find_mounts(root, pids, deadline, report) {
            if deadline.has_passed() {
                return report.gaps.add(GapKind::Deadline, || root.path().display().to_string());
            }
            self.add_entered(root, number, ways, report, visit);
        }
    }

    /// The mounted namespaces that are not known yet, and where they are mounted.
    fn find_mounts(
        &self,
        root: &ProcRoot,
        pids: impl Iterator<Item = i32>,
        deadline: Deadline<'_>,
        report: &mut Report,
    ) -> BTreeMap<NetNamespace, Vec<NetnsHandle>> {
        /// Another namespace can be mounted over one of them.
        const MAX_MOUNTS: usize = 8;
        let mut found: BTreeMap<NetNamespace, Vec<NetnsHandle>> = BTreeMap::new();
        let mut seen = HashSet::new();
        let budget = deadline.or_after(MOUNTS_BUDGET);
        for pid in root.own_pid().into_iter().chain(pids) {
            if deadline.has_passed() {
                report.gaps.add(GapKind::Mounts, || root.path().display().to_string());
                break;
            }
            let Ok(process) = root.process(pid) else { continue };
            // Which mounts it sees, and from where. A process whose link cannot be read mostly sees the
            // mounts of others.
            let mounts = process.link("ns/mnt", proc_link::mount_namespace).ok().flatten();
            let top = process.root_identity().ok();
            if !mounts.is_some_and(|mounts| seen.insert((mounts, top))) {
                continue;
            }
            let Ok((text, is_whole)) = process.read_until("mountinfo", budget) else { continue };
            if !is_whole {
                report.gaps.add(GapKind::Mounts, || {
                    format!("{}/mountinfo", NetnsHandle::Process(pid).path(root))
                });
            }
            let served: HashSet<Vec<u8>> = served_mount_points(&text).collect();
            for mount in mounts_of(&text, b"nsfs") {
                match proc_link::net_namespace(&mount.root) {
                    Some(number) if !self.by_number.contains_key(&number) => {
                        let ways = found.entry(number).or_default();
                        if ways.len() < MAX_MOUNTS {
                            let path = mount.mount_point;
                            let is_served = leads_through(&path, &served);
                            ways.push(NetnsHandle::Mount(pid, MountPoint { path, is_served }));
                        }
                    }
                    _ => {}
                }
            }
        }
        found
    }

    /// Adds a mounted namespace, which has to be entered for its key.
    fn add_entered(
        &mut self,
        root: &ProcRoot,
        number: NetNamespace,
        ways: Vec<NetnsHandle>,
        report: &mut Report,
        visit: Visit,
    ) {
        let mut failed = None;
        for way in ways {
            let opened = open_way(root, &way, number);
            let entered = opened.map_err(io::Error::from).and_then(|open| {
                let key = in_net_namespace(open.as_fd(), own_key)??;
                Ok((key, open))
            });
            match entered {
                Ok((key, open)) => {
                    return self.insert(key, Some(number), Some(open), way, report, visit);
                }
                // It is unmounted already. That of a process that has ended may be mounted elsewhere still.
                Err(error) if error.kind() == io::ErrorKind::NotFound && way.is_there(root) => {}
                Err(error) => failed = Some(format!("{}: {error}", way.path(root))),
            }
        }
        if let Some(failed) = failed {
            report.gaps.add(GapKind::MountedNetNamespace, || failed);
        }
    }

    /// Adds the namespace of that key, in which this process was seen.
    fn add_seen(
        &mut self,
        root: &ProcRoot,
        key: NetnsKey,
        process: &Process<'_>,
        way: NetnsHandle,
        report: &mut Report,
        visit: Visit,
    ) {
        if let Some(&index) = self.by_key.get(&key)
            && self.all.get(index).is_some_and(|namespace| namespace.number.is_some())
        {
            return self.add_way(index, way);
        }
        // The process may have moved to another namespace since.
        let is_there_still = || key_of(process) == Ok(key);
        let opened = process.net_namespace().ok().filter(|_| root.is_real() && is_there_still());
        let opened = opened.and_then(|open| {
            let number = handle::number(&open).ok()?;
            Some((open, number))
        });
        if let Some((open, number)) = opened {
            return self.insert(key, Some(number), Some(open), way, report, visit);
        }
        let link = process.link("ns/net", proc_link::net_namespace).ok().flatten();
        self.insert(key, link.filter(|_| is_there_still()), None, way, report, visit);
    }

    fn insert(
        &mut self,
        key: NetnsKey,
        number: Option<NetNamespace>,
        open: Option<OwnedFd>,
        way: NetnsHandle,
        report: &mut Report,
        visit: Visit,
    ) {
        let index = *self.by_key.entry(key).or_insert_with(|| {
            self.all.push(Namespace { key, number: None, open: None, ways: Vec::new() });
            self.all.len() - 1
        });
        self.add_way(index, way);
        let Some(namespace) = self.all.get_mut(index) else { return };
        namespace.number = namespace.number.or(number);
        if let Some(number) = namespace.number {
            self.by_number.insert(number, index);
        }
        if namespace.open.is_some() || open.is_none() {
            return;
        }
        namespace.open = open.map(OpenNetns::new);
        if OpenNetns::count() > max_open() {
            visit(namespace, report);
            namespace.open = None;
        }
    }

    fn add_way(&mut self, index: usize, way: NetnsHandle) {
        let namespace = self.all.get_mut(index);
        if let Some(namespace) = namespace.filter(|namespace| namespace.ways.len() < MAX_WAYS) {
            namespace.ways.push(way);
        }
    }

    /// All namespaces, in the order in which they were found.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Namespace> {
        self.all.iter()
    }

    pub(crate) fn get(&self, key: NetnsKey) -> Option<&Namespace> {
        self.all.get(*self.by_key.get(&key)?)
    }

    /// The number of the namespace that the host's first process is in, as this mount of proc shows it.
    /// Where its link cannot be read, another member's link gives the number.
    pub(crate) fn host(&self, root: &ProcRoot) -> Option<NetNamespace> {
        let first = root.process(1).ok()?;
        let number =
            |process: &Process<'_>| process.link("ns/net", proc_link::net_namespace).ok()?;
        if let Some(number) = number(&first) {
            return Some(number);
        }
        let key = key_of(&first).ok()?;
        if let Some(number) = self.get(key).and_then(|namespace| namespace.number) {
            return Some(number);
        }
        let own = root.own_process().ok()?;
        (key_of(&own) == Ok(key)).then(|| number(&own)).flatten()
    }

    /// Sets the numbers of those that have none.
    pub(crate) fn set_numbers(&mut self, numbers: &HashMap<NetnsKey, NetNamespace>) {
        for (key, number) in numbers {
            let namespace = self.by_key.get(key).and_then(|&index| self.all.get_mut(index));
            if let Some(namespace) = namespace {
                namespace.number.get_or_insert(*number);
            }
        }
    }

    /// Counts those whose number neither a member's link nor a held socket gave.
    pub(crate) fn count_unnumbered(&self, root: &ProcRoot, gaps: &mut Gaps) {
        for namespace in self.all.iter().filter(|namespace| namespace.number.is_none()) {
            gaps.add(GapKind::NetNamespaceNumber, || namespace.path(root, "ns/net"));
        }
    }
}

impl Namespace {
    /// Whether the calling process is in it.
    pub(crate) fn is_own(&self, root: &ProcRoot) -> bool {
        // The files are the same in every mount of proc, and their numbers with them.
        root.is_real() && own_key().is_ok_and(|own| own.1 == self.key.1)
    }

    /// Runs `f` in the namespace, as [`in_net_namespace`] does.
    ///
    /// # Errors
    /// EACCES if the namespace cannot be opened; otherwise why it cannot be entered.
    pub(crate) fn enter<T: Send>(
        &self,
        root: &ProcRoot,
        f: impl FnOnce() -> T + Send,
    ) -> io::Result<T> {
        match &self.open {
            Some(open) => in_net_namespace(open.0.as_fd(), f),
            None => in_net_namespace(self.reopen(root).ok_or(Errno::ACCESS)?.as_fd(), f),
        }
    }

    /// Opens the namespace again, if one of the ways to it still leads there.
    fn reopen(&self, root: &ProcRoot) -> Option<OwnedFd> {
        const ATTEMPTS: usize = 8;
        let number = self.number.filter(|_| root.is_real())?;
        let ways = self.ways.iter().take(ATTEMPTS);
        ways.filter_map(|way| open_way(root, way, number).ok()).find(|open| {
            in_net_namespace(open.as_fd(), own_key)
                .is_ok_and(|key| key.is_ok_and(|key| key.1 == self.key.1))
        })
    }

    /// Whether a way to it is left. A process that showed it can end before it is read.
    pub(crate) fn is_reachable(&self, root: &ProcRoot) -> bool {
        let leads_here = |way: &NetnsHandle| match way.process(root) {
            Some(process) => process.and_then(find_key).is_ok_and(|(key, _)| key == self.key),
            None => true,
        };
        self.open.is_some() || self.ways.iter().any(leads_here)
    }

    /// Its number, if the link of a member was readable.
    pub(crate) fn number(&self) -> Option<NetNamespace> {
        self.number
    }

    /// Where a file of it is found, for messages.
    pub(crate) fn path(&self, root: &ProcRoot, file: &str) -> String {
        match self.ways.first() {
            Some(way @ NetnsHandle::Mount(..)) => format!("{file} of {}", way.path(root)),
            Some(way) => format!("{}/{file}", way.path(root)),
            None => file.to_owned(),
        }
    }

    /// Opens a file of the namespace, such as `net/tcp`. None if the namespace has no such file.
    ///
    /// A process or a thread may end or move to another namespace at any moment; so its namespace is
    /// checked again once the file is open.
    ///
    /// # Errors
    /// ESRCH if no way to it is left.
    pub(crate) fn open(&self, root: &ProcRoot, file: &str) -> rustix::io::Result<Option<File>> {
        for found in self.ways.iter().filter_map(|way| way.process(root)) {
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

/// Opens the namespace of that number.
///
/// # Errors
/// EXDEV if the way leads to another namespace; otherwise why it cannot be opened.
fn open_way(
    root: &ProcRoot,
    way: &NetnsHandle,
    number: NetNamespace,
) -> rustix::io::Result<OwnedFd> {
    let open = match way {
        NetnsHandle::Mount(pid, path) => open_mounted(root, *pid, path)?,
        NetnsHandle::Process(_) | NetnsHandle::Thread(..) => {
            let process = way.process(root).ok_or(Errno::NOENT)??;
            find_key(process)?.1.net_namespace()?
        }
    };
    if handle::number(&open)? == number { Ok(open) } else { Err(Errno::XDEV) }
}

fn max_open() -> usize {
    static MAX: LazyLock<usize> = LazyLock::new(|| {
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        usize::try_from((limit / DESCRIPTOR_SHARE).min(MAX_OPEN)).unwrap_or_default()
    });
    *MAX
}

fn found_or_none(opened: rustix::io::Result<File>) -> rustix::io::Result<Option<File>> {
    match opened {
        Ok(file) => Ok(Some(file)),
        Err(errno) if is_gone(errno) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// The key of the process's namespace, and the process or the thread that shows it.
fn find_key(process: Process<'_>) -> rustix::io::Result<(NetnsKey, Process<'_>)> {
    let key = key_of(&process);
    if key.is_err()
        && let Some(tasks) = process.tasks()
    {
        for tid in tasks.others() {
            if let Ok(thread) = tasks.thread(tid)
                && let Ok(key) = key_of(&thread)
            {
                return Ok((key, thread));
            }
        }
    }
    Ok((key?, process))
}

fn key_of(process: &Process<'_>) -> rustix::io::Result<NetnsKey> {
    key(|file| process.stat(&format!("net/{file}")))
}

/// That of the calling thread's namespace.
fn own_key() -> rustix::io::Result<NetnsKey> {
    key(|file| stat(format!("/proc/thread-self/net/{file}")))
}

fn key(stat: impl Fn(&str) -> rustix::io::Result<Stat>) -> rustix::io::Result<NetnsKey> {
    // Both are in every namespace; the second is for kernels without IPv4.
    let stat = stat("tcp").or_else(|_| stat("unix"))?;
    Ok(NetnsKey(stat.st_dev, stat.st_ino))
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
        namespaces.add_process(&root, 1, &mut Report::default(), &mut |_, _| {});
        let namespace = namespaces.iter().next().unwrap();
        assert!(namespace.open(&root, "net/tcp").unwrap().is_some());

        fs::remove_file(path("1/net")).unwrap();
        symlink(path("new"), path("1/net")).unwrap();
        assert_eq!(namespace.open(&root, "net/tcp").unwrap_err(), Errno::SRCH);
    }

    fn counts(report: &Report) -> Vec<(GapKind, u64)> {
        report.gaps.iter().map(|gap| (gap.kind, gap.count)).collect()
    }

    #[test]
    fn mounts_are_not_read_after_the_deadline() {
        let root = ProcRoot::open("/proc".as_ref()).unwrap();
        let mut report = Report::default();
        let (namespaces, over) = (Namespaces::default(), Deadline::after(Duration::ZERO));
        let found = namespaces.find_mounts(&root, [1, 2].into_iter(), over, &mut report);
        assert!(found.is_empty(), "{found:?}");
        assert_eq!(counts(&report), [(GapKind::Mounts, 1)]);
    }

    #[test]
    fn a_mount_is_missing_if_the_process_that_sees_it_has_ended() {
        let root = ProcRoot::open("/proc".as_ref()).unwrap();
        let mut ended = std::process::Command::new("true").spawn().unwrap();
        ended.wait().unwrap();
        let point = MountPoint { path: b"/mount".to_vec(), is_served: false };
        let ways = vec![NetnsHandle::Mount(i32::try_from(ended.id()).unwrap(), point)];
        let (mut namespaces, mut report) = (Namespaces::default(), Report::default());
        namespaces.add_entered(&root, NetNamespace(1), ways, &mut report, &mut |_, _| {});
        assert_eq!(counts(&report), [(GapKind::MountedNetNamespace, 1)]);
    }
}
