use std::mem::offset_of;

use proptest::prelude::*;

use super::*;

const DECODER: Decoder = Decoder { has_cookies: true, calls_with_descriptor: &[42] };

/// A connection of process 7 from 192.0.2.1:1111 to 198.51.100.2:443 that its peer closes.
fn closed() -> StateRecord {
    StateRecord {
        record: STATE,
        old: 9,
        new: 7,
        has_tcp: 1,
        has_actor: 1,
        boot_ns: 1_000_000_007,
        socket: 4711,
        inode: 99,
        net: 4_026_531_840,
        error: 104,
        family: 2,
        kind: 1,
        protocol: 6,
        num: 0,
        dport: 443_u16.to_be(),
        sport: 1111_u16.to_be(),
        owner_uid: 1000,
        local: ipv4([192, 0, 2, 1]),
        remote: ipv4([198, 51, 100, 2]),
        flags: 0b10,
        bytes_sent: 120,
        bytes_retrans: 20,
        bytes_received: 31,
        srtt: 8 * 250 + 7,
        min_rtt: 40,
        tgid: 7,
        tid: 8,
        uid: 1001,
        gid: 1002,
        start_ns: 55,
        executable: 0xffff_8880_0000_1000,
        cgroup: 12,
        comm: *b"a thread\0\0\0\0\0\0\0\0",
        parent: 1,
        call: 42,
        argument: 3,
    }
}

fn ipv4([a, b, c, d]: [u8; 4]) -> [u8; 16] {
    [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
}

fn executable_with(names: &[u8], is_complete: bool) -> ExecutableRecord {
    let mut room = [b'?'; NAMES_SIZE];
    room[..names.len()].copy_from_slice(names);
    ExecutableRecord {
        record: EXECUTABLE,
        is_deleted: 0,
        is_complete: is_complete.into(),
        _reserved: 0,
        tgid: 7,
        _reserved2: 0,
        start_ns: 55,
        executable: 0xffff_8880_0000_1000,
        used: names.len() as u64,
        dentry: 1,
        mount: 2,
        scratch: 3,
        parent: 4,
        names: room,
    }
}

fn state(record: StateRecord) -> StateChange {
    match DECODER.decode(&record.to_bytes()).unwrap() {
        EventRecord::State(change) => change,
        other => panic!("{other:?}"),
    }
}

fn path_of(names: &[u8], is_complete: bool) -> Vec<u8> {
    match DECODER.decode(&executable_with(names, is_complete).to_bytes()).unwrap() {
        EventRecord::Executable(executable) => executable.path,
        other => panic!("{other:?}"),
    }
}

#[test]
#[cfg(target_endian = "little")]
fn a_state_record_has_the_bytes_that_the_program_writes() {
    #[rustfmt::skip]
    let bytes: [&[u8]; 36] = [
        &[1, 0, 0, 0],                                  // record
        &[9], &[7],                                     // old, new
        &[1], &[1],                                     // has_tcp, has_actor
        &[7, 202, 154, 59, 0, 0, 0, 0],                 // boot_ns
        &[103, 18, 0, 0, 0, 0, 0, 0],                   // socket
        &[99, 0, 0, 0, 0, 0, 0, 0],                     // inode
        &[0, 0, 0, 240],                                // net
        &[104, 0, 0, 0],                                // error
        &[2, 0], &[1, 0], &[6, 0],                      // family, kind, protocol
        &[0, 0],                                        // num
        &[1, 187], &[4, 87],                            // dport, sport: network byte order
        &[232, 3, 0, 0],                                // owner_uid
        &[192, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        &[198, 51, 100, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        &[2, 0, 0, 0, 0, 0, 0, 0],                      // flags
        &[120, 0, 0, 0, 0, 0, 0, 0],                    // bytes_sent
        &[20, 0, 0, 0, 0, 0, 0, 0],                     // bytes_retrans
        &[31, 0, 0, 0, 0, 0, 0, 0],                     // bytes_received
        &[215, 7, 0, 0], &[40, 0, 0, 0],                // srtt, min_rtt
        &[7, 0, 0, 0], &[8, 0, 0, 0],                   // tgid, tid
        &[233, 3, 0, 0], &[234, 3, 0, 0],               // uid, gid
        &[55, 0, 0, 0, 0, 0, 0, 0],                     // start_ns
        &[0, 16, 0, 0, 128, 136, 255, 255],             // executable
        &[12, 0, 0, 0, 0, 0, 0, 0],                     // cgroup
        b"a thread\0\0\0\0\0\0\0\0",                    // comm
        &[1, 0, 0, 0],                                  // parent
        &[42, 0, 0, 0],                                 // call
        &[3, 0, 0, 0, 0, 0, 0, 0],                      // argument
    ];
    assert_eq!(bytes.concat(), closed().to_bytes());
    let endpoint =
        |[a, b, c, d]: [u8; 4], port| Endpoint { address: Ipv4Addr::new(a, b, c, d).into(), port };
    let expected = StateChange {
        boot_ns: 1_000_000_007,
        socket: SocketKey::Cookie(4711),
        inode: 99,
        net_namespace: NetNamespace(4_026_531_840),
        family: 2,
        kind: 1,
        protocol: 6,
        old: TcpState::LastAck,
        new: TcpState::Closed,
        local: endpoint([192, 0, 2, 1], 1111),
        remote: endpoint([198, 51, 100, 2], 443),
        errno: 104,
        owner_uid: 1000,
        counts: Some(TcpCounts {
            bytes: Bytes { sent: 100, received: 30 },
            retransmitted: 20,
            rtt_us: Some(250),
            min_rtt_us: Some(40),
        }),
        actor: Some(Actor {
            pid: 7,
            tid: 8,
            parent: 1,
            uid: 1001,
            gid: 1002,
            start_ns: 55,
            executable: 0xffff_8880_0000_1000,
            cgroup: 12,
            comm: *b"a thread\0\0\0\0\0\0\0\0",
            fd: 3,
        }),
    };
    assert_eq!(DECODER.decode(&bytes.concat()), Ok(EventRecord::State(expected)));
}

/// The first datagram of process 7, from 192.0.2.1:1111 to what the process names.
fn first_send(peer: &[u8]) -> FirstDatagram {
    first_send_of(StateRecord { num: 1111, dport: 0, remote: [0; 16], ..of_datagram() }, peer, 100)
}

fn of_datagram() -> StateRecord {
    StateRecord {
        record: DATAGRAM,
        old: 0,
        new: 0,
        has_tcp: 0,
        kind: 2,
        protocol: 17,
        error: 0,
        ..closed()
    }
}

fn first_send_of(state: StateRecord, peer: &[u8], result: i32) -> FirstDatagram {
    let mut room = [0; 32];
    room[..peer.len()].copy_from_slice(peer);
    let state = state.to_bytes().try_into().unwrap();
    let result = result.cast_unsigned();
    let peer_length = peer.len() as u32;
    let bytes = DatagramRecord {
        state,
        peer: room,
        result,
        peer_length,
        slot: 12,
        generation: 3,
        is_first_send: 1,
        is_received: 0,
    }
    .to_bytes();
    match DECODER.decode(&bytes).unwrap() {
        EventRecord::Datagram(first) => first,
        other => panic!("{other:?}"),
    }
}

fn sockaddr(family: u16, rest: &[u8]) -> Vec<u8> {
    [&family.to_ne_bytes()[..], rest].concat()
}

#[test]
fn a_first_send_has_the_ends_and_the_process() {
    let peer = sockaddr(2, &[0, 53, 198, 51, 100, 2, 0, 0, 0, 0, 0, 0, 0, 0]);
    let first = first_send(&peer);
    let end = |octets: [u8; 4], port| Endpoint { address: octets.into(), port };
    assert_eq!(
        (first.socket.local, first.socket.remote),
        (end([192, 0, 2, 1], 1111), end([198, 51, 100, 2], 53))
    );
    assert_eq!(
        (first.socket.family, first.socket.kind, first.socket.protocol, first.errno),
        (2, 2, 17, 0)
    );
    assert_eq!(first.socket.key, SocketKey::Cookie(4711));
    assert_eq!(
        (first.slot, first.is_first_send, first.is_received),
        (Some(SlotUse { number: 12, generation: 3 }), true, false)
    );
    assert_eq!((first.socket.inode, first.boot_ns), (99, 1_000_000_007));
    let actor = first.actor.unwrap();
    assert_eq!((actor.pid, actor.tid, actor.fd), (7, 8, 3));
    assert_eq!(first_send_of(StateRecord { has_actor: 0, ..of_datagram() }, &[], 0).actor, None);
}

#[test]
fn a_first_send_that_failed_has_the_errno() {
    assert_eq!(first_send_of(of_datagram(), &[], -13).errno, 13);
    assert_eq!(first_send_of(of_datagram(), &[], i32::MIN).errno, i32::MAX);
}

#[test]
fn a_peer_is_read_as_the_kernel_reads_it() {
    let ipv6 = [&[0, 53, 0, 0, 0, 0][..], &Ipv6Addr::LOCALHOST.octets(), &[0; 4]].concat();
    let ipv4 = [0, 53, 198, 51, 100, 2, 0, 0, 0, 0, 0, 0, 0, 0];
    let remote = |family, peer: Vec<u8>| {
        first_send_of(StateRecord { family, ..of_datagram() }, &peer, 1).socket.remote
    };
    let to = |text: &str, port| Endpoint { address: text.parse().unwrap(), port };
    let connected = to("198.51.100.2", 443);
    assert_eq!(remote(2, vec![]), connected);
    assert_eq!(remote(2, sockaddr(2, &ipv4)), to("198.51.100.2", 53));
    // AF_UNSPEC
    assert_eq!(remote(2, sockaddr(0, &ipv4)), to("198.51.100.2", 53));
    assert_eq!(remote(2, sockaddr(10, &ipv6)), connected);
    assert_eq!(remote(10, sockaddr(10, &ipv6)), to("::1", 53));
    assert_eq!(remote(10, sockaddr(2, &ipv4)), to("::ffff:198.51.100.2", 53));
    // Addresses that are too short are none.
    assert_eq!(remote(2, sockaddr(2, &ipv4[..13])), connected);
    assert_eq!(remote(10, sockaddr(10, &ipv6[..21])).port, 443);
    assert_eq!(remote(10, sockaddr(10, &ipv6[..22])).port, 53);
}

#[test]
fn a_raw_socket_has_no_port_and_a_packet_socket_no_address() {
    let raw = first_send_of(StateRecord { kind: 3, protocol: 1, num: 1, ..of_datagram() }, &[], 1);
    assert_eq!((raw.socket.local.port, raw.socket.remote.port), (0, 0));
    let packet = first_send_of(StateRecord { family: 17, kind: 3, ..of_datagram() }, &[7; 28], 1);
    assert_eq!((packet.socket.local, packet.socket.remote), (NOWHERE, NOWHERE));
}

#[test]
fn a_change_without_process_and_counters_has_neither() {
    let change = state(StateRecord { has_tcp: 0, has_actor: 0, ..closed() });
    assert_eq!((change.bytes(), change.actor), (None, None));
}

#[test]
fn a_fin_is_no_payload() {
    let received = |flags| state(StateRecord { flags, ..closed() }).bytes().unwrap().received;
    // SOCK_DEAD, SOCK_DONE, and both.
    assert_eq!([0b00, 0b01, 0b10, 0b11].map(received), [31, 31, 30, 30]);
}

#[test]
fn an_open_socket_has_the_port_that_it_is_bound_to() {
    assert_eq!(state(StateRecord { num: 80, sport: 0, ..closed() }).local.port, 80);
    assert_eq!(state(StateRecord { num: 0, sport: 0, ..closed() }).local.port, 0);
}

#[test]
fn the_descriptor_is_read_from_calls_that_name_it() {
    let fd = |call, argument| state(StateRecord { call, argument, ..closed() }).actor.unwrap().fd;
    assert_eq!((fd(42, 0x1_0000_0005), fd(43, 5)), (5, -1));
}

#[test]
fn before_linux_5_12_a_socket_has_an_address() {
    let decoder = Decoder { has_cookies: false, ..DECODER };
    let decoded = decoder.decode(&closed().to_bytes()).unwrap();
    let EventRecord::State(change) = decoded else { panic!("an executable") };
    assert_eq!(change.socket, SocketKey::Address(4711));
}

#[test]
fn an_mptcp_socket_has_an_address() {
    let socket = state(StateRecord { protocol: 262, ..closed() }).socket;
    assert_eq!(socket, SocketKey::Address(4711));
}

#[test]
fn a_path_has_the_names_from_the_root_to_the_file() {
    assert_eq!(path_of(b"sh\0bin\0usr\0", true), b"/usr/bin/sh");
    assert_eq!(path_of(b"memfd:a\0", true), b"/memfd:a");
    assert_eq!(path_of(b"", true), b"/");
    assert_eq!(path_of(b"new\nline\0\xff\0", true), b"/\xff/new\nline");
}

#[test]
fn a_path_that_is_too_long_lacks_its_beginning() {
    assert_eq!(path_of(b"sh\0bin\0", false), b"bin/sh");
    assert_eq!(path_of(b"", false), b"");
}

#[test]
fn names_beyond_their_room_or_without_end_are_refused() {
    let names = |used, names: &[u8]| {
        let record = ExecutableRecord { used, ..executable_with(names, true) };
        DECODER.decode(&record.to_bytes())
    };
    let error = |used| Err(EventRecordError::Names { used });
    let longest = [b'x'; NAMES_SIZE];
    assert_eq!(names(NAMES_SIZE as u64 + 1, b""), error(NAMES_SIZE as u64 + 1));
    assert_eq!(names(u64::MAX, b""), error(u64::MAX));
    assert_eq!(names(NAMES_SIZE as u64, &longest), error(NAMES_SIZE as u64));
    assert_eq!(names(2, b"sh\0"), error(2));
}

#[test]
fn a_record_of_another_kind_size_or_family_is_refused() {
    assert_eq!(DECODER.decode(&[1, 0, 0]), Err(EventRecordError::Record(None)));
    let other = StateRecord { record: 5, ..closed() };
    assert_eq!(DECODER.decode(&other.to_bytes()), Err(EventRecordError::Record(Some(5))));
    let mut long = closed().to_bytes();
    long.push(0);
    let error = EventRecordError::Size { expected: 200, size: 201 };
    assert_eq!(DECODER.decode(&long), Err(error));
    assert_eq!(
        error.to_string(),
        "the BPF program wrote a malformed record: its size is 201, not 200"
    );
    let unix = StateRecord { family: 1, ..closed() };
    assert_eq!(DECODER.decode(&unix.to_bytes()), Err(EventRecordError::Family(1)));
}

#[test]
fn open_sockets_are_taken_one_after_the_other() {
    let record = OpenSocketRecord {
        socket: 4711,
        inode: 99,
        start_ns: 55,
        tgid: 7,
        tid: 8,
        fd: 3,
        net: 4_026_531_840,
        level: 2,
        family: 10,
        num: 22,
        dport: 443_u16.to_be(),
        state: 1,
        _reserved: 0,
        protocol: 262,
        _reserved2: 0,
        local: Ipv6Addr::LOCALHOST.octets(),
        remote: Ipv6Addr::UNSPECIFIED.octets(),
    };
    let expected = OpenSocket {
        socket: SocketKey::Address(4711),
        pid: 7,
        fd: 3,
        inode: 99,
        start_ns: 55,
        state: TcpState::Established,
        family: 10,
        protocol: 262,
        net_namespace: NetNamespace(4_026_531_840),
        local: Endpoint { address: Ipv6Addr::LOCALHOST.into(), port: 22 },
        remote: Endpoint { address: Ipv6Addr::UNSPECIFIED.into(), port: 443 },
    };
    let tcp = OpenSocketRecord { protocol: 6, ..record };
    let of_tcp = OpenSocket { protocol: 6, socket: SocketKey::Cookie(4711), ..expected };
    let other = OpenSocketRecord { family: 7, ..record };
    let incomplete = vec![0; OPEN_SOCKET_SIZE - 1];
    let bytes = [record.to_bytes(), tcp.to_bytes(), other.to_bytes(), incomplete].concat();
    let rest = &mut &bytes[..];
    assert_eq!(take_open_socket(rest), Ok(Some((expected, 2))));
    assert_eq!(take_open_socket(rest), Ok(Some((of_tcp, 2))));
    assert_eq!(take_open_socket(rest), Err(EventRecordError::Family(7)));
    assert_eq!(take_open_socket(rest), Ok(None));
    assert_eq!(rest.len(), OPEN_SOCKET_SIZE - 1);
}

proptest! {
    #[test]
    fn any_bytes_are_decoded_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..1500)) {
        let _ = DECODER.decode(&bytes);
        let rest = &mut &bytes[..];
        while let Ok(Some(_)) = take_open_socket(rest) {}
    }

    /// Any values: nothing but the family is refused, and the values come back.
    #[test]
    fn a_state_record_with_any_values_is_decoded(mut bytes in proptest::collection::vec(any::<u8>(), STATE_SIZE)) {
        bytes[..4].copy_from_slice(&STATE.to_ne_bytes());
        let family = offset_of!(StateRecord, family);
        let number = u16::from_ne_bytes([bytes[family], bytes[family + 1]]);
        match DECODER.decode(&bytes) {
            Ok(EventRecord::State(change)) => {
                prop_assert!(change.family == number && [2, 10].contains(&number));
            }
            other => prop_assert_eq!(other, Err(EventRecordError::Family(number))),
        }
        bytes[family..family + 2].copy_from_slice(&10_u16.to_ne_bytes());
        let EventRecord::State(change) = DECODER.decode(&bytes).unwrap() else { panic!() };
        let at = offset_of!(StateRecord, remote);
        let remote: [u8; 16] = bytes[at..at + 16].try_into().unwrap();
        prop_assert_eq!(change.remote.address, IpAddr::from(remote));
    }

    /// The names of any path come back, in the other order.
    #[test]
    fn the_names_of_any_path_come_back(
        names in proptest::collection::vec(proptest::collection::vec(1_u8.., 1..20), 0..20),
        is_complete: bool,
    ) {
        let written: Vec<u8> = names.iter().flat_map(|name| [name, &[0][..]].concat()).collect();
        let path = path_of(&written, is_complete);
        let mut expected = if is_complete { b"/".to_vec() } else { Vec::new() };
        let names: Vec<&[u8]> = names.iter().rev().map(Vec::as_slice).collect();
        expected.extend(names.join(&b'/'));
        prop_assert_eq!(path, expected);
    }
}

#[test]
fn the_end_of_a_datagram_socket_has_its_bytes_and_process() {
    let record = StateRecord {
        record: DATAGRAM_END,
        num: 1111,
        bytes_sent: 120,
        bytes_received: 7,
        ..of_datagram()
    };
    let EventRecord::DatagramEnd(end) = DECODER.decode(&record.to_bytes()).unwrap() else {
        panic!("{record:?}")
    };
    assert_eq!(end.bytes, Bytes { sent: 120, received: 7 });
    assert_eq!((end.socket.key, end.socket.local.port), (SocketKey::Cookie(4711), 1111));
    assert_eq!((end.actor.unwrap().pid, end.boot_ns), (7, 1_000_000_007));
}

#[test]
fn a_socket_with_storage_has_its_cookie_and_bytes() {
    let record = |cookie| LiveSocketRecord { cookie, bytes_sent: 5, bytes_received: 6 }.to_bytes();
    let bytes = [record(1), record(2)].concat();
    let mut rest = &bytes[..bytes.len() - 1];
    assert_eq!(take_live_socket(&mut rest), Some((1, Bytes { sent: 5, received: 6 })));
    assert_eq!(take_live_socket(&mut rest), None);
}
