//! What a socket is bound and connected to.

use super::endpoint::{Endpoint, VsockAddress};
use super::sctp_state::SctpState;
use super::tcp_state::TcpState;

/// What a socket is bound and connected to, by family.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Binding {
    /// IPv4 or IPv6.
    Inet {
        /// Whether it is of AF_INET6. On Linux so are its addresses; on macOS they are those of IPv4 if it
        /// talks IPv4, or can talk both.
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
        /// Its own address, often a pid; 0 if unbound, and for the kernel's.
        port: u32,
        remote_port: u32,
    },
    Vsock {
        local: VsockAddress,
        remote: VsockAddress,
        /// None where the system does not tell it.
        state: Option<TcpState>,
    },
    /// AF_SYSTEM, of macOS.
    System {
        /// SYSPROTO_EVENT (1) or SYSPROTO_CONTROL (2).
        protocol: u16,
        /// The name of the control; for events the vendor, class and subclass that are listened to.
        control: Box<str>,
    },
    /// PF_NDRV, of macOS: frames of an interface.
    Ndrv {
        protocol: u16,
    },
    /// Somebody holds it, and no table of the kernel has it; from what the descriptor tells.
    Unlisted {
        /// AF_*; None if the protocol's name is not known here.
        family: Option<u8>,
        /// None if the name does not tell it.
        protocol: Option<u16>,
    },
}
