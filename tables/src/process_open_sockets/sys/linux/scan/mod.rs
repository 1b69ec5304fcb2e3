//! One scan of the host: which sockets there are, and who holds them.

mod all;
mod held;
mod pass;
mod told;

use std::collections::{BTreeMap, HashMap, HashSet};

use self::told::Holdings;
use super::bpf::TaskFiles;
use super::netns::{Namespace, Namespaces};
use super::proc_root::ProcRoot;
use super::search::candidates;
use super::tables::{Tables, Wanted};
use super::{cgroup, fds};
use crate::process_open_sockets::filter::Filter;
use crate::process_open_sockets::gap::Gaps;
use crate::process_open_sockets::holders::{Holder, Holders};
use crate::process_open_sockets::model::{Details, Snapshot, Socket};
use crate::process_open_sockets::parse::proto_name;
use crate::process_open_sockets::socket_table::SocketTable;
use crate::process_open_sockets::{Field, Options};

pub(super) struct Scan<'a> {
    root: &'a ProcRoot,
    options: &'a Options,
    filter: &'a Filter,
    bpf: Option<&'a TaskFiles>,
    sockets: Vec<Socket>,
    holdings: Holdings,
    /// The inodes of held sockets of which somebody tells who may be deceived.
    claimed: HashSet<u64>,
    gaps: Gaps,
}

impl<'a> Scan<'a> {
    pub(super) fn new(
        root: &'a ProcRoot,
        options: &'a Options,
        filter: &'a Filter,
        bpf: Option<&'a TaskFiles>,
    ) -> Self {
        let (sockets, holdings, claimed, gaps) = Default::default();
        Scan { root, options, filter, bpf, sockets, holdings, claimed, gaps }
    }

    fn find_namespaces(&mut self, namespaces: &mut Namespaces, pids: impl Iterator<Item = i32>) {
        for pid in pids {
            namespaces.add(self.root, pid, &mut self.gaps);
        }
    }

    /// Those that no process's first thread is in.
    fn find_unusual_namespaces(&mut self, namespaces: &mut Namespaces, pids: &[i32]) {
        for &pid in pids {
            namespaces.add_threads(self.root, pid);
        }
        namespaces.add_mounted(self.root, pids.iter().copied(), &mut self.gaps);
    }

    fn walk(&mut self, pids: &[i32], wanted: impl Fn(&Holder) -> bool + Sync) -> Vec<Holder> {
        fds::walk(self.root, pids, self.options.threads, wanted, &mut self.gaps)
    }

    /// Adds rows of held sockets that no table had: with what a table says of them now, if they came
    /// into one meanwhile, and else with what their descriptors tell.
    ///
    /// Of the claimed ones a file tells that they are UNIX sockets, which is true if they are.
    fn add_unlisted(&mut self, namespaces: &Namespaces, inodes: Vec<u64>, owners: &Holders) {
        let filter = self.filter;
        // In order, so that an answer looks like the last one.
        let mut unlisted = BTreeMap::new();
        for inode in inodes {
            let told = candidates(self.root, owners.of(inode), |name, candidates| {
                let hidden = |table: SocketTable| {
                    candidates.contains(table) && !filter.admits_families_of(table)
                };
                let is_hidden = SocketTable::ALL.into_iter().any(hidden)
                    || (self.claimed.contains(&inode) && candidates.contains(SocketTable::Unix));
                (!is_hidden).then(|| (candidates, proto_name::unlisted(name)))
            });
            if let Some(told) = told.flatten() {
                unlisted.insert(inode, told);
            }
        }
        for namespace in namespaces.iter() {
            let mut tables = Tables::of(self.root, namespace, self.options.source);
            for table in admitted_tables(filter, namespace) {
                if !unlisted.values().any(|(candidates, _)| candidates.contains(table)) {
                    continue;
                }
                let request = filter.whole(table);
                let (sockets, gaps) = (&mut self.sockets, &mut self.gaps);
                tables.read(table, request.as_ref(), sockets, gaps, |socket, teller| {
                    let is_it = !teller.may_be_deceived_about(table)
                        && unlisted.remove(&socket.inode).is_some();
                    if is_it && filter.admits_socket(socket) { Wanted::Yes } else { Wanted::No }
                });
            }
        }
        let made = unlisted.into_iter().map(|(inode, (_, binding))| {
            let details = Details::default();
            Socket { inode, net_namespace: None, binding, details }
        });
        self.sockets.extend(made.filter(|socket| filter.admits_socket(socket)));
    }

    fn finish(self, namespaces: &Namespaces, owners: Holders) -> Snapshot {
        let Scan { root, filter, sockets, mut gaps, .. } = self;
        namespaces.note_unnumbered(root, &mut gaps);
        if filter.admits_unowned()
            && let Some(kind) = root.hides_processes()
        {
            gaps.add(kind, || root.path().display().to_string());
        }
        let host = if filter.shows(Field::Scope) { namespaces.host(root) } else { None };
        let cgroups = if filter.shows(Field::CgroupPath) {
            cgroup::paths(root, sockets.iter().filter_map(|socket| socket.details.cgroup))
        } else {
            HashMap::new()
        };
        Snapshot { sockets, holders: owners, gaps, host, cgroups, darwin: Vec::new() }
    }
}

/// The tables of a namespace that can have a socket that is asked for; all of them where sockets are asked
/// for that are in none.
fn admitted_tables(filter: &Filter, namespace: &Namespace) -> impl Iterator<Item = SocketTable> {
    let asked = filter.admits_unlisted() || filter.admits_net_namespace(namespace.number());
    SocketTable::ALL.into_iter().filter(move |&table| asked && is_admitted(filter, table))
}

fn is_admitted(filter: &Filter, table: SocketTable) -> bool {
    if filter.admits_unlisted() {
        filter.admits_families_of(table)
    } else {
        filter.admits_table(table)
    }
}
