//! The cells about the process that holds the socket: NULL if no process is known, or the field could not be read.

use crate::Value;
use crate::model::Process;
use crate::process_open_sockets::row::{RowOf, RowParts};

use super::number;

pub(in super::super) fn name(parts: RowParts<'_>) -> Value<'_> {
    text(parts, |process| process.name.as_deref())
}

pub(in super::super) fn path(parts: RowParts<'_>) -> Value<'_> {
    text(parts, |process| process.path.as_deref())
}

pub(in super::super) fn cmdline(parts: RowParts<'_>) -> Value<'_> {
    text(parts, |process| process.cmdline.as_deref())
}

pub(in super::super) fn parent(parts: RowParts<'_>) -> Value<'_> {
    number(process(parts).and_then(|process| process.parent))
}

pub(in super::super) fn uid(parts: RowParts<'_>) -> Value<'_> {
    number(process(parts).and_then(|process| process.uids).map(|(real, _)| real))
}

pub(in super::super) fn euid(parts: RowParts<'_>) -> Value<'_> {
    number(process(parts).and_then(|process| process.uids).map(|(_, effective)| effective))
}

pub(in super::super) fn start_time(parts: RowParts<'_>) -> Value<'_> {
    number(process(parts).and_then(|process| process.start_time))
}

pub(in super::super) fn cgroup_path(parts: RowParts<'_>) -> Value<'_> {
    text(parts, |process| process.cgroup_path.as_deref())
}

/// The process of the row.
pub(super) fn process(parts: RowParts<'_>) -> Option<&Process> {
    match parts.row.of {
        RowOf::Holder { pid, .. } => parts.snapshot.processes.get(pid),
        RowOf::Unheld(_) => None,
    }
}

fn text<'a>(parts: RowParts<'a>, of: impl Fn(&'a Process) -> Option<&'a str>) -> Value<'a> {
    process(parts).and_then(of).map_or(Value::Null, |text| Value::Text(text.into()))
}
