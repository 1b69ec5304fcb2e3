//! Bytes on the wire, one field a line, and captured dumps beside what `/proc/net` showed of the same
//! sockets.

#![cfg(target_endian = "little")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use proptest::prelude::*;

use super::*;
use crate::model::socket_table::SocketTable;
use crate::model::{
    Binding, CongestionAlgorithm, Details, Endpoint, ExtendedDetails, ExtendedFields, FileId,
    Socket, TcpState, VsockAddress,
};

/// Bytes in hexadecimal, with anything after `#` to the end of the line as a comment.
fn bytes(text: &str) -> Vec<u8> {
    text.lines()
        .flat_map(|line| line.split('#').next().unwrap().split_whitespace())
        .flat_map(|word| word.as_bytes().chunks(2))
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

fn request(file: SocketTable) -> Request {
    Request::of(file).unwrap()
}

#[test]
fn a_tcp_request_selects_every_state_that_proc_net_lists() {
    let expected = bytes(
        "48000000    # nlmsg_len: 16 + 56
         1400        # nlmsg_type: SOCK_DIAG_BY_FAMILY
         0103        # nlmsg_flags: NLM_F_REQUEST | NLM_F_DUMP
         07000000    # nlmsg_seq
         00000000    # nlmsg_pid
         02          # sdiag_family: AF_INET
         06          # sdiag_protocol: IPPROTO_TCP
         00          # idiag_ext
         00          # pad
         fe1f0000    # idiag_states: 1 to 12
         0000 0000   # idiag_sport, idiag_dport
         00000000 00000000 00000000 00000000     # idiag_src
         00000000 00000000 00000000 00000000     # idiag_dst
         00000000    # idiag_if
         00000000 00000000                       # idiag_cookie",
    );
    assert_eq!(request(SocketTable::Tcp).to_bytes(7), expected);
}

#[test]
fn a_program_for_ports_jumps_beyond_the_end_without_a_match() {
    let ports = request(SocketTable::Udp6).with_local_ports(53..=80).with_remote_ports(0..=1023);
    let expected = bytes(
        "1c00        # nla_len: 4 + 24
         0100        # nla_type: INET_DIAG_REQ_BYTECODE
         02 08 1c00  # INET_DIAG_BC_S_GE, yes: 8 on, no: 28 on, which is 4 beyond the end
         00 00 3500  #   53
         03 08 1400  # INET_DIAG_BC_S_LE, yes: 8, no: 20
         00 00 5000  #   80
         05 08 0c00  # INET_DIAG_BC_D_LE, yes: 8 and so the end, no: 12
         00 00 ff03  #   1023",
    );
    let message = ports.to_bytes(1);
    assert_eq!(message[72..], expected);
    assert_eq!(message[..4], bytes("64000000"));
    assert_eq!(message[16..18], bytes("0a 11"));
}

#[test]
fn a_request_without_a_condition_on_ports_carries_no_program() {
    let open = request(SocketTable::Udp).with_local_ports(0..=65535);
    assert_eq!(open.to_bytes(1).len(), 72);
    // The remote port of a raw socket is not what the kernel would compare with.
    let raw = request(SocketTable::Raw).with_remote_ports(0..=0);
    assert_eq!(raw.to_bytes(1).len(), 72);
}

#[test]
fn a_request_for_mptcp_names_it_in_an_attribute() {
    let message = request(SocketTable::Mptcp6).to_bytes(1);
    assert_eq!(message[16..18], bytes("0a 00"));
    let expected = bytes(
        "0800        # nla_len: 4 + 4
         0300        # nla_type: INET_DIAG_REQ_PROTOCOL
         06010000    # 262",
    );
    assert_eq!(message[72..], expected);
}

#[test]
fn a_unix_request_selects_names_peers_queues_and_uids() {
    let expected = bytes(
        "28000000 1400 0103 01000000 00000000    # nlmsghdr
         01          # sdiag_family: AF_UNIX
         00          # sdiag_protocol
         0000        # pad
         ffffffff    # udiag_states
         00000000    # udiag_ino
         55000000    # udiag_show: NAME | PEER | RQLEN | UID
         ffffffff ffffffff                       # udiag_cookie: INET_DIAG_NOCOOKIE",
    );
    assert_eq!(request(SocketTable::Unix).to_bytes(1), expected);
}

#[test]
fn a_packet_request_selects_the_interface_and_the_queues() {
    let expected = bytes(
        "24000000 1400 0103 01000000 00000000    # nlmsghdr
         11          # sdiag_family: AF_PACKET
         00          # sdiag_protocol
         0000        # pad
         00000000    # pdiag_ino
         11000000    # pdiag_show: PACKET_SHOW_INFO | PACKET_SHOW_MEMINFO
         ffffffff ffffffff                       # pdiag_cookie",
    );
    assert_eq!(request(SocketTable::Packet).to_bytes(1), expected);
}

#[test]
fn ping_sockets_have_no_request() {
    assert_eq!(Request::of(SocketTable::Icmp), None);
    assert_eq!(Request::of(SocketTable::Icmp6), None);
}

#[test]
fn states_are_bits_and_an_unfinished_handshake_has_two() {
    let mask = |states| request(SocketTable::Tcp).in_states(states).to_bytes(1)[20..24].to_vec();
    assert_eq!(mask(States::admitting(|state| state == TcpState::Listen)), bytes("00040000"));
    assert_eq!(mask(States::admitting(|state| state == TcpState::SynRecv)), bytes("08100000"));
    assert_eq!(mask(States::admitting(|_| true)), bytes("fe1f0000"));
    assert_eq!(mask(States::LISTED.with_bound_inactive()), bytes("fe3f0000"));
    assert_eq!(mask(States::admitting(|_| false)), bytes("00000000"));
    let udp = request(SocketTable::Udp);
    assert_eq!(udp.clone().in_states(States::admitting(|_| false)), udp);
}

const INET: &str = "
    0a          # idiag_family: AF_INET6
    01          # idiag_state: TCP_ESTABLISHED
    02          # idiag_timer
    00          # idiag_retrans
    1f90        # idiag_sport: 8080
    c350        # idiag_dport: 50000
    20010db8 00000000 00000000 00000001     # idiag_src
    00000000 00000000 0000ffff 7f000001     # idiag_dst
    02000000    # idiag_if
    0d9c0100 01000000                       # idiag_cookie
    00000000    # idiag_expires
    04000000    # idiag_rqueue
    05000000    # idiag_wqueue
    e8030000    # idiag_uid: 1000
    c0e19f00    # idiag_inode: 10478016
    05000800 00000000                       # INET_DIAG_SHUTDOWN
    0c001500 15170000 00000000              # INET_DIAG_CGROUP_ID: 5909";

#[test]
fn an_answer_about_tcp_gives_a_socket() {
    let endpoint = |address: &str, port| Endpoint { address: address.parse().unwrap(), port };
    let binding = Binding::Inet {
        v6: true,
        protocol: 6,
        local: endpoint("2001:db8::1", 8080),
        remote: endpoint("::ffff:127.0.0.1", 50000),
        state: Some(TcpState::Established),
    };
    let details = Details {
        kind: 1,
        uid: Some(1000),
        receive_queue: Some(4),
        send_queue: Some(5),
        extended: ExtendedDetails::of_interface(2),
        cgroup: std::num::NonZeroU64::new(5909),
        ..Details::default()
    };
    let socket = Socket { inode: 10478016, net_namespace: None, binding, details };
    let listed = request(SocketTable::Tcp6).parse(&bytes(INET)).unwrap();
    assert_eq!((listed.socket.clone(), listed.cookie), (socket, 0x1_00019c0d));
    assert!(listed.waiting().is_none());
}

#[test]
fn udp_has_no_state_and_a_raw_socket_no_remote_port() {
    let raw = request(SocketTable::Raw6).parse(&bytes(INET)).unwrap().socket;
    assert_eq!((raw.protocol(), raw.state(), raw.details.kind), (Some(255), "", 3));
    assert_eq!((raw.local().unwrap().port, raw.remote().unwrap().port), (8080, 0));
    let udp = request(SocketTable::Udp6).parse(&bytes(INET)).unwrap().socket;
    assert_eq!((udp.protocol(), udp.state(), udp.details.kind), (Some(17), "", 2));
    assert_eq!(udp.remote().unwrap().port, 50000);
    let mptcp = request(SocketTable::Mptcp6).parse(&bytes(INET)).unwrap().socket;
    assert_eq!(
        (mptcp.protocol(), mptcp.state(), mptcp.details.kind),
        (Some(262), "ESTABLISHED", 1)
    );
}

#[test]
fn counters_of_tcp_are_requested_only_if_the_query_reads_them() {
    let extensions = |table, fields| request(table).with_extended(fields).to_bytes(1)[18];
    let other = ExtendedFields::all() - ExtendedFields::TCP;
    // INET_DIAG_INFO and INET_DIAG_CONG.
    assert_eq!(extensions(SocketTable::Tcp, ExtendedFields::TCP), 0b1010);
    assert_eq!(extensions(SocketTable::Tcp6, ExtendedFields::all()), 0b1010);
    assert_eq!(extensions(SocketTable::Tcp, other), 0);
    // Their structures are others.
    for table in [SocketTable::Mptcp, SocketTable::Sctp, SocketTable::Udp] {
        assert_eq!(extensions(table, ExtendedFields::all()), 0, "{table:?}");
    }
}

#[test]
fn the_file_of_a_path_is_requested_only_if_the_query_reads_it() {
    let show = |fields| request(SocketTable::Unix).with_extended(fields).to_bytes(1)[28];
    assert_eq!(show(ExtendedFields::BOUND_FILE), 0x57);
    assert_eq!(show(ExtendedFields::all() - ExtendedFields::BOUND_FILE), 0x55);
}

#[test]
fn a_cookie_is_shown_if_the_query_reads_it() {
    let cookie = |table, fields, message: &[u8]| {
        let listed = request(table).with_extended(fields).parse(message).unwrap();
        listed.socket.details.extended.and_then(|extended| extended.cookie).map(u64::from)
    };
    let unbound = INET.replace("02000000    # idiag_if", "00000000");
    let udp = |fields| cookie(SocketTable::Udp6, fields, &bytes(&unbound));
    assert_eq!(udp(ExtendedFields::COOKIE), Some(0x1_0001_9c0d));
    assert_eq!(udp(ExtendedFields::all() - ExtendedFields::COOKIE), None);
    let plain = request(SocketTable::Udp6).parse(&bytes(&unbound)).unwrap();
    assert_eq!(plain.socket.details.extended, None);
    // All associations of an endpoint have its cookie.
    let peers = bytes(&format!("{INET} 0400 0d00"));
    assert_eq!(cookie(SocketTable::Sctp6, ExtendedFields::COOKIE, &peers), Some(0x1_0001_9c0d));
}

/// INET_DIAG_INFO with a `struct tcp_info` of 104 bytes, as Linux 2.6 has it, and INET_DIAG_CONG.
fn info() -> Vec<u8> {
    let mut info = vec![0; 104];
    info[68..72].copy_from_slice(&900_u32.to_ne_bytes());
    [&bytes("6c00 0200")[..], &info, &bytes("0a00 0400 637562696300 0000")].concat()
}

#[test]
fn an_answer_about_tcp_has_the_requested_counters() {
    let message = [bytes(INET), info()].concat();
    let of = |fields| {
        let listed = request(SocketTable::Tcp6).with_extended(fields).parse(&message).unwrap();
        listed.socket.details.extended.unwrap()
    };
    let tcp = of(ExtendedFields::TCP).tcp.unwrap();
    assert_eq!(tcp.congestion_algorithm, CongestionAlgorithm::new(b"cubic"));
    assert_eq!((tcp.rtt_us, tcp.retransmits, tcp.bytes_sent), (Some(900), Some(0), None));
    let without = of(ExtendedFields::COOKIE);
    assert_eq!((without.tcp.is_none(), without.interface.is_some()), (true, true));
    // A socket in TIME_WAIT or SYN_RECV has no such attribute.
    let waiting = request(SocketTable::Tcp6).with_extended(ExtendedFields::TCP);
    assert_eq!(waiting.parse(&bytes(INET)).unwrap().socket.details.extended.unwrap().tcp, None);
}

#[test]
fn an_answer_about_a_bound_unix_socket_has_its_file() {
    let message = bytes(
        "01 01 0a 00     # AF_UNIX, SOCK_STREAM, LISTEN
         2a000000        # udiag_ino: 42
         07000000 00000000
         0c00 0100       # UNIX_DIAG_VFS
         63000000        # udiag_vfs_ino: 99
         11008000        # udiag_vfs_dev: 8:17",
    );
    let listed = request(SocketTable::Unix).parse(&message).unwrap();
    let file = FileId { inode: 99, device: 0x811 };
    assert_eq!(listed.socket.details.extended.unwrap().bound_file, Some(file));
    for length in 17..message.len() - 1 {
        let cut = request(SocketTable::Unix).parse(&message[..length]);
        assert_eq!(cut, Err(Malformed), "{length}");
    }
}

#[test]
fn an_answer_of_another_family_is_malformed() {
    for file in [SocketTable::Tcp, SocketTable::Unix, SocketTable::Packet] {
        assert_eq!(request(file).parse(&bytes(INET)), Err(Malformed));
    }
}

fn unix(name: &[u8]) -> Socket {
    let mut message = bytes(
        "01          # udiag_family: AF_UNIX
         01          # udiag_type: SOCK_STREAM
         0a          # udiag_state: TCP_LISTEN
         00          # pad
         2a000000    # udiag_ino
         01000000 00000000                       # udiag_cookie
         0c00 0400 02000000 05000000             # UNIX_DIAG_RQLEN: 2 of 5
         0800 0200 2b000000                      # UNIX_DIAG_PEER
         0500 0600 03 000000                     # UNIX_DIAG_SHUTDOWN
         0800 0700 e8030000                      # UNIX_DIAG_UID",
    );
    message.extend((4 + name.len() as u16).to_ne_bytes());
    // UNIX_DIAG_NAME, without the filling behind it.
    message.extend([0, 0]);
    message.extend(name);
    let listed = request(SocketTable::Unix).parse(&message).unwrap();
    let waiting: Vec<Socket> = listed.waiting().unwrap().collect();
    assert_eq!(waiting.len(), 2);
    for one in waiting {
        assert_eq!((one.inode, one.binding), (0, listed.socket.binding.clone()));
        assert_eq!((one.details.kind, one.details.uid), (1, None));
    }
    listed.socket
}

#[test]
fn a_unix_listener_has_the_connections_in_its_accept_queue() {
    let socket = unix(b"/run/socket\0");
    assert_eq!(socket.inode, 42);
    assert_eq!(socket.binding, Binding::Unix { path: b"/run/socket"[..].into() });
    let details = Details {
        kind: 1,
        uid: Some(1000),
        peer: std::num::NonZeroU32::new(43),
        listens: true,
        receive_queue: Some(2),
        send_queue: Some(5),
        ..Details::default()
    };
    assert_eq!(socket.details, details);
}

#[test]
fn a_unix_name_has_the_format_of_proc_net_and_is_whole() {
    for (name, path) in [
        (&b"/run/a\nb\0"[..], &b"/run/a\nb"[..]),
        (b"/run/no end", b"/run/no end"),
        (b"\0abstract", b"@abstract"),
        (b"\0at@", b"@at@"),
        (b"\0", b"@"),
        (b"", b""),
        (b"\0a\0b", b"@a@b"),
        (b"@relative\0", b"@relative"),
    ] {
        assert_eq!(unix(name).binding, Binding::Unix { path: path.into() });
    }
}

#[test]
fn a_packet_socket_has_its_ethertype_and_interface() {
    let message = bytes(
        "11          # pdiag_family: AF_PACKET
         03          # pdiag_type: SOCK_RAW
         cc88        # pdiag_num: 0x88cc, in the machine's order
         2a000000    # pdiag_ino
         01000000 00000000                       # pdiag_cookie
         1c00 0000   # PACKET_DIAG_INFO
         02000000    #   pdi_index
         00000000 00000000 00000000 00000000 01000000
         0800 0500 e8030000                      # PACKET_DIAG_UID
         1000 0600 00030000 00400300 00010000    # PACKET_DIAG_MEMINFO, the first three of it",
    );
    let details = Details {
        kind: 3,
        uid: Some(1000),
        receive_queue: Some(768),
        send_queue: Some(256),
        extended: ExtendedDetails::of_interface(2),
        ..Details::default()
    };
    let binding = Binding::Packet { protocol: 0x88cc };
    let socket = Socket { inode: 42, net_namespace: None, binding, details };
    assert_eq!(request(SocketTable::Packet).parse(&message).unwrap().socket, socket);
}

#[test]
fn a_netlink_request_selects_all_protocols_and_the_queues() {
    let expected = bytes(
        "24000000 1400 0103 01000000 00000000    # nlmsghdr
         10          # sdiag_family: AF_NETLINK
         ff          # sdiag_protocol: NDIAG_PROTO_ALL
         0000        # pad
         00000000    # ndiag_ino
         01000000    # ndiag_show: NDIAG_SHOW_MEMINFO
         00000000 00000000                       # ndiag_cookie",
    );
    assert_eq!(request(SocketTable::Netlink).to_bytes(1), expected);
}

#[test]
fn an_answer_about_a_netlink_socket_gives_protocol_and_ports() {
    let message = bytes(
        "10          # ndiag_family: AF_NETLINK
         03          # ndiag_type: SOCK_RAW
         0f          # ndiag_protocol: NETLINK_KOBJECT_UEVENT
         01          # ndiag_state
         ffefffff    # ndiag_portid: 4294963199
         2a000000    # ndiag_dst_portid
         00000000    # ndiag_dst_group
         e9610000    # ndiag_ino: 25065
         01000000 00000000                       # ndiag_cookie
         1000 0000 80000000 00400300 40000000    # NETLINK_DIAG_MEMINFO, the first three of it",
    );
    let details =
        Details { kind: 3, receive_queue: Some(128), send_queue: Some(64), ..Details::default() };
    let binding = Binding::Netlink { protocol: 15, port: 4_294_963_199, remote_port: 42 };
    let socket = Socket { inode: 25065, net_namespace: None, binding, details };
    let listed = request(SocketTable::Netlink).parse(&message).unwrap();
    assert_eq!((listed.socket, listed.cookie), (socket.clone(), 1));
    assert_eq!((socket.local_port(), socket.remote_port()), (-4097, 42));
    for length in 0..28 {
        let cut = &message[..length];
        assert_eq!(request(SocketTable::Netlink).parse(cut), Err(Malformed), "{length}");
    }
}

#[test]
fn a_vsock_request_selects_every_state() {
    let expected = bytes(
        "28000000 1400 0103 01000000 00000000    # nlmsghdr
         28          # sdiag_family: AF_VSOCK
         00          # sdiag_protocol
         0000        # pad
         ffffffff    # vdiag_states
         00000000    # vdiag_ino
         00000000    # vdiag_show
         00000000 00000000                       # vdiag_cookie",
    );
    assert_eq!(request(SocketTable::Vsock).to_bytes(1), expected);
}

#[test]
fn an_answer_about_a_vsock_socket_gives_addresses_and_state() {
    let message = bytes(
        "28          # vdiag_family: AF_VSOCK
         01          # vdiag_type: SOCK_STREAM
         01          # vdiag_state: TCP_ESTABLISHED
         00          # vdiag_shutdown
         03000000    # vdiag_src_cid
         00040000    # vdiag_src_port: 1024
         02000000    # vdiag_dst_cid: VMADDR_CID_HOST
         ffffffff    # vdiag_dst_port: VMADDR_PORT_ANY
         e9610000    # vdiag_ino: 25065
         01000000 00000000                       # vdiag_cookie",
    );
    let vsock = request(SocketTable::Vsock);
    let socket = vsock.parse(&message).unwrap().socket;
    let address = |cid, port| VsockAddress { cid, port };
    let binding = Binding::Vsock {
        local: address(3, 1024),
        remote: address(2, u32::MAX),
        state: Some(TcpState::Established),
    };
    assert_eq!((socket.inode, &socket.binding), (25065, &binding));
    assert_eq!((socket.family(), socket.protocol()), (Some(40), Some(0)));
    assert_eq!((socket.local_port(), socket.remote_port()), (1024, -1));
    for length in 0..message.len() {
        assert_eq!(vsock.parse(&message[..length]), Err(Malformed), "{length}");
    }
}

#[test]
fn an_sctp_socket_and_its_associations_have_states_of_their_own() {
    let sctp = request(SocketTable::Sctp6);
    let endpoint = bytes(&INET.replace("    01          # idiag_state", "    0a          #"));
    let mut association =
        bytes(INET.replace("    01          # idiag_state", "    03          #").as_str());
    // INET_DIAG_PEERS, with a `struct sockaddr_storage`.
    association.extend([4 + 128, 0, 13, 0]);
    association.extend([0; 128]);
    let mut other = association.clone();
    other[7] ^= 1;
    let [endpoint, association, other] =
        [&endpoint, &association, &other].map(|message| sctp.parse(message).unwrap());
    assert_eq!(endpoint.socket.state(), "LISTEN");
    assert_eq!(association.socket.state(), "ESTABLISHED");
    assert_eq!((endpoint.socket.protocol(), endpoint.socket.details.kind), (Some(132), 0));
    // One inode and one cookie in the kernel, and yet three of them.
    let inodes = [&endpoint, &association, &other].map(|listed| listed.socket.inode);
    assert_eq!(inodes, [10478016; 3]);
    let cookies: std::collections::HashSet<u64> =
        [&endpoint, &association, &other].map(|listed| listed.cookie).into();
    assert_eq!((cookies.len(), endpoint.cookie), (3, 0x1_00019c0d));
}

#[test]
fn messages_end_with_the_error_and_skip_other_requests() {
    let read = |text: &str| {
        let datagram = bytes(text);
        let mut messages = Messages::new(&datagram, 7);
        let kinds: Vec<String> = messages.by_ref().map(|message| format!("{message:?}")).collect();
        (kinds.join(", "), messages.interrupted())
    };
    let done = "14000000 0300 0200 07000000 00000000 00000000";
    assert_eq!(read(done), ("Ok(End(0))".into(), false));
    // The old form, without a number.
    assert_eq!(read("10000000 0300 0200 07000000 00000000"), ("Ok(End(0))".into(), false));
    // NLM_F_DUMP_INTR at the end: -ENOENT with it.
    let interrupted = "14000000 0300 1200 07000000 00000000 feffffff";
    assert_eq!(read(interrupted), ("Ok(End(2))".into(), true));
    // NLMSG_ERROR: -EINVAL, and the header of the request.
    let error =
        "24000000 0200 0000 07000000 00000000 eaffffff 48000000 1400 0103 07000000 00000000";
    assert_eq!(read(error), ("Ok(End(22))".into(), false));
    assert_eq!(read("10000000 0400 0000 07000000 00000000"), ("Ok(Overrun)".into(), false));
    let others = "14000000 1400 1200 06000000 00000000 02010000";
    assert_eq!(read(&format!("{others} {done}")), ("Ok(End(0))".into(), false));
    // Three bytes and one of filling.
    let short = "13000000 1400 1200 07000000 00000000 020100 00";
    let both = "Ok(Socket([2, 1, 0])), Ok(End(0))";
    assert_eq!(read(&format!("{short} {done}")), (both.into(), true));
    // A number that is no error; a length without its header; one beyond the end.
    assert_eq!(read("14000000 0300 0200 07000000 00000000 01000000").0, "Err(Malformed)");
    assert_eq!(read(&format!("0f000000 0300 0200 07000000 00000000 {done}")).0, "Err(Malformed)");
    assert_eq!(read("15000000 0300 0200 07000000 00000000 00000000").0, "Err(Malformed)");
}

/// Dumps and the text of `/proc/net` about the same sockets.
macro_rules! capture {
    ($($file:ident $name:literal),*) => {
        [$((
            SocketTable::$file,
            include_bytes!(concat!("../../../../../fixtures/sock_diag/every-state/dump/", $name))
                .as_slice(),
            include_bytes!(concat!("../../../../../fixtures/sock_diag/every-state/net/", $name))
                .as_slice(),
        )),*]
    };
}
const CAPTURE: [(SocketTable, &[u8], &[u8]); 8] = capture!(
    Tcp "tcp", Tcp6 "tcp6", Udp "udp", Udp6 "udp6", Udplite "udplite", Udplite6 "udplite6",
    Unix "unix", Packet "packet"
);
const MPTCP: &[u8] = include_bytes!("../../../../../fixtures/sock_diag/every-state/dump/mptcp");
const NO_RAW: &[u8] = include_bytes!("../../../../../fixtures/sock_diag/every-state/dump/raw");
const BOUND_INACTIVE: &[u8] =
    include_bytes!("../../../../../fixtures/sock_diag/every-state/dump/tcp-bound-inactive");

/// All sockets of an answer, and the error that ended it; None if it has no end.
fn replay(request: &Request, answer: &[u8]) -> Result<(Vec<Socket>, Option<i32>), Malformed> {
    let mut sockets = Vec::new();
    for message in Messages::new(answer, 1) {
        match message? {
            Message::Socket(message) => {
                let listed = request.parse(message)?;
                sockets.extend(listed.waiting().into_iter().flatten().take(1000));
                sockets.push(listed.socket);
            }
            Message::End(errno) => return Ok((sockets, Some(errno))),
            Message::Overrun => {}
        }
    }
    Ok((sockets, None))
}

fn columns(sockets: impl IntoIterator<Item = Socket>) -> Vec<String> {
    let mut columns: Vec<String> = sockets
        .into_iter()
        .map(|socket| format!("{} {:?}", socket.inode, socket.binding))
        .collect();
    columns.sort();
    columns
}

fn parse_file(file: SocketTable, text: &[u8]) -> Vec<Socket> {
    let lines = text.split(|&byte| byte == b'\n').skip(1);
    lines.filter_map(|line| file.parse(line, ExtendedFields::empty()).ok()).collect()
}

#[test]
fn captured_dumps_give_the_same_rows_as_the_files_of_proc_net() {
    let mut compared = 0;
    for (file, dump, text) in CAPTURE {
        let (dumped, end) = replay(&request(file), dump).unwrap();
        assert_eq!(end, Some(0));
        let (dumped, mut printed) = (columns(dumped), columns(parse_file(file, text)));
        if file == SocketTable::Unix {
            // Only the dump has the whole of a path with a newline.
            let path = |path: &[u8]| format!("{:?}", Binding::Unix { path: path.into() });
            for line in &mut printed {
                *line = line.replace(&path(b"new"), &path(b"new\nline"));
            }
        }
        assert_eq!(dumped, printed, "{file:?}");
        compared += dumped.len();
    }
    assert_eq!(compared, 86);
}

#[test]
fn captured_dumps_agree_with_the_files_and_have_more_details() {
    for (file, dump, text) in CAPTURE {
        let printed = parse_file(file, text);
        for socket in replay(&request(file), dump).unwrap().0 {
            let Some(twin) = printed.iter().find(|twin| twin.inode == socket.inode) else {
                panic!("{socket:?} is not in {file:?}");
            };
            assert_eq!(socket.details.kind, twin.details.kind);
            let state = socket.state();
            if !matches!(file, SocketTable::Unix) {
                assert_eq!(socket.details.uid, twin.details.uid);
            }
            if socket.inode != 0 && !matches!(file, SocketTable::Unix | SocketTable::Packet) {
                assert_eq!(socket.details.receive_queue, twin.details.receive_queue, "{state}");
            }
        }
    }
}

#[test]
fn a_captured_mptcp_dump_has_the_inodes_of_the_first_subflows() {
    let (mptcp, end) = replay(&request(SocketTable::Mptcp), MPTCP).unwrap();
    assert_eq!((mptcp.len(), end), (3, Some(0)));
    let subflows = parse_file(SocketTable::Tcp, CAPTURE[0].2);
    for socket in mptcp {
        let first = subflows.iter().find(|subflow| subflow.inode == socket.inode).unwrap();
        assert_eq!((first.local(), first.remote()), (socket.local(), socket.remote()));
        assert_eq!((first.protocol(), socket.protocol()), (Some(6), Some(262)));
    }
}

#[test]
fn bound_inactive_sockets_are_closed_and_in_no_file() {
    let request = request(SocketTable::Tcp);
    let (sockets, _) = replay(&request, BOUND_INACTIVE).unwrap();
    let [socket] = &sockets[..] else { panic!("{sockets:?}") };
    assert_eq!((socket.state(), socket.local().unwrap().port), ("CLOSED", 8005));
    let files = parse_file(SocketTable::Tcp, CAPTURE[0].2);
    assert!(files.iter().all(|listed| listed.inode != socket.inode));
}

#[test]
fn a_kernel_without_the_list_ends_with_enoent() {
    assert_eq!(replay(&request(SocketTable::Raw), NO_RAW), Ok((vec![], Some(2))));
}

#[test]
fn a_dump_cut_anywhere_is_malformed_or_has_no_end() {
    for (file, dump, _) in CAPTURE {
        let request = request(file);
        let (whole, _) = replay(&request, dump).unwrap();
        for length in 0..dump.len() {
            if let Ok((sockets, end)) = replay(&request, &dump[..length]) {
                assert_eq!(end, None, "{file:?} {length}");
                assert!(whole.starts_with(&sockets), "{file:?} {length}");
            }
        }
        for message in Messages::new(dump, 1).map(Result::unwrap) {
            let Message::Socket(message) = message else { continue };
            // Attributes are optional: a message that ends before one is whole.
            let fixed = if file.has_ports() { 72 } else { 16 };
            for length in 0..fixed {
                assert_eq!(request.parse(&message[..length]), Err(Malformed), "{file:?} {length}");
            }
        }
    }
}

#[test]
fn details_take_little_memory() {
    assert!(size_of::<Details>() <= 48, "{}", size_of::<Details>());
    assert!(size_of::<Socket>() <= 120, "{}", size_of::<Socket>());
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(datagram in prop::collection::vec(any::<u8>(), 0..300)) {
        for (file, ..) in CAPTURE {
            let _ = request(file).parse(&datagram);
            let _ = replay(&request(file), &datagram);
        }
    }

    #[test]
    fn changed_captures_are_read_or_refused(
        which in 0..CAPTURE.len(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
    ) {
        let (file, dump, _) = CAPTURE[which];
        let mut dump = dump.to_vec();
        for (offset, byte) in changes {
            let offset = offset.index(dump.len());
            dump[offset] = byte;
        }
        if let Ok((sockets, _)) = replay(&request(file), &dump) {
            for socket in sockets {
                prop_assert_eq!(socket.family(), Some(file.family() as u8));
            }
        }
    }

    #[test]
    fn a_program_for_ports_is_valid_and_selects_the_ranges(
        local in any::<(u16, u16)>(), remote in any::<(u16, u16)>(), ports in any::<(u16, u16)>(),
    ) {
        let (local, remote) = (local.0..=local.1, remote.0..=remote.1);
        let narrowed = request(SocketTable::Tcp)
            .with_local_ports(local.clone())
            .with_remote_ports(remote.clone());
        let taken = narrowed.to_bytes(1).get(76..).is_none_or(|program| run(program, ports));
        let expected = local.contains(&ports.0) && remote.contains(&ports.1);
        prop_assert_eq!(taken, expected);
        let halves = narrowed.halves().unwrap().map(|half| run(&half.to_bytes(1)[76..], ports));
        prop_assert_eq!(halves.into_iter().filter(|taken| *taken).count(), usize::from(expected));
    }
}

#[test]
fn a_half_is_selected_by_the_ephemeral_port() {
    let [lower, upper] = request(SocketTable::Tcp).halves().unwrap();
    let program = |half: Request| half.to_bytes(1)[72..].to_vec();
    let expected = [
        "2800 0100",            // attribute: length, INET_DIAG_REQ_BYTECODE
        "02 08 1400 0000 0080", // local port >= 32768, or 20 on
        "03 08 0c00 0000 23b7", // local port <= 46883, or 12 on
        "01 04 1400",           // to the end
        "03 08 1400 0000 ff7f", // local port <= 32767, or beyond the end
        "05 08 0c00 0000 23b7", // remote port <= 46883, or beyond the end
    ];
    assert_eq!(program(lower), bytes(&expected.concat()));
    let expected = [
        "2800 0100",
        "02 08 1400 0000 0080",
        "02 08 0c00 0000 24b7", // local port >= 46884
        "01 04 1400",
        "03 08 1400 0000 ff7f",
        "04 08 0c00 0000 24b7", // remote port >= 46884
    ];
    assert_eq!(program(upper), bytes(&expected.concat()));
    assert_eq!(request(SocketTable::Udp).halves(), None);
}

/// Runs a program of port comparisons as `inet_diag_bc_run` does, after the checks that
/// `inet_diag_bc_audit` makes.
fn run(program: &[u8], (local, remote): (u16, u16)) -> bool {
    let on_true = |offset: usize| usize::from(program[offset + 1]);
    let on_false =
        |offset: usize| usize::from(u16::from_ne_bytes([program[offset + 2], program[offset + 3]]));
    // The instructions that follow one another if each comparison is true.
    let mut reachable = vec![0];
    while let Some(&offset) = reachable.last().filter(|offset| **offset < program.len()) {
        reachable.push(offset + on_true(offset));
    }
    assert_eq!(reachable.pop(), Some(program.len()));
    for &offset in &reachable {
        let (least, left) = (if program[offset] == 1 { 4 } else { 8 }, program.len() - offset);
        assert!(on_true(offset) >= least && on_true(offset).is_multiple_of(4));
        assert!(
            on_false(offset) >= least
                && on_false(offset) <= left + 4
                && on_false(offset).is_multiple_of(4)
        );
        assert!(on_false(offset) >= left || reachable.contains(&(offset + on_false(offset))));
    }
    let mut offset = 0;
    while offset < program.len() {
        let bound = || u16::from_ne_bytes([program[offset + 6], program[offset + 7]]);
        let holds = match program[offset] {
            1 => false,
            2 => local >= bound(),
            3 => local <= bound(),
            4 => remote >= bound(),
            5 => remote <= bound(),
            code => panic!("{code}"),
        };
        offset += if holds { on_true(offset) } else { on_false(offset) };
    }
    offset == program.len()
}
