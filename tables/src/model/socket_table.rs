//! The kernel's socket tables: one for each protocol, separate for IPv4 and IPv6.

use super::families::Families;
use super::family::Family;
pub(crate) use super::protocol::{
    IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_IP, IPPROTO_MPTCP, IPPROTO_RAW, IPPROTO_SCTP,
    IPPROTO_TCP, IPPROTO_UDP, IPPROTO_UDPLITE,
};
use crate::enum_table::enum_table;

enum_table! {
    /// A socket table. The kernel offers a file in `/proc/<pid>/net`, a netlink dump, or both. It offers
    /// neither where the protocol is not compiled in or its module is not loaded.
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
        Icmp = Row { name: "icmp", other_ping_table: Some(SocketTable::Icmp6), ..ICMP },
        Icmp6 = Row {
            name: "icmp6",
            family: Family::Inet6,
            protocol: Some(IPPROTO_ICMPV6),
            other_ping_table: Some(SocketTable::Icmp),
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
            has_foreign_records: true,
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

/// The properties of a table. The methods of [`SocketTable`] document the fields.
struct Row {
    name: &'static str,
    families: Families,
    family: Family,
    protocol: Option<u16>,
    state: Option<&'static str>,
    has_ports: bool,
    has_file: bool,
    has_dump: bool,
    has_foreign_records: bool,
    may_share_inodes: bool,
    other_ping_table: Option<SocketTable>,
    shared_chains: SharedChains,
}

/// The properties of most tables.
const INET: Row = Row {
    name: "",
    families: Families::INET,
    family: Family::Inet,
    protocol: None,
    state: Some(""),
    has_ports: true,
    has_file: true,
    has_dump: true,
    has_foreign_records: false,
    may_share_inodes: false,
    other_ping_table: None,
    shared_chains: SharedChains::All,
};
const INET6: Row = Row { family: Family::Inet6, ..INET };
const TCP: Row = Row {
    protocol: Some(IPPROTO_TCP),
    state: None,
    may_share_inodes: true,
    shared_chains: SharedChains::Listeners,
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
/// The SCTP files in `/proc/<pid>/net` have another format and are not read.
const SCTP: Row = Row {
    families: Families::SCTP,
    protocol: Some(IPPROTO_SCTP),
    state: None,
    has_file: false,
    may_share_inodes: true,
    ..INET
};
const ICMP: Row =
    Row { protocol: Some(IPPROTO_ICMP), has_dump: false, has_foreign_records: true, ..INET };

/// The sockets of a table that share a chain of the kernel's hash table with many others.
///
/// The kernel lists a table part by part and releases its locks between the parts. To continue, it counts
/// along the chain. A socket that is opened or closed on a long chain in between can hide another socket
/// from the list, or show it twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SharedChains {
    /// All sockets, or the kernel does not guarantee less.
    All,
    /// Listeners: all listeners of a port can be on one chain (SO_REUSEPORT in socket(7)). Connections
    /// rarely share a chain.
    Listeners,
}

impl SocketTable {
    /// The name, for messages.
    pub(crate) fn name(self) -> &'static str {
        self.row().name
    }

    /// The file in `/proc/<pid>`, if the scan reads it.
    pub(crate) fn proc_net_path(self) -> Option<String> {
        let Row { name, has_file, .. } = self.row();
        has_file.then(|| format!("net/{name}"))
    }

    /// Whether netlink has a dump of the table (sock_diag(7)).
    pub(crate) fn has_dump(self) -> bool {
        self.row().has_dump
    }

    /// The families that the user selects to see the table.
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

    /// Whether a line of the file can describe a socket of another table: then the protocol is read from
    /// the holder's descriptor. In `unix` a path can imitate a line. The two files of ping sockets each
    /// list some sockets of the other one (`ping_get_next` does not check the family).
    pub(crate) fn has_foreign_records(self) -> bool {
        self.row().has_foreign_records
    }

    /// Whether several sockets can have one inode: an MPTCP connection and its subflows, or an SCTP socket
    /// and its associations.
    pub(crate) fn may_share_inodes(self) -> bool {
        self.row().may_share_inodes
    }

    /// The other table of ping sockets: both can list the same socket.
    pub(crate) fn other_ping_table(self) -> Option<SocketTable> {
        self.row().other_ping_table
    }

    /// The sockets that another one can hide from a list.
    pub(crate) fn shared_chains(self) -> SharedChains {
        self.row().shared_chains
    }
}
