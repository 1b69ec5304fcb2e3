//! The name of a socket's protocol (`struct proto` in the kernel), which the extended attribute
//! `system.sockprotoname` of its descriptor gives (`net/socket.c`).
//!
//! It is the one with which the socket was made. An IPv6 socket of a connection over IPv4 can be made
//! one of IPv4 later (IPV6_ADDRFORM in ipv6(7)), and keeps its name.

use super::super::model::Binding;
use super::super::socket_table::{
    IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_IP, IPPROTO_MPTCP, IPPROTO_RAW, IPPROTO_SCTP,
    IPPROTO_TCP, IPPROTO_UDP, IPPROTO_UDPLITE, SocketTable,
};

/// Tables that may have a certain socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Candidates {
    tables: u32,
    /// Whether it can be in them more than once: an MPTCP socket and its subflows have one inode, and so
    /// have an SCTP socket and its associations.
    pub(crate) may_recur: bool,
}

impl Candidates {
    /// Those that may have a socket whose protocol has that name: none if it is not known here.
    pub(crate) fn of_protocol(name: &[u8]) -> Candidates {
        use SocketTable::{
            Icmp, Icmp6, Mptcp, Mptcp6, Netlink, Packet, Raw, Raw6, Sctp, Sctp6, Tcp, Tcp6, Udp,
            Udp6, Udplite, Udplite6, Unix, Vsock,
        };
        let tables: &[SocketTable] = match name {
            b"TCP" => &[Tcp],
            b"TCPv6" => &[Tcp, Tcp6],
            b"MPTCP" | b"MPTCPv6" => &[Tcp, Tcp6, Mptcp, Mptcp6],
            b"UDP" => &[Udp],
            b"UDPv6" => &[Udp, Udp6],
            b"UDP-Lite" => &[Udplite],
            b"UDPLITEv6" => &[Udplite, Udplite6],
            b"RAW" => &[Raw],
            b"RAWv6" => &[Raw, Raw6],
            b"PING" => &[Icmp],
            b"PINGv6" => &[Icmp6],
            b"SCTP" | b"SCTPv6" => &[Sctp, Sctp6],
            b"PACKET" => &[Packet],
            b"NETLINK" => &[Netlink],
            b"AF_VSOCK" => &[Vsock],
            _ if name.starts_with(b"UNIX") => &[Unix],
            _ => &[],
        };
        Candidates {
            tables: tables.iter().fold(0, |bits, &table| bits | Candidates::bit(table)),
            may_recur: tables.contains(&Mptcp) || tables.contains(&Sctp),
        }
    }

    pub(crate) fn contains(self, table: SocketTable) -> bool {
        self.tables & Candidates::bit(table) != 0
    }

    fn bit(table: SocketTable) -> u32 {
        1 << table as u32
    }
}

/// What is known of a socket of a protocol of that name that no table has.
pub(crate) fn unlisted(name: &[u8]) -> Binding {
    const UNIX: u8 = 1;
    const INET: u8 = 2;
    const INET6: u8 = 10;
    const KEY: u8 = 15;
    const NETLINK: u8 = 16;
    const PACKET: u8 = 17;
    const TIPC: u8 = 30;
    const BLUETOOTH: u8 = 31;
    const ALG: u8 = 38;
    const VSOCK: u8 = 40;
    const XDP: u8 = 44;
    let (family, protocol) = match name {
        b"TCP" => (INET, Some(IPPROTO_TCP)),
        b"TCPv6" => (INET6, Some(IPPROTO_TCP)),
        b"MPTCP" => (INET, Some(IPPROTO_MPTCP)),
        b"MPTCPv6" => (INET6, Some(IPPROTO_MPTCP)),
        b"UDP" => (INET, Some(IPPROTO_UDP)),
        b"UDPv6" => (INET6, Some(IPPROTO_UDP)),
        b"UDP-Lite" => (INET, Some(IPPROTO_UDPLITE)),
        b"UDPLITEv6" => (INET6, Some(IPPROTO_UDPLITE)),
        b"RAW" => (INET, Some(IPPROTO_RAW)),
        b"RAWv6" => (INET6, Some(IPPROTO_RAW)),
        b"PING" => (INET, Some(IPPROTO_ICMP)),
        b"PINGv6" => (INET6, Some(IPPROTO_ICMPV6)),
        b"SCTP" => (INET, Some(IPPROTO_SCTP)),
        b"SCTPv6" => (INET6, Some(IPPROTO_SCTP)),
        b"PACKET" => (PACKET, None),
        b"NETLINK" => (NETLINK, None),
        b"AF_VSOCK" => (VSOCK, Some(IPPROTO_IP)),
        b"KEY" => (KEY, None),
        b"TIPC" => (TIPC, None),
        b"HCI" | b"L2CAP" | b"RFCOMM" | b"SCO" | b"ISO" | b"BNEP" | b"HIDP" | b"CMTP" => {
            (BLUETOOTH, None)
        }
        b"ALG" => (ALG, None),
        b"XDP" => (XDP, None),
        _ if name.starts_with(b"UNIX") => (UNIX, Some(IPPROTO_IP)),
        _ => return Binding::Unlisted { family: None, protocol: None },
    };
    Binding::Unlisted { family: Some(family), protocol }
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
    fn a_protocol_that_is_not_known_names_none() {
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
