//! The endpoints of a socket.

use std::net::IpAddr;

/// An address and a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Endpoint {
    pub(crate) address: IpAddr,
    /// A port; for raw sockets the IP protocol, for ICMP sockets the identifier.
    pub(crate) port: u16,
}

/// An address of AF_VSOCK (vsock(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct VsockAddress {
    /// The machine: 2 is the host, 4294967295 any.
    pub(crate) cid: u32,
    pub(crate) port: u32,
}
