//! Linux: `/proc/<pid>/fd` for who; netlink, or `/proc/<pid>/net`, for what.

#[cfg(feature = "bench")]
pub(crate) mod bench;
mod cgroup;
mod fds;
mod kcmp;
mod netns;
mod proc_net;
mod proc_root;
#[cfg(test)]
mod quiet;
mod recent;
mod search;
mod sock_diag;
mod tables;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::num::NonZero;
use std::ops::{Range, RangeInclusive};
use std::sync::LazyLock;
use std::thread;
use std::time::Instant;

use self::netns::{Namespace, Namespaces};
use self::proc_root::ProcRoot;
use self::recent::{Lookup, Recent};
use self::search::{Search, is_of_another_file, note_forged};
use self::tables::{Tables, Teller, Wanted};
use crate::Error;
use crate::process_open_sockets::filter::Filter;
use crate::process_open_sockets::model::{
    Family, FdOwner, GapKind, Gaps, Owners, Snapshot, Socket, TcpState,
};
use crate::process_open_sockets::parse::proc_net::ProcNetFile;
use crate::process_open_sockets::parse::sock_diag::Request;
use crate::process_open_sockets::{Field, Options};

/// How many threads the machine has, or as many as we are given of them.
fn cores() -> usize {
    static CORES: LazyLock<usize> =
        LazyLock::new(|| thread::available_parallelism().map_or(1, NonZero::get));
    *CORES
}

/// Collects, and remembers for a moment.
pub(crate) struct Collector {
    options: Options,
    recent: Recent,
}

impl Collector {
    /// Nothing is opened yet.
    pub(crate) fn new(options: Options) -> Self {
        let recent = Recent::new(options.snapshot_ttl);
        Collector { options, recent }
    }

    /// Collects what the filter asks for.
    pub(crate) fn collect(&self, filter: &Filter) -> Result<Snapshot, Error> {
        let scan = Scan {
            root: &ProcRoot::open(&self.options.procfs)?,
            options: &self.options,
            filter,
            namespaces: Namespaces::default(),
            sockets: Vec::new(),
            gaps: Gaps::default(),
        };
        if filter.admits_unowned() { scan.all() } else { scan.held(&self.recent) }
    }
}

struct Scan<'a> {
    root: &'a ProcRoot,
    options: &'a Options,
    filter: &'a Filter,
    namespaces: Namespaces,
    sockets: Vec<Socket>,
    gaps: Gaps,
}

/// Where a run of sockets was read.
struct Run {
    namespace: usize,
    file: ProcNetFile,
    teller: Teller,
    sockets: Range<usize>,
}

impl Scan<'_> {
    /// Sockets that somebody holds, of processes that are asked for: descriptors first, then only
    /// the tables that can list what they hold.
    fn held(mut self, recent: &Recent) -> Result<Snapshot, Error> {
        let filter = self.filter;
        let wanted =
            |owner: &FdOwner| filter.admits_owner(owner) && filter.admits_inode(owner.inode);
        let listed = filter.listed_pids();
        let owners: Owners = match listed.clone() {
            Some(mut pids) => {
                pids.retain(|&pid| filter.admits_pid(pid) && self.root.is_process(pid));
                self.walk(&pids, wanted).into_iter().collect()
            }
            None => self.walk_all(self.root.pids()?, |pid| filter.admits_pid(pid), wanted)?,
        };
        let mut search = Search::of(self.root, &owners);
        let is_lookup = listed.is_some() && filter.is_lookup();
        let mut lookup = if is_lookup { recent.look_up() } else { None };
        if let Some(lookup) = &lookup {
            self.remember(lookup, &mut search);
        }
        if !search.is_over() {
            self.find_held(&owners, &mut search, lookup.as_mut())?;
        }
        drop(lookup);
        Ok(self.finish(owners))
    }

    /// Takes what was read a moment ago.
    fn remember(&mut self, lookup: &Lookup, search: &mut Search) {
        for table in lookup.tables() {
            if table.teller.may_be_deceived_about(table.file) {
                continue;
            }
            for inode in search.missing_in(table.file) {
                for socket in table.of(inode) {
                    if search.finds(socket, table.file, table.teller, &mut self.gaps) {
                        self.sockets.push(socket.clone());
                    }
                }
            }
        }
    }

    /// Reads the tables of the holders' namespaces, and then, if something is still missing, those of
    /// all others.
    fn find_held(
        &mut self,
        owners: &Owners,
        search: &mut Search,
        mut lookup: Option<&mut Lookup>,
    ) -> Result<(), Error> {
        let holders: HashSet<i32> = owners.iter().map(|owner| owner.pid).collect();
        self.find_namespaces(holders.iter().copied());
        let mut read = 0;
        if self.namespaces.iter().all(|namespace| namespace.number().is_some()) {
            read = self.search_namespaces(read, search, lookup.as_deref_mut());
        }
        // Others may know the number of the holders' namespace; and a socket stays in the namespace
        // that it was made in, wherever its holder goes.
        if !search.is_over() {
            let pids = self.root.pids()?;
            self.find_namespaces(pids.iter().copied().filter(|pid| !holders.contains(pid)));
            read = self.search_namespaces(read, search, lookup.as_deref_mut());
            if !search.is_over() {
                self.find_unusual_namespaces(&pids);
                self.search_namespaces(read, search, lookup);
            }
        }
        Ok(())
    }

    fn find_namespaces(&mut self, pids: impl Iterator<Item = i32>) {
        for pid in pids {
            self.namespaces.add(self.root, pid, &mut self.gaps);
        }
    }

    /// Those that no process's first thread is in.
    fn find_unusual_namespaces(&mut self, pids: &[i32]) {
        for &pid in pids {
            self.namespaces.add_threads(self.root, pid);
        }
        self.namespaces.add_mounted(self.root, pids.iter().copied(), &mut self.gaps);
    }

    /// Searches the namespaces from that one on, until nothing is missing; returns the first that it
    /// left.
    fn search_namespaces(
        &mut self,
        first: usize,
        search: &mut Search,
        mut lookup: Option<&mut Lookup>,
    ) -> usize {
        let filter = self.filter;
        let mut forged = Gaps::default();
        let mut searched = first;
        for namespace in self.namespaces.iter().skip(first) {
            if search.is_over() {
                break;
            }
            let mut tables = Tables::of(self.root, namespace, self.options.source);
            for file in files(filter, namespace) {
                if !search.is_on_for(file) {
                    continue;
                }
                let mut take = |socket: &Socket, teller, search: &mut Search| {
                    let found = search.finds(socket, file, teller, &mut forged);
                    found && filter.admits_socket(socket)
                };
                if let Some(lookup) = lookup.as_deref_mut().filter(|lookup| lookup.is_one_of_many) {
                    let (start, request) = (Instant::now(), Request::like(file));
                    let mut sockets = Vec::new();
                    let has_inode = |socket: &Socket, _| match socket.inode {
                        0 => Wanted::No,
                        _ => Wanted::Yes,
                    };
                    let teller = tables.read(
                        file,
                        request.as_ref(),
                        &mut sockets,
                        &mut self.gaps,
                        has_inode,
                    );
                    let found = sockets.iter().filter(|socket| take(socket, teller, search));
                    self.sockets.extend(found.cloned());
                    lookup.keep(namespace.mark, file, teller, start, sockets);
                    continue;
                }
                // All that the listed processes hold is looked for, so that the search is over as soon
                // as possible.
                let request = match filter.listed_pids() {
                    Some(_) => Request::like(file),
                    None => filter.request(file),
                };
                let wanted = |socket: &Socket, teller| {
                    let is_wanted = take(socket, teller, search);
                    match (search.is_on_for(file), is_wanted) {
                        (false, is_wanted) => Wanted::Last(is_wanted),
                        (true, true) => Wanted::Yes,
                        (true, false) => Wanted::No,
                    }
                };
                tables.read(file, request.as_ref(), &mut self.sockets, &mut self.gaps, wanted);
            }
            searched += 1;
        }
        self.gaps.extend(forged);
        searched
    }

    /// Every socket, held or not.
    ///
    /// While the descriptors are walked, sockets come, go and change hands. So the tables are read
    /// before the walk, for all that exists; and what no walked process holds must stand there
    /// still after it, or it is left out: its holder closed it, or had not got it yet, when its
    /// descriptors were read.
    fn all(mut self) -> Result<Snapshot, Error> {
        let pids = self.root.pids()?;
        self.find_namespaces(pids.iter().copied());
        self.find_unusual_namespaces(&pids);
        let runs = self.read_all_namespaces();
        let mut inodes: Vec<u64> = self.sockets.iter().map(|socket| socket.inode).collect();
        inodes.retain(|&inode| inode != 0);
        inodes.sort_unstable();
        let mut owners = Owners::default();
        if !inodes.is_empty() {
            let wanted = |owner: &FdOwner| inodes.binary_search(&owner.inode).is_ok();
            owners = self.walk_all(pids, |_| true, wanted)?;
        }
        self.drop_untrue(&runs, &owners);
        Ok(self.finish(owners))
    }

    fn read_all_namespaces(&mut self) -> Vec<Run> {
        let filter = self.filter;
        let mut runs = Vec::new();
        for (index, namespace) in self.namespaces.iter().enumerate() {
            let mut files = files(filter, namespace).peekable();
            if files.peek().is_none() {
                continue;
            }
            let mut tables = Tables::of(self.root, namespace, self.options.source);
            for file in files {
                let start = self.sockets.len();
                let request = filter.request(file);
                let (sockets, gaps) = (&mut self.sockets, &mut self.gaps);
                let teller = tables.read_all(file, request.as_ref(), sockets, gaps, |socket| {
                    filter.admits_socket(socket)
                });
                let sockets = start..self.sockets.len();
                runs.push(Run { namespace: index, file, teller, sockets });
            }
        }
        runs
    }

    fn walk(&mut self, pids: &[i32], wanted: impl Fn(&FdOwner) -> bool + Sync) -> Vec<FdOwner> {
        fds::walk(self.root, pids, self.options.threads, wanted, &mut self.gaps)
    }

    /// Walks these processes and those that were started meanwhile, since a socket may have gone
    /// from a parent that was walked too late to a child that was listed too early.
    fn walk_all(
        &mut self,
        pids: Vec<i32>,
        admits: impl Fn(i32) -> bool,
        wanted: impl Fn(&FdOwner) -> bool + Sync,
    ) -> Result<Owners, Error> {
        const ROUNDS: usize = 3;
        let mut owners = Vec::new();
        let mut walked = HashSet::new();
        let mut listed = pids;
        for _ in 0..ROUNDS {
            listed.retain(|&pid| admits(pid) && walked.insert(pid));
            if listed.is_empty() {
                break;
            }
            owners.append(&mut self.walk(&listed, &wanted));
            listed = self.root.pids()?;
        }
        Ok(owners.into_iter().collect())
    }

    /// Drops what has no holder and is no longer there, and what its holder says is something else.
    fn drop_untrue(&mut self, runs: &[Run], owners: &Owners) {
        let held = owners.of_each(&self.sockets);
        let mut untrue = vec![false; self.sockets.len()];
        for run in runs {
            let (Some(sockets), Some(held), Some(untrue)) = (
                self.sockets.get(run.sockets.clone()),
                held.get(run.sockets.clone()),
                untrue.get_mut(run.sockets.clone()),
            ) else {
                continue;
            };
            let is_unowned =
                |(socket, held): &(&Socket, &Range<usize>)| socket.inode != 0 && held.is_empty();
            let unowned: Vec<&Socket> =
                sockets.iter().zip(held).filter(is_unowned).map(|(socket, _)| socket).collect();
            let there = self.look_again(run, run.file, &unowned);
            let twin = run.file.twin();
            let in_twin = twin.and_then(|twin| self.look_again(run, twin, &unowned));
            for ((socket, held), untrue) in sockets.iter().zip(held).zip(untrue) {
                *untrue = match owners.at(held) {
                    [] if socket.inode == 0 => false,
                    [] => {
                        let vanished =
                            there.as_ref().is_some_and(|there| !there.contains_key(&socket.inode));
                        if vanished {
                            let socket = || format!("socket:[{}]", socket.inode);
                            self.gaps.add(GapKind::Vanished, socket);
                        }
                        let twin = in_twin.as_ref().and_then(|twin| twin.get(&socket.inode));
                        vanished || twin.is_some_and(|&twin| is_rather(socket, twin))
                    }
                    holders => {
                        let is_other = is_of_another_file(self.root, holders, run.file, run.teller);
                        if is_other {
                            note_forged(socket.inode, run.file, &mut self.gaps);
                        }
                        is_other
                    }
                };
            }
        }
        let mut untrue = untrue.into_iter();
        self.sockets.retain(|_| !untrue.next().unwrap_or(false));
    }

    /// Which of these sockets of a run the file lists now, and whether each has an address there;
    /// None if there are none, or it cannot be told.
    fn look_again(
        &self,
        run: &Run,
        file: ProcNetFile,
        sockets: &[&Socket],
    ) -> Option<HashMap<u64, bool>> {
        let inodes: HashSet<u64> = sockets.iter().map(|socket| socket.inode).collect();
        if inodes.is_empty() {
            return None;
        }
        let namespace = self.namespaces.iter().nth(run.namespace)?;
        let mut tables = Tables::of(self.root, namespace, self.options.source);
        let mut there = HashMap::new();
        let mut gaps = Gaps::default();
        let mut look = |request: Option<Request>| {
            tables.read(file, request.as_ref(), &mut Vec::new(), &mut gaps, |socket, _| {
                if inodes.contains(&socket.inode) {
                    there.insert(socket.inode, socket.has_address());
                }
                if there.len() == inodes.len() { Wanted::Last(false) } else { Wanted::No }
            });
            there.len() == inodes.len()
        };
        // A port stays the same whatever becomes of the socket, and a state mostly does.
        let request = Request::like(file).map(|request| match local_ports(sockets) {
            Some(ports) => request.with_local_ports(ports),
            None => request,
        });
        let is_state = |state: TcpState| sockets.iter().any(|it| it.state() == state.name());
        let narrow = request.clone().and_then(|request| request.in_states_only(is_state));
        if !(narrow.is_some() && look(narrow)) {
            look(request);
        }
        // A table that was not read to its end says nothing about what is not in it.
        (!gaps.has(GapKind::SocketFile)).then_some(there)
    }

    fn finish(mut self, owners: Owners) -> Snapshot {
        self.namespaces.note_unnumbered(self.root, &mut self.gaps);
        let Scan { root, filter, namespaces, sockets, mut gaps, .. } = self;
        if filter.shows(Field::OwnerUnknown) && !root.shows_all_processes() {
            gaps.add(GapKind::Processes, || root.path().display().to_string());
        }
        let host = if filter.shows(Field::Scope) { namespaces.host(root) } else { None };
        let cgroups = if filter.shows(Field::CgroupPath) {
            cgroup::paths(root, sockets.iter().filter_map(|socket| socket.details.cgroup))
        } else {
            HashMap::new()
        };
        Snapshot { sockets, owners, gaps, host, cgroups }
    }
}

/// From the lowest port of these to the highest; None if one of them has no port.
fn local_ports(sockets: &[&Socket]) -> Option<RangeInclusive<u16>> {
    let ports: Option<Vec<u16>> =
        sockets.iter().map(|socket| socket.local().map(|local| local.port)).collect();
    let ports = ports?;
    Some(*ports.iter().min()?..=*ports.iter().max()?)
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

/// The files of a namespace that can list a socket that is asked for.
fn files(filter: &Filter, namespace: &Namespace) -> impl Iterator<Item = ProcNetFile> {
    let asked = filter.admits_net_namespace(namespace.number());
    ProcNetFile::ALL.into_iter().filter(move |&file| asked && filter.admits_file(file))
}
