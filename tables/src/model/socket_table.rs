//! The tables of sockets that the kernel keeps: one for each protocol, of IPv4 and of IPv6 apart.

use super::families::Families;
use super::family::Family;
pub(crate) use super::protocol::{
    IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_IP, IPPROTO_MPTCP, IPPROTO_RAW, IPPROTO_SCTP,
    IPPROTO_TCP, IPPROTO_UDP, IPPROTO_UDPLITE,
};
use crate::enum_table::enum_table;

enum_table! {
    /// A table of sockets. The kernel gives it as a file in `/proc/<pid>/net`, as a dump of netlink, as
    /// both, or not at all: its protocol is not compiled in, or its module not loaded.
    pub(crate) enum SocketTable: Row {
        Tcp = Row { name: "tcp", ..TCP },
        Tcp6 = Row { name: "tcp6", family: Family::Inet6, ..TCP },
        Mptcp = Row { name: "mptcp", ..MPTCP },
        Mptcp6 = Row { name: "mptcp6", family: Family::Inet6, ..MPTCP },
        Udp = Row { name: "udp", protocol: Some(IPPROTO_UDP), ..INET },
        Udp6 = Row { name: "udp6", protocol: Some(IPPROTO_UDP), ..INET6 },
        Udplite = Row { name: "udplite", protocol: Some(IPPROTO_UDPLITE), ..INET },
        Udplite6 = Row { name: "udplite6", protocol: Some(IPPROTO_UDPLITE), ..INET6 },
        Raw = Row { name: "raw", protocol: Some(IPPROTO_RAW), ..INET },
        Raw6 = Row { name: "raw6", protocol: Some(IPPROTO_RAW), ..INET6 },
        Icmp = Row { name: "icmp", twin: Some(SocketTable::Icmp6), ..ICMP },
        Icmp6 = Row {
            name: "icmp6",
            family: Family::Inet6,
            protocol: Some(IPPROTO_ICMPV6),
            twin: Some(SocketTable::Icmp),
            ..ICMP
        },
        Sctp = Row { name: "sctp", ..SCTP },
        Sctp6 = Row { name: "sctp6", family: Family::Inet6, ..SCTP },
        Unix = Row {
            name: "unix",
            families: Families::UNIX,
            family: Family::Unix,
            protocol: Some(IPPROTO_IP),
            has_ports: false,
            may_list_others: true,
            ..INET
        },
        Packet = Row {
            name: "packet",
            families: Families::PACKET,
            family: Family::Packet,
            state: Some("NONE"),
            has_ports: false,
            ..INET
        },
        Netlink = Row {
            name: "netlink",
            families: Families::NETLINK,
            family: Family::Netlink,
            ..INET
        },
        Vsock = Row {
            name: "vsock",
            families: Families::VSOCK,
            family: Family::Vsock,
            protocol: Some(IPPROTO_IP),
            state: None,
            has_file: false,
            ..INET
        },
    }
}

/// What is true of a table; the methods of [`SocketTable`] say what each field means.
struct Row {
    name: &'static str,
    families: Families,
    family: Family,
    protocol: Option<u16>,
    state: Option<&'static str>,
    has_ports: bool,
    has_file: bool,
    has_dump: bool,
    may_list_others: bool,
    may_share_inodes: bool,
    twin: Option<SocketTable>,
    crowded: Crowded,
}

/// What is true of most.
const INET: Row = Row {
    name: "",
    families: Families::INET,
    family: Family::Inet,
    protocol: None,
    state: Some(""),
    has_ports: true,
    has_file: true,
    has_dump: true,
    may_list_others: false,
    may_share_inodes: false,
    twin: None,
    crowded: Crowded::All,
};
const INET6: Row = Row { family: Family::Inet6, ..INET };
const TCP: Row = Row {
    protocol: Some(IPPROTO_TCP),
    state: None,
    may_share_inodes: true,
    crowded: Crowded::Listeners,
    ..INET
};
const MPTCP: Row = Row {
    families: Families::MPTCP,
    protocol: Some(IPPROTO_MPTCP),
    state: None,
    has_file: false,
    may_share_inodes: true,
    ..INET
};
/// Its files are of another form, and not read.
const SCTP: Row = Row {
    families: Families::SCTP,
    protocol: Some(IPPROTO_SCTP),
    state: None,
    has_file: false,
    may_share_inodes: true,
    ..INET
};
const ICMP: Row =
    Row { protocol: Some(IPPROTO_ICMP), has_dump: false, may_list_others: true, ..INET };

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

impl SocketTable {
    /// Its name, for messages.
    pub(crate) fn name(self) -> &'static str {
        self.row().name
    }

    /// Its file in `/proc/<pid>`, if that is read.
    pub(crate) fn proc_net_path(self) -> Option<String> {
        let Row { name, has_file, .. } = self.row();
        has_file.then(|| format!("net/{name}"))
    }

    /// Whether netlink has a dump of it (sock_diag(7)).
    pub(crate) fn has_dump(self) -> bool {
        self.row().has_dump
    }

    /// What a user has to choose to see it.
    pub(crate) fn families(self) -> Families {
        self.row().families
    }

    /// The family of all its sockets.
    pub(crate) fn family(self) -> Family {
        self.row().family
    }

    /// The protocol of all its sockets; None where each has its own.
    pub(crate) fn protocol(self) -> Option<u16> {
        self.row().protocol
    }

    /// What the column state shows for all its sockets; None where each has its own.
    pub(crate) fn state(self) -> Option<&'static str> {
        self.row().state
    }

    /// Whether its sockets have ports; the columns show 0 where they have none.
    pub(crate) fn has_ports(self) -> bool {
        self.row().has_ports
    }

    /// Whether a line of its file may be about a socket of another table, so that its holder should be
    /// asked: `unix`, where a path can imitate a line, and the ping sockets' files, of which each lists
    /// some of the other's sockets too (`ping_get_next` skips the check of the family).
    pub(crate) fn may_list_others(self) -> bool {
        self.row().may_list_others
    }

    /// Whether several of its sockets may have one inode, or one of another table's: the subflows of an
    /// MPTCP connection and itself, an SCTP socket and its associations.
    pub(crate) fn may_share_inodes(self) -> bool {
        self.row().may_share_inodes
    }

    /// The other table of ping sockets: a socket may stand in both.
    pub(crate) fn twin(self) -> Option<SocketTable> {
        self.row().twin
    }

    /// Which of its sockets another one may hide while they are listed.
    pub(crate) fn crowded(self) -> Crowded {
        self.row().crowded
    }
}
