//! Lines of the files in `/proc/<pid>/net` that list sockets.
//!
//! Their formats are in the kernel's `net/ipv4/tcp_ipv4.c` (`tcp4_seq_show` and its neighbours),
//! `udp.c`, `raw.c`, `ping.c`, `net/ipv6/datagram.c`, `net/unix/af_unix.c` (`unix_seq_show`) and
//! `net/packet/af_packet.c`. The kernel prints a newline in a bound UNIX path as it is, so whoever
//! binds one writes lines of their own; such a line cannot be told from a true one if it has the
//! right form.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nom::bytes::complete::{tag, take, take_till1};
use nom::character::complete::{hex_digit1, space0, space1, u64 as decimal};
use nom::combinator::{map_opt, rest};
use nom::sequence::{preceded, separated_pair, terminated};
use nom::{IResult, Parser};

use crate::model::protocol::IPPROTO_TCP;
use crate::model::socket_table::SocketTable;
use crate::model::{Binding, Details, Endpoint, Family, Interface, Socket, TcpState, socket_type};

/// A line that is not of its file's form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

impl SocketTable {
    /// Whether that is the line of column titles with which the file begins.
    pub(crate) fn is_header(self, line: &[u8]) -> bool {
        let title: &[u8] = match self {
            SocketTable::Unix => b"Num ",
            SocketTable::Packet | SocketTable::Netlink => b"sk ",
            _ => b"sl ",
        };
        line.trim_ascii_start().starts_with(title)
    }

    /// Reads a line, without its newline. The socket's namespace is left open.
    pub(crate) fn parse(self, line: &[u8]) -> Result<Socket, Malformed> {
        let parsed = match (self.family(), self.protocol()) {
            (Family::Inet, Some(protocol)) => inet(line, protocol, ipv4_address),
            (Family::Inet6, Some(protocol)) => inet(line, protocol, ipv6_address),
            (Family::Unix, _) => unix(line),
            (Family::Packet, _) => packet(line),
            (Family::Netlink, _) => netlink(line),
            (Family::Inet | Family::Inet6 | Family::Vsock | Family::Ndrv | Family::System, _) => {
                return Err(Malformed);
            }
        };
        parsed.map(|(_, socket)| socket).map_err(|_| Malformed)
    }
}

/// `sl local:port remote:port st tx:rx tr:when retrnsmt uid timeout inode …`
fn inet(
    line: &[u8],
    protocol: u16,
    address: fn(&[u8]) -> IResult<&[u8], IpAddr>,
) -> IResult<&[u8], Socket> {
    let (line, _) = (space0, decimal, tag(&b":"[..]), space1).parse(line)?;
    let (line, local) = terminated(endpoint(address), space1).parse(line)?;
    let (line, remote) = terminated(endpoint(address), space1).parse(line)?;
    let (line, state) = terminated(hex_u8, space1).parse(line)?;
    let (line, (send_queue, receive_queue)) =
        terminated(separated_pair(hex_u32, tag(&b":"[..]), hex_u32), space1).parse(line)?;
    let (line, _timer) =
        terminated((hex_digit1, tag(&b":"[..]), hex_digit1), space1).parse(line)?;
    let (line, _retransmits) = terminated(hex_u32, space1).parse(line)?;
    let (line, (uid, _timeout)) =
        (terminated(decimal, space1), terminated(decimal, space1)).parse(line)?;
    let (line, inode) = last_number(line)?;
    let state = (protocol == IPPROTO_TCP).then(|| TcpState::from(state));
    let details = Details {
        kind: socket_type(protocol),
        uid: owner(inode, uid),
        receive_queue: Some(receive_queue),
        // How long a listener's queue may get is not here.
        send_queue: (state != Some(TcpState::Listen)).then_some(send_queue),
        ..Details::default()
    };
    let binding = Binding::Inet { v6: local.address.is_ipv6(), protocol, local, remote, state };
    Ok((line, Socket { inode, net_namespace: None, binding, details }))
}

/// `Num: RefCount Protocol Flags Type St Inode[ Path]`, the path being all the rest of the line.
fn unix(line: &[u8]) -> IResult<&[u8], Socket> {
    let (line, _pointer) = (take_till1(|byte| byte == b':'), tag(&b": "[..])).parse(line)?;
    let (line, _references) = terminated(hex_u32, tag(&b" "[..])).parse(line)?;
    let (line, _protocol) = tag(&b"00000000 "[..])(line)?;
    let (line, _flags) = terminated(hex_u32, tag(&b" "[..])).parse(line)?;
    let (line, kind) = terminated(hex_u16, tag(&b" "[..])).parse(line)?;
    let (line, _state) = terminated(hex_u8, space1).parse(line)?;
    let (line, inode) = last_number(line)?;
    let (line, path) = match line {
        [] => (line, line),
        _ => preceded(tag(&b" "[..]), rest).parse(line)?,
    };
    let binding = Binding::Unix { path: path.into() };
    let kind = kind.try_into().unwrap_or_default();
    let details = Details { kind, may_be_forged: true, ..Details::default() };
    Ok((line, Socket { inode, net_namespace: None, binding, details }))
}

/// `sk RefCnt Type Proto Iface R Rmem User Inode`
fn packet(line: &[u8]) -> IResult<&[u8], Socket> {
    let (line, _pointer) = terminated(take_till1(|byte| byte == b' '), space1).parse(line)?;
    let number = || terminated(decimal, space1);
    let (line, (_references, kind)) = (number(), number()).parse(line)?;
    let (line, protocol) = terminated(hex_u16, space1).parse(line)?;
    let (line, (interface, _running, receive_queue, uid)) =
        (number(), number(), number(), number()).parse(line)?;
    let (line, inode) = last_number(line)?;
    let details = Details {
        kind: kind.try_into().unwrap_or_default(),
        uid: owner(inode, uid),
        receive_queue: receive_queue.try_into().ok(),
        interface: interface.try_into().ok().and_then(Interface::of_index),
        ..Details::default()
    };
    let binding = Binding::Packet { protocol };
    Ok((line, Socket { inode, net_namespace: None, binding, details }))
}

/// `sk Eth Pid Groups Rmem Wmem Dump Locks Drops Inode`, the third being the socket's port.
fn netlink(line: &[u8]) -> IResult<&[u8], Socket> {
    let (line, _pointer) = terminated(take_till1(|byte| byte == b' '), space1).parse(line)?;
    let (line, protocol) =
        terminated(map_opt(decimal, |n| n.try_into().ok()), space1).parse(line)?;
    let (line, port) = terminated(map_opt(decimal, |n| n.try_into().ok()), space1).parse(line)?;
    let (line, _groups) = terminated(hex_digit1, space1).parse(line)?;
    let number = || terminated(decimal, space1);
    let (line, (receive_queue, send_queue)) = (number(), number()).parse(line)?;
    let skipped = || terminated(take_till1(|byte| byte == b' '), space1);
    let (line, _dump_locks_drops) = (skipped(), skipped(), skipped()).parse(line)?;
    let (line, inode) = last_number(line)?;
    let details = Details {
        receive_queue: receive_queue.try_into().ok(),
        send_queue: send_queue.try_into().ok(),
        ..Details::default()
    };
    let binding = Binding::Netlink { protocol, port, remote_port: 0 };
    Ok((line, Socket { inode, net_namespace: None, binding, details }))
}

/// The uid of a socket that has an owner.
fn owner(inode: u64, uid: u64) -> Option<u32> {
    uid.try_into().ok().filter(|_| inode != 0)
}

/// A decimal number that a space or the line's end follows: half a number is no number.
fn last_number(line: &[u8]) -> IResult<&[u8], u64> {
    let (after, digits) = take_till1(|byte| byte == b' ')(line)?;
    match decimal(digits)? {
        ([], number) => Ok((after, number)),
        (surplus, _) => {
            Err(nom::Err::Error(nom::error::make_error(surplus, nom::error::ErrorKind::Digit)))
        }
    }
}

fn endpoint(
    address: fn(&[u8]) -> IResult<&[u8], IpAddr>,
) -> impl FnMut(&[u8]) -> IResult<&[u8], Endpoint> {
    move |line| {
        let (line, (address, port)) =
            separated_pair(address, tag(&b":"[..]), hex_u16).parse(line)?;
        Ok((line, Endpoint { address, port }))
    }
}

/// The address as the machine that wrote the file holds it in memory, printed as a 32-bit number.
fn ipv4_address(line: &[u8]) -> IResult<&[u8], IpAddr> {
    let (line, word) = hex_u32(line)?;
    Ok((line, Ipv4Addr::from(word.to_ne_bytes()).into()))
}

/// Four such words.
fn ipv6_address(line: &[u8]) -> IResult<&[u8], IpAddr> {
    let (line, (a, b, c, d)) = (hex_u32, hex_u32, hex_u32, hex_u32).parse(line)?;
    let mut octets = [0; 16];
    for (to, from) in octets.iter_mut().zip([a, b, c, d].into_iter().flat_map(u32::to_ne_bytes)) {
        *to = from;
    }
    Ok((line, Ipv6Addr::from(octets).into()))
}

fn hex_u32(line: &[u8]) -> IResult<&[u8], u32> {
    map_opt(take(8usize), hex).parse(line)
}

fn hex_u16(line: &[u8]) -> IResult<&[u8], u16> {
    map_opt(take(4usize), |digits| hex(digits)?.try_into().ok()).parse(line)
}

fn hex_u8(line: &[u8]) -> IResult<&[u8], u8> {
    map_opt(take(2usize), |digits| hex(digits)?.try_into().ok()).parse(line)
}

fn hex(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0, |number: u32, &byte| {
        Some(number.checked_mul(16)? | char::from(byte).to_digit(16)?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Of root.
    fn inet_socket(
        protocol: u16,
        local: (&str, u16),
        remote: (&str, u16),
        state: Option<TcpState>,
        inode: u64,
    ) -> Socket {
        let endpoint =
            |(address, port): (&str, u16)| Endpoint { address: address.parse().unwrap(), port };
        Socket {
            inode,
            net_namespace: None,
            binding: Binding::Inet {
                v6: endpoint(local).address.is_ipv6(),
                protocol,
                local: endpoint(local),
                remote: endpoint(remote),
                state,
            },
            details: Details {
                kind: match protocol {
                    6 => 1,
                    255 => 3,
                    _ => 2,
                },
                uid: Some(0),
                receive_queue: Some(0),
                send_queue: (state != Some(TcpState::Listen)).then_some(0),
                ..Details::default()
            },
        }
    }

    fn of(uid: u32, socket: Socket) -> Socket {
        let details = Details { uid: Some(uid), ..socket.details };
        Socket { details, ..socket }
    }

    fn unix_socket(inode: u64, path: &[u8]) -> Socket {
        let details = Details { kind: 1, may_be_forged: true, ..Details::default() };
        Socket { inode, net_namespace: None, binding: Binding::Unix { path: path.into() }, details }
    }

    // The lines below were printed by Linux 6.18 on x86_64.
    const TCP: &[u8] = b"   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 \
        00000000     0        0 1582 1 000000006ac992b8 100 0 0 10 0                      ";
    const UNIX: &[u8] =
        b"00000000879e4757: 00000002 00000000 00010000 0001 01  1578 /run/a b/socket";

    #[test]
    #[cfg(target_endian = "little")]
    fn a_tcp_line_gives_addresses_ports_state_and_inode() {
        assert_eq!(
            SocketTable::Tcp.parse(TCP),
            Ok(inet_socket(6, ("127.0.0.1", 8080), ("0.0.0.0", 0), Some(TcpState::Listen), 1582))
        );
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn a_tcp6_line_gives_the_address_word_by_word() {
        let line = b"   1: B80D0120010002000300040005000600:0016 0000000000000000FFFF00000100007F:C350 \
            01 00000000:00000000 02:000A8C2E 00000000   107        0 26713 2 0000000000000000 20 4 30 10 -1";
        assert_eq!(
            SocketTable::Tcp6.parse(line),
            Ok(of(
                107,
                inet_socket(
                    6,
                    ("2001:db8:2:1:4:3:6:5", 22),
                    ("::ffff:127.0.0.1", 50000),
                    Some(TcpState::Established),
                    26713
                )
            ))
        );
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn a_udp_line_has_no_state() {
        let line = b"  354: 0100007F:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000 \
            65534        0 4294967296 2 0000000000000000 0";
        assert_eq!(
            SocketTable::Udp.parse(line),
            Ok(of(65534, inet_socket(17, ("127.0.0.1", 53), ("0.0.0.0", 0), None, 4294967296)))
        );
    }

    #[test]
    fn a_raw_line_gives_protocol_255_and_the_ip_protocol_as_port() {
        let line = b"    1: 00000000:0001 00000000:0000 07 00000000:00000000 00:00000000 00000000 \
                0        0 31337 2 0000000000000000 0";
        assert_eq!(
            SocketTable::Raw.parse(line),
            Ok(inet_socket(255, ("0.0.0.0", 1), ("0.0.0.0", 0), None, 31337))
        );
    }

    #[test]
    fn an_icmp6_line_gives_icmpv6() {
        let line =
            b"    1: 00000000000000000000000000000000:0007 00000000000000000000000000000000:0000 \
            07 00000000:00000000 00:00000000 00000000     0        0 8 2 0000000000000000 0";
        assert_eq!(
            SocketTable::Icmp6.parse(line),
            Ok(inet_socket(58, ("::", 7), ("::", 0), None, 8))
        );
    }

    #[test]
    fn a_time_wait_line_gives_inode_0() {
        let line = b"   3: 0100007F:1F90 0100007F:D431 06 00000000:00000000 03:00001771 00000000 \
                0        0 0 3 0000000000000000";
        let socket = SocketTable::Tcp.parse(line).unwrap();
        assert_eq!((socket.inode, socket.state()), (0, "TIME_WAIT"));
        assert_eq!(socket.details.uid, None);
    }

    #[test]
    fn a_state_without_a_name_is_kept() {
        let line = String::from_utf8(TCP.to_vec()).unwrap().replace(" 0A ", " 2F ");
        let socket = SocketTable::Tcp.parse(line.as_bytes()).unwrap();
        assert_eq!(socket.state(), "UNKNOWN");
        let Binding::Inet { state, .. } = socket.binding else { panic!("{socket:?}") };
        assert_eq!(state, Some(TcpState::Unknown(0x2f)));
    }

    #[test]
    fn a_unix_path_runs_to_the_end_of_the_line() {
        assert_eq!(SocketTable::Unix.parse(UNIX), Ok(unix_socket(1578, b"/run/a b/socket")));
        let line = b"00000000879e4757: 00000002 00000000 00010000 0001 01  1578   two blanks ";
        assert_eq!(SocketTable::Unix.parse(line), Ok(unix_socket(1578, b"  two blanks ")));
    }

    #[test]
    fn a_unix_path_is_bytes_and_may_be_abstract_or_missing() {
        let line = b"00000000879e4757: 00000002 00000000 00010000 0001 01 157800 @a\xff@";
        assert_eq!(SocketTable::Unix.parse(line), Ok(unix_socket(157800, b"@a\xff@")));
        let line = b"00000000879e4757: 00000003 00000000 00000000 0001 03  1578";
        assert_eq!(SocketTable::Unix.parse(line), Ok(unix_socket(1578, b"")));
    }

    #[test]
    fn a_kernel_that_prints_no_pointer_yet_is_understood() {
        let line = b"(____ptrval____): 00000003 00000000 00000000 0001 03  1578";
        assert_eq!(SocketTable::Unix.parse(line), Ok(unix_socket(1578, b"")));
    }

    #[test]
    fn a_packet_line_gives_the_ethertype() {
        let line = b"00000000fdbc2a1e 3      3    88cc   2     1 0      0      17823 ";
        let socket = SocketTable::Packet.parse(line).unwrap();
        assert_eq!((socket.inode, socket.binding), (17823, Binding::Packet { protocol: 0x88cc }));
    }

    #[test]
    fn what_a_line_tells_beyond_the_columns_is_kept() {
        let line = b"  31: 0100007F:2329 0100007F:A001 01 00000102:00000304 01:00000014 00000000  \
            1000        0 5150 3 0000000000000000 20 4 30 10 -1";
        let known = Details {
            kind: 1,
            uid: Some(1000),
            send_queue: Some(0x102),
            receive_queue: Some(0x304),
            ..Details::default()
        };
        assert_eq!(SocketTable::Tcp.parse(line).unwrap().details, known);

        let line = b"00000000fdbc2a1e 3      3    88cc   2     1 768    1000   17823 ";
        let known = Details {
            kind: 3,
            uid: Some(1000),
            receive_queue: Some(768),
            interface: Interface::of_index(2),
            ..Details::default()
        };
        assert_eq!(SocketTable::Packet.parse(line).unwrap().details, known);

        let line = b"00000000879e4757: 00000002 00000000 00000000 0005 01  1578 /seqpacket";
        let known = Details { kind: 5, may_be_forged: true, ..Details::default() };
        assert_eq!(SocketTable::Unix.parse(line).unwrap().details, known);
    }

    #[test]
    fn a_netlink_line_gives_protocol_and_port() {
        let line = b"000000007e5783c2 15  4294963199 00000002 128      0        0     2        0        1506    ";
        let socket = SocketTable::Netlink.parse(line).unwrap();
        let binding = Binding::Netlink { protocol: 15, port: 4_294_963_199, remote_port: 0 };
        assert_eq!((socket.inode, socket.binding), (1506, binding));
        assert_eq!(socket.details.receive_queue, Some(128));
        // Up to Linux 3.5 the sixth was a pointer.
        let line =
            b"ffff88003d1f2000 0   1234   00000000 0        0        (null)   2        0        77";
        assert_eq!(SocketTable::Netlink.parse(line).unwrap().inode, 77);
    }

    #[test]
    fn headers_are_known_and_lines_are_no_headers() {
        assert!(SocketTable::Tcp.is_header(b"  sl  local_address rem_address   st"));
        assert!(SocketTable::Udp6.is_header(b"   sl  local_address"));
        assert!(SocketTable::Unix.is_header(b"Num       RefCount Protocol Flags    Type St Inode"));
        assert!(SocketTable::Packet.is_header(b"sk               RefCnt Type Proto"));
        assert!(!SocketTable::Tcp.is_header(TCP));
        assert!(!SocketTable::Unix.is_header(UNIX));
    }

    #[test]
    fn a_line_cut_anywhere_before_its_inode_is_malformed() {
        let inode_ends = TCP.windows(5).position(|part| part == b" 1582").unwrap() + 2;
        for length in 0..inode_ends {
            let cut = &TCP[..length];
            assert_eq!(SocketTable::Tcp.parse(cut), Err(Malformed), "{length}");
        }
        let inode_ends = UNIX.windows(5).position(|part| part == b" 1578").unwrap() + 1;
        for length in 0..inode_ends {
            assert_eq!(SocketTable::Unix.parse(&UNIX[..length]), Err(Malformed), "{length}");
        }
    }

    #[test]
    fn an_inode_beyond_64_bits_is_malformed_and_the_largest_is_not() {
        let with_inode = |inode: &str| {
            let line = String::from_utf8(UNIX.to_vec()).unwrap().replace("1578", inode);
            SocketTable::Unix.parse(line.as_bytes()).map(|socket| socket.inode)
        };
        assert_eq!(with_inode("18446744073709551615"), Ok(u64::MAX));
        assert_eq!(with_inode("18446744073709551616"), Err(Malformed));
        assert_eq!(with_inode("-1"), Err(Malformed));
        assert_eq!(with_inode("1x"), Err(Malformed));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(line in prop::collection::vec(any::<u8>(), 0..200)) {
            for file in SocketTable::ALL {
                let _ = file.parse(&line);
            }
        }

        #[test]
        fn one_changed_byte_never_gives_another_familys_socket(
            position in 0..TCP.len(), byte in any::<u8>()
        ) {
            let mut line = TCP.to_vec();
            line[position] = byte;
            if let Ok(socket) = SocketTable::Tcp.parse(&line) {
                prop_assert_eq!((socket.family(), socket.protocol()), (Some(2), Some(6)));
            }
        }

        #[test]
        fn every_unix_path_without_a_newline_comes_back(
            path in prop::collection::vec(any::<u8>().prop_filter("newline", |b| *b != b'\n'), 1..108),
            inode in any::<u64>(),
        ) {
            let mut line =
                format!("00000000879e4757: 00000002 00000000 00010000 0001 01 {inode:5} ").into_bytes();
            line.extend(&path);
            prop_assert_eq!(SocketTable::Unix.parse(&line), Ok(unix_socket(inode, &path)));
        }

        #[test]
        fn every_ipv6_line_comes_back(
            local in any::<[u8; 16]>(), remote in any::<[u8; 16]>(),
            ports in any::<(u16, u16)>(), state in any::<u8>(), inode in any::<u64>(),
        ) {
            let hex = |octets: [u8; 16]| -> String {
                octets
                    .chunks_exact(4)
                    .map(|word| format!("{:08X}", u32::from_ne_bytes(word.try_into().unwrap())))
                    .collect()
            };
            let line = format!(
                "   1: {}:{:04X} {}:{:04X} {state:02X} 00000000:00000000 00:00000000 00000000     0        0 {inode} 1",
                hex(local), ports.0, hex(remote), ports.1,
            );
            let socket = SocketTable::Tcp6.parse(line.as_bytes()).unwrap();
            prop_assert_eq!(socket.inode, inode);
            prop_assert_eq!(socket.local(), Some(Endpoint { address: local.into(), port: ports.0 }));
            prop_assert_eq!(socket.remote(), Some(Endpoint { address: remote.into(), port: ports.1 }));
        }
    }
}
