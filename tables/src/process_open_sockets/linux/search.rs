//! The sockets that certain descriptors hold, wherever they are listed.

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

/// What is looked for.
pub(super) struct Search<'a> {
    root: &'a ProcRoot,
    deadline: Deadline<'a>,
    owners: &'a Holders,
    /// The tables that are looked into.
    admitted: Vec<SocketTable>,
    /// By inode, the tables that may have it; None as long as its protocol was not asked for.
    missing: HashMap<u64, Option<Candidates>>,
    /// How many of these each table may have.
    counts: [usize; SocketTable::ALL.len()],
    /// Those that were found in the namespace that is being searched, and may stand there once more.
    found: HashSet<u64>,
}

/// How many sockets are asked for their protocols. It costs as much as some ten sockets of a table
/// do, so for more of them the tables are read whole.
const MOST_ASKED: usize = 32;

impl<'a> Search<'a> {
    /// For all sockets that these hold, in certain tables.
    pub(super) fn of(
        root: &'a ProcRoot,
        deadline: Deadline<'a>,
        owners: &'a Holders,
        admits: impl Fn(SocketTable) -> bool,
    ) -> Self {
        let admitted = SocketTable::ALL.into_iter().filter(|&table| admits(table)).collect();
        let (missing, counts, found) = (HashMap::new(), [0; _], HashSet::new());
        let mut search = Search { root, deadline, owners, admitted, missing, counts, found };
        for inode in owners.inodes() {
            search.missing.insert(inode, None);
            search.count(None, 1);
        }
        if search.missing.len() <= MOST_ASKED {
            search.ask_for_missing();
        }
        search
    }

    /// Asks the holders of what is missing for its protocol, so that only tables of that one are searched.
    pub(super) fn ask_for_missing(&mut self) {
        let unknown = self.missing.iter().filter(|(_, candidates)| candidates.is_none());
        let unknown: Vec<u64> = unknown.map(|(inode, _)| *inode).collect();
        for inode in unknown {
            // Without its protocol a socket is looked for in all tables, as far as these are read.
            if self.deadline.has_passed() {
                break;
            }
            let told = candidates(self.root, self.owners.of(inode), |_, candidates| candidates);
            if let Some(told) = told {
                self.count(None, -1);
                self.count(Some(told), 1);
                self.missing.insert(inode, Some(told));
            }
        }
    }

    /// Whether the table may have something that was not found yet.
    pub(super) fn is_on_for(&self, table: SocketTable) -> bool {
        self.counts.get(table as usize).is_some_and(|&count| count > 0)
    }

    /// Whether nothing is left that any table may have.
    pub(super) fn is_over(&self) -> bool {
        self.counts.iter().all(|&count| count == 0)
    }

    /// What was not found yet, and the table may have only once.
    pub(super) fn missing_in(&self, table: SocketTable) -> Vec<u64> {
        let missing = self.missing.iter().filter(|(_, candidates)| match candidates {
            Some(candidates) => candidates.contains(table) && !candidates.may_recur(),
            None => !table.may_share_inodes(),
        });
        missing.map(|(inode, _)| *inode).collect()
    }

    /// What was not found yet, and a table that is looked into may have.
    pub(super) fn missing_anywhere(&self) -> Vec<u64> {
        let may_have =
            |candidates: Candidates| self.admitted.iter().any(|&table| candidates.contains(table));
        self.missing_if(may_have)
    }

    /// What was not found.
    pub(super) fn missing(&self) -> Vec<u64> {
        self.missing_if(|_| true)
    }

    /// What was not found, and has no descriptor any more that shows its protocol.
    pub(super) fn missing_undescribed(&self) -> Vec<u64> {
        let missing = self.missing.iter().filter(|(_, candidates)| candidates.is_none());
        missing.map(|(inode, _)| *inode).collect()
    }

    fn missing_if(&self, is_such: impl Fn(Candidates) -> bool) -> Vec<u64> {
        let missing = self.missing.iter().filter(|(_, candidates)| candidates.is_none_or(&is_such));
        missing.map(|(inode, _)| *inode).collect()
    }

    /// Whether the socket, as this table has it, is one that was missing.
    pub(super) fn finds(
        &mut self,
        socket: &Socket,
        table: SocketTable,
        source: SocketSource,
        omissions: &mut Omissions,
    ) -> bool {
        let Some(&candidates) = self.missing.get(&socket.inode) else { return false };
        let is_other = match candidates {
            _ if !source.may_list_others(table) => false,
            Some(candidates) => !candidates.contains(table),
            None => is_of_another_table(self.root, self.owners.of(socket.inode), table, source),
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

    /// A socket is in one namespace: what was found there is looked for no longer.
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

/// What `read` makes of the name of the socket's protocol, and of the tables that may have such a socket;
/// None if none of the holders tells the name.
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

/// Whether what is told as this table's is about a socket that its holders say is none of it.
pub(super) fn is_of_another_table(
    root: &ProcRoot,
    holders: &[Holder],
    table: SocketTable,
    source: SocketSource,
) -> bool {
    source.may_list_others(table)
        && candidates(root, holders, |_, candidates| candidates.contains(table)) == Some(false)
}

/// Counts a socket that a file was made to tell of.
pub(super) fn note_forged(socket: &Socket, omissions: &mut Omissions) {
    if let Binding::Unix { path } = &socket.binding {
        let path = String::from_utf8_lossy(path);
        omissions.add(OmissionKind::Forged, || format!("socket:[{}], path {path:?}", socket.inode));
    }
}
