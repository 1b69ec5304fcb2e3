//! Sockets and holders → rows. Pure: the result depends only on the snapshot and the filter.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;

use super::cells::Cell;
use super::columns::Field;
use super::filter::Filter;
use super::row::{Row, RowOf, RowParts, Users};
use crate::model::holders::Holder;
use crate::model::{Binding, Snapshot};
use crate::{Explanation, RowUser, Rows, User, Value};

/// The rows of a snapshot that the query selects: one for each holder of a socket, and one for each unheld
/// socket.
pub(super) struct Answer {
    snapshot: Snapshot,
    rows: Vec<Row>,
    users: Users,
    /// For each column, the function that makes its cells.
    cells: Vec<Cell>,
}

pub(super) fn correlate(snapshot: Snapshot, filter: &Filter) -> Answer {
    let mut rows = Vec::new();
    let mut alike: HashMap<u64, u32> = HashMap::new();
    let held = snapshot.holders.of_each(&snapshot.sockets);
    for (index, (socket, held)) in (0..).zip(snapshot.sockets.iter().zip(held)) {
        let holders = snapshot.holders.at(&held);
        let admitted = holders.iter().filter(|holder| filter.admits_holder(holder));
        rows.extend(admitted.map(|&Holder { pid, fd, tid, .. }| Row {
            socket: index,
            of: RowOf::Holder { pid, fd, tid },
        }));
        if holders.is_empty() && filter.admits_unheld() {
            let mut ordinal = 0;
            // Only sockets without an inode can be equal: all pending connections to a UNIX socket repeat its
            // path.
            if socket.inode == 0 {
                let count = alike.entry(IDENTITY.hash_one(socket)).or_default();
                ordinal = *count;
                *count += 1;
            }
            rows.push(Row { socket: index, of: RowOf::Unheld(ordinal) });
        }
    }
    let users = Users::new(snapshot.holders.omitted().clone());
    let cells = Field::here().iter().map(|field| field.cell()).collect();
    Answer { snapshot, rows, users, cells }
}

/// The key for the hash of rows. It is random for every process, so that a user cannot create sockets whose rows
/// have the same id.
static IDENTITY: LazyLock<RandomState> = LazyLock::new(RandomState::new);

impl Answer {
    fn parts(&self, row: usize) -> Option<RowParts<'_>> {
        let Answer { snapshot, rows, users, .. } = self;
        let row = rows.get(row)?;
        let socket = snapshot.sockets.get(usize::try_from(row.socket).ok()?)?;
        Some(RowParts { row, socket, snapshot, users })
    }

    /// One cell, of any platform's columns.
    #[cfg(test)]
    pub(super) fn value(&self, row: usize, field: Field) -> Value<'_> {
        self.parts(row).map_or(Value::Null, |parts| field.cell().of(parts))
    }
}

impl Rows for Answer {
    fn explanation(&self) -> Explanation {
        let Snapshot { plan, work, .. } = &self.snapshot;
        Explanation { plan: plan.clone(), work: work.to_string() }
    }

    fn len(&self) -> usize {
        self.rows.len()
    }

    fn id(&self, row: usize) -> i64 {
        let Some(RowParts { row, socket, .. }) = self.parts(row) else { return 0 };
        let (holder, ordinal) = match row.of {
            RowOf::Holder { pid, fd, tid } => (Some((pid, fd, tid)), 0),
            RowOf::Unheld(ordinal) => (None, ordinal),
        };
        let key = (socket.net_namespace, socket.inode);
        let hash = match &socket.binding {
            _ if socket.inode == 0 => IDENTITY.hash_one((socket, holder, ordinal)),
            // The subflows of an MPTCP connection share an inode, but each has its own endpoints. The state is not
            // hashed, since it changes.
            Binding::Inet { local, remote, state: Some(_), .. }
            | Binding::Sctp { local, remote, .. } => {
                IDENTITY.hash_one((key, socket.protocol(), local, remote, holder))
            }
            Binding::Unix { path } if socket.details.may_be_forged => {
                IDENTITY.hash_one((key, path, holder))
            }
            _ => IDENTITY.hash_one((key, socket.protocol(), socket.family(), holder)),
        };
        (hash >> 1).cast_signed()
    }

    fn cell(&self, row: usize, column: usize) -> Value<'_> {
        match (self.cells.get(column), self.parts(row)) {
            (Some(cell), Some(parts)) => cell.of(parts),
            _ => Value::Null,
        }
    }

    fn users(&self) -> Option<Vec<RowUser>> {
        let users = self.rows.iter().enumerate().map(|(index, row)| {
            let order = match row.of {
                RowOf::Holder { pid, fd, .. } => (pid, fd),
                RowOf::Unheld(_) => (i32::MAX, i32::try_from(index).unwrap_or(i32::MAX)),
            };
            let user = self.parts(index).map_or(User::of_uid(None), |parts| parts.user());
            RowUser { user, order }
        });
        Some(users.collect())
    }

    fn omitted(&self) -> Vec<(User, u64)> {
        self.users.omitted.iter().map(|(user, rows)| (*user, *rows)).collect()
    }

    fn omit(&mut self, is_omitted: &[bool]) {
        let users = self.users().unwrap_or_default();
        for (row, _) in users.iter().zip(is_omitted).filter(|(_, is_omitted)| **is_omitted) {
            *self.users.omitted.entry(row.user).or_default() += 1;
        }
        let mut is_omitted = is_omitted.iter();
        self.rows.retain(|_| !is_omitted.next().copied().unwrap_or_default());
    }
}
