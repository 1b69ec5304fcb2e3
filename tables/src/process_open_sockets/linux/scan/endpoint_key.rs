//! Endpoints that identify the replacement of a socket.

use crate::model::{Binding, Endpoint, Socket};

/// The endpoints of a socket. If another socket in the same table of a namespace has the same ones, it has replaced
/// the socket.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum EndpointKey {
    Inet(Endpoint, Endpoint),
    Unix(Box<[u8]>),
}

impl Socket {
    /// Whether it is bound or connected to an IP address.
    pub(crate) fn has_address(&self) -> bool {
        let ends = [self.local(), self.remote()];
        ends.into_iter().flatten().any(|endpoint| !endpoint.address.is_unspecified())
    }

    /// The endpoints; None if no other socket could have the same later.
    pub(crate) fn endpoint_key(&self) -> Option<EndpointKey> {
        match &self.binding {
            Binding::Inet { local, remote, .. } | Binding::Sctp { local, remote, .. } => {
                (local.port != 0).then_some(EndpointKey::Inet(*local, *remote))
            }
            Binding::Unix { path } if !path.is_empty() => Some(EndpointKey::Unix(path.clone())),
            _ => None,
        }
    }

    /// Whether the socket has a remote port.
    pub(crate) fn is_connected(&self) -> bool {
        self.remote().is_some_and(|remote| remote.port != 0)
    }
}
