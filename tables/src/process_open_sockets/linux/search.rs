//! The search for held sockets in the socket tables.

use std::collections::{HashMap, HashSet};

use crate::deadline::Deadline;
use crate::formats::linux::proto_name::Candidates;
use crate::linux::fds;
use crate::linux::netns::SocketSource;
use crate::linux::proc_root::ProcRoot;
use crate::model::holders::{Holder, Holders};
use crate::model::omission::{OmissionKind, Omissions};
use crate::model::socket_table::SocketTable;
use crate::model::{Binding, Socket};

/// A search.
pub(super) struct Search<'a> {
    root: &'a ProcRoot,
    deadline: Deadline<'a>,
    holders: &'a Holders,
    /// The tables to search.
    admitted: Vec<SocketTable>,
    /// By inode, the tables that can list the socket; None until its protocol is read.
    missing: HashMap<u64, Option<Candidates>>,
    /// For each table, the number of missing sockets that it can list.
    counts: [usize; SocketTable::ALL.len()],
    /// Sockets that were found in the current namespace, and that it can list again.
    found: HashSet<u64>,
}

/// The maximum number of sockets whose protocols are read. One costs as much as about ten sockets of a dump,
/// so for more sockets it is cheaper to read all tables.
const MAX_PROTOCOL_READS: usize = 32;

impl<'a> Search<'a> {
    /// A search for all sockets of these holders, in the tables that `admits` accepts.
    pub(super) fn of(
        root: &'a ProcRoot,
        deadline: Deadline<'a>,
        holders: &'a Holders,
        admits: impl Fn(SocketTable) -> bool,
    ) -> Self {
        let admitted = SocketTable::ALL.into_iter().filter(|&table| admits(table)).collect();
        let (missing, counts, found) = (HashMap::new(), [0; _], HashSet::new());
        let mut search = Search { root, deadline, holders, admitted, missing, counts, found };
        for inode in holders.inodes() {
            search.missing.insert(inode, None);
            search.count(None, 1);
        }
        if search.missing.len() <= MAX_PROTOCOL_READS {
            search.find_protocols();
        }
        search
    }

    /// Reads the protocols of missing sockets from their holders, so that only the tables of these protocols
    /// are searched.
    pub(super) fn find_protocols(&mut self) {
        let unidentified = self.missing.iter().filter(|(_, candidates)| candidates.is_none());
        let unidentified: Vec<u64> = unidentified.map(|(inode, _)| *inode).collect();
        for inode in unidentified {
            // Without a protocol, the search for the socket is in all tables that are read.
            if self.deadline.has_passed() {
                break;
            }
            let candidates =
                candidates(self.root, self.holders.of(inode), |_, candidates| candidates);
            if let Some(candidates) = candidates {
                self.count(None, -1);
                self.count(Some(candidates), 1);
                self.missing.insert(inode, Some(candidates));
            }
        }
    }

    /// Whether the table can list a missing socket.
    pub(super) fn can_list_missing(&self, table: SocketTable) -> bool {
        self.counts.get(table as usize).is_some_and(|&count| count > 0)
    }

    /// Whether no table can list a missing socket.
    pub(super) fn is_over(&self) -> bool {
        self.counts.iter().all(|&count| count == 0)
    }

    /// The missing sockets that the table lists at most once.
    pub(super) fn missing_in(&self, table: SocketTable) -> Vec<u64> {
        let missing = self.missing.iter().filter(|(_, candidates)| match candidates {
            Some(candidates) => candidates.contains(table) && !candidates.may_recur(),
            None => !table.may_share_inodes(),
        });
        missing.map(|(inode, _)| *inode).collect()
    }

    /// The missing sockets that one of the tables can list.
    pub(super) fn missing_anywhere(&self) -> Vec<u64> {
        let may_have =
            |candidates: Candidates| self.admitted.iter().any(|&table| candidates.contains(table));
        self.missing_if(may_have)
    }

    /// The missing sockets.
    pub(super) fn missing(&self) -> Vec<u64> {
        self.missing_if(|_| true)
    }

    /// The missing sockets without an open descriptor that shows the protocol.
    pub(super) fn missing_undescribed(&self) -> Vec<u64> {
        let missing = self.missing.iter().filter(|(_, candidates)| candidates.is_none());
        missing.map(|(inode, _)| *inode).collect()
    }

    fn missing_if(&self, is_such: impl Fn(Candidates) -> bool) -> Vec<u64> {
        let missing = self.missing.iter().filter(|(_, candidates)| candidates.is_none_or(&is_such));
        missing.map(|(inode, _)| *inode).collect()
    }

    /// Whether the socket, as this table lists it, is a missing one.
    pub(super) fn finds(
        &mut self,
        socket: &Socket,
        table: SocketTable,
        source: SocketSource,
        omissions: &mut Omissions,
    ) -> bool {
        let Some(&candidates) = self.missing.get(&socket.inode) else { return false };
        let is_other = match candidates {
            _ if !source.has_foreign_records(table) => false,
            Some(candidates) => !candidates.contains(table),
            None => is_of_another_table(self.root, self.holders.of(socket.inode), table, source),
        };
        if is_other {
            note_forged(socket, omissions);
            return false;
        }
        if !source.is_spoofable(table) {
            if candidates.map_or(table.may_share_inodes(), Candidates::may_recur) {
                self.found.insert(socket.inode);
            } else {
                self.drop_missing(socket.inode);
            }
        }
        true
    }

    /// Ends the search of a namespace: a socket is in one namespace only, so the found ones are removed.
    pub(super) fn end_of_namespace(&mut self) {
        for inode in std::mem::take(&mut self.found) {
            self.drop_missing(inode);
        }
    }

    fn drop_missing(&mut self, inode: u64) {
        if let Some(candidates) = self.missing.remove(&inode) {
            self.count(candidates, -1);
        }
    }

    fn count(&mut self, candidates: Option<Candidates>, by: isize) {
        for &table in &self.admitted {
            if candidates.is_none_or(|candidates| candidates.contains(table))
                && let Some(count) = self.counts.get_mut(table as usize)
            {
                *count = count.saturating_add_signed(by);
            }
        }
    }
}

/// Calls `read` with the protocol name of the socket and the tables that can list it; None if no holder has
/// the name.
pub(super) fn candidates<T>(
    root: &ProcRoot,
    holders: &[Holder],
    read: impl Fn(&[u8], Candidates) -> T,
) -> Option<T> {
    const HOLDERS: usize = 3;
    holders.iter().take(HOLDERS).find_map(|holder| {
        fds::protocol_name(root, holder, |name| read(name, Candidates::of_protocol(name)))
    })
}

/// Whether a record of this table is about a socket whose protocol, read from its holders, is of another table.
pub(super) fn is_of_another_table(
    root: &ProcRoot,
    holders: &[Holder],
    table: SocketTable,
    source: SocketSource,
) -> bool {
    source.has_foreign_records(table)
        && candidates(root, holders, |_, candidates| candidates.contains(table)) == Some(false)
}

/// Counts a forged record.
pub(super) fn note_forged(socket: &Socket, omissions: &mut Omissions) {
    if let Binding::Unix { path } = &socket.binding {
        let path = String::from_utf8_lossy(path);
        omissions.add(OmissionKind::Forged, || format!("socket:[{}], path {path:?}", socket.inode));
    }
}
