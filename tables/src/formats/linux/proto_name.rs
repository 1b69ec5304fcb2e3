//! The name of a socket's protocol (`struct proto` in the kernel): the extended attribute `system.sockprotoname` of
//! its descriptor (`net/socket.c`).
//!
//! The name is that of the protocol at the creation of the socket. An IPv6 socket of a connection over IPv4 can
//! become an IPv4 socket later (IPV6_ADDRFORM in ipv6(7)), and keeps the name.

use std::slice;

use crate::model::Binding;
use crate::model::socket_table::SocketTable;

/// The tables that can list a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Candidates(u32);

impl Candidates {
    /// The tables that can list a socket with this protocol name; none if the name is unknown.
    pub(crate) fn of_protocol(name: &[u8]) -> Candidates {
        use SocketTable::{
            Mptcp, Mptcp6, Raw, Raw6, Sctp, Sctp6, Tcp, Tcp6, Udp, Udp6, Udplite, Udplite6,
        };
        let own = own_table(name);
        let tables: &[SocketTable] = match &own {
            Some(Tcp6) => &[Tcp, Tcp6],
            Some(Mptcp | Mptcp6) => &[Tcp, Tcp6, Mptcp, Mptcp6],
            Some(Udp6) => &[Udp, Udp6],
            Some(Udplite6) => &[Udplite, Udplite6],
            Some(Raw6) => &[Raw, Raw6],
            Some(Sctp | Sctp6) => &[Sctp, Sctp6],
            Some(table) => slice::from_ref(table),
            None => &[],
        };
        Candidates(tables.iter().fold(0, |bits, &table| bits | Candidates::bit(table)))
    }

    pub(crate) fn contains(self, table: SocketTable) -> bool {
        self.0 & Candidates::bit(table) != 0
    }

    /// Whether they can list the inode more than once: an MPTCP socket and its subflows have one inode, as an SCTP
    /// socket and its associations.
    pub(crate) fn may_recur(self) -> bool {
        self.contains(SocketTable::Mptcp) || self.contains(SocketTable::Sctp)
    }

    fn bit(table: SocketTable) -> u32 {
        1 << table as u32
    }
}

/// The table of sockets with this protocol name.
fn own_table(name: &[u8]) -> Option<SocketTable> {
    Some(match name {
        b"TCP" => SocketTable::Tcp,
        b"TCPv6" => SocketTable::Tcp6,
        b"MPTCP" => SocketTable::Mptcp,
        b"MPTCPv6" => SocketTable::Mptcp6,
        b"UDP" => SocketTable::Udp,
        b"UDPv6" => SocketTable::Udp6,
        b"UDP-Lite" => SocketTable::Udplite,
        b"UDPLITEv6" => SocketTable::Udplite6,
        b"RAW" => SocketTable::Raw,
        b"RAWv6" => SocketTable::Raw6,
        b"PING" => SocketTable::Icmp,
        b"PINGv6" => SocketTable::Icmp6,
        b"SCTP" => SocketTable::Sctp,
        b"SCTPv6" => SocketTable::Sctp6,
        b"PACKET" => SocketTable::Packet,
        b"NETLINK" => SocketTable::Netlink,
        b"AF_VSOCK" => SocketTable::Vsock,
        _ if name.starts_with(b"UNIX") => SocketTable::Unix,
        _ => return None,
    })
}

/// The properties of an unlisted socket with this protocol name.
pub(crate) fn unlisted(name: &[u8]) -> Binding {
    const KEY: u8 = 15;
    const TIPC: u8 = 30;
    const BLUETOOTH: u8 = 31;
    const ALG: u8 = 38;
    const XDP: u8 = 44;
    if let Some(table) = own_table(name) {
        let (family, protocol) = (Some(table.family() as u8), table.protocol());
        return Binding::Unlisted { family, protocol };
    }
    let family = match name {
        b"KEY" => Some(KEY),
        b"TIPC" => Some(TIPC),
        b"HCI" | b"L2CAP" | b"RFCOMM" | b"SCO" | b"ISO" | b"BNEP" | b"HIDP" | b"CMTP" => {
            Some(BLUETOOTH)
        }
        b"ALG" => Some(ALG),
        b"XDP" => Some(XDP),
        _ => None,
    };
    Binding::Unlisted { family, protocol: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(name: &[u8]) -> Vec<&'static str> {
        let candidates = Candidates::of_protocol(name);
        let all = SocketTable::ALL.into_iter();
        all.filter(|&table| candidates.contains(table)).map(SocketTable::name).collect()
    }

    #[test]
    fn a_protocol_names_the_tables_that_may_have_its_sockets() {
        for (name, tables) in [
            ("TCP", &["tcp"][..]),
            ("TCPv6", &["tcp", "tcp6"]),
            ("MPTCP", &["tcp", "tcp6", "mptcp", "mptcp6"]),
            ("UDP", &["udp"]),
            ("UDPLITEv6", &["udplite", "udplite6"]),
            ("PINGv6", &["icmp6"]),
            ("UNIX", &["unix"]),
            ("UNIX-STREAM", &["unix"]),
            ("PACKET", &["packet"]),
            ("NETLINK", &["netlink"]),
            ("AF_VSOCK", &["vsock"]),
        ] {
            assert_eq!(names(name.as_bytes()), tables, "{name}");
        }
    }

    #[test]
    fn an_unknown_protocol_has_no_table() {
        for name in ["XDP", "", "tcp", "XUNIX"] {
            assert_eq!(names(name.as_bytes()), [""; 0], "{name}");
        }
    }

    #[test]
    fn a_socket_in_no_table_has_the_family_and_protocol_of_its_name() {
        let of = |name: &str| match unlisted(name.as_bytes()) {
            Binding::Unlisted { family, protocol } => (family, protocol),
            other => panic!("{other:?}"),
        };
        assert_eq!(of("UDPv6"), (Some(10), Some(17)));
        assert_eq!(of("UNIX-STREAM"), (Some(1), Some(0)));
        assert_eq!(of("ALG"), (Some(38), None));
        assert_eq!(of("of tomorrow"), (None, None));
    }
}
