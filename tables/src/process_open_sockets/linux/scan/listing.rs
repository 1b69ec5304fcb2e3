//! The first read of the socket tables, before the holders are read.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use super::Scan;
use crate::linux::netns::{Namespace, Namespaces, NetnsKey, Sessions, SocketSource};
use crate::model::report::Report;
use crate::model::socket_table::SocketTable;
use crate::model::{NetNamespace, Socket};

/// Sockets, in the order of their tables.
#[derive(Debug, Default)]
pub(super) struct Listing {
    pub(super) sockets: Vec<Socket>,
    pub(super) runs: Vec<Run>,
    read: HashSet<NetnsKey>,
    /// If the answer has unlisted sockets: the inodes of all listed sockets,
    pub(super) listed: HashSet<u64>,
    /// and the inodes that only a spoofable record lists.
    pub(super) spoofable: HashSet<u64>,
}

/// Where a run of sockets was read.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) namespace: NetnsKey,
    pub(super) table: SocketTable,
    pub(super) source: SocketSource,
    pub(super) sockets: Range<usize>,
}

impl Listing {
    /// Whether all namespaces were read.
    pub(super) fn has_read_all(&self, namespaces: &Namespaces) -> bool {
        namespaces.iter().all(|namespace| self.read.contains(&namespace.key))
    }

    /// The inodes of sockets whose namespace has no number, each with the namespace. Spoofable records do not
    /// count.
    pub(super) fn unnumbered(&self) -> HashMap<u64, NetnsKey> {
        let of_run = |run: &Run| {
            let sockets = self.sockets.get(run.sockets.clone()).unwrap_or_default();
            let is_unnumbered = sockets.first().is_some_and(|it| it.net_namespace.is_none());
            let sockets = if is_unnumbered { sockets } else { &[] };
            let namespace = run.namespace;
            sockets.iter().map(move |socket| (socket.inode, namespace))
        };
        let is_genuine = |run: &&Run| !run.source.is_spoofable(run.table);
        let all = self.runs.iter().filter(is_genuine).flat_map(of_run);
        all.filter(|(inode, _)| *inode != 0).collect()
    }

    /// Sets the numbers of these namespaces.
    pub(super) fn set_numbers(&mut self, numbers: &HashMap<NetnsKey, NetNamespace>) {
        for run in &self.runs {
            let Some(number) = numbers.get(&run.namespace) else { continue };
            for socket in self.sockets.get_mut(run.sockets.clone()).unwrap_or_default() {
                socket.net_namespace = Some(*number);
            }
        }
    }

    /// The inodes of all sockets that have one, sorted.
    pub(super) fn inodes(&self) -> Vec<u64> {
        let mut inodes: Vec<u64> = self.sockets.iter().map(|socket| socket.inode).collect();
        inodes.retain(|&inode| inode != 0);
        inodes.sort_unstable();
        inodes
    }
}

impl Scan<'_> {
    /// Reads the tables of the reachable namespaces that were not read yet.
    pub(super) fn list_tables(
        &self,
        namespaces: &Namespaces,
        sessions: &mut Sessions,
        listing: &mut Listing,
        report: &mut Report,
    ) {
        for namespace in namespaces.iter() {
            // A process that starts later can make it reachable.
            let is_read = listing.read.contains(&namespace.key);
            if !is_read && namespace.is_reachable(self.root) {
                self.list_namespace(namespace, sessions, listing, report);
            }
        }
    }

    /// Reads the tables of all namespaces that were not read yet, and counts the unreachable ones.
    pub(super) fn list_last_tables(
        &self,
        namespaces: &Namespaces,
        sessions: &mut Sessions,
        listing: &mut Listing,
        report: &mut Report,
    ) {
        for namespace in namespaces.iter() {
            self.list_namespace(namespace, sessions, listing, report);
        }
    }

    /// Reads the tables of a namespace, unless they were read.
    pub(super) fn list_namespace(
        &self,
        namespace: &Namespace,
        sessions: &mut Sessions,
        listing: &mut Listing,
        report: &mut Report,
    ) {
        let filter = self.filter;
        if self.deadline.has_passed() {
            return;
        }
        if !listing.read.insert(namespace.key) || !self.is_admitted(namespace) {
            return;
        }
        let mut session = sessions.open(namespace);
        for &table in &self.plan.tables {
            if self.deadline.has_passed() {
                return;
            }
            let start = listing.sockets.len();
            let source = if self.plan.unlisted {
                let request = filter.full_request(table);
                let mut all = Vec::new();
                let source = session.read_all(table, request.as_ref(), &mut all, report, |_| true);
                let inodes = all.iter().map(|socket| socket.inode);
                if source.is_spoofable(table) {
                    listing.spoofable.extend(inodes);
                } else {
                    listing.listed.extend(inodes);
                }
                all.retain(|socket| filter.admits_socket(socket));
                listing.sockets.append(&mut all);
                source
            } else {
                let request = filter.request(table);
                let sockets = &mut listing.sockets;
                let admits = |socket: &Socket| filter.admits_socket(socket);
                session.read_all(table, request.as_ref(), sockets, report, admits)
            };
            let sockets = start..listing.sockets.len();
            listing.runs.push(Run { namespace: namespace.key, table, source, sockets });
        }
    }

    /// Whether the namespace can have a socket of the answer. The namespace of an unlisted socket is unknown, so
    /// all tables are read for it.
    pub(super) fn is_admitted(&self, namespace: &Namespace) -> bool {
        self.plan.unlisted || self.filter.admits_net_namespace(namespace.number())
    }
}
