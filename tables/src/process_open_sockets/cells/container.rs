//! The cells about the container: of the process that holds the socket, or, if none is known, of the control group in
//! which the socket was created. NULL if the control group could not be read.

use crate::Value;
use crate::model::{Container, ContainerRuntime};
use crate::process_open_sockets::row::{RowOf, RowParts};

use super::process::process;

pub(in super::super) fn id(parts: RowParts<'_>) -> Value<'_> {
    text(container(parts), |container| container.id.as_deref())
}

pub(in super::super) fn runtime(parts: RowParts<'_>) -> Value<'_> {
    text(container(parts), |container| container.runtime.map(ContainerRuntime::name))
}

pub(in super::super) fn pod_uid(parts: RowParts<'_>) -> Value<'_> {
    text(container(parts), |container| container.pod_uid.as_deref())
}

fn container(parts: RowParts<'_>) -> Option<&Container> {
    match parts.row.of {
        RowOf::Holder { .. } => process(parts)?.container.as_ref(),
        RowOf::Unheld(_) => parts.snapshot.containers.get(&parts.socket.details.cgroup?),
    }
}

/// An empty text if the path names none.
fn text<'a>(
    container: Option<&'a Container>,
    of: impl Fn(&'a Container) -> Option<&'a str>,
) -> Value<'a> {
    container.map_or(Value::Null, |container| Value::Text(of(container).unwrap_or_default().into()))
}
