//! The cells of a row, as far as they are not those of the event that ends the flow.

use super::super::cells::{EMPTY, bytes, container_of, number, text};
use super::super::event::{Attribution, EndedFlow, Event, FlowCounts, Process, UNKNOWN_PID};
use crate::Value;
use crate::model::tcp_event::{Messages, TcpCounts};

const SECOND: i64 = 1_000_000_000;

pub(super) fn start_time(event: &Event) -> Value<'_> {
    number(
        ended(event).and_then(|ended| ended.start_ns).map(|start_ns| unix_seconds(event, start_ns)),
    )
}

pub(super) fn end_time(event: &Event) -> Value<'_> {
    number(ended(event).map(|ended| unix_seconds(event, ended.end_ns)))
}

/// The UNIX second of a boot time before the event.
fn unix_seconds(event: &Event, boot_ns: u64) -> i64 {
    let before = event.boot_ns.saturating_sub(boot_ns).cast_signed();
    event.unix_ns().saturating_sub(before).div_euclid(SECOND)
}

pub(super) fn pid(event: &Event) -> Value<'_> {
    Value::Integer(event.opener().map_or(UNKNOWN_PID, |process| process.pid).into())
}

pub(super) fn uid(event: &Event) -> Value<'_> {
    number(event.opener().and_then(|process| process.uid))
}

pub(super) fn process_name(event: &Event) -> Value<'_> {
    bytes(event.opener().map(Process::name))
}

pub(super) fn process_path(event: &Event) -> Value<'_> {
    bytes(event.opener().map(|process| process.image.path()))
}

pub(super) fn process_cmdline(event: &Event) -> Value<'_> {
    bytes(event.opener().map(|process| process.image.cmdline()))
}

pub(super) fn process_cgroup_path(event: &Event) -> Value<'_> {
    bytes(event.opener().and_then(|process| process.cgroup.as_ref()).map(|cgroup| cgroup.path()))
}

pub(super) fn container_id(event: &Event) -> Value<'_> {
    container_of(event.opener()).id.map_or(EMPTY, |id| text(id.into()))
}

pub(super) fn pod_uid(event: &Event) -> Value<'_> {
    container_of(event.opener()).pod_uid.map_or(EMPTY, |uid| text(uid.into()))
}

pub(super) fn attribution(event: &Event) -> Value<'_> {
    let attribution = ended(event).map_or(Attribution::Unknown, |ended| ended.attribution);
    Value::Text(attribution.name().into())
}

pub(super) fn closer_pid(event: &Event) -> Value<'_> {
    number(closer(event).map(|process| process.pid))
}

pub(super) fn closer_name(event: &Event) -> Value<'_> {
    bytes(closer(event).map(Process::name))
}

pub(super) fn closer_path(event: &Event) -> Value<'_> {
    bytes(closer(event).map(|process| process.image.path()))
}

pub(super) fn direction(event: &Event) -> Value<'_> {
    let direction = ended(event).and_then(|ended| ended.direction);
    direction.map_or(EMPTY, |direction| Value::Text(direction.name().into()))
}

pub(super) fn result(event: &Event) -> Value<'_> {
    ended(event).map_or(EMPTY, |ended| Value::Text(ended.result.name().into()))
}

pub(super) fn messages_sent(event: &Event) -> Value<'_> {
    number(messages(event).map(|messages| messages.sent.cast_signed()))
}

pub(super) fn messages_received(event: &Event) -> Value<'_> {
    number(messages(event).map(|messages| messages.received.cast_signed()))
}

pub(super) fn bytes_retransmitted(event: &Event) -> Value<'_> {
    number(tcp(event).map(|tcp| tcp.retransmitted.cast_signed()))
}

pub(super) fn rtt_us(event: &Event) -> Value<'_> {
    number(tcp(event).and_then(|tcp| tcp.rtt_us))
}

pub(super) fn min_rtt_us(event: &Event) -> Value<'_> {
    number(tcp(event).and_then(|tcp| tcp.min_rtt_us))
}

fn ended(event: &Event) -> Option<&EndedFlow> {
    event.ended.as_deref()
}

fn closer(event: &Event) -> Option<&Process> {
    ended(event)?.closer.as_deref()
}

fn messages(event: &Event) -> Option<Messages> {
    match ended(event)?.counts {
        FlowCounts::Datagrams(counts) => Some(counts.messages),
        _ => None,
    }
}

fn tcp(event: &Event) -> Option<TcpCounts> {
    match ended(event)?.counts {
        FlowCounts::Tcp(counts) => Some(counts),
        _ => None,
    }
}
