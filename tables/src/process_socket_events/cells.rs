//! The cells of a row: a function for each column.

use std::borrow::Cow;

use super::event::{Event, Process, Status};
use crate::Value;
use crate::formats::linux::container_cgroup;
use crate::formats::linux::errno_name::errno_name;
use crate::inet_ntop::inet_ntop;
use crate::model::{Container, Endpoint, Family};

/// The function that makes the cells of a column.
pub(super) type Cell = fn(&Event) -> Value<'_>;

pub(super) fn time(event: &Event) -> Value<'_> {
    Value::Integer(event.time)
}

pub(super) fn action(event: &Event) -> Value<'_> {
    Value::Text(event.action.name().into())
}

pub(super) fn status(event: &Event) -> Value<'_> {
    Value::Text(event.status.name().into())
}

pub(super) fn errno(event: &Event) -> Value<'_> {
    match (event.errno, errno_name(event.errno)) {
        (0, _) => EMPTY,
        (_, Some(name)) => Value::Text(name.into()),
        (number, None) => text(number.to_string()),
    }
}

pub(super) fn pid(event: &Event) -> Value<'_> {
    Value::Integer(event.pid().into())
}

pub(super) fn parent(event: &Event) -> Value<'_> {
    number(process(event).and_then(|process| process.parent))
}

pub(super) fn uid(event: &Event) -> Value<'_> {
    number(process(event).and_then(|process| process.uid))
}

pub(super) fn gid(event: &Event) -> Value<'_> {
    number(process(event).and_then(|process| process.gid))
}

pub(super) fn process_name(event: &Event) -> Value<'_> {
    bytes(process(event).map(Process::name))
}

pub(super) fn process_path(event: &Event) -> Value<'_> {
    bytes(process(event).map(|process| process.image.path()))
}

pub(super) fn process_cmdline(event: &Event) -> Value<'_> {
    bytes(process(event).map(|process| process.image.cmdline()))
}

pub(super) fn fd(event: &Event) -> Value<'_> {
    Value::Integer(event.fd.unwrap_or(-1).into())
}

pub(super) fn socket(event: &Event) -> Value<'_> {
    Value::Integer(event.inode.cast_signed())
}

pub(super) fn family(event: &Event) -> Value<'_> {
    Value::Integer(event.ends.family.into())
}

pub(super) fn kind(event: &Event) -> Value<'_> {
    Value::Integer(event.ends.kind.into())
}

pub(super) fn protocol(event: &Event) -> Value<'_> {
    Value::Integer(event.ends.protocol.into())
}

pub(super) fn local_address(event: &Event) -> Value<'_> {
    address(event, event.ends.local)
}

pub(super) fn local_port(event: &Event) -> Value<'_> {
    Value::Integer(event.ends.local.port.into())
}

pub(super) fn remote_address(event: &Event) -> Value<'_> {
    address(event, event.ends.remote)
}

pub(super) fn remote_port(event: &Event) -> Value<'_> {
    Value::Integer(event.ends.remote.port.into())
}

pub(super) fn net_namespace(event: &Event) -> Value<'_> {
    text(event.ends.net_namespace.0.to_string())
}

pub(super) fn duration_ns(event: &Event) -> Value<'_> {
    number(event.duration_ns.map(u64::cast_signed))
}

pub(super) fn bytes_sent(event: &Event) -> Value<'_> {
    number(event.bytes.map(|bytes| bytes.sent.cast_signed()))
}

pub(super) fn bytes_received(event: &Event) -> Value<'_> {
    number(event.bytes.map(|bytes| bytes.received.cast_signed()))
}

pub(super) fn closed_by(event: &Event) -> Value<'_> {
    event.closed_by.map_or(EMPTY, |by| Value::Text(by.name().into()))
}

pub(super) fn tid(event: &Event) -> Value<'_> {
    number(process(event).and_then(|process| process.tid))
}

pub(super) fn socket_cookie(event: &Event) -> Value<'_> {
    number(event.socket.cookie().map(u64::cast_signed))
}

pub(super) fn process_cgroup_path(event: &Event) -> Value<'_> {
    let cgroup = process(event).and_then(|process| process.cgroup.as_ref());
    bytes(cgroup.map(|cgroup| cgroup.path()))
}

pub(super) fn container_id(event: &Event) -> Value<'_> {
    container_of(process(event)).id.map_or(EMPTY, |id| text(id.into()))
}

pub(super) fn pod_uid(event: &Event) -> Value<'_> {
    container_of(process(event)).pod_uid.map_or(EMPTY, |uid| text(uid.into()))
}

pub(super) fn attribution(event: &Event) -> Value<'_> {
    Value::Text(event.attribution.name().into())
}

pub(super) fn success(event: &Event) -> Value<'_> {
    match event.status {
        Status::Succeeded => Value::Integer(1),
        Status::Failed => Value::Integer(0),
        Status::InProgress => Value::Null,
    }
}

pub(super) fn ntime(event: &Event) -> Value<'_> {
    text(event.boot_ns.to_string())
}

pub(super) fn uptime(event: &Event) -> Value<'_> {
    Value::Integer((event.boot_ns / 1_000_000_000).cast_signed())
}

pub(super) fn eid(event: &Event) -> Value<'_> {
    Value::Integer(event.id.cast_signed())
}

pub(super) const EMPTY: Value<'static> = Value::Text(Cow::Borrowed(""));

fn process(event: &Event) -> Option<&Process> {
    event.process.as_deref()
}

/// The container of the process. On hosts with control groups of version 1, only `/proc` names it.
pub(super) fn container_of(process: Option<&Process>) -> Container {
    let Some(process) = process else { return Container::default() };
    let by_event = process.cgroup.as_ref().map(|cgroup| container_cgroup::container(cgroup.path()));
    match by_event {
        Some(container) if container.id.is_some() || container.pod_uid.is_some() => container,
        _ => process.image.container().clone(),
    }
}

pub(super) fn bytes(bytes: Option<&[u8]>) -> Value<'_> {
    Value::Text(String::from_utf8_lossy(bytes.unwrap_or_default()))
}

pub(super) fn text(text: String) -> Value<'static> {
    Value::Text(text.into())
}

pub(super) fn number(number: Option<impl Into<i64>>) -> Value<'static> {
    number.map_or(Value::Null, |number| Value::Integer(number.into()))
}

/// The address of an IP socket. A packet socket has none.
fn address(event: &Event, endpoint: Endpoint) -> Value<'static> {
    if event.ends.family == Family::Packet as u16 {
        return EMPTY;
    }
    text(inet_ntop(endpoint.address))
}
