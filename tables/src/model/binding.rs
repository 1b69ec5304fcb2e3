//! Endpoints and state of a socket.

use super::endpoint::{Endpoint, VsockAddress};
use super::sctp_state::SctpState;
use super::tcp_state::TcpState;

/// Endpoints and state of a socket, by family.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Binding {
    /// IPv4 or IPv6.
    Inet {
        /// Whether the family is AF_INET6. On Linux its addresses are IPv6; on macOS they are IPv4 if the socket uses
        /// IPv4 or can use both.
        v6: bool,
        /// IPPROTO_*; 255 for raw sockets, whose IP protocol is the local port; 262 is MPTCP.
        protocol: u16,
        local: Endpoint,
        remote: Endpoint,
        /// None where the protocol has no states.
        state: Option<TcpState>,
    },
    Unix {
        /// Bytes of the bound path; `@` before an abstract name; empty if unbound.
        path: Box<[u8]>,
    },
    Packet {
        /// The ethertype.
        protocol: u16,
    },
    Sctp {
        local: Endpoint,
        remote: Endpoint,
        state: SctpState,
    },
    Netlink {
        /// NETLINK_*.
        protocol: u8,
        /// The local address, often a pid; 0 for unbound sockets and those of the kernel.
        port: u32,
        remote_port: u32,
    },
    Vsock {
        local: VsockAddress,
        remote: VsockAddress,
        /// None if the system does not report it.
        state: Option<TcpState>,
    },
    /// AF_SYSTEM, of macOS.
    System {
        /// SYSPROTO_EVENT (1) or SYSPROTO_CONTROL (2).
        protocol: u16,
        /// The name of the control; for events the filter: vendor, class and subclass.
        control: Box<str>,
    },
    /// PF_NDRV, of macOS: frames of an interface.
    Ndrv {
        protocol: u16,
    },
    /// A held socket that no table of the kernel lists; the fields come from its descriptor.
    Unlisted {
        /// AF_*; None if the protocol name is unknown.
        family: Option<u8>,
        /// None if the name does not determine it.
        protocol: Option<u16>,
    },
}
