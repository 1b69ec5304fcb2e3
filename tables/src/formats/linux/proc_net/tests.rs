use super::*;
use proptest::prelude::*;

const NONE: ExtendedFields = ExtendedFields::empty();

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

/// The line has the flag SO_ACCEPTCON.
fn unix_listener(inode: u64, path: &[u8]) -> Socket {
    let socket = unix_socket(inode, path);
    let details = Details { listens: true, ..socket.details };
    Socket { details, ..socket }
}

// The lines below were printed by Linux 6.18 on x86_64.
const TCP: &[u8] = b"   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 \
    00000000     0        0 1582 1 000000006ac992b8 100 0 0 10 0                      ";
const UNIX: &[u8] = b"00000000879e4757: 00000002 00000000 00010000 0001 01  1578 /run/a b/socket";

#[test]
#[cfg(target_endian = "little")]
fn a_tcp_line_gives_addresses_ports_state_and_inode() {
    assert_eq!(
        SocketTable::Tcp.parse(TCP, NONE),
        Ok(inet_socket(6, ("127.0.0.1", 8080), ("0.0.0.0", 0), Some(TcpState::Listen), 1582))
    );
}

#[test]
fn a_tcp_line_has_the_congestion_window() {
    let established =
        b"   0: 0100007F:1F90 0100007F:C350 01 00000000:00000000 00:00000000 00000000     0 \
        0 2071 1 00000000ba0d0bd7 20 4 30 217 145";
    let time_wait =
        b"   3: 0100007F:1F90 0100007F:D431 06 00000000:00000000 03:00001771 00000000     0 \
        0 0 3 000000001b9c4ac7";
    let window = |line, fields| {
        let socket = SocketTable::Tcp.parse(line, fields).unwrap();
        Some(socket.details.extended?.tcp?.congestion_window.unwrap())
    };
    assert_eq!(window(TCP, ExtendedFields::TCP), Some(10));
    assert_eq!(window(established, ExtendedFields::TCP), Some(217));
    assert_eq!(window(time_wait, ExtendedFields::TCP), None);
    assert_eq!(window(established, ExtendedFields::COOKIE), None);
}

#[test]
#[cfg(target_endian = "little")]
fn a_tcp6_line_gives_the_address_word_by_word() {
    let line = b"   1: B80D0120010002000300040005000600:0016 0000000000000000FFFF00000100007F:C350 \
        01 00000000:00000000 02:000A8C2E 00000000   107        0 26713 2 0000000000000000 20 4 30 10 -1";
    assert_eq!(
        SocketTable::Tcp6.parse(line, NONE),
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
        SocketTable::Udp.parse(line, NONE),
        Ok(of(65534, inet_socket(17, ("127.0.0.1", 53), ("0.0.0.0", 0), None, 4294967296)))
    );
}

#[test]
fn a_raw_line_gives_protocol_255_and_the_ip_protocol_as_port() {
    let line = b"    1: 00000000:0001 00000000:0000 07 00000000:00000000 00:00000000 00000000 \
            0        0 31337 2 0000000000000000 0";
    assert_eq!(
        SocketTable::Raw.parse(line, NONE),
        Ok(inet_socket(255, ("0.0.0.0", 1), ("0.0.0.0", 0), None, 31337))
    );
}

#[test]
fn an_icmp6_line_gives_icmpv6() {
    let line =
        b"    1: 00000000000000000000000000000000:0007 00000000000000000000000000000000:0000 \
        07 00000000:00000000 00:00000000 00000000     0        0 8 2 0000000000000000 0";
    assert_eq!(
        SocketTable::Icmp6.parse(line, NONE),
        Ok(inet_socket(58, ("::", 7), ("::", 0), None, 8))
    );
}

#[test]
fn a_time_wait_line_gives_inode_0() {
    let line = b"   3: 0100007F:1F90 0100007F:D431 06 00000000:00000000 03:00001771 00000000 \
            0        0 0 3 0000000000000000";
    let socket = SocketTable::Tcp.parse(line, NONE).unwrap();
    assert_eq!((socket.inode, socket.state()), (0, "TIME_WAIT"));
    assert_eq!(socket.details.uid, None);
}

#[test]
fn a_state_without_a_name_is_kept() {
    let line = String::from_utf8(TCP.to_vec()).unwrap().replace(" 0A ", " 2F ");
    let socket = SocketTable::Tcp.parse(line.as_bytes(), NONE).unwrap();
    assert_eq!(socket.state(), "UNKNOWN");
    let Binding::Inet { state, .. } = socket.binding else { panic!("{socket:?}") };
    assert_eq!(state, Some(TcpState::Unknown(0x2f)));
}

#[test]
fn a_unix_path_runs_to_the_end_of_the_line() {
    assert_eq!(SocketTable::Unix.parse(UNIX, NONE), Ok(unix_listener(1578, b"/run/a b/socket")));
    let line = b"00000000879e4757: 00000002 00000000 00010000 0001 01  1578   two blanks ";
    assert_eq!(SocketTable::Unix.parse(line, NONE), Ok(unix_listener(1578, b"  two blanks ")));
}

#[test]
fn a_unix_path_is_bytes_and_may_be_abstract_or_missing() {
    let line = b"00000000879e4757: 00000002 00000000 00010000 0001 01 157800 @a\xff@";
    assert_eq!(SocketTable::Unix.parse(line, NONE), Ok(unix_listener(157800, b"@a\xff@")));
    let line = b"00000000879e4757: 00000003 00000000 00000000 0001 03  1578";
    assert_eq!(SocketTable::Unix.parse(line, NONE), Ok(unix_socket(1578, b"")));
}

#[test]
fn a_kernel_that_prints_no_pointer_yet_is_understood() {
    let line = b"(____ptrval____): 00000003 00000000 00000000 0001 03  1578";
    assert_eq!(SocketTable::Unix.parse(line, NONE), Ok(unix_socket(1578, b"")));
}

#[test]
fn a_packet_line_gives_the_ethertype() {
    let line = b"00000000fdbc2a1e 3      3    88cc   2     1 0      0      17823 ";
    let socket = SocketTable::Packet.parse(line, NONE).unwrap();
    assert_eq!((socket.inode, socket.binding), (17823, Binding::Packet { protocol: 0x88cc }));
}

#[test]
fn details_of_a_line_are_read() {
    let line = b"  31: 0100007F:2329 0100007F:A001 01 00000102:00000304 01:00000014 00000000  \
        1000        0 5150 3 0000000000000000 20 4 30 10 -1";
    let expected = Details {
        kind: 1,
        uid: Some(1000),
        send_queue: Some(0x102),
        receive_queue: Some(0x304),
        ..Details::default()
    };
    assert_eq!(SocketTable::Tcp.parse(line, NONE).unwrap().details, expected);

    let line = b"00000000fdbc2a1e 3      3    88cc   2     1 768    1000   17823 ";
    let expected = Details {
        kind: 3,
        uid: Some(1000),
        receive_queue: Some(768),
        extended: ExtendedDetails::of_interface(2),
        ..Details::default()
    };
    assert_eq!(SocketTable::Packet.parse(line, NONE).unwrap().details, expected);

    let line = b"00000000879e4757: 00000002 00000000 00000000 0005 01  1578 /seqpacket";
    let expected = Details { kind: 5, may_be_forged: true, ..Details::default() };
    assert_eq!(SocketTable::Unix.parse(line, NONE).unwrap().details, expected);
}

#[test]
fn a_netlink_line_gives_protocol_and_port() {
    let line = b"000000007e5783c2 15  4294963199 00000002 128      0        0     2        0        1506    ";
    let socket = SocketTable::Netlink.parse(line, NONE).unwrap();
    let binding = Binding::Netlink { protocol: 15, port: 4_294_963_199, remote_port: 0 };
    assert_eq!((socket.inode, socket.binding), (1506, binding));
    assert_eq!(socket.details.receive_queue, Some(128));
    // Up to Linux 3.5 the sixth was a pointer.
    let line =
        b"ffff88003d1f2000 0   1234   00000000 0        0        (null)   2        0        77";
    assert_eq!(SocketTable::Netlink.parse(line, NONE).unwrap().inode, 77);
}

#[test]
fn headers_are_recognised_and_lines_are_no_headers() {
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
        assert_eq!(SocketTable::Tcp.parse(cut, NONE), Err(Malformed), "{length}");
    }
    let inode_ends = UNIX.windows(5).position(|part| part == b" 1578").unwrap() + 1;
    for length in 0..inode_ends {
        assert_eq!(SocketTable::Unix.parse(&UNIX[..length], NONE), Err(Malformed), "{length}");
    }
}

#[test]
fn an_inode_beyond_64_bits_is_malformed_and_the_largest_is_not() {
    let with_inode = |inode: &str| {
        let line = String::from_utf8(UNIX.to_vec()).unwrap().replace("1578", inode);
        SocketTable::Unix.parse(line.as_bytes(), NONE).map(|socket| socket.inode)
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
            let _ = file.parse(&line, ExtendedFields::all());
        }
    }

    #[test]
    fn one_changed_byte_never_gives_another_familys_socket(
        position in 0..TCP.len(), byte in any::<u8>()
    ) {
        let mut line = TCP.to_vec();
        line[position] = byte;
        if let Ok(socket) = SocketTable::Tcp.parse(&line, NONE) {
            prop_assert_eq!((socket.family(), socket.protocol()), (Some(2), Some(6)));
        }
    }

    #[test]
    fn every_unix_path_without_a_newline_round_trips(
        path in prop::collection::vec(any::<u8>().prop_filter("newline", |b| *b != b'\n'), 1..108),
        inode in any::<u64>(),
    ) {
        let mut line =
            format!("00000000879e4757: 00000002 00000000 00010000 0001 01 {inode:5} ").into_bytes();
        line.extend(&path);
        prop_assert_eq!(SocketTable::Unix.parse(&line, NONE), Ok(unix_listener(inode, &path)));
    }

    #[test]
    fn every_ipv6_line_round_trips(
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
        let socket = SocketTable::Tcp6.parse(line.as_bytes(), NONE).unwrap();
        prop_assert_eq!(socket.inode, inode);
        prop_assert_eq!(socket.local(), Some(Endpoint { address: local.into(), port: ports.0 }));
        prop_assert_eq!(socket.remote(), Some(Endpoint { address: remote.into(), port: ports.1 }));
    }
}
