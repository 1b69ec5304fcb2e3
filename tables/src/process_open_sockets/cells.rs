//! The cells of a row: a function for each column.

pub(super) mod bytes;
pub(super) mod container;
pub(super) mod process;
pub(super) mod tcp;
pub(super) mod unix;

use std::borrow::Cow;

use super::row::{RowOf, RowParts};
use crate::Value;
use crate::inet_ntop::inet_ntop;
use crate::model::holders::Holder;
use crate::model::{Binding, Endpoint, NetNamespace, Socket};

/// The function that makes the cells of a column.
#[derive(Clone, Copy)]
pub(super) enum Cell {
    /// For columns of the socket only: the reference is passed in a register, which is faster with millions of
    /// cells.
    OfSocket(fn(&Socket) -> Value<'_>),
    /// For all other columns.
    OfRow(fn(RowParts<'_>) -> Value<'_>),
}

impl Cell {
    /// The cell of one row.
    #[inline]
    pub(super) fn of(self, parts: RowParts<'_>) -> Value<'_> {
        match self {
            Cell::OfSocket(cell) => cell(parts.socket),
            Cell::OfRow(cell) => cell(parts),
        }
    }
}

/// pid and fd of the row of an unheld socket.
pub(super) const UNHELD: i64 = -1;

pub(super) fn pid(parts: RowParts<'_>) -> Value<'_> {
    match parts.row.of {
        RowOf::Holder { pid, .. } => Value::Integer(pid.into()),
        RowOf::Unheld(_) => Value::Integer(UNHELD),
    }
}

pub(super) fn fd(parts: RowParts<'_>) -> Value<'_> {
    match parts.row.of {
        RowOf::Holder { fd, .. } => Value::Integer(fd.into()),
        RowOf::Unheld(_) => Value::Integer(UNHELD),
    }
}

pub(super) fn socket(socket: &Socket) -> Value<'_> {
    Value::Integer(socket.inode.cast_signed())
}

pub(super) fn family(socket: &Socket) -> Value<'_> {
    number(socket.family())
}

pub(super) fn protocol(socket: &Socket) -> Value<'_> {
    number(socket.protocol())
}

pub(super) fn local_address(socket: &Socket) -> Value<'_> {
    match socket.binding {
        Binding::Vsock { local, .. } => text(local.cid.to_string()),
        _ => address(socket.local()),
    }
}

pub(super) fn remote_address(socket: &Socket) -> Value<'_> {
    match socket.binding {
        Binding::Vsock { remote, .. } => text(remote.cid.to_string()),
        _ => address(socket.remote()),
    }
}

pub(super) fn local_port(socket: &Socket) -> Value<'_> {
    Value::Integer(socket.local_port().into())
}

pub(super) fn remote_port(socket: &Socket) -> Value<'_> {
    Value::Integer(socket.remote_port().into())
}

pub(super) fn path(socket: &Socket) -> Value<'_> {
    match &socket.binding {
        Binding::Unix { path } => Value::Text(String::from_utf8_lossy(path)),
        _ => EMPTY,
    }
}

pub(super) fn state(socket: &Socket) -> Value<'_> {
    Value::Text(socket.state().into())
}

pub(super) fn net_namespace(socket: &Socket) -> Value<'_> {
    text(net_namespace_text(socket.net_namespace))
}

/// The cell that shows a network namespace.
pub(super) fn net_namespace_text(namespace: Option<NetNamespace>) -> String {
    namespace.map_or_else(String::new, |NetNamespace(number)| number.to_string())
}

pub(super) fn tid(parts: RowParts<'_>) -> Value<'_> {
    match parts.row.of {
        RowOf::Holder { pid, tid, .. } => Value::Integer(tid.unwrap_or(pid).into()),
        RowOf::Unheld(_) => Value::Null,
    }
}

pub(super) fn holder_unknown(parts: RowParts<'_>) -> Value<'_> {
    match parts.row.of {
        RowOf::Holder { .. } => EMPTY,
        RowOf::Unheld(_) => {
            let unknown = parts.snapshot.holder_unknown(parts.row.socket, parts.socket);
            Value::Text(unknown.name().into())
        }
    }
}

pub(super) fn socket_type(socket: &Socket) -> Value<'_> {
    number(Some(socket.details.kind).filter(|&kind| kind != 0))
}

pub(super) fn socket_uid(socket: &Socket) -> Value<'_> {
    number(socket.details.uid)
}

/// On Linux an inode, on macOS a handle.
pub(super) fn peer_socket(parts: RowParts<'_>) -> Value<'_> {
    let handle = || Some(parts.darwin()?.peer?.get().cast_signed());
    number(parts.socket.details.peer.map(|inode| inode.get().into()).or_else(handle))
}

pub(super) fn rx_queue(socket: &Socket) -> Value<'_> {
    number(socket.details.receive_queue)
}

pub(super) fn tx_queue(socket: &Socket) -> Value<'_> {
    number(socket.details.send_queue)
}

pub(super) fn bound_interface(socket: &Socket) -> Value<'_> {
    let interface = socket.details.interface();
    let name = interface.and_then(|interface| interface.name.as_deref());
    Value::Text(name.unwrap_or_default().into())
}

pub(super) fn socket_cgroup_path(parts: RowParts<'_>) -> Value<'_> {
    let path = parts.socket.details.cgroup.and_then(|inode| parts.snapshot.cgroups.get(&inode));
    Value::Text(String::from_utf8_lossy(path.map(|path| &**path).unwrap_or_default()))
}

pub(super) fn scope(parts: RowParts<'_>) -> Value<'_> {
    let both = parts.socket.net_namespace.zip(parts.snapshot.host);
    number(both.map(|(namespace, host)| namespace == host))
}

pub(super) fn listening(socket: &Socket) -> Value<'_> {
    number(socket.is_listening())
}

pub(super) fn net_namespace_name(parts: RowParts<'_>) -> Value<'_> {
    let names = &parts.snapshot.net_namespace_names;
    Value::Text(names.of(parts.socket.net_namespace).into())
}

/// The signed number with the same bits.
pub(super) fn socket_cookie(socket: &Socket) -> Value<'_> {
    let cookie = socket.details.extended.as_deref().and_then(|extended| extended.cookie);
    number(cookie.map(|cookie| cookie.get().cast_signed()))
}

pub(super) fn last_pid(parts: RowParts<'_>) -> Value<'_> {
    number(parts.darwin().and_then(|darwin| darwin.last_pid))
}

pub(super) fn control(socket: &Socket) -> Value<'_> {
    match &socket.binding {
        Binding::System { control, .. } => Value::Text((&**control).into()),
        _ => EMPTY,
    }
}

pub(super) fn descriptors(parts: RowParts<'_>) -> Value<'_> {
    match parts.row.of {
        RowOf::Holder { pid, fd, tid } => {
            let holder = Holder { inode: parts.socket.inode, pid, fd, tid };
            Value::Integer(parts.snapshot.holders.descriptors(&holder).into())
        }
        RowOf::Unheld(_) => Value::Null,
    }
}

pub(super) fn rows_omitted(parts: RowParts<'_>) -> Value<'_> {
    let omitted = &parts.users.omitted;
    // A user is read from /proc.
    if omitted.is_empty() {
        return Value::Integer(0);
    }
    let of_user = omitted.get(&parts.user()).copied();
    Value::Integer(of_user.unwrap_or_default().cast_signed())
}

const EMPTY: Value<'static> = Value::Text(Cow::Borrowed(""));

fn text(text: String) -> Value<'static> {
    Value::Text(text.into())
}

fn number(number: Option<impl Into<i64>>) -> Value<'static> {
    number.map_or(Value::Null, |number| Value::Integer(number.into()))
}

fn address(endpoint: Option<Endpoint>) -> Value<'static> {
    text(endpoint.map_or_else(String::new, |endpoint| inet_ntop(endpoint.address)))
}
