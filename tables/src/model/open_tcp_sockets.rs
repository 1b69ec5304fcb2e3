//! The TCP sockets of the host at one moment.

use std::collections::HashSet;

use super::net_namespace::NetNamespace;

/// The TCP sockets that exist, with or without a process that holds them.
#[derive(Debug, Default)]
pub(crate) struct OpenTcpSockets {
    /// The socket cookies.
    pub(crate) cookies: HashSet<u64>,
    /// The namespaces whose sockets are all there; None: those of every namespace are.
    pub(crate) namespaces: Option<HashSet<NetNamespace>>,
}

impl OpenTcpSockets {
    /// Whether a socket with this cookie, in this namespace, does not exist. False if that is unknown.
    pub(crate) fn lacks(&self, cookie: u64, namespace: NetNamespace) -> bool {
        let is_covered = self.namespaces.as_ref().is_none_or(|all| all.contains(&namespace));
        is_covered && !self.cookies.contains(&cookie)
    }
}
