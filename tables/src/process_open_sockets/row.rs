//! Rows, and the users that they are charged to.

use std::cell::RefCell;
use std::collections::HashMap;

use crate::model::User;
use crate::model::{DarwinDetails, Snapshot, Socket};

/// A row of an answer. Its cells are made when they are read.
pub(super) struct Row {
    /// Index into the snapshot's sockets.
    pub(super) socket: u32,
    pub(super) of: RowOf,
}

/// The part of a row besides the socket.
#[derive(Clone, Copy)]
pub(super) enum RowOf {
    Holder {
        pid: i32,
        fd: i32,
        /// None for the file descriptor table of the process.
        tid: Option<i32>,
    },
    /// No holder. This many rows before it have the same cells.
    Unheld(u32),
}

/// The users that rows are charged to.
pub(super) struct Users {
    /// The users of processes, each read once.
    by_pid: RefCell<HashMap<i32, User>>,
    /// The number of rows of a user that the answer lacks.
    pub(super) omitted: HashMap<User, u64>,
}

/// A row, with the data for its cells.
#[derive(Clone, Copy)]
pub(super) struct RowParts<'a> {
    pub(super) row: &'a Row,
    pub(super) socket: &'a Socket,
    pub(super) snapshot: &'a Snapshot,
    pub(super) users: &'a Users,
}

impl Users {
    /// `omitted` is the number of rows of each user that are already missing.
    pub(super) fn new(omitted: HashMap<User, u64>) -> Users {
        Users { by_pid: RefCell::default(), omitted }
    }
}

impl<'a> RowParts<'a> {
    /// The details of the socket that only macOS has.
    pub(super) fn darwin(&self) -> Option<&'a DarwinDetails> {
        self.snapshot.darwin.get(usize::try_from(self.row.socket).ok()?)
    }

    /// The user of the holder; without one, of the socket.
    pub(super) fn user(&self) -> User {
        let of_socket = || User::of_uid(self.socket.details.uid);
        match self.row.of {
            RowOf::Unheld(_) => of_socket(),
            RowOf::Holder { pid, .. } => {
                let read = || self.snapshot.uids.real_uid(pid).map(|uid| User::of_uid(Some(uid)));
                let mut by_pid = self.users.by_pid.borrow_mut();
                *by_pid.entry(pid).or_insert_with(|| read().unwrap_or_else(of_socket))
            }
        }
    }
}
