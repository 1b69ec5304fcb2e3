//! Sockets and holders → rows. Pure: all it says is in the snapshot and the filter.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;

use super::Field;
use super::filter::{Filter, UNOWNED, net_namespace_text};
use super::inet_ntop::inet_ntop;
use crate::model::holders::Holder;
use crate::model::{Binding, Endpoint, Snapshot, Socket};
use crate::{Explanation, RowUser, Rows, User, Value};

/// The rows of a snapshot that are asked for, one for each holder of a socket, and one for each
/// socket that nobody holds.
pub(super) struct Answer {
    snapshot: Snapshot,
    rows: Vec<Row>,
    /// How many rows of a user are left out.
    omitted: HashMap<User, u64>,
    users: UserCache,
}

/// A row, by what it is made of: cells are made when they are asked for.
struct Row {
    /// Index into the snapshot's sockets.
    socket: u32,
    of: RowOf,
}

/// What a row is about besides the socket.
enum RowOf {
    Holder {
        pid: i32,
        fd: i32,
        /// None where it is the process's own table of descriptors.
        tid: Option<i32>,
    },
    /// No holder, and that many rows before it are the same in every cell.
    Unheld(u32),
}

pub(super) fn correlate(snapshot: Snapshot, filter: &Filter) -> Answer {
    let mut rows = Vec::new();
    let mut alike: HashMap<u64, u32> = HashMap::new();
    let held = snapshot.holders.of_each(&snapshot.sockets);
    for (index, (socket, held)) in (0..).zip(snapshot.sockets.iter().zip(held)) {
        let holders = snapshot.holders.at(&held);
        let asked = holders.iter().filter(|holder| filter.admits_holder(holder));
        rows.extend(asked.map(|&Holder { pid, fd, tid, .. }| Row {
            socket: index,
            of: RowOf::Holder { pid, fd, tid },
        }));
        if holders.is_empty() && filter.admits_unowned() {
            let mut ordinal = 0;
            // Only without an inode can two sockets be alike: pending connections to one UNIX
            // socket all repeat its path.
            if socket.inode == 0 {
                let count = alike.entry(IDENTITY.hash_one(socket)).or_default();
                ordinal = *count;
                *count += 1;
            }
            rows.push(Row { socket: index, of: RowOf::Unheld(ordinal) });
        }
    }
    let omitted = snapshot.holders.omitted().clone();
    Answer { snapshot, rows, omitted, users: UserCache::default() }
}

/// The users of processes, each read once.
#[derive(Default)]
struct UserCache(RefCell<HashMap<i32, User>>);

/// The key under which rows are hashed to numbers: another in every process, so that nobody can
/// make sockets whose rows have the same number.
static IDENTITY: LazyLock<RandomState> = LazyLock::new(RandomState::new);

impl Answer {
    fn parts(&self, row: usize) -> Option<(&Row, &Socket)> {
        let row = self.rows.get(row)?;
        Some((row, self.snapshot.sockets.get(usize::try_from(row.socket).ok()?)?))
    }

    /// The user of the holder; without one, of the socket.
    fn user(&self, row: &Row, socket: &Socket) -> User {
        let of_socket = || User::of_uid(socket.details.uid);
        match row.of {
            RowOf::Unheld(_) => of_socket(),
            RowOf::Holder { pid, .. } => {
                let read = || self.snapshot.uids.real_uid(pid).map(|uid| User::of_uid(Some(uid)));
                let mut users = self.users.0.borrow_mut();
                *users.entry(pid).or_insert_with(|| read().unwrap_or_else(of_socket))
            }
        }
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
        let Some((row, socket)) = self.parts(row) else { return 0 };
        let (holder, ordinal) = match row.of {
            RowOf::Holder { pid, fd, tid } => (Some((pid, fd, tid)), 0),
            RowOf::Unheld(ordinal) => (None, ordinal),
        };
        let key = (socket.net_namespace, socket.inode);
        let hash = match &socket.binding {
            _ if socket.inode == 0 => IDENTITY.hash_one((socket, holder, ordinal)),
            // The subflows of an MPTCP connection share an inode, and each has its own ends. The state
            // is left out, since it changes.
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
        Field::ALL.get(column).map_or(Value::Null, |&field| self.value(row, field))
    }

    fn users(&self) -> Option<Vec<RowUser>> {
        let users = self.rows.iter().enumerate().map(|(index, row)| {
            let order = match row.of {
                RowOf::Holder { pid, fd, .. } => (pid, fd),
                RowOf::Unheld(_) => (i32::MAX, i32::try_from(index).unwrap_or(i32::MAX)),
            };
            let socket = self.parts(index).map(|(_, socket)| socket);
            let user = socket.map_or(User::of_uid(None), |socket| self.user(row, socket));
            RowUser { user, order }
        });
        Some(users.collect())
    }

    fn omitted(&self) -> Vec<(User, u64)> {
        self.omitted.iter().map(|(user, rows)| (*user, *rows)).collect()
    }

    fn omit(&mut self, is_omitted: &[bool]) {
        let users = self.users().unwrap_or_default();
        for (row, _) in users.iter().zip(is_omitted).filter(|(_, is_omitted)| **is_omitted) {
            *self.omitted.entry(row.user).or_default() += 1;
        }
        let mut is_omitted = is_omitted.iter();
        self.rows.retain(|_| !is_omitted.next().copied().unwrap_or_default());
    }
}

impl Answer {
    /// One cell, of any platform's columns.
    pub(super) fn value(&self, row: usize, field: Field) -> Value<'_> {
        let Some((row, socket)) = self.parts(row) else { return Value::Null };
        let darwin = || self.snapshot.darwin.get(usize::try_from(row.socket).ok()?);
        let address = |endpoint: Option<Endpoint>| {
            text(endpoint.map_or_else(String::new, |endpoint| inet_ntop(endpoint.address)))
        };
        let details = &socket.details;
        match field {
            Field::Pid => match row.of {
                RowOf::Holder { pid, .. } => Value::Integer(pid.into()),
                RowOf::Unheld(_) => Value::Integer(UNOWNED),
            },
            Field::Fd => match row.of {
                RowOf::Holder { fd, .. } => Value::Integer(fd.into()),
                RowOf::Unheld(_) => Value::Integer(UNOWNED),
            },
            Field::Socket => Value::Integer(socket.inode.cast_signed()),
            Field::Family => number(socket.family()),
            Field::Protocol => number(socket.protocol()),
            Field::LocalAddress => match socket.binding {
                Binding::Vsock { local, .. } => text(local.cid.to_string()),
                _ => address(socket.local()),
            },
            Field::RemoteAddress => match socket.binding {
                Binding::Vsock { remote, .. } => text(remote.cid.to_string()),
                _ => address(socket.remote()),
            },
            Field::LocalPort => Value::Integer(socket.local_port().into()),
            Field::RemotePort => Value::Integer(socket.remote_port().into()),
            Field::Path => match &socket.binding {
                Binding::Unix { path, .. } => Value::Text(String::from_utf8_lossy(path)),
                _ => Value::Text("".into()),
            },
            Field::State => Value::Text(socket.state().into()),
            Field::NetNamespace => text(net_namespace_text(socket.net_namespace)),
            Field::Tid => match row.of {
                RowOf::Holder { pid, tid, .. } => Value::Integer(tid.unwrap_or(pid).into()),
                RowOf::Unheld(_) => Value::Null,
            },
            Field::OwnerUnknown => match row.of {
                RowOf::Holder { .. } => Value::Text("".into()),
                RowOf::Unheld(_) => {
                    let unknown = self.snapshot.owner_unknown(row.socket, socket);
                    Value::Text(unknown.name().into())
                }
            },
            Field::Type => number(Some(details.kind).filter(|&kind| kind != 0)),
            Field::Uid => number(details.uid),
            Field::PeerSocket => {
                let handle = || Some(darwin()?.peer?.get().cast_signed());
                number(details.peer.map(|inode| inode.get().into()).or_else(handle))
            }
            Field::RxQueue => number(details.receive_queue),
            Field::TxQueue => number(details.send_queue),
            Field::Interface => {
                let interface = details.interface.as_deref();
                let name = interface.and_then(|interface| interface.name.as_deref());
                Value::Text(name.unwrap_or_default().into())
            }
            Field::CgroupPath => {
                let path = details.cgroup.and_then(|inode| self.snapshot.cgroups.get(&inode));
                Value::Text(String::from_utf8_lossy(path.map(|path| &**path).unwrap_or_default()))
            }
            Field::Scope => {
                let both = socket.net_namespace.zip(self.snapshot.host);
                number(both.map(|(namespace, host)| namespace == host))
            }
            Field::Descriptors => match row.of {
                RowOf::Holder { pid, fd, tid } => {
                    let holder = Holder { inode: socket.inode, pid, fd, tid };
                    Value::Integer(self.snapshot.holders.descriptors(&holder).into())
                }
                RowOf::Unheld(_) => Value::Null,
            },
            Field::RowsOmitted if self.omitted.is_empty() => Value::Integer(0),
            Field::RowsOmitted => {
                let omitted = self.omitted.get(&self.user(row, socket)).copied();
                Value::Integer(omitted.unwrap_or_default().cast_signed())
            }
            Field::LastPid => number(darwin().and_then(|darwin| darwin.last_pid)),
            Field::Control => match &socket.binding {
                Binding::System { control, .. } => Value::Text((&**control).into()),
                _ => Value::Text("".into()),
            },
        }
    }
}

fn text(text: String) -> Value<'static> {
    Value::Text(text.into())
}

fn number(number: Option<impl Into<i64>>) -> Value<'static> {
    number.map_or(Value::Null, |number| Value::Integer(number.into()))
}
