//! What a row is made of.

use std::cell::RefCell;
use std::collections::HashMap;

use crate::model::User;
use crate::model::{DarwinDetails, Snapshot, Socket};

/// A row of an answer. Its cells are made when they are asked for.
pub(super) struct Row {
    /// Index into the snapshot's sockets.
    pub(super) socket: u32,
    pub(super) of: RowOf,
}

/// What a row is about besides the socket.
#[derive(Clone, Copy)]
pub(super) enum RowOf {
    Holder {
        pid: i32,
        fd: i32,
        /// None where it is the process's own table of descriptors.
        tid: Option<i32>,
    },
    /// No holder, and that many rows before it are the same in every cell.
    Unheld(u32),
}

/// The users that rows are charged to.
pub(super) struct Users {
    /// The users of processes, each read once.
    by_pid: RefCell<HashMap<i32, User>>,
    /// How many rows of a user the answer lacks.
    pub(super) omitted: HashMap<User, u64>,
}

/// A row with all that its cells are made of.
#[derive(Clone, Copy)]
pub(super) struct RowParts<'a> {
    pub(super) row: &'a Row,
    pub(super) socket: &'a Socket,
    pub(super) snapshot: &'a Snapshot,
    pub(super) users: &'a Users,
}

impl Users {
    /// `omitted` is how many rows of each user are lacking already.
    pub(super) fn new(omitted: HashMap<User, u64>) -> Users {
        Users { by_pid: RefCell::default(), omitted }
    }
}

impl<'a> RowParts<'a> {
    /// The socket's details that macOS alone has.
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
