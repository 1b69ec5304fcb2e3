//! The sockets that certain processes hold.

use std::collections::HashSet;
use std::mem;
use std::sync::Arc;
use std::time::Instant;

use super::super::fds;
use super::super::netns::{Mark, Namespaces};
use super::super::proc_root::Process;
use super::super::recent::{Census, Lookup, Recent};
use super::super::search::Search;
use super::super::tables::{Tables, Teller, Wanted};
use super::{Scan, admitted_tables, is_admitted};
use crate::Error;
use crate::process_open_sockets::gap::Gaps;
use crate::process_open_sockets::holders::{Holder, Holders};
use crate::process_open_sockets::model::{Snapshot, Socket};

impl Scan<'_> {
    /// Sockets that some of these processes hold: descriptors first, then only the tables that can have
    /// what they hold.
    pub(in super::super) fn held(
        mut self,
        mut pids: Vec<i32>,
        recent: &Recent,
    ) -> Result<Snapshot, Error> {
        let filter = self.filter;
        pids.retain(|&pid| filter.admits_pid(pid) && self.root.is_process(pid));
        let wanted =
            |owner: &Holder| filter.admits_pid(owner.pid) && filter.admits_inode(owner.inode);
        let holdings = mem::take(&mut self.holdings);
        let walked = self.walk(&pids, wanted).into_iter();
        let owners: Holders = walked.chain(holdings.owners.iter().copied()).collect();
        let owners = owners.without(|owner, _| fds::is_handle(self.root, owner));
        let inodes = |sockets: &[Socket]| sockets.iter().map(|socket| socket.inode).collect();
        let (whole, part): (HashSet<u64>, HashSet<u64>) =
            (inodes(&holdings.whole), inodes(&holdings.part));
        let sought = owners.iter().filter(|owner| !whole.contains(&owner.inode));
        let sought: Holders = sought.copied().collect();
        let mut search = Search::of(self.root, &sought, |table| is_admitted(filter, table));
        let mut lookup = recent.look_up(filter.is_lookup());
        if let Some(lookup) = lookup.as_ref().filter(|lookup| !lookup.tables().is_empty()) {
            // Of a socket that may have several rows, some may be newer than what was kept.
            search.ask_for_missing();
            self.recall(lookup, &mut search);
        }
        let namespaces = if search.is_over() {
            Arc::default()
        } else {
            self.find_held(&sought, &mut search, lookup.as_mut())?
        };
        if filter.admits_unlisted() {
            let mut missing = search.missing();
            missing.retain(|inode| !part.contains(inode));
            self.add_unlisted(&namespaces, missing, &owners);
        }
        self.add_told(holdings, &owners);
        Ok(self.finish(&namespaces, owners))
    }

    /// Takes what was read a moment ago.
    fn recall(&mut self, lookup: &Lookup, search: &mut Search) {
        for kept in lookup.tables() {
            if kept.teller.may_be_deceived_about(kept.table) {
                continue;
            }
            for inode in search.missing_in(kept.table) {
                for socket in kept.of(inode) {
                    if search.finds(socket, kept.table, kept.teller, &mut self.gaps) {
                        self.sockets.push(socket.clone());
                    }
                }
            }
        }
        search.end_of_namespace();
    }

    /// Reads the tables of the holders' namespaces, and then, if something is still missing, those of
    /// all others. Returns the namespaces that it came upon.
    fn find_held(
        &mut self,
        owners: &Holders,
        search: &mut Search,
        mut lookup: Option<&mut Lookup>,
    ) -> Result<Arc<Namespaces>, Error> {
        let holders: HashSet<i32> = owners.iter().map(|owner| owner.pid).collect();
        let mut namespaces = Namespaces::default();
        let mut searched = HashSet::new();
        self.find_namespaces(&mut namespaces, holders.iter().copied());
        if namespaces.iter().all(|namespace| namespace.number().is_some()) {
            self.search_namespaces(&namespaces, &mut searched, search, lookup.as_deref_mut());
        }
        // Others may know the number of the holders' namespace; and a socket stays in the namespace
        // that it was made in, wherever its holder goes.
        if !search.is_over() {
            search.ask_for_missing();
        }
        if search.is_over() {
            return Ok(Arc::new(namespaces));
        }
        let lookup = lookup.filter(|lookup| lookup.is_one_of_many());
        if let Some(lookup) = lookup {
            if let Some(census) = lookup.census.clone() {
                if census.has_all(&search.missing_anywhere()) {
                    let namespaces = Arc::clone(&census.namespaces);
                    self.search_namespaces(&namespaces, &mut searched, search, Some(lookup));
                    return Ok(namespaces);
                }
                return self.search_everywhere(namespaces, searched, search, Some(lookup));
            }
            let taken = Instant::now();
            let inodes = self.count_sockets()?;
            let pids = self.root.pids()?;
            self.find_namespaces(&mut namespaces, pids.iter().copied());
            self.find_unusual_namespaces(&mut namespaces, &pids);
            let namespaces = Arc::new(namespaces);
            self.search_namespaces(&namespaces, &mut searched, search, Some(&mut *lookup));
            lookup.keep_census(Census { taken, inodes, namespaces: Arc::clone(&namespaces) });
            return Ok(namespaces);
        }
        self.search_everywhere(namespaces, searched, search, None)
    }

    /// The inodes of what is held now, in order, but for what processes hold that have so many descriptors
    /// that it would take long.
    fn count_sockets(&self) -> Result<Vec<u64>, Error> {
        const MANY: i64 = 1024;
        // Before Linux 6.2 the size is 0.
        let has_few = |process: Process| process.stat("fd").is_ok_and(|fd| fd.st_size <= MANY);
        let mut pids = self.root.pids()?;
        pids.retain(|&pid| self.root.process(pid).is_ok_and(has_few));
        // Who is not asked for is no gap.
        let mut gaps = Gaps::default();
        let walked = fds::walk(self.root, &pids, self.options.threads, |_| true, &mut gaps);
        let mut inodes: Vec<u64> = walked.iter().map(|owner| owner.inode).collect();
        inodes.sort_unstable();
        inodes.dedup();
        Ok(inodes)
    }

    /// Searches all namespaces that are not among these that were searched.
    fn search_everywhere(
        &mut self,
        mut namespaces: Namespaces,
        mut searched: HashSet<Mark>,
        search: &mut Search,
        mut lookup: Option<&mut Lookup>,
    ) -> Result<Arc<Namespaces>, Error> {
        let pids = self.root.pids()?;
        self.find_namespaces(&mut namespaces, pids.iter().copied());
        self.search_namespaces(&namespaces, &mut searched, search, lookup.as_deref_mut());
        if !search.is_over() {
            self.find_unusual_namespaces(&mut namespaces, &pids);
            self.search_namespaces(&namespaces, &mut searched, search, lookup);
        }
        Ok(Arc::new(namespaces))
    }

    /// Searches those of these namespaces that were not searched yet, until nothing is missing.
    fn search_namespaces(
        &mut self,
        namespaces: &Namespaces,
        searched: &mut HashSet<Mark>,
        search: &mut Search,
        mut lookup: Option<&mut Lookup>,
    ) {
        let filter = self.filter;
        let mut forged = Gaps::default();
        for namespace in namespaces.iter() {
            if search.is_over() {
                break;
            }
            if !searched.insert(namespace.mark) {
                continue;
            }
            let mut tables = Tables::of(self.root, namespace, self.options.source);
            for table in admitted_tables(filter, namespace) {
                if !search.is_on_for(table) {
                    continue;
                }
                // All that the processes hold is looked for, so that the search is over as soon as
                // possible; what does not match is dropped here.
                let request = filter.whole(table);
                let claimed = &mut self.claimed;
                let mut take = |socket: &Socket, teller: Teller, search: &mut Search| {
                    let found = search.finds(socket, table, teller, &mut forged);
                    if found && teller.may_be_deceived_about(table) {
                        claimed.insert(socket.inode);
                    }
                    found && filter.admits_socket(socket)
                };
                let (sockets, gaps) = (&mut self.sockets, &mut self.gaps);
                match lookup.as_deref_mut().filter(|lookup| lookup.keeps_tables()) {
                    Some(lookup) => {
                        let start = Instant::now();
                        let mut read = Vec::new();
                        let has_inode = |socket: &Socket, _| match socket.inode {
                            0 => Wanted::No,
                            _ => Wanted::Yes,
                        };
                        let teller =
                            tables.read(table, request.as_ref(), &mut read, gaps, has_inode);
                        let found = read.iter().filter(|socket| take(socket, teller, search));
                        sockets.extend(found.cloned());
                        lookup.keep(namespace.mark, table, teller, start, read);
                    }
                    None => {
                        let wanted = |socket: &Socket, teller| {
                            let is_wanted = take(socket, teller, search);
                            match (search.is_on_for(table), is_wanted) {
                                (false, is_wanted) => Wanted::Last(is_wanted),
                                (true, true) => Wanted::Yes,
                                (true, false) => Wanted::No,
                            }
                        };
                        tables.read(table, request.as_ref(), sockets, gaps, wanted);
                    }
                }
            }
            search.end_of_namespace();
        }
        self.gaps.extend(forged);
    }
}
