//! The sockets that certain processes hold: a lookup reads their descriptors first, and then only the socket
//! tables that can list the held sockets.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use super::super::search::Search;
use super::super::snapshot_cache::{CacheLookup, HeldInodes, SnapshotCache};
use super::Scan;
use super::bpf_sockets::{BpfSockets, ExtendedByInode, extend};
use crate::Error;
use crate::linux::fds;
use crate::linux::netns::{Namespace, Namespaces, NetnsKey, Selection, Sessions, SocketSource};
use crate::linux::proc_root::Process;
use crate::model::holders::{Holder, HolderCollector, Holders};
use crate::model::omission::Omissions;
use crate::model::report::Report;
use crate::model::{ExtendedDetails, Snapshot, Socket};
use crate::process_open_sockets::columns::Field;

/// The maximum number of reads of a process that closes sockets before their tables are read.
const ATTEMPTS: usize = 4;

/// The result of a search in the socket tables.
#[derive(Default)]
struct Found {
    sockets: Vec<Socket>,
    namespaces: Arc<Namespaces>,
    /// Sockets that no table lists.
    missing: Vec<u64>,
    /// Unlisted sockets whose descriptors are already closed.
    closed: Vec<u64>,
    /// The inodes that only spoofable records list.
    spoofable: HashSet<u64>,
}

impl Scan<'_> {
    /// The sockets that these processes hold.
    pub(super) fn lookup(&self, pids: &[i32], cache: &SnapshotCache) -> Result<Snapshot, Error> {
        let mut report = Report::default();
        let is_selected = |&pid: &i32| self.filter.admits_pid(pid) && self.root.is_process(pid);
        if let Some(sockets) = self.read_with_bpf(Some(pids), &mut report) {
            return self.complete_bpf(sockets, Some(pids), cache, report);
        }
        let pids: Vec<i32> = pids.iter().copied().filter(is_selected).collect();
        self.walk_and_search(pids, cache, report)
    }

    /// The sockets that any process holds, with BPF.
    pub(super) fn all_held(&self, cache: &SnapshotCache) -> Result<Snapshot, Error> {
        let mut report = Report::default();
        match self.read_with_bpf(None, &mut report) {
            Some(sockets) => self.complete_bpf(sockets, None, cache, report),
            None => self.full_scan(),
        }
    }

    /// None if BPF is not used, or fails.
    fn read_with_bpf(&self, pids: Option<&[i32]>, report: &mut Report) -> Option<BpfSockets> {
        let bpf = self.plan.holders.bpf()?;
        match self.bpf_sockets(bpf, pids, report) {
            Ok(sockets) => Some(sockets),
            Err(error) => {
                report.messages.push(bpf.failure(&error));
                None
            }
        }
    }

    /// Adds the sockets that BPF cannot describe, from the tables. The holders are those of BPF.
    fn complete_bpf(
        &self,
        bpf: BpfSockets,
        pids: Option<&[i32]>,
        cache: &SnapshotCache,
        mut report: Report,
    ) -> Result<Snapshot, Error> {
        let BpfSockets {
            holders, complete, partial, undescribed, mut extended, pids: seen, ..
        } = bpf;
        // A security module can hide a process without sockets from BPF, as from /proc.
        let all = match pids {
            Some(pids) => pids.to_vec(),
            None => self.root.pids()?,
        };
        let selected: Vec<i32> =
            all.into_iter().filter(|&pid| self.filter.admits_pid(pid)).collect();
        self.count_unreadable(&selected, &seen, &mut report);
        let holders = holders.finish(|_| true);
        let mut sockets = complete;
        let mut found = Found::default();
        if !undescribed.is_empty() || !partial.is_empty() {
            let partial_inodes: HashSet<u64> = partial.iter().map(|socket| socket.inode).collect();
            let is_sought = |holder: &&Holder| {
                undescribed.contains(&holder.inode) || partial_inodes.contains(&holder.inode)
            };
            let sought: Holders = holders.iter().filter(is_sought).copied().collect();
            found = self.search(&sought, cache, &mut report)?;
            let of_partial = |socket: &Socket| {
                Some((socket.inode, ExtendedDetails::clone(socket.details.extended.as_deref()?)))
            };
            extended.extend(partial.iter().filter_map(of_partial));
            let inodes: HashSet<u64> = found.sockets.iter().map(|socket| socket.inode).collect();
            sockets.extend(partial.into_iter().filter(|socket| !inodes.contains(&socket.inode)));
            found.missing.retain(|inode| undescribed.contains(inode));
        }
        self.finish_lookup(sockets, vec![found], holders, &extended, report)
    }

    /// Reads descriptors and then the tables. If a process closed a socket before its table was read, the
    /// process is read again, since it can hold another socket now.
    fn walk_and_search(
        &self,
        mut pids: Vec<i32>,
        cache: &SnapshotCache,
        mut report: Report,
    ) -> Result<Snapshot, Error> {
        let mut all_holders = Holders::default();
        let mut all_found = Vec::new();
        let mut searched = HashSet::new();
        for _ in 0..ATTEMPTS {
            let admits = |holder: &Holder| self.filter.admits_inode(holder.inode);
            // An omission is counted once for a process.
            let mut walk_report = Report::default();
            let walked = self.walk(&pids, admits, &mut walk_report);
            report.work += walk_report.work;
            if all_found.is_empty() {
                report.omissions.extend(walk_report.omissions);
            }
            let holders = self.without_any_handle(walked);
            let is_new = |holder: &&Holder| !searched.contains(&holder.inode);
            let sought: Holders = holders.iter().filter(is_new).copied().collect();
            if !all_found.is_empty() && sought.inodes().next().is_none() {
                break;
            }
            let found = self.search(&sought, cache, &mut report)?;
            searched.extend(sought.inodes());
            let closed: HashSet<u64> = found.closed.iter().copied().collect();
            let held_closed = sought.iter().filter(|holder| closed.contains(&holder.inode));
            let again: HashSet<i32> = held_closed.map(|holder| holder.pid).collect();
            all_found.push(found);
            all_holders.merge(holders);
            if again.is_empty() || self.deadline.has_passed() {
                break;
            }
            pids = again.into_iter().collect();
        }
        let extended = ExtendedByInode::new();
        self.finish_lookup(Vec::new(), all_found, all_holders, &extended, report)
    }

    /// The holders without O_PATH handles. In a lookup a handle can be the only visible descriptor of a socket.
    fn without_any_handle(&self, walked: HolderCollector) -> Holders {
        let is_handle = |holder: &Holder| fds::is_handle(self.root, holder);
        walked.finish(|holder| !is_handle(holder)).without(|holder, _| is_handle(holder))
    }

    fn finish_lookup(
        &self,
        mut sockets: Vec<Socket>,
        found: Vec<Found>,
        holders: Holders,
        extended: &ExtendedByInode,
        mut report: Report,
    ) -> Result<Snapshot, Error> {
        let mut sessions = self.sessions();
        let mut namespaces: Arc<Namespaces> = Arc::default();
        for found in found {
            sockets.extend(found.sockets);
            // The first search finds the most namespaces.
            if namespaces.iter().next().is_none() {
                namespaces = found.namespaces;
            }
            if self.plan.unlisted {
                let (missing, spoofable) = (found.missing, &found.spoofable);
                let unlisted = self.unlisted(
                    missing,
                    spoofable,
                    &holders,
                    &namespaces,
                    &mut sessions,
                    &mut report,
                );
                sockets.extend(unlisted);
            }
        }
        extend(&mut sockets, extended);
        let named = self.name_interfaces(&mut sockets, &namespaces, &mut sessions);
        if !named || self.lacks_host(&namespaces) {
            let namespaces =
                self.all_namespaces(&holders, &mut sockets, &mut sessions, &mut report);
            return Ok(self.finish(sockets, holders, &namespaces, report));
        }
        Ok(self.finish(sockets, holders, &namespaces, report))
    }

    /// Whether the query reads the column scope, and the number of the host's namespace is unknown.
    fn lacks_host(&self, namespaces: &Namespaces) -> bool {
        self.filter.shows(Field::Scope) && namespaces.host(self.root).is_none()
    }

    /// Finds the namespaces of the holders, all others too if a socket is in one of them, and sets the names of
    /// the interfaces.
    fn all_namespaces(
        &self,
        holders: &Holders,
        sockets: &mut [Socket],
        sessions: &mut Sessions,
        report: &mut Report,
    ) -> Namespaces {
        let mut namespaces = Namespaces::default();
        let pids: HashSet<i32> = holders.iter().map(|holder| holder.pid).collect();
        let mut keep_none = |_: &Namespace, _: &mut Report| {};
        self.find_namespaces(pids.into_iter(), &mut namespaces, report, &mut keep_none);
        let named = self.name_interfaces(sockets, &namespaces, sessions);
        if !named || self.lacks_host(&namespaces) {
            let pids = self.root.pids().unwrap_or_default();
            self.find_namespaces(pids.iter().copied(), &mut namespaces, report, &mut keep_none);
            self.find_more_namespaces(&pids, &mut namespaces, report, &mut keep_none);
            self.name_interfaces(sockets, &namespaces, sessions);
        }
        namespaces
    }

    /// Searches the tables for all sockets of these holders: cached tables, then the tables of the holders'
    /// namespaces, then, if a socket is still missing, those of all others.
    fn search(
        &self,
        holders: &Holders,
        cache: &SnapshotCache,
        report: &mut Report,
    ) -> Result<Found, Error> {
        let is_admitted = |table| self.plan.tables.contains(&table);
        let mut run = SearchRun {
            scan: self,
            search: Search::of(self.root, self.deadline, holders, is_admitted),
            sessions: self.sessions(),
            lookup: cache.look_up(self.plan.uses_cache, self.filter.extended_fields()),
            searched: HashSet::new(),
            found: Found::default(),
            forged: Omissions::default(),
        };
        run.find_in_cache(report);
        if !run.search.is_over() {
            run.found.namespaces = run.find(holders, report)?;
        }
        report.omissions.extend(run.forged);
        run.found.missing = run.search.missing();
        run.found.closed = run.search.missing_undescribed();
        Ok(run.found)
    }

    /// The inodes of held sockets, sorted. Processes with many descriptors are skipped, since they take long to
    /// read.
    fn held_inodes(&self, report: &mut Report) -> Result<Vec<u64>, Error> {
        const MANY: i64 = 1024;
        // Before Linux 6.2 the size is 0.
        let has_few = |process: Process| process.stat("fd").is_ok_and(|fd| fd.st_size <= MANY);
        let mut pids = self.root.pids()?;
        pids.retain(|&pid| self.root.process(pid).is_ok_and(has_few));
        // A process that the query does not select is no omission.
        let mut discarded = Report::default();
        let walked = self.walk(&pids, |_| true, &mut discarded);
        report.work += discarded.work;
        Ok(walked.finish(|_| true).inodes().collect())
    }
}

/// A search of the socket tables, from namespace to namespace.
struct SearchRun<'s> {
    scan: &'s Scan<'s>,
    search: Search<'s>,
    sessions: Sessions<'s>,
    lookup: Option<CacheLookup<'s>>,
    searched: HashSet<NetnsKey>,
    found: Found,
    forged: Omissions,
}

impl SearchRun<'_> {
    /// Finds sockets in cached tables.
    fn find_in_cache(&mut self, report: &mut Report) {
        let Some(lookup) = self.lookup.as_ref().filter(|lookup| !lookup.tables().is_empty()) else {
            return;
        };
        // A socket that can have several records can have some that are newer than the cached table.
        self.search.find_protocols();
        for cached in lookup.tables() {
            if cached.source.is_spoofable(cached.table) {
                continue;
            }
            for inode in self.search.missing_in(cached.table) {
                for socket in cached.of(inode) {
                    let (table, source) = (cached.table, cached.source);
                    if self.search.finds(socket, table, source, &mut report.omissions) {
                        self.found.sockets.push(socket.clone());
                    }
                }
            }
        }
        self.search.end_of_namespace();
    }

    /// Searches the namespaces; returns those that were found.
    fn find(&mut self, holders: &Holders, report: &mut Report) -> Result<Arc<Namespaces>, Error> {
        let scan = self.scan;
        let pids: HashSet<i32> = holders.iter().map(|holder| holder.pid).collect();
        let mut namespaces = Namespaces::default();
        let mut visit = |namespace: &Namespace, report: &mut Report| {
            self.search_namespace(namespace, report);
        };
        scan.find_namespaces(pids.into_iter(), &mut namespaces, report, &mut visit);
        if namespaces.iter().all(|namespace| namespace.number().is_some()) {
            self.search_namespaces(&namespaces, report);
        }
        // The link of another process can show the number of the holders' namespace. And a socket stays in the
        // namespace in which it was created, although its holder can move to another.
        if !self.search.is_over() {
            self.search.find_protocols();
        }
        if self.search.is_over() {
            return Ok(Arc::new(namespaces));
        }
        let is_in_burst = self.lookup.as_ref().is_some_and(CacheLookup::is_in_burst);
        let held = self.lookup.as_ref().and_then(|lookup| lookup.held.clone());
        match held.filter(|_| is_in_burst) {
            Some(held) if held.contains_all(&self.search.missing_anywhere()) => {
                self.search_namespaces(&held.namespaces, report);
                return Ok(Arc::clone(&held.namespaces));
            }
            Some(_) => {}
            None if is_in_burst => return self.find_held(namespaces, report),
            None => {}
        }
        self.search_all_namespaces(&mut namespaces, report)?;
        Ok(Arc::new(namespaces))
    }

    /// Searches all namespaces, and caches them with the inodes of all held sockets: the next lookups of the
    /// burst search only these namespaces for these sockets.
    fn find_held(
        &mut self,
        mut namespaces: Namespaces,
        report: &mut Report,
    ) -> Result<Arc<Namespaces>, Error> {
        let scan = self.scan;
        let start = Instant::now();
        let inodes = scan.held_inodes(report)?;
        let pids = scan.root.pids()?;
        let mut visit = |namespace: &Namespace, report: &mut Report| {
            self.search_namespace(namespace, report);
        };
        scan.find_namespaces(pids.iter().copied(), &mut namespaces, report, &mut visit);
        scan.find_more_namespaces(&pids, &mut namespaces, report, &mut visit);
        let namespaces = Arc::new(namespaces);
        self.search_namespaces(&namespaces, report);
        // If a namespace was not read, the next lookups must search it.
        let has_all = !report.omissions.has_missing_namespaces()
            && !report.omissions.has_missing_sockets()
            && scan.root.steps().skipped().is_empty()
            && scan.root.without_descriptor() == 0
            && !scan.deadline.has_passed();
        if let Some(lookup) = self.lookup.as_mut().filter(|_| has_all) {
            let namespaces = Arc::clone(&namespaces);
            lookup.insert_held(HeldInodes { start, inodes, namespaces });
        }
        Ok(namespaces)
    }

    /// Searches the namespaces of all processes, and, if a socket is still missing, all others.
    fn search_all_namespaces(
        &mut self,
        namespaces: &mut Namespaces,
        report: &mut Report,
    ) -> Result<(), Error> {
        let scan = self.scan;
        let pids = scan.root.pids()?;
        let mut visit = |namespace: &Namespace, report: &mut Report| {
            self.search_namespace(namespace, report);
        };
        scan.find_namespaces(pids.iter().copied(), namespaces, report, &mut visit);
        self.search_namespaces(namespaces, report);
        if !self.search.is_over() {
            let mut visit = |namespace: &Namespace, report: &mut Report| {
                self.search_namespace(namespace, report);
            };
            scan.find_more_namespaces(&pids, namespaces, report, &mut visit);
            self.search_namespaces(namespaces, report);
        }
        Ok(())
    }

    fn search_namespaces(&mut self, namespaces: &Namespaces, report: &mut Report) {
        for namespace in namespaces.iter() {
            self.search_namespace(namespace, report);
        }
    }

    /// Searches a namespace, unless it was searched already or no socket is missing.
    fn search_namespace(&mut self, namespace: &Namespace, report: &mut Report) {
        let scan = self.scan;
        if self.search.is_over()
            || !self.searched.insert(namespace.key)
            || !scan.is_admitted(namespace)
        {
            return;
        }
        let SearchRun { search, sessions, lookup, found, forged, .. } = self;
        let mut session = sessions.open(namespace);
        for &table in &scan.plan.tables {
            if !search.can_list_missing(table) {
                continue;
            }
            // The search ends when all held sockets are found, so it must find those too that do not match.
            // They are dropped here.
            let request = scan.filter.full_request(table);
            let spoofable = &mut found.spoofable;
            let mut take = |socket: &Socket, source: SocketSource, search: &mut Search| {
                let is_found = search.finds(socket, table, source, forged);
                if is_found && source.is_spoofable(table) {
                    spoofable.insert(socket.inode);
                }
                is_found && scan.filter.admits_socket(socket)
            };
            let sockets = &mut found.sockets;
            match lookup.as_mut().filter(|lookup| lookup.caches_tables()) {
                Some(lookup) => {
                    let start = Instant::now();
                    let mut read = Vec::new();
                    let has_inode = |socket: &Socket, _| match socket.inode {
                        0 => Selection::Drop,
                        _ => Selection::Keep,
                    };
                    let source =
                        session.read(table, request.as_ref(), &mut read, report, has_inode);
                    let matching = read.iter().filter(|socket| take(socket, source, search));
                    sockets.extend(matching.cloned());
                    // An incomplete table is not cached.
                    if !scan.deadline.has_passed() {
                        lookup.insert(namespace.key, table, source, start, read);
                    }
                }
                None => {
                    let select = |socket: &Socket, source| {
                        let is_taken = take(socket, source, search);
                        match (search.can_list_missing(table), is_taken) {
                            (false, is_taken) => Selection::Last(is_taken),
                            (true, true) => Selection::Keep,
                            (true, false) => Selection::Drop,
                        }
                    };
                    session.read(table, request.as_ref(), sockets, report, select);
                }
            }
        }
        search.end_of_namespace();
    }
}
