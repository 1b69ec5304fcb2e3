//! Linux: `/proc/<pid>/fd` for who, `/proc/<pid>/net` for what.

mod fds;
mod netns;
mod proc_net;
mod proc_root;
mod sock_diag;

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use self::netns::{Namespace, Namespaces};
use self::proc_root::ProcRoot;
use crate::Error;
use crate::process_open_sockets::Options;
use crate::process_open_sockets::filter::Filter;
use crate::process_open_sockets::model::{
    Family, FdOwner, GapKind, Gaps, Owners, Snapshot, Socket,
};
use crate::process_open_sockets::parse::proc_net::ProcNetFile;

/// Collects what the filter asks for.
pub(crate) fn collect(options: &Options, filter: &Filter) -> Result<Snapshot, Error> {
    let scan = Scan {
        root: ProcRoot::open(&options.procfs)?,
        filter,
        namespaces: Namespaces::default(),
        sockets: Vec::new(),
        owners: Vec::new(),
        gaps: Gaps::default(),
    };
    if filter.admits_unowned() { scan.all() } else { scan.held() }
}

struct Scan<'a> {
    root: ProcRoot,
    filter: &'a Filter,
    namespaces: Namespaces,
    sockets: Vec<Socket>,
    owners: Vec<FdOwner>,
    gaps: Gaps,
}

/// Where a run of sockets was read.
struct Source {
    namespace: usize,
    file: ProcNetFile,
    sockets: Range<usize>,
}

impl Scan<'_> {
    /// Sockets that somebody holds, of processes that are asked for: descriptors first, then only
    /// the files that can list what they hold.
    fn held(mut self) -> Result<Snapshot, Error> {
        let filter = self.filter;
        let wanted =
            |owner: &FdOwner| filter.admits_owner(owner) && filter.admits_inode(owner.inode);
        match filter.listed_pids() {
            Some(mut pids) => {
                pids.retain(|&pid| filter.admits_pid(pid) && self.root.is_process(pid));
                self.owners = fds::walk(&self.root, &pids, wanted, &mut self.gaps);
            }
            None => self.walk_all(self.root.pids()?, |pid| filter.admits_pid(pid), wanted)?,
        }
        let mut unseen: HashSet<u64> = self.owners.iter().map(|owner| owner.inode).collect();
        let holders: HashSet<i32> = self.owners.iter().map(|owner| owner.pid).collect();
        self.find_namespaces(holders.iter().copied());
        let mut read = 0;
        if self.namespaces.iter().all(|namespace| namespace.number().is_some()) {
            read = self.read_namespaces(read, &mut unseen);
        }
        // Others may know the number of the holders' namespace; and a socket stays in the namespace
        // that it was made in, wherever its holder goes.
        if !unseen.is_empty() {
            let others = self.root.pids()?.into_iter().filter(|pid| !holders.contains(pid));
            self.find_namespaces(others);
            self.read_namespaces(read, &mut unseen);
        }
        Ok(self.finish())
    }

    fn find_namespaces(&mut self, pids: impl Iterator<Item = i32>) {
        for pid in pids {
            self.namespaces.add(&self.root, pid, &mut self.gaps);
        }
    }

    /// Reads the namespaces from the first one on, for the sockets in `unseen`, and takes what it
    /// finds out of there. Stops when nothing is left in it; returns how far it came.
    fn read_namespaces(&mut self, first: usize, unseen: &mut HashSet<u64>) -> usize {
        let owners: HashMap<u64, FdOwner> =
            self.owners.iter().map(|owner| (owner.inode, *owner)).collect();
        let mut read = first;
        for namespace in self.namespaces.iter().skip(first) {
            if unseen.is_empty() {
                break;
            }
            for file in files(self.filter, namespace) {
                let mut forged = Gaps::default();
                proc_net::for_each_socket(&self.root, namespace, file, &mut self.gaps, |socket| {
                    let Some(owner) = owners.get(&socket.inode) else { return };
                    if is_of_another_file(&self.root, owner, file, &mut forged) {
                        return;
                    }
                    // A line of `unix` may be forged in a path, so it ends no search.
                    if file != ProcNetFile::Unix {
                        unseen.remove(&socket.inode);
                    }
                    if self.filter.admits_socket(&socket) {
                        self.sockets.push(socket);
                    }
                });
                self.gaps.extend(forged);
            }
            read += 1;
        }
        read
    }

    /// Every socket, held or not.
    ///
    /// While the descriptors are walked, sockets come, go and change hands. So the files are read
    /// before the walk, for all that exists; and what no walked process holds must stand there
    /// still after it, or it is left out: its holder closed it, or had not got it yet, when its
    /// descriptors were read.
    fn all(mut self) -> Result<Snapshot, Error> {
        let pids = self.root.pids()?;
        self.find_namespaces(pids.iter().copied());
        let sources = self.read_all_namespaces();
        if !self.sockets.is_empty() {
            let inodes: HashSet<u64> = self.sockets.iter().map(|socket| socket.inode).collect();
            self.walk_all(pids, |_| true, |owner| inodes.contains(&owner.inode))?;
        }
        self.drop_untrue(&sources);
        Ok(self.finish())
    }

    fn read_all_namespaces(&mut self) -> Vec<Source> {
        let mut sources = Vec::new();
        for (index, namespace) in self.namespaces.iter().enumerate() {
            for file in files(self.filter, namespace) {
                let start = self.sockets.len();
                proc_net::for_each_socket(&self.root, namespace, file, &mut self.gaps, |socket| {
                    if self.filter.admits_socket(&socket) {
                        self.sockets.push(socket);
                    }
                });
                let sockets = start..self.sockets.len();
                sources.push(Source { namespace: index, file, sockets });
            }
        }
        sources
    }

    /// Walks these processes and those that were started meanwhile, since a socket may have gone
    /// from a parent that was walked too late to a child that was listed too early.
    fn walk_all(
        &mut self,
        pids: Vec<i32>,
        admits: impl Fn(i32) -> bool,
        wanted: impl Fn(&FdOwner) -> bool + Sync,
    ) -> Result<(), Error> {
        const ROUNDS: usize = 3;
        let mut walked = HashSet::new();
        let mut listed = pids;
        for _ in 0..ROUNDS {
            listed.retain(|&pid| admits(pid) && walked.insert(pid));
            if listed.is_empty() {
                break;
            }
            let mut owners = fds::walk(&self.root, &listed, &wanted, &mut self.gaps);
            self.owners.append(&mut owners);
            listed = self.root.pids()?;
        }
        Ok(())
    }

    /// Drops what has no holder and is no longer there, and what its holder says is something else.
    fn drop_untrue(&mut self, sources: &[Source]) {
        let owners: HashMap<u64, FdOwner> =
            self.owners.iter().map(|owner| (owner.inode, *owner)).collect();
        let mut untrue = vec![false; self.sockets.len()];
        for source in sources {
            let Some(sockets) = self.sockets.get(source.sockets.clone()) else { continue };
            let there = self.still_there(source, source.file, sockets, &owners);
            let twin = source.file.twin();
            let in_twin = twin.and_then(|twin| self.still_there(source, twin, sockets, &owners));
            let untrue = untrue.iter_mut().skip(source.sockets.start);
            for (socket, untrue) in sockets.iter().zip(untrue) {
                *untrue = match owners.get(&socket.inode) {
                    Some(owner) => {
                        is_of_another_file(&self.root, owner, source.file, &mut self.gaps)
                    }
                    None if socket.inode == 0 => false,
                    None => {
                        let vanished =
                            there.as_ref().is_some_and(|there| !there.contains_key(&socket.inode));
                        if vanished {
                            let socket = || format!("socket:[{}]", socket.inode);
                            self.gaps.add(GapKind::Vanished, socket);
                        }
                        let twin = in_twin.as_ref().and_then(|twin| twin.get(&socket.inode));
                        vanished || twin.is_some_and(|&twin| is_rather(socket, twin))
                    }
                };
            }
        }
        let mut untrue = untrue.into_iter();
        self.sockets.retain(|_| !untrue.next().unwrap_or(false));
    }

    /// The inodes that the file lists now where the source was read, and whether the socket has an
    /// address there; None if nobody needs to know, or it cannot be told.
    fn still_there(
        &self,
        source: &Source,
        file: ProcNetFile,
        sockets: &[Socket],
        owners: &HashMap<u64, FdOwner>,
    ) -> Option<HashMap<u64, bool>> {
        let unowned = |socket: &Socket| socket.inode != 0 && !owners.contains_key(&socket.inode);
        if !sockets.iter().any(unowned) {
            return None;
        }
        let namespace = self.namespaces.iter().nth(source.namespace)?;
        let mut there = HashMap::new();
        let mut gaps = Gaps::default();
        proc_net::for_each_socket(&self.root, namespace, file, &mut gaps, |socket| {
            there.insert(socket.inode, socket.has_address());
        });
        // A file that was not read to its end says nothing about what is not in it.
        (!gaps.has(GapKind::SocketFile)).then_some(there)
    }

    fn finish(mut self) -> Snapshot {
        self.namespaces.note_unnumbered(&self.root, &mut self.gaps);
        let owners: Owners = self.owners.into_iter().collect();
        Snapshot { sockets: self.sockets, owners, gaps: self.gaps }
    }
}

/// Whether a ping socket that stands in the files of both families, and whose holder does not say
/// which it is of, is shown as the other file has it: the one in which it has an address is right,
/// and where neither has, it is taken for one of IPv4.
fn is_rather(socket: &Socket, has_address_in_twin: bool) -> bool {
    match socket.family() {
        Family::Inet => has_address_in_twin,
        _ => !socket.has_address(),
    }
}

/// Whether the line of a file is about a socket that its holder says is none of that file's.
fn is_of_another_file(
    root: &ProcRoot,
    owner: &FdOwner,
    file: ProcNetFile,
    gaps: &mut Gaps,
) -> bool {
    let is = file.may_list_others() && fds::is_of_another_file(root, owner, file) == Some(true);
    if is && file == ProcNetFile::Unix {
        gaps.add(GapKind::Forged, || format!("socket:[{}] in {}", owner.inode, file.name()));
    }
    is
}

/// The files of a namespace that can list a socket that is asked for.
fn files(filter: &Filter, namespace: &Namespace) -> impl Iterator<Item = ProcNetFile> {
    let asked = filter.admits_net_namespace(namespace.number());
    ProcNetFile::ALL.into_iter().filter(move |&file| asked && filter.admits_file(file))
}
