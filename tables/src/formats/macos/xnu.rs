//! The parts that all records of sockets in macOS share: `bsd/netinet/in_pcb.h`, `bsd/netinet/tcp_fsm.h`,
//! `bsd/sys/socket.h`, `bsd/sys/socketvar.h` and `bsd/sys/un.h` of XNU.
//!
//! Both processors are little-endian; addresses and ports are in the order of the network.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::model::{Binding, Endpoint, Family, TcpState};

pub(crate) const AF_UNIX: i32 = 1;
pub(crate) const AF_INET: i32 = 2;
pub(crate) const AF_NDRV: i32 = 27;
pub(crate) const AF_INET6: i32 = 30;
pub(crate) const AF_SYSTEM: i32 = 32;
pub(crate) const AF_VSOCK: i32 = 40;

pub(crate) const SYSPROTO_EVENT: u16 = 1;
pub(crate) const SYSPROTO_CONTROL: u16 = 2;

/// In `so_options`: it listens.
pub(crate) const SO_ACCEPTCONN: u32 = 2;

/// In `inp_vflag`: it has an IPv4 address.
const INP_IPV4: u8 = 1;
const INP_IPV6: u8 = 2;

/// The bytes are truncated or have another format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

/// The ends of an IPv4 or IPv6 socket (`struct inpcb`).
#[derive(Clone, Copy, Debug)]
pub(crate) struct InPcb {
    pub(crate) remote_port: u16,
    pub(crate) local_port: u16,
    pub(crate) vflag: u8,
    /// An IPv4 address is in the last four bytes, with zeroes before it.
    pub(crate) remote: u128,
    pub(crate) local: u128,
}

impl InPcb {
    /// The family of the addresses, if the record has no other; None without addresses.
    pub(crate) fn family(&self) -> Option<i32> {
        match self.vflag {
            vflag if vflag & INP_IPV6 != 0 => Some(AF_INET6),
            vflag if vflag & INP_IPV4 != 0 => Some(AF_INET),
            _ => None,
        }
    }

    /// An AF_INET6 socket has IPv4 addresses if it uses IPv4. It also has them if it can use both: the kernel then
    /// sets both flags, and other tools print it as IPv4 (0.0.0.0).
    pub(crate) fn binding(&self, family: i32, protocol: u16, state: Option<TcpState>) -> Binding {
        let v4 = self.vflag & INP_IPV4 != 0 || family == AF_INET;
        let local = Endpoint { address: address(self.local, v4), port: self.local_port };
        let remote = Endpoint { address: address(self.remote, v4), port: self.remote_port };
        Binding::Inet { v6: family == AF_INET6, protocol, local, remote, state }
    }
}

fn address(bits: u128, v4: bool) -> IpAddr {
    let [.., a, b, c, d] = bits.to_be_bytes();
    if v4 {
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    } else {
        IpAddr::V6(without_scope(Ipv6Addr::from_bits(bits)))
    }
}

/// The kernel stores the number of the interface in the second word of an address that is valid on one interface
/// only (`IN6_IS_SCOPE_EMBED`).
fn without_scope(address: Ipv6Addr) -> Ipv6Addr {
    const INTERFACE_LOCAL: u8 = 1;
    const LINK_LOCAL: u8 = 2;
    let [first, second, ..] = address.octets();
    let is_scoped = match first {
        0xff => matches!(second & 0x0f, INTERFACE_LOCAL | LINK_LOCAL),
        _ => address.is_unicast_link_local(),
    };
    let [a, _, rest @ ..] = address.segments();
    let [c, d, e, f, g, h] = rest;
    if is_scoped { Ipv6Addr::new(a, 0, c, d, e, f, g, h) } else { address }
}

/// `t_state`, whose numbers are BSD's and not Linux's.
pub(crate) fn tcp_state(number: i32) -> TcpState {
    match number {
        0 => TcpState::Closed,
        1 => TcpState::Listen,
        2 => TcpState::SynSent,
        3 => TcpState::SynRecv,
        4 => TcpState::Established,
        5 => TcpState::CloseWait,
        6 => TcpState::FinWait1,
        7 => TcpState::Closing,
        8 => TcpState::LastAck,
        9 => TcpState::FinWait2,
        10 => TcpState::TimeWait,
        11 => TcpState::Reserved,
        other => TcpState::Unknown(u8::try_from(other).unwrap_or(u8::MAX)),
    }
}

/// AF_* as the column shows it: Linux's numbers, as in osquery, for families that Linux has too.
pub(crate) fn family_shown(family: i32) -> Option<u8> {
    match family {
        AF_INET6 => Some(Family::Inet6 as u8),
        other => u8::try_from(other).ok(),
    }
}

/// The path of a `struct sockaddr_un`. Its first byte is the length argument of bind(2), which can exceed the path
/// and the structure.
pub(crate) fn unix_path(address: &[u8]) -> Box<[u8]> {
    let Some((&[length, family], _)) = address.split_first_chunk() else { return Box::default() };
    if i32::from(family) != AF_UNIX {
        return Box::default();
    }
    let end = usize::from(length).min(address.len());
    c_string(address.get(2..end).unwrap_or_default()).into()
}

/// The bytes before the first NUL.
pub(crate) fn c_string(bytes: &[u8]) -> &[u8] {
    bytes.split(|&byte| byte == 0).next().unwrap_or_default()
}

/// The same of a name, which is ASCII.
pub(crate) fn name(bytes: &[u8]) -> String {
    String::from_utf8_lossy(c_string(bytes)).into_owned()
}

/// A filter of kernel events: vendor, class and subclass; 0 matches all.
pub(crate) fn events(vendor: u32, class: u32, subclass: u32) -> Box<str> {
    format!("{vendor}.{class}.{subclass}").into()
}

/// Receive queue and send queue; for a listener, the accept queue and its limit.
///
/// `qlen` counts the handshakes that are not over, `incqlen`, with the others.
pub(crate) fn queues(
    options: u32,
    [qlen, incqlen, qlimit]: [i16; 3],
    bytes: (Option<u32>, Option<u32>),
) -> (Option<u32>, Option<u32>) {
    if options & SO_ACCEPTCONN == 0 {
        return bytes;
    }
    let waiting = u32::try_from(qlen.saturating_sub(incqlen)).unwrap_or_default();
    (Some(waiting), u32::try_from(qlimit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_link_local_addresses_lose_the_interface_number() {
        for (held, shown) in [
            ("fe80:4::1", "fe80::1"),
            ("febf:4::1", "febf::1"),
            ("fe80::1", "fe80::1"),
            ("ff02:5::fb", "ff02::fb"),
            ("ff01:1::1", "ff01::1"),
            ("ff12:5::1", "ff12::1"),
            ("ff05:5::1", "ff05:5::1"),
            ("fec0:4::1", "fec0:4::1"),
            ("2001:db8::1", "2001:db8::1"),
        ] {
            let held: Ipv6Addr = held.parse().unwrap();
            assert_eq!(without_scope(held).to_string(), shown);
        }
    }

    #[test]
    fn tcp_states_have_the_numbers_of_bsd_and_the_names_of_osquery() {
        let names: Vec<_> = (0..12).map(|number| tcp_state(number).name()).collect();
        assert_eq!(
            names,
            [
                "CLOSED",
                "LISTEN",
                "SYN_SENT",
                "SYN_RECV",
                "ESTABLISHED",
                "CLOSE_WAIT",
                "FIN_WAIT1",
                "CLOSING",
                "LAST_ACK",
                "FIN_WAIT2",
                "TIME_WAIT",
                "RESERVED"
            ]
        );
        assert_eq!(tcp_state(12), TcpState::Unknown(12));
        assert_eq!(tcp_state(-1), TcpState::Unknown(255));
        assert_eq!(tcp_state(-1).name(), "UNKNOWN");
    }

    #[test]
    fn a_path_ends_at_its_nul_or_its_length_whichever_is_first() {
        assert_eq!(&*unix_path(b"\x6a\x01/a/b\0\0\0rest"), b"/a/b");
        assert_eq!(&*unix_path(b"\x05\x01/a/b"), b"/a/");
        assert_eq!(&*unix_path(b"\xff\x01/a"), b"/a");
        assert_eq!(&*unix_path(b"\x01\x01/a"), b"");
        assert_eq!(&*unix_path(b"\0\0\0\0"), b"");
        assert_eq!(&*unix_path(b"\x6a"), b"");
        assert_eq!(&*unix_path(b""), b"");
    }

    #[test]
    fn a_listener_counts_connections_and_the_others_bytes() {
        let bytes = (Some(7), Some(8));
        assert_eq!(queues(0, [3, 1, 128], bytes), bytes);
        assert_eq!(queues(2, [3, 1, 128], bytes), (Some(2), Some(128)));
        assert_eq!(queues(2, [1, 3, -1], bytes), (Some(0), None));
        assert_eq!(queues(2, [i16::MIN, i16::MAX, 0], bytes), (Some(0), Some(0)));
    }
}
