//! The tables of sockets that the kernel keeps: one for each protocol, of IPv4 and of IPv6 apart.

use super::Families;
use crate::model::Family;

/// A table of sockets. The kernel gives it as a file in `/proc/<pid>/net`, as a dump of netlink, as both,
/// or not at all: its protocol is not compiled in, or its module not loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum SocketTable {
    Tcp,
    Tcp6,
    Mptcp,
    Mptcp6,
    Udp,
    Udp6,
    Udplite,
    Udplite6,
    Raw,
    Raw6,
    Icmp,
    Icmp6,
    Sctp,
    Sctp6,
    Unix,
    Packet,
    Netlink,
    Vsock,
}

/// Which sockets of a table share a chain of the kernel's hash table with many others.
///
/// The kernel lists a table part by part, lets go of its locks in between, and finds its place again by
/// counting along a chain. So what comes or goes on a long chain meanwhile may hide a socket that was
/// there all the time, or show it twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Crowded {
    /// All of them, or so it must be taken.
    All,
    /// Those that listen: all on one port may be on one chain (SO_REUSEPORT in socket(7)). Each
    /// connection has, nearly, a chain of its own.
    Listeners,
}

pub(crate) const IPPROTO_IP: u16 = 0;
pub(crate) const IPPROTO_ICMP: u16 = 1;
pub(crate) const IPPROTO_TCP: u16 = 6;
pub(crate) const IPPROTO_UDP: u16 = 17;
pub(crate) const IPPROTO_ICMPV6: u16 = 58;
pub(crate) const IPPROTO_SCTP: u16 = 132;
pub(crate) const IPPROTO_UDPLITE: u16 = 136;
pub(crate) const IPPROTO_RAW: u16 = 255;
pub(crate) const IPPROTO_MPTCP: u16 = 262;

impl SocketTable {
    pub(crate) const ALL: [SocketTable; 18] = [
        SocketTable::Tcp,
        SocketTable::Tcp6,
        SocketTable::Mptcp,
        SocketTable::Mptcp6,
        SocketTable::Udp,
        SocketTable::Udp6,
        SocketTable::Udplite,
        SocketTable::Udplite6,
        SocketTable::Raw,
        SocketTable::Raw6,
        SocketTable::Icmp,
        SocketTable::Icmp6,
        SocketTable::Sctp,
        SocketTable::Sctp6,
        SocketTable::Unix,
        SocketTable::Packet,
        SocketTable::Netlink,
        SocketTable::Vsock,
    ];

    /// Its name, for messages.
    pub(crate) fn name(self) -> &'static str {
        match self {
            SocketTable::Tcp => "tcp",
            SocketTable::Tcp6 => "tcp6",
            SocketTable::Mptcp => "mptcp",
            SocketTable::Mptcp6 => "mptcp6",
            SocketTable::Udp => "udp",
            SocketTable::Udp6 => "udp6",
            SocketTable::Udplite => "udplite",
            SocketTable::Udplite6 => "udplite6",
            SocketTable::Raw => "raw",
            SocketTable::Raw6 => "raw6",
            SocketTable::Icmp => "icmp",
            SocketTable::Icmp6 => "icmp6",
            SocketTable::Sctp => "sctp",
            SocketTable::Sctp6 => "sctp6",
            SocketTable::Unix => "unix",
            SocketTable::Packet => "packet",
            SocketTable::Netlink => "netlink",
            SocketTable::Vsock => "vsock",
        }
    }

    /// Its file in `/proc/<pid>`, if that is read. Those of SCTP are of another form, and not read.
    pub(crate) fn proc_net_path(self) -> Option<String> {
        let has_file = !matches!(
            self,
            SocketTable::Mptcp
                | SocketTable::Mptcp6
                | SocketTable::Sctp
                | SocketTable::Sctp6
                | SocketTable::Vsock
        );
        has_file.then(|| format!("net/{}", self.name()))
    }

    /// What a user has to choose to see it.
    pub(crate) fn families(self) -> Families {
        match self {
            SocketTable::Mptcp | SocketTable::Mptcp6 => Families::MPTCP,
            SocketTable::Sctp | SocketTable::Sctp6 => Families::SCTP,
            SocketTable::Unix => Families::UNIX,
            SocketTable::Packet => Families::PACKET,
            SocketTable::Netlink => Families::NETLINK,
            SocketTable::Vsock => Families::VSOCK,
            _ => Families::INET,
        }
    }

    /// The family of all its sockets.
    pub(crate) fn family(self) -> Family {
        match self {
            SocketTable::Tcp
            | SocketTable::Mptcp
            | SocketTable::Udp
            | SocketTable::Udplite
            | SocketTable::Raw
            | SocketTable::Icmp
            | SocketTable::Sctp => Family::Inet,
            SocketTable::Tcp6
            | SocketTable::Mptcp6
            | SocketTable::Udp6
            | SocketTable::Udplite6
            | SocketTable::Raw6
            | SocketTable::Icmp6
            | SocketTable::Sctp6 => Family::Inet6,
            SocketTable::Unix => Family::Unix,
            SocketTable::Packet => Family::Packet,
            SocketTable::Netlink => Family::Netlink,
            SocketTable::Vsock => Family::Vsock,
        }
    }

    /// The protocol of all its sockets; None where each has its own.
    pub(crate) fn protocol(self) -> Option<u16> {
        match self {
            SocketTable::Tcp | SocketTable::Tcp6 => Some(IPPROTO_TCP),
            SocketTable::Mptcp | SocketTable::Mptcp6 => Some(IPPROTO_MPTCP),
            SocketTable::Udp | SocketTable::Udp6 => Some(IPPROTO_UDP),
            SocketTable::Udplite | SocketTable::Udplite6 => Some(IPPROTO_UDPLITE),
            SocketTable::Raw | SocketTable::Raw6 => Some(IPPROTO_RAW),
            SocketTable::Icmp => Some(IPPROTO_ICMP),
            SocketTable::Icmp6 => Some(IPPROTO_ICMPV6),
            SocketTable::Sctp | SocketTable::Sctp6 => Some(IPPROTO_SCTP),
            SocketTable::Unix | SocketTable::Vsock => Some(IPPROTO_IP),
            SocketTable::Packet | SocketTable::Netlink => None,
        }
    }

    /// What the column state shows for all its sockets; None where each has its own.
    pub(crate) fn state(self) -> Option<&'static str> {
        match self {
            SocketTable::Tcp
            | SocketTable::Tcp6
            | SocketTable::Mptcp
            | SocketTable::Mptcp6
            | SocketTable::Sctp
            | SocketTable::Sctp6
            | SocketTable::Vsock => None,
            SocketTable::Packet => Some("NONE"),
            _ => Some(""),
        }
    }

    /// Whether its sockets have ports; the columns show 0 where they have none.
    pub(crate) fn has_ports(self) -> bool {
        !matches!(self, SocketTable::Unix | SocketTable::Packet)
    }

    /// Whether a line of its file may be about a socket of another table, so that its holder should be
    /// asked: `unix`, where a path can imitate a line, and the ping sockets' files, of which each lists
    /// some of the other's sockets too (`ping_get_next` skips the check of the family).
    pub(crate) fn may_list_others(self) -> bool {
        matches!(self, SocketTable::Unix | SocketTable::Icmp | SocketTable::Icmp6)
    }

    /// Whether several of its sockets may have one inode, or one of another table's: the subflows of an
    /// MPTCP connection and itself, an SCTP socket and its associations.
    pub(crate) fn may_share_inodes(self) -> bool {
        matches!(
            self,
            SocketTable::Tcp
                | SocketTable::Tcp6
                | SocketTable::Mptcp
                | SocketTable::Mptcp6
                | SocketTable::Sctp
                | SocketTable::Sctp6
        )
    }

    /// The other table of ping sockets: a socket may stand in both.
    pub(crate) fn twin(self) -> Option<SocketTable> {
        match self {
            SocketTable::Icmp => Some(SocketTable::Icmp6),
            SocketTable::Icmp6 => Some(SocketTable::Icmp),
            _ => None,
        }
    }

    /// Which of its sockets another one may hide while they are listed.
    pub(crate) fn crowded(self) -> Crowded {
        match self {
            SocketTable::Tcp | SocketTable::Tcp6 => Crowded::Listeners,
            _ => Crowded::All,
        }
    }
}
