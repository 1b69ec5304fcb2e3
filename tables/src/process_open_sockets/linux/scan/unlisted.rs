//! Held sockets that no socket table lists: never bound, or of a family without a table.

use std::collections::{BTreeMap, HashSet};

use super::super::search::candidates;
use super::Scan;
use crate::formats::linux::proto_name;
use crate::linux::netns::{Namespaces, Selection, Sessions};
use crate::model::holders::Holders;
use crate::model::report::Report;
use crate::model::socket_table::SocketTable;
use crate::model::{Details, Socket};

impl Scan<'_> {
    /// The sockets with these inodes: as a table lists them now, otherwise as their descriptors show them.
    ///
    /// `spoofable` are inodes that a spoofable record lists as UNIX sockets. The record is right if the socket is
    /// one.
    pub(super) fn unlisted(
        &self,
        inodes: Vec<u64>,
        spoofable: &HashSet<u64>,
        holders: &Holders,
        namespaces: &Namespaces,
        sessions: &mut Sessions,
        report: &mut Report,
    ) -> Vec<Socket> {
        let filter = self.filter;
        // Sorted, so that the order is the same in each answer.
        let mut unlisted = BTreeMap::new();
        for inode in inodes {
            // A scan counts that its deadline has passed when it ends.
            if self.deadline.has_passed() {
                break;
            }
            let described = candidates(self.root, holders.of(inode), |name, candidates| {
                let is_hidden = |table: SocketTable| {
                    candidates.contains(table) && !filter.admits_families_of(table)
                };
                let is_hidden = SocketTable::ALL.into_iter().any(is_hidden)
                    || (spoofable.contains(&inode) && candidates.contains(SocketTable::Unix));
                (!is_hidden).then(|| (candidates, proto_name::unlisted(name)))
            });
            if let Some(described) = described.flatten() {
                unlisted.insert(inode, described);
            }
        }
        let mut sockets = Vec::new();
        for namespace in namespaces.iter() {
            for &table in &self.plan.tables {
                if self.deadline.has_passed() {
                    break;
                }
                if !unlisted.values().any(|(candidates, _)| candidates.contains(table)) {
                    continue;
                }
                let request = filter.full_request(table);
                let mut session = sessions.open(namespace);
                session.read(table, request.as_ref(), &mut sockets, report, |socket, source| {
                    let is_found =
                        !source.is_spoofable(table) && unlisted.remove(&socket.inode).is_some();
                    if is_found && filter.admits_socket(socket) {
                        Selection::Keep
                    } else {
                        Selection::Drop
                    }
                });
            }
        }
        let made = unlisted.into_iter().map(|(inode, (_, binding))| {
            let details = Details::default();
            Socket { inode, net_namespace: None, binding, details }
        });
        sockets.extend(made.filter(|socket| filter.admits_socket(socket)));
        sockets
    }
}
