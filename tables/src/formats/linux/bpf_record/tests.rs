use std::mem::offset_of;

use proptest::prelude::*;

use super::record_members::{Extension, SocketRecord};
use super::*;

/// A connection of process 7 from 192.0.2.1:1111 to 198.51.100.2:443.
fn tcp() -> SocketRecord {
    SocketRecord {
        size: RECORD_SIZE as u32,
        tgid: 7,
        tid: 8,
        fd: 3,
        inode: 99,
        files: 0xffff_8880_0000_1000,
        leader_files: 0xffff_8880_0000_2000,
        start_boottime: 5_000_000_000,
        net: 4_026_531_840,
        uid: 1000,
        family: 2,
        kind: 1,
        protocol: 6,
        state: 1,
        is_listed: 1,
        local_port: 1111,
        remote_port: 443_u16.to_be(),
        interface: 0,
        local: ipv4([192, 0, 2, 1]),
        remote: ipv4([198, 51, 100, 2]),
        cgroup: 12,
        // On both sides of the wrap of the sequence numbers.
        received: 5,
        read: u32::MAX - 4,
        written: 120,
        acknowledged: 100,
        backlog: 0,
        max_backlog: 0,
        peer: 0,
        name_length: 0,
        level: 2,
        has_family_fields: 0,
        _reserved: 0,
    }
}

fn ipv4([a, b, c, d]: [u8; 4]) -> [u8; 16] {
    [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
}

/// The bytes of a UNIX socket's record. The name begins with its family.
fn unix(socket: SocketRecord, name: &[u8]) -> Vec<u8> {
    let (size, name_length) = (UNIX_RECORD_SIZE as u32, name.len() as u32);
    let socket = SocketRecord { size, family: 1, protocol: 0, name_length, ..socket };
    let mut bytes = [&socket.to_bytes()[..], name].concat();
    bytes.resize(UNIX_RECORD_SIZE, 0);
    bytes
}

fn extension() -> Extension {
    Extension {
        cookie: 0x8000_0000_0000_0007,
        ticks: 0x1_0000_0010,
        bytes_sent: 1100,
        bytes_retransmitted: 100,
        bytes_received: 51,
        file_inode: 0x1_0000_0003,
        congestion_algorithm: *b"cubic\0\0\0\0\0\0\0\0\0\0\0",
        file_device: 8 << 20 | 17,
        peer_pid: 41,
        peer_uid: 0,
        rtt: 8007,
        rtt_variance: 403,
        min_rtt_us: 900,
        retransmits: 2,
        lost: 1,
        congestion_window: 10,
        send_mss: 1448,
        // Before the wrap of the lower half of the ticks.
        last_sent: u32::MAX,
        last_received: 0x10,
        delivered: 3,
        delivered_in_us: 1000,
        chrono_start: 0xe,
        chrono_busy: 20,
        chrono_receive_window: 30,
        chrono_send_buffer: 40,
        ticks_per_second: 250,
        running_chrono: 2,
        has_tcp: 0,
        has_peer: 0,
        has_file: 0,
    }
}

/// The bytes of a record of the extended program, without a name.
fn extended(socket: SocketRecord, extension: Extension) -> Vec<u8> {
    let socket = SocketRecord { size: EXTENDED_RECORD_SIZE as u32, ..socket };
    [socket.to_bytes(), extension.to_bytes()].concat()
}

/// The same with a name, which begins with its family.
fn extended_unix(socket: SocketRecord, extension: Extension, name: &[u8]) -> Vec<u8> {
    let mut bytes = unix(socket, name);
    bytes.splice(RECORD_SIZE..RECORD_SIZE, extension.to_bytes());
    bytes[..4].copy_from_slice(&(EXTENDED_UNIX_RECORD_SIZE as u32).to_ne_bytes());
    bytes
}

fn describe(bytes: &[u8]) -> Result<Description, RecordError> {
    Record::take(&mut &*bytes).unwrap().unwrap().describe()
}

fn description(record: SocketRecord) -> Description {
    describe(&record.to_bytes()).unwrap()
}

fn details(bytes: &[u8]) -> Details {
    match describe(bytes).unwrap() {
        Description::Complete { socket, .. } => socket.details,
        other => panic!("{other:?}"),
    }
}

#[test]
#[cfg(target_endian = "little")]
fn a_record_has_the_bytes_that_the_program_writes() {
    #[rustfmt::skip]
    let bytes: [&[u8]; 32] = [
        &[160, 0, 0, 0],                         // size
        &[7, 0, 0, 0],                           // tgid
        &[8, 0, 0, 0],                           // tid
        &[3, 0, 0, 0],                           // fd
        &[99, 0, 0, 0, 0, 0, 0, 0],              // inode
        &[0, 0x10, 0, 0, 0x80, 0x88, 0xff, 0xff], // files
        &[0, 0x20, 0, 0, 0x80, 0x88, 0xff, 0xff], // leader_files
        &[0, 0xf2, 5, 0x2a, 1, 0, 0, 0],         // start_boottime
        &[0, 0, 0, 0xf0],                        // net
        &[0xe8, 3, 0, 0],                        // uid
        &[2, 0],                                 // family
        &[1, 0],                                 // kind
        &[6, 0],                                 // protocol
        &[1],                                    // state
        &[1],                                    // is_listed
        &[0x57, 4],                              // local_port
        &[0x01, 0xbb],                           // remote_port, big-endian
        &[0, 0, 0, 0],                           // interface
        &[192, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],    // local
        &[198, 51, 100, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], // remote
        &[12, 0, 0, 0, 0, 0, 0, 0],              // cgroup
        &[5, 0, 0, 0],                           // received
        &[0xfb, 0xff, 0xff, 0xff],               // read
        &[120, 0, 0, 0],                         // written
        &[100, 0, 0, 0],                         // acknowledged
        &[0, 0, 0, 0],                           // backlog
        &[0, 0, 0, 0],                           // max_backlog
        &[0, 0, 0, 0, 0, 0, 0, 0],               // peer
        &[0, 0, 0, 0],                           // name_length
        &[2, 0, 0, 0],                           // level
        &[0, 0, 0, 0],                           // has_family_fields
        &[0, 0, 0, 0],                           // reserved
    ];
    assert_eq!(tcp().to_bytes(), bytes.concat());
}

#[test]
fn a_record_of_a_connection_shows_its_socket() {
    let end = |address: [u8; 4], port| Endpoint { address: Ipv4Addr::from(address).into(), port };
    let socket = Socket {
        inode: 99,
        net_namespace: Some(NetNamespace(4_026_531_840)),
        binding: Binding::Inet {
            v6: false,
            protocol: 6,
            local: end([192, 0, 2, 1], 1111),
            remote: end([198, 51, 100, 2], 443),
            state: Some(TcpState::Established),
        },
        details: Details {
            kind: 1,
            uid: Some(1000),
            receive_queue: Some(10),
            send_queue: Some(20),
            cgroup: NonZeroU64::new(12),
            ..Details::default()
        },
    };
    let table = SocketTable::Tcp;
    assert_eq!(description(tcp()), Description::Complete { table, socket });
}

#[test]
fn a_record_shows_the_descriptor_of_its_socket() {
    let bytes = tcp().to_bytes();
    let record = Record::take(&mut &*bytes).unwrap().unwrap();
    let (files, leader_files) = (0xffff_8880_0000_1000, 0xffff_8880_0000_2000);
    let expected = Descriptor { pid: 7, tid: 8, fd: 3, inode: 99, level: 2, files, leader_files };
    assert_eq!(record.descriptor(), expected);
    assert_eq!(record.net_namespace(), NetNamespace(4_026_531_840));
    assert_eq!(record.start_boottime(), NonZeroU64::new(5_000_000_000));
}

#[test]
fn an_extended_record_shows_more_of_the_same_socket() {
    for (basic, extended) in [
        (tcp().to_bytes(), extended(tcp(), extension())),
        (unix(tcp(), &[1, 0, b'/']), extended_unix(tcp(), extension(), &[1, 0, b'/'])),
    ] {
        let record = Record::take(&mut &*extended).unwrap().unwrap();
        let Ok(Description::Complete { table, mut socket }) = record.describe() else {
            panic!("{record:?}");
        };
        let cookie = NonZeroU64::new(0x8000_0000_0000_0007);
        let shown = socket.details.extended.take().unwrap();
        assert_eq!(*shown, ExtendedDetails { cookie, ..Default::default() });
        assert_eq!(describe(&basic), Ok(Description::Complete { table, socket }));
        let basic = Record::take(&mut &*basic).unwrap().unwrap();
        assert_eq!(basic.extended_details(), None);
    }
}

#[test]
fn an_extended_record_has_the_numbers_of_tcp_info() {
    let record = |has_tcp| extended(tcp(), Extension { has_tcp, ..extension() });
    let of = |bytes: &[u8]| details(bytes).extended.unwrap().tcp;
    let expected = TcpDetails {
        bytes_sent: Some(1000),
        bytes_received: Some(51),
        bytes_retransmitted: Some(100),
        rtt_us: Some(1000),
        rtt_variance_us: Some(100),
        min_rtt_us: Some(900),
        retransmits: Some(2),
        lost: Some(1),
        congestion_algorithm: CongestionAlgorithm::new(b"cubic"),
        congestion_window: Some(10),
        send_mss: Some(1448),
        last_sent_ms: Some(17 * 4),
        last_received_ms: Some(0),
        delivery_rate: Some(3 * 1448 * 1000),
        busy_time_us: Some((20 + 30 + 40 + 2) * 4000),
    };
    assert_eq!(of(&record(1)), Some(expected));
    assert_eq!(of(&record(0)), None);
}

#[test]
fn an_extended_record_has_peer_and_file_of_a_unix_socket() {
    let shown = |extension| {
        let bytes = extended_unix(tcp(), extension, &[]);
        let shown = details(&bytes).extended.unwrap();
        (shown.peer_pid, shown.peer_uid, shown.bound_file)
    };
    let file = Some(FileId { inode: 0x1_0000_0003, device: 0x811 });
    let all = Extension { has_peer: 1, has_file: 1, ..extension() };
    assert_eq!(shown(all), (Some(41), Some(0), file));
    // In another PID namespace.
    assert_eq!(shown(Extension { peer_pid: 0, ..all }), (None, Some(0), file));
    assert_eq!(shown(extension()), (None, None, None));
}

#[test]
fn an_ipv6_record_shows_both_addresses_whole() {
    let address =
        |last| -> [u8; 16] { [0x20, 1, 0xd, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, last] };
    let record = SocketRecord { family: 10, local: address(1), remote: address(2), ..tcp() };
    let Description::Complete { table: SocketTable::Tcp6, socket } = description(record) else {
        panic!("{:?}", description(record));
    };
    let Binding::Inet { v6: true, local, remote, .. } = socket.binding else {
        panic!("{socket:?}");
    };
    let expected = [address(1), address(2)].map(|octets| IpAddr::from(Ipv6Addr::from(octets)));
    assert_eq!([local.address, remote.address], expected);
}

#[test]
fn state_and_ports_of_tcp_are_those_of_the_whole_record() {
    let ports = |record: SocketRecord| {
        let bytes = record.to_bytes();
        Record::take(&mut &*bytes).unwrap().unwrap().tcp()
    };
    assert_eq!(ports(tcp()), Some((TcpState::Established, 1111, 443)));
    for other in [
        SocketRecord { protocol: 17, kind: 2, ..tcp() },
        SocketRecord { family: 1, ..tcp() },
        SocketRecord { kind: 3, ..tcp() },
    ] {
        assert_eq!(ports(other), None);
    }
}

#[test]
fn queues_are_counted_as_the_kernel_does_for_each_protocol() {
    let queues = |bytes: &[u8]| {
        let details = details(bytes);
        (details.receive_queue, details.send_queue)
    };
    let inet = |record: SocketRecord| queues(&record.to_bytes());
    let tcp = SocketRecord {
        received: 50,
        read: 20,
        written: 101,
        acknowledged: 1,
        backlog: 3,
        max_backlog: 128,
        ..tcp()
    };
    assert_eq!(inet(tcp), (Some(30), Some(100)));
    // The other end has closed: its FIN counts, and is never read.
    assert_eq!(inet(SocketRecord { received: 9, read: 10, ..tcp }).0, Some(0));
    assert_eq!(inet(SocketRecord { state: 10, ..tcp }), (Some(3), Some(128)));
    // What waits, less what a reader has taken and not given back; what was sent, and one more.
    for protocol in [17, 136] {
        let udp = SocketRecord { protocol, kind: 2, state: 7, ..tcp };
        assert_eq!(inet(udp), (Some(30), Some(100)), "{protocol}");
    }
    let raw = SocketRecord { protocol: 89, kind: 3, state: 7, ..tcp };
    assert_eq!(inet(raw), (Some(50), Some(100)));

    let unix = |record: SocketRecord| queues(&unix(record, &[]));
    assert_eq!(unix(SocketRecord { state: 10, ..tcp }), (Some(50), Some(128)));
    assert_eq!(unix(SocketRecord { kind: 2, ..tcp }), (Some(20), Some(100)));
    assert_eq!(unix(SocketRecord { kind: 1, ..tcp }), (None, Some(100)));
    let whole_queue = SocketRecord { kind: 1, has_family_fields: 1, ..tcp };
    assert_eq!(unix(whole_queue), (Some(20), Some(100)));
    assert_eq!(unix(SocketRecord { kind: 5, ..tcp }), (None, Some(100)));
    let empty = SocketRecord { received: 0, read: 7, written: 1, ..tcp };
    assert_eq!(unix(empty), (Some(0), Some(0)));
}

#[test]
fn a_unix_record_shows_path_and_peer() {
    let path = |name: &[u8]| {
        let record = SocketRecord { state: 7, peer: 55, ..tcp() };
        match describe(&unix(record, name)).unwrap() {
            Description::Complete { table: SocketTable::Unix, socket } => {
                assert_eq!(socket.details.peer.map(u32::from), Some(55));
                let Binding::Unix { path } = socket.binding else { panic!("{socket:?}") };
                path
            }
            other => panic!("{other:?}"),
        }
    };
    let named = |name: &[u8]| path(&[&1_u16.to_ne_bytes()[..], name].concat());
    assert_eq!(&*named(b"/run/a\0"), b"/run/a");
    assert_eq!(&*named(b"\0abstract\0x"), b"@abstract@x");
    assert_eq!(&*named(&[b'a'; 108]), [b'a'; 108]);
    assert_eq!(&*path(&[]), b"");
}

#[test]
fn each_kind_of_socket_is_complete_unlisted_or_from_its_table() {
    let kind = |family, kind, protocol| SocketRecord { family, kind, protocol, ..tcp() };
    let table = |record| match description(record) {
        Description::Complete { table, .. } => Some(table),
        _ => None,
    };
    for (record, expected) in [
        (kind(2, 1, 6), SocketTable::Tcp),
        (kind(10, 1, 6), SocketTable::Tcp6),
        (kind(2, 2, 17), SocketTable::Udp),
        (kind(10, 2, 17), SocketTable::Udp6),
        (kind(2, 2, 136), SocketTable::Udplite),
        (kind(10, 2, 136), SocketTable::Udplite6),
        (kind(2, 3, 6), SocketTable::Raw),
        (kind(10, 3, 58), SocketTable::Raw6),
        (kind(2, 2, 1), SocketTable::Icmp),
        (kind(10, 2, 58), SocketTable::Icmp6),
        (SocketRecord { has_family_fields: 1, ..kind(17, 3, 3) }, SocketTable::Packet),
    ] {
        let unlisted = SocketRecord { is_listed: 0, ..record };
        assert_eq!(table(record), Some(expected));
        assert_eq!(description(unlisted), Description::Unlisted, "{expected:?}");
    }
    const MPTCP: &[SocketTable] =
        &[SocketTable::Tcp, SocketTable::Tcp6, SocketTable::Mptcp, SocketTable::Mptcp6];
    for (record, tables) in [
        (kind(16, 3, 0), &[SocketTable::Netlink][..]),
        (kind(40, 1, 0), &[SocketTable::Vsock]),
        (kind(2, 1, 262), MPTCP),
        (kind(10, 1, 262), MPTCP),
        (kind(2, 1, 132), &[SocketTable::Sctp, SocketTable::Sctp6]),
        // The kernel's types have no `struct packet_sock`.
        (kind(17, 3, 3), &[SocketTable::Packet]),
    ] {
        assert_eq!(description(record), Description::InTables(tables));
    }
    // AF_ALG, and DCCP.
    for record in [kind(38, 5, 0), kind(2, 6, 33)] {
        assert_eq!(description(record), Description::Unlisted);
    }
}

#[test]
fn a_record_that_is_cut_is_left_until_the_rest_is_there() {
    let whole = unix(tcp(), &[1, 0, b'/']);
    for whole in [&whole, &extended_unix(tcp(), extension(), &[1, 0, b'/'])] {
        for length in 0..whole.len() {
            let mut bytes = &whole[..length];
            assert_eq!(Record::take(&mut bytes), Ok(None), "{length}");
            assert_eq!(bytes.len(), length);
        }
    }
    let mut two = &*[whole, tcp().to_bytes()].concat();
    assert!(Record::take(&mut two).unwrap().is_some() && Record::take(&mut two).unwrap().is_some());
    assert_eq!(Record::take(&mut two), Ok(None));
}

#[test]
fn a_record_of_another_size_is_refused() {
    let mut sizes = vec![0, 1, u32::MAX];
    for size in [RECORD_SIZE, UNIX_RECORD_SIZE, EXTENDED_RECORD_SIZE, EXTENDED_UNIX_RECORD_SIZE] {
        sizes.extend([size as u32 - 1, size as u32 + 1]);
    }
    for size in sizes {
        let bytes = SocketRecord { size, ..tcp() }.to_bytes();
        assert_eq!(Record::take(&mut &*bytes), Err(RecordError::Size(size)));
    }
}

#[test]
fn a_name_longer_than_its_record_is_refused() {
    let mut bytes = unix(tcp(), &[]);
    bytes[offset_of!(SocketRecord, name_length)..][..4].copy_from_slice(&113_u32.to_ne_bytes());
    assert_eq!(describe(&bytes), Err(RecordError::NameLength(113)));
    // A record without room for a name.
    let record = SocketRecord { family: 1, name_length: 1, ..tcp() };
    assert_eq!(describe(&record.to_bytes()), Err(RecordError::NameLength(1)));
}

#[test]
fn a_socket_type_that_no_socket_has_is_refused() {
    let record = SocketRecord { kind: 257, protocol: 17, ..tcp() };
    assert_eq!(describe(&record.to_bytes()), Err(RecordError::SocketType(257)));
}

proptest! {
    #[test]
    fn no_bytes_make_the_decoder_panic(
        is_unix: bool,
        is_extended: bool,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..32),
    ) {
        let mut bytes = match (is_unix, is_extended) {
            (false, false) => tcp().to_bytes(),
            (true, false) => unix(tcp(), b"\x01\0/a"),
            (false, true) => extended(tcp(), extension()),
            (true, true) => extended_unix(tcp(), extension(), b"\x01\0/a"),
        };
        for (offset, byte) in changes {
            let offset = offset.index(bytes.len());
            bytes[offset] = byte;
        }
        if let Ok(Some(record)) = Record::take(&mut &*bytes) {
            let _ = (record.describe(), record.tcp(), record.descriptor());
        }
    }
}
