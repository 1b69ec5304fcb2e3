//! The network namespaces that a scan finds.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::LazyLock;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

use super::super::proc_root::{ProcRoot, Process, is_gone};
use super::handle::{MountPoint, NetnsHandle, in_net_namespace, number_of};
use super::key::{NetnsKey, find_key, key_of, own_key};
use super::namespace::{Namespace, OpenNetns, open_namespace};
use crate::deadline::Deadline;
use crate::formats::linux::mountinfo::{leads_through, mounts_of, served_mount_points};
use crate::formats::linux::proc_link;
use crate::model::NetNamespace;
use crate::model::omission::{OmissionKind, Omissions};
use crate::model::report::Report;

/// The namespaces found so far.
#[derive(Debug, Default)]
pub(crate) struct Namespaces {
    all: Vec<Namespace>,
    by_key: HashMap<NetnsKey, usize>,
    /// A number that comes again in the same scan is either the same namespace, or one that was created
    /// after the scan began.
    by_number: HashMap<NetNamespace, usize>,
}

/// Reads a namespace at once that cannot be kept open.
pub(crate) type Visit<'v> = &'v mut dyn FnMut(&Namespace, &mut Report);

/// The maximum number of handles of a namespace.
const MAX_HANDLES: usize = 64;
/// The maximum number of open namespaces,
const MAX_OPEN: u64 = 128;
/// and the maximum part of the descriptor limit of this process.
const DESCRIPTOR_SHARE: u64 = 4;
/// The time for reading the mounts of all processes. Users can create mounts, and the kernel can take long to
/// list them.
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
                return report
                    .omissions
                    .add(OmissionKind::Deadline, || root.path().display().to_string());
            }
            self.add_process(root, pid, report, visit);
        }
    }

    fn add_process(&mut self, root: &ProcRoot, pid: i32, report: &mut Report, visit: Visit) {
        let handle = NetnsHandle::Process(pid);
        let link = root.link(pid, "ns/net", proc_link::net_namespace).ok().flatten();
        if let Some(&index) = link.and_then(|number| self.by_number.get(&number)) {
            return self.add_handle(index, handle);
        }
        let found = root.process(pid).and_then(find_key);
        match found {
            Ok((key, process)) => self.add_seen(root, key, &process, handle, report, visit),
            // A zombie has no namespace.
            Err(errno) if is_gone(errno) || errno == Errno::INVAL => {}
            Err(errno) => report
                .omissions
                .add(OmissionKind::NetNamespace, || format!("{}/net: {errno}", handle.path(root))),
        }
    }

    /// Adds the namespaces of the threads of these processes.
    ///
    /// An unreadable thread is no omission: its process is unreadable, too.
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
                return report
                    .omissions
                    .add(OmissionKind::Deadline, || root.path().display().to_string());
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
                        let handle = NetnsHandle::Thread(pid, tid);
                        self.add_seen(root, key, &thread, handle, report, visit);
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
        for (number, handles) in self.find_mounts(root, pids, deadline, report) {
            if deadline.has_passed() {
                return report
                    .omissions
                    .add(OmissionKind::Deadline, || root.path().display().to_string());
            }
            self.add_entered(root, number, handles, report, visit);
        }
    }

    /// The mounted namespaces that were not found yet, and their mount points.
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
                report.omissions.add(OmissionKind::Mounts, || root.path().display().to_string());
                break;
            }
            let Ok(process) = root.process(pid) else { continue };
            // Processes with the same mount namespace and root see the same mounts. A process whose link cannot
            // be read mostly shares them with others.
            let mounts = process.link("ns/mnt", proc_link::mount_namespace).ok().flatten();
            let top = process.root_identity().ok();
            if !mounts.is_some_and(|mounts| seen.insert((mounts, top))) {
                continue;
            }
            let Ok((text, is_whole)) = process.read_until("mountinfo", budget) else { continue };
            if !is_whole {
                report.omissions.add(OmissionKind::Mounts, || {
                    format!("{}/mountinfo", NetnsHandle::Process(pid).path(root))
                });
            }
            let served: HashSet<Vec<u8>> = served_mount_points(&text).collect();
            for mount in mounts_of(&text, b"nsfs") {
                match proc_link::net_namespace(&mount.root) {
                    Some(number) if !self.by_number.contains_key(&number) => {
                        let handles = found.entry(number).or_default();
                        if handles.len() < MAX_MOUNTS {
                            let path = mount.mount_point;
                            let is_served = leads_through(&path, &served);
                            handles.push(NetnsHandle::Mount(pid, MountPoint { path, is_served }));
                        }
                    }
                    _ => {}
                }
            }
        }
        found
    }

    /// Adds a mounted namespace. To read its key, a thread enters it.
    fn add_entered(
        &mut self,
        root: &ProcRoot,
        number: NetNamespace,
        handles: Vec<NetnsHandle>,
        report: &mut Report,
        visit: Visit,
    ) {
        let mut failed = None;
        for handle in handles {
            let entered = open_namespace(root, &handle, number).and_then(|open| {
                let key = in_net_namespace(open.as_fd(), own_key)??;
                Ok((key, open))
            });
            match entered {
                Ok((key, open)) => {
                    return self.insert(key, Some(number), Some(open), handle, report, visit);
                }
                // It is unmounted. If the process has ended instead, the namespace can still be mounted.
                Err(Errno::NOENT) if handle.is_there(root) => {}
                Err(errno) => failed = Some(format!("{}: {errno}", handle.path(root))),
            }
        }
        if let Some(failed) = failed {
            report.omissions.add(OmissionKind::MountedNetNamespace, || failed);
        }
    }

    /// Adds the namespace with this key, which the process is in.
    fn add_seen(
        &mut self,
        root: &ProcRoot,
        key: NetnsKey,
        process: &Process<'_>,
        handle: NetnsHandle,
        report: &mut Report,
        visit: Visit,
    ) {
        if let Some(&index) = self.by_key.get(&key)
            && self.all.get(index).is_some_and(|namespace| namespace.number.is_some())
        {
            return self.add_handle(index, handle);
        }
        // The process can have moved to another namespace since.
        let is_there_still = || key_of(process) == Ok(key);
        let opened = process.net_namespace().ok().filter(|_| root.is_real() && is_there_still());
        let opened = opened.and_then(|open| {
            let number = number_of(&open).ok()?;
            Some((open, number))
        });
        if let Some((open, number)) = opened {
            return self.insert(key, Some(number), Some(open), handle, report, visit);
        }
        let link = process.link("ns/net", proc_link::net_namespace).ok().flatten();
        self.insert(key, link.filter(|_| is_there_still()), None, handle, report, visit);
    }

    fn insert(
        &mut self,
        key: NetnsKey,
        number: Option<NetNamespace>,
        open: Option<OwnedFd>,
        handle: NetnsHandle,
        report: &mut Report,
        visit: Visit,
    ) {
        let index = *self.by_key.entry(key).or_insert_with(|| {
            self.all.push(Namespace::new(key));
            self.all.len() - 1
        });
        self.add_handle(index, handle);
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

    fn add_handle(&mut self, index: usize, handle: NetnsHandle) {
        let namespace = self.all.get_mut(index);
        if let Some(namespace) = namespace.filter(|namespace| namespace.handles.len() < MAX_HANDLES)
        {
            namespace.handles.push(handle);
        }
    }

    /// All namespaces, in the order in which they were found.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Namespace> {
        self.all.iter()
    }

    pub(crate) fn get(&self, key: NetnsKey) -> Option<&Namespace> {
        self.all.get(*self.by_key.get(&key)?)
    }

    /// The number of the namespace of the host's first process, in this mount of proc. If its link cannot be
    /// read, the number comes from another process in the namespace.
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

    /// Sets the numbers of namespaces without one.
    pub(crate) fn set_numbers(&mut self, numbers: &HashMap<NetnsKey, NetNamespace>) {
        for (key, number) in numbers {
            let namespace = self.by_key.get(key).and_then(|&index| self.all.get_mut(index));
            if let Some(namespace) = namespace {
                namespace.number.get_or_insert(*number);
            }
        }
    }

    /// Counts the namespaces without a number.
    pub(crate) fn count_unnumbered(&self, root: &ProcRoot, omissions: &mut Omissions) {
        for namespace in self.all.iter().filter(|namespace| namespace.number.is_none()) {
            omissions.add(OmissionKind::NetNamespaceNumber, || namespace.path(root, "ns/net"));
        }
    }
}

fn max_open() -> usize {
    static MAX: LazyLock<usize> = LazyLock::new(|| {
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        usize::try_from((limit / DESCRIPTOR_SHARE).min(MAX_OPEN)).unwrap_or_default()
    });
    *MAX
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

    fn counts(report: &Report) -> Vec<(OmissionKind, u64)> {
        report.omissions.iter().map(|omission| (omission.kind, omission.count)).collect()
    }

    #[test]
    fn mounts_are_not_read_after_the_deadline() {
        let root = ProcRoot::open("/proc".as_ref()).unwrap();
        let mut report = Report::default();
        let (namespaces, over) = (Namespaces::default(), Deadline::after(Duration::ZERO));
        let found = namespaces.find_mounts(&root, [1, 2].into_iter(), over, &mut report);
        assert!(found.is_empty(), "{found:?}");
        assert_eq!(counts(&report), [(OmissionKind::Mounts, 1)]);
    }

    #[test]
    fn a_mount_is_missing_if_its_last_process_has_ended() {
        let root = ProcRoot::open("/proc".as_ref()).unwrap();
        let mut ended = std::process::Command::new("true").spawn().unwrap();
        ended.wait().unwrap();
        let point = MountPoint { path: b"/mount".to_vec(), is_served: false };
        let handles = vec![NetnsHandle::Mount(i32::try_from(ended.id()).unwrap(), point)];
        let (mut namespaces, mut report) = (Namespaces::default(), Report::default());
        namespaces.add_entered(&root, NetNamespace(1), handles, &mut report, &mut |_, _| {});
        assert_eq!(counts(&report), [(OmissionKind::MountedNetNamespace, 1)]);
    }
}
