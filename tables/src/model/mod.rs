//! What the kernel's sources tell, in the kernel's terms.

mod families;
pub(crate) mod gap;
pub(crate) mod holders;
pub(crate) mod report;
pub(crate) mod socket_table;
mod source;

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::num::{NonZeroU32, NonZeroU64};

use crate::model::gap::{GapKind, Gaps};
use crate::model::holders::Holders;
use crate::model::socket_table::{
    IPPROTO_IP, IPPROTO_MPTCP, IPPROTO_RAW, IPPROTO_SCTP, IPPROTO_TCP,
};

pub use self::families::Families;
pub use self::source::Source;

/// The network namespace of a socket: the number in the link text `net:[4026531840]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct NetNamespace(pub(crate) u64);

/// An address and port as a socket has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Endpoint {
    pub(crate) address: IpAddr,
    /// A port; for raw sockets the IP protocol, for ICMP sockets the identifier.
    pub(crate) port: u16,
}

/// State of a TCP socket: `include/net/tcp_states.h` on Linux, `bsd/netinet/tcp_fsm.h` on macOS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum TcpState {
    Established,
    SynSent,
    SynRecv,
    FinWait1,
    FinWait2,
    TimeWait,
    Closed,
    CloseWait,
    LastAck,
    Listen,
    Closing,
    /// macOS alone has it (`TSI_S_RESERVED`), and does not say what for.
    Reserved,
    /// A number that this table has no name for.
    Unknown(u8),
}

/// Linux's numbers; macOS has others.
impl From<u8> for TcpState {
    fn from(number: u8) -> Self {
        match number {
            1 => TcpState::Established,
            2 => TcpState::SynSent,
            3 => TcpState::SynRecv,
            4 => TcpState::FinWait1,
            5 => TcpState::FinWait2,
            6 => TcpState::TimeWait,
            7 => TcpState::Closed,
            8 => TcpState::CloseWait,
            9 => TcpState::LastAck,
            10 => TcpState::Listen,
            11 => TcpState::Closing,
            other => TcpState::Unknown(other),
        }
    }
}

impl TcpState {
    /// The name that osquery prints.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            TcpState::Established => "ESTABLISHED",
            TcpState::SynSent => "SYN_SENT",
            TcpState::SynRecv => "SYN_RECV",
            TcpState::FinWait1 => "FIN_WAIT1",
            TcpState::FinWait2 => "FIN_WAIT2",
            TcpState::TimeWait => "TIME_WAIT",
            TcpState::Closed => "CLOSED",
            TcpState::CloseWait => "CLOSE_WAIT",
            TcpState::LastAck => "LAST_ACK",
            TcpState::Listen => "LISTEN",
            TcpState::Closing => "CLOSING",
            TcpState::Reserved => "RESERVED",
            TcpState::Unknown(_) => "UNKNOWN",
        }
    }
}

/// Address families that the table lists, with Linux's numbers (`include/linux/socket.h`), on macOS
/// too where it has the family; and those of macOS alone, with its own (`bsd/sys/socket.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub(crate) enum Family {
    Unix = 1,
    Inet = 2,
    Inet6 = 10,
    Netlink = 16,
    Packet = 17,
    Ndrv = 27,
    System = 32,
    Vsock = 40,
}

impl Family {
    fn of_inet(v6: bool) -> Family {
        if v6 { Family::Inet6 } else { Family::Inet }
    }
}

pub(crate) const SOCK_STREAM: u8 = 1;
pub(crate) const SOCK_DGRAM: u8 = 2;
pub(crate) const SOCK_RAW: u8 = 3;

/// The type of a protocol's sockets (SOCK_*), where each protocol has but one; else 0.
pub(crate) fn socket_type(protocol: u16) -> u8 {
    match protocol {
        IPPROTO_TCP | IPPROTO_MPTCP => SOCK_STREAM,
        IPPROTO_RAW => SOCK_RAW,
        IPPROTO_SCTP => 0,
        _ => SOCK_DGRAM,
    }
}

/// State of an SCTP socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum SctpState {
    /// Of an endpoint, with TCP's numbers (`enum sctp_sock_state` in `include/net/sctp/constants.h`).
    Endpoint(TcpState),
    /// Of an association: a number of `enum sctp_state` there.
    Association(u8),
}

impl SctpState {
    fn name(self) -> &'static str {
        match self {
            SctpState::Endpoint(state) => state.name(),
            SctpState::Association(0) => "CLOSED",
            SctpState::Association(1) => "COOKIE_WAIT",
            SctpState::Association(2) => "COOKIE_ECHOED",
            SctpState::Association(3) => "ESTABLISHED",
            SctpState::Association(4) => "SHUTDOWN_PENDING",
            SctpState::Association(5) => "SHUTDOWN_SENT",
            SctpState::Association(6) => "SHUTDOWN_RECEIVED",
            SctpState::Association(7) => "SHUTDOWN_ACK_SENT",
            SctpState::Association(_) => "UNKNOWN",
        }
    }
}

/// An address of AF_VSOCK (vsock(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct VsockAddress {
    /// Which machine: 2 is the host, 4294967295 any.
    pub(crate) cid: u32,
    pub(crate) port: u32,
}

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

/// What the kernel tells of a socket beyond the columns of osquery's table.
///
/// Not every source tells all: `/proc/net` knows no peers and no control groups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Details {
    /// SOCK_STREAM (1), SOCK_DGRAM (2), SOCK_RAW (3), SOCK_SEQPACKET (5), SOCK_PACKET (10); 0 if it
    /// is not known.
    pub(crate) kind: u8,
    /// Who made it. None without an inode, since the kernel then says 0 whoever it was.
    pub(crate) uid: Option<u32>,
    /// The inode of the UNIX socket at the other end, once that has been accepted.
    pub(crate) peer: Option<NonZeroU32>,
    /// Bytes that wait to be read; of a listener, connections that wait to be accepted.
    pub(crate) receive_queue: Option<u32>,
    /// Bytes on their way; of a listener, how many connections may wait.
    pub(crate) send_queue: Option<u32>,
    /// The interface that it is bound to.
    pub(crate) interface: Option<Box<Interface>>,
    /// The inode of the control group (v2) in which it was made.
    pub(crate) cgroup: Option<NonZeroU64>,
    /// Whether the record can be forged: it is a line of a file that a UNIX path can imitate.
    pub(crate) may_be_forged: bool,
    /// When it was seen, if it has no holder.
    pub(crate) presence: Presence,
}

/// When a socket without a holder was seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Presence {
    /// At the beginning, and as far as known at the end of the scan.
    #[default]
    Lasting,
    /// At the end of the scan only.
    Opened,
    /// At the beginning of the scan only.
    Closed,
}

/// What a socket is bound and connected to: within one table of a namespace, another socket with the same
/// endpoints has taken its place.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum EndpointKey {
    Inet(Endpoint, Endpoint),
    Unix(Box<[u8]>),
}

/// What macOS alone tells of a socket.
///
/// Not part of [`Details`], so that there it costs Linux nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DarwinDetails {
    /// The handle of the UNIX socket at the other end.
    pub(crate) peer: Option<NonZeroU64>,
    /// The process that used it last (`so_last_pid`), 0 for the kernel. It may have closed the socket
    /// since, or ended, and its number be another's by now.
    pub(crate) last_pid: Option<i32>,
    /// Why no descriptor can be the socket's; None if one could.
    pub(crate) without_fd: Option<OwnerUnknown>,
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Interface {
    /// Its number in its namespace.
    pub(crate) index: u32,
    /// None until the namespace was asked for it.
    pub(crate) name: Option<String>,
}

impl Interface {
    /// The one of that number; 0 is none.
    pub(crate) fn of_index(index: u32) -> Option<Box<Interface>> {
        (index != 0).then(|| Box::new(Interface { index, name: None }))
    }
}

/// A socket as one of the kernel's tables lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Socket {
    /// Its number. On Linux that in sockfs, which `socket:[inode]` links name; 0 if it has no file:
    /// TIME_WAIT, SYN_RECV, not yet accepted, orphaned. On macOS the handle by which the kernel calls
    /// the socket in front of programs; 0 if it has no socket.
    pub(crate) inode: u64,
    /// None if the number of its namespace could not be read.
    pub(crate) net_namespace: Option<NetNamespace>,
    pub(crate) binding: Binding,
    pub(crate) details: Details,
}

/// Without the details, which differ between sources and change while the socket stays the same:
/// the hash is the row's identity.
impl Hash for Socket {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.inode, self.net_namespace, &self.binding).hash(state);
    }
}

impl Socket {
    /// AF_*; None if it is not known.
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

    /// None if it is not known.
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

    /// Its address and port, if it is of IPv4 or IPv6.
    pub(crate) fn local(&self) -> Option<Endpoint> {
        match self.binding {
            Binding::Inet { local, .. } | Binding::Sctp { local, .. } => Some(local),
            _ => None,
        }
    }

    /// Those at the other end.
    pub(crate) fn remote(&self) -> Option<Endpoint> {
        match self.binding {
            Binding::Inet { remote, .. } | Binding::Sctp { remote, .. } => Some(remote),
            _ => None,
        }
    }

    /// Its port; 0 if it has none. One of 32 bits comes as the signed number of the same bits, since
    /// osquery's column has no room for more.
    pub(crate) fn local_port(&self) -> i32 {
        match self.binding {
            Binding::Netlink { port, .. } => port.cast_signed(),
            Binding::Vsock { local, .. } => local.port.cast_signed(),
            _ => self.local().map_or(0, |local| local.port.into()),
        }
    }

    /// The port at the other end, likewise.
    pub(crate) fn remote_port(&self) -> i32 {
        match self.binding {
            Binding::Netlink { remote_port, .. } => remote_port.cast_signed(),
            Binding::Vsock { remote, .. } => remote.port.cast_signed(),
            _ => self.remote().map_or(0, |remote| remote.port.into()),
        }
    }

    /// Whether it is bound or connected to an IP address.
    pub(crate) fn has_address(&self) -> bool {
        let ends = [self.local(), self.remote()];
        ends.into_iter().flatten().any(|endpoint| !endpoint.address.is_unspecified())
    }

    /// Its endpoints; None if it has none that another socket could take over.
    pub(crate) fn endpoint_key(&self) -> Option<EndpointKey> {
        match &self.binding {
            Binding::Inet { local, remote, .. } | Binding::Sctp { local, remote, .. } => {
                (local.port != 0).then_some(EndpointKey::Inet(*local, *remote))
            }
            Binding::Unix { path } if !path.is_empty() => Some(EndpointKey::Unix(path.clone())),
            _ => None,
        }
    }

    /// Whether it has a port at the other end.
    pub(crate) fn is_connected(&self) -> bool {
        self.remote().is_some_and(|remote| remote.port != 0)
    }

    /// Why nobody can hold it; None if somebody could.
    fn is_without_file(&self) -> Option<OwnerUnknown> {
        if self.inode != 0 {
            return None;
        }
        Some(match self.binding {
            Binding::Inet { state: Some(state), .. } => match state {
                TcpState::TimeWait => OwnerUnknown::TimeWait,
                TcpState::SynRecv => OwnerUnknown::SynRecv,
                TcpState::Established | TcpState::CloseWait => OwnerUnknown::AcceptQueue,
                _ => OwnerUnknown::Orphan,
            },
            Binding::Unix { .. } => OwnerUnknown::AcceptQueue,
            _ => OwnerUnknown::NoProcess,
        })
    }

    /// The state as osquery prints it: empty for UDP, raw and UNIX sockets, and what else has none.
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

/// Why no process is known that holds a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OwnerUnknown {
    /// The connection is over; the kernel only keeps its addresses.
    TimeWait,
    /// The handshake is not over.
    SynRecv,
    /// A listener has not accepted the connection yet.
    AcceptQueue,
    /// Its last descriptor was closed before the connection was over.
    Orphan,
    /// The kernel made it for itself.
    Kernel,
    /// A part of an MPTCP connection, which is a socket of its own.
    Subflow,
    /// The process's own network stack has it, and not the kernel's.
    UserSpace,
    /// It has a file, but not every process could be looked into.
    Unreadable,
    /// No process has it: it is the kernel's, or on its way from one process to another.
    NoProcess,
    /// It was closed during the scan, before its holder was read.
    ClosedDuringScan,
    /// It was opened during the scan, after its holder was read.
    OpenedDuringScan,
}

impl OwnerUnknown {
    pub(crate) fn name(self) -> &'static str {
        match self {
            OwnerUnknown::TimeWait => "time_wait",
            OwnerUnknown::SynRecv => "syn_recv",
            OwnerUnknown::AcceptQueue => "accept_queue",
            OwnerUnknown::Orphan => "orphan",
            OwnerUnknown::Kernel => "kernel",
            OwnerUnknown::Subflow => "subflow",
            OwnerUnknown::UserSpace => "user_space",
            OwnerUnknown::Unreadable => "unreadable",
            OwnerUnknown::NoProcess => "no_process",
            OwnerUnknown::ClosedDuringScan => "closed_during_scan",
            OwnerUnknown::OpenedDuringScan => "opened_during_scan",
        }
    }
}

/// How much a scan did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Work {
    /// Linux: passes of the BPF program over all processes.
    pub(crate) passes: u32,
    /// Walks of descriptors, and how many processes they read.
    pub(crate) walks: u32,
    pub(crate) walked: u64,
    /// Linux: processes of which one descriptor was read.
    pub(crate) tested: u64,
    /// Socket tables that were read; on Linux, how many netlink dumps that took.
    pub(crate) tables: u32,
    pub(crate) dumps: u32,
}

impl std::fmt::Display for Work {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Work { passes, walks, walked, tested, tables, dumps } = self;
        if cfg!(target_os = "linux") {
            write!(f, "{passes} BPF passes, ")?;
        }
        write!(f, "{walks} walks of {walked} processes, ")?;
        if cfg!(target_os = "linux") {
            write!(f, "{tested} processes tested, ")?;
        }
        write!(f, "{tables} socket tables")?;
        if cfg!(target_os = "linux") {
            write!(f, ", {dumps} dumps")?;
        }
        Ok(())
    }
}

impl std::ops::AddAssign for Work {
    fn add_assign(&mut self, more: Work) {
        self.passes += more.passes;
        self.walks += more.walks;
        self.walked += more.walked;
        self.tested += more.tested;
        self.tables += more.tables;
        self.dumps += more.dumps;
    }
}

/// Reads the real uid of a process. It is called only if an answer is too long.
#[derive(Default)]
pub(crate) struct Uids(Option<Box<dyn Fn(i32) -> Option<u32> + Send>>);

impl Uids {
    pub(crate) fn new(read: impl Fn(i32) -> Option<u32> + Send + 'static) -> Uids {
        Uids(Some(Box::new(read)))
    }

    /// None if the process has ended, or its uid cannot be read.
    pub(crate) fn real_uid(&self, pid: i32) -> Option<u32> {
        self.0.as_ref()?(pid)
    }
}

impl std::fmt::Debug for Uids {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Uids")
    }
}

/// What was collected for one query.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    pub(crate) sockets: Vec<Socket>,
    pub(crate) holders: Holders,
    pub(crate) gaps: Gaps,
    /// What the collector decided before it read anything.
    pub(crate) plan: String,
    pub(crate) work: Work,
    /// What is to be logged besides gaps.
    pub(crate) messages: Vec<(log::Level, String)>,
    /// The network namespace of the host's first process, if it is asked for.
    pub(crate) host: Option<NetNamespace>,
    /// The paths of the sockets' control groups by inode, if they are asked for.
    pub(crate) cgroups: HashMap<NonZeroU64, Box<[u8]>>,
    /// Of each socket, in their order; none on Linux.
    pub(crate) darwin: Vec<DarwinDetails>,
    pub(crate) uids: Uids,
}

impl Snapshot {
    /// Why nobody in the snapshot holds this socket of it, which has this place there.
    pub(crate) fn owner_unknown(&self, place: u32, socket: &Socket) -> OwnerUnknown {
        match socket.details.presence {
            Presence::Lasting => {}
            Presence::Opened => return OwnerUnknown::OpenedDuringScan,
            Presence::Closed => return OwnerUnknown::ClosedDuringScan,
        }
        let hidden = [
            GapKind::Fds,
            GapKind::Blocked,
            GapKind::Deadline,
            GapKind::Descriptors,
            GapKind::Hidepid,
            GapKind::PidNamespace,
        ];
        let not_all_seen = hidden.into_iter().any(|kind| self.gaps.has(kind));
        let with_file =
            if not_all_seen { OwnerUnknown::Unreadable } else { OwnerUnknown::NoProcess };
        match usize::try_from(place).ok().and_then(|place| self.darwin.get(place)) {
            Some(darwin) => darwin.without_fd.unwrap_or(with_file),
            None => socket.is_without_file().unwrap_or(with_file),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_tcp_states_keep_their_number_and_print_as_osquery_does() {
        assert_eq!(TcpState::from(13), TcpState::Unknown(13));
        assert_eq!(TcpState::from(13).name(), "UNKNOWN");
        assert_eq!(TcpState::from(0).name(), "UNKNOWN");
    }
}
