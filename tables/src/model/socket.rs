//! Sockets as the kernel lists them.

use std::hash::{Hash, Hasher};

use super::binding::Binding;
use super::details::Details;
use super::endpoint::Endpoint;
use super::family::Family;
use super::holder_unknown::HolderUnknown;
use super::net_namespace::NetNamespace;
use super::protocol::{IPPROTO_IP, IPPROTO_SCTP, IPPROTO_UDP, IPPROTO_UDPLITE};
use super::sctp_state::SctpState;
use super::tcp_state::TcpState;

/// A socket as one of the kernel's tables lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Socket {
    /// On Linux the socket inode, as in `socket:[inode]`; 0 if the socket has no file: TIME_WAIT, SYN_RECV, in the
    /// accept queue, orphaned. On macOS the handle by which the kernel identifies the socket to programs; 0 if
    /// there is no socket.
    pub(crate) inode: u64,
    /// None if the number of the namespace could not be read.
    pub(crate) net_namespace: Option<NetNamespace>,
    pub(crate) binding: Binding,
    pub(crate) details: Details,
}

/// The hash identifies a row. It leaves out the details, which differ between sources and change during the life of a
/// socket.
impl Hash for Socket {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.inode, self.net_namespace, &self.binding).hash(state);
    }
}

impl Socket {
    /// AF_*; None if it is unknown.
    pub(crate) fn family(&self) -> Option<u8> {
        Some(match &self.binding {
            Binding::Inet { v6, .. } => Family::of_inet(*v6) as u8,
            Binding::Sctp { local, .. } => Family::of_inet(local.address.is_ipv6()) as u8,
            Binding::Unix { .. } => Family::Unix as u8,
            Binding::Packet { .. } => Family::Packet as u8,
            Binding::Netlink { .. } => Family::Netlink as u8,
            Binding::Vsock { .. } => Family::Vsock as u8,
            Binding::System { .. } => Family::System as u8,
            Binding::Ndrv { .. } => Family::Ndrv as u8,
            Binding::Unlisted { family, .. } => return *family,
        })
    }

    /// None if it is unknown.
    pub(crate) fn protocol(&self) -> Option<u16> {
        match self.binding {
            Binding::Inet { protocol, .. }
            | Binding::Packet { protocol }
            | Binding::System { protocol, .. }
            | Binding::Ndrv { protocol } => Some(protocol),
            Binding::Sctp { .. } => Some(IPPROTO_SCTP),
            Binding::Unix { .. } | Binding::Vsock { .. } => Some(IPPROTO_IP),
            Binding::Netlink { protocol, .. } => Some(protocol.into()),
            Binding::Unlisted { protocol, .. } => protocol,
        }
    }

    /// The local address and port of an IPv4 or IPv6 socket.
    pub(crate) fn local(&self) -> Option<Endpoint> {
        match self.binding {
            Binding::Inet { local, .. } | Binding::Sctp { local, .. } => Some(local),
            _ => None,
        }
    }

    /// The remote address and port.
    pub(crate) fn remote(&self) -> Option<Endpoint> {
        match self.binding {
            Binding::Inet { remote, .. } | Binding::Sctp { remote, .. } => Some(remote),
            _ => None,
        }
    }

    /// The local port; 0 if there is none. A 32-bit port is the signed number with the same bits, to fit osquery's
    /// column.
    pub(crate) fn local_port(&self) -> i32 {
        match self.binding {
            Binding::Netlink { port, .. } => port.cast_signed(),
            Binding::Vsock { local, .. } => local.port.cast_signed(),
            _ => self.local().map_or(0, |local| local.port.into()),
        }
    }

    /// The remote port, in the same form.
    pub(crate) fn remote_port(&self) -> i32 {
        match self.binding {
            Binding::Netlink { remote_port, .. } => remote_port.cast_signed(),
            Binding::Vsock { remote, .. } => remote.port.cast_signed(),
            _ => self.remote().map_or(0, |remote| remote.port.into()),
        }
    }

    /// Whether the socket waits for peers: a listener of TCP, MPTCP, SCTP, UNIX or vsock, or a UDP socket with a port
    /// and without a peer. None if it is unknown.
    pub(crate) fn is_listening(&self) -> Option<bool> {
        let listens = Some(TcpState::Listen);
        Some(match self.binding {
            Binding::Inet { protocol: IPPROTO_UDP | IPPROTO_UDPLITE, local, remote, .. } => {
                local.port != 0 && remote.port == 0 && remote.address.is_unspecified()
            }
            Binding::Inet { state, .. } => state == listens,
            Binding::Sctp { state, .. } => state == SctpState::Endpoint(TcpState::Listen),
            Binding::Vsock { state, .. } => state == listens || self.details.listens,
            Binding::Unix { .. } => self.details.listens,
            Binding::Packet { .. }
            | Binding::Netlink { .. }
            | Binding::System { .. }
            | Binding::Ndrv { .. } => false,
            // The kernel lists every listener of TCP and UNIX, and every UDP socket with a port.
            Binding::Unlisted { family, .. } => {
                let listed = [Family::Unix, Family::Inet, Family::Inet6].map(|it| it as u8);
                return family.filter(|family| listed.contains(family)).map(|_| false);
            }
        })
    }

    /// Why no process can hold the socket; None if one can.
    pub(crate) fn why_without_file(&self) -> Option<HolderUnknown> {
        if self.inode != 0 {
            return None;
        }
        Some(match self.binding {
            Binding::Inet { state: Some(state), .. } => match state {
                TcpState::TimeWait => HolderUnknown::TimeWait,
                TcpState::SynRecv => HolderUnknown::SynRecv,
                TcpState::Established | TcpState::CloseWait => HolderUnknown::AcceptQueue,
                _ => HolderUnknown::Orphan,
            },
            Binding::Unix { .. } => HolderUnknown::AcceptQueue,
            _ => HolderUnknown::NoProcess,
        })
    }

    /// The state as osquery prints it: empty for UDP, raw and UNIX sockets, and all others without a state.
    pub(crate) fn state(&self) -> &'static str {
        match self.binding {
            Binding::Inet { state, .. } => state.map_or("", TcpState::name),
            Binding::Sctp { state, .. } => state.name(),
            Binding::Vsock { state, .. } => state.map_or("", TcpState::name),
            Binding::Packet { .. } => "NONE",
            Binding::Unix { .. }
            | Binding::Netlink { .. }
            | Binding::System { .. }
            | Binding::Ndrv { .. }
            | Binding::Unlisted { .. } => "",
        }
    }
}
