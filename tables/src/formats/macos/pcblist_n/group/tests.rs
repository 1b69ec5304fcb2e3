use std::net::IpAddr;

use super::super::super::xnu_records::{KernelSocket, Layout, fixture, header, value};
use super::super::{End, Listing};
use super::*;
use crate::model::{Endpoint, ExtendedDetails, Families};

const TCP4: &str = include_str!("../../../../../../fixtures/xnu/tcp4.pcblist_n");
const TCP4_MACOS_12: &str = include_str!("../../../../../../fixtures/xnu/tcp4-macos-12.pcblist_n");
const UDP6: &str = include_str!("../../../../../../fixtures/xnu/udp6.pcblist_n");
const UNIX_LISTENER: &str = include_str!("../../../../../../fixtures/xnu/unix-listener.xunpcb_n");

const BOTH: [Layout; 2] = [Layout::Macos12, Layout::Macos13];

fn end(address: &str, port: u16) -> (IpAddr, u16) {
    (address.parse().unwrap(), port)
}

fn endpoint(address: &str, port: u16) -> Endpoint {
    Endpoint { address: address.parse().unwrap(), port }
}

/// The only socket of a list that ends as it should.
fn only(list: PcbList, value: &[u8]) -> Pcb {
    let mut listing = list.parse(value).unwrap();
    assert_eq!((listing.pcbs.len(), listing.malformed, listing.end), (1, 0, End::Whole));
    listing.pcbs.remove(0)
}

#[test]
fn a_tcp_socket_is_read_with_all_fields_of_its_records() {
    let pcb = only(PcbList::Tcp, &fixture(TCP4, None));
    // The fixture has zeros for the other numbers.
    let tcp = Some(TcpDetails { send_mss: Some(1448), ..TcpDetails::default() });
    let extended = ExtendedDetails { tcp, ..ExtendedDetails::default() };
    assert_eq!(
        pcb,
        Pcb {
            socket: Socket {
                inode: 0xb7de_eb0d_189f_7a3a,
                net_namespace: None,
                binding: Binding::Inet {
                    v6: false,
                    protocol: 6,
                    local: endpoint("192.0.2.10", 49807),
                    remote: endpoint("198.51.100.7", 443),
                    state: Some(TcpState::Established),
                },
                details: Details {
                    kind: 1,
                    uid: Some(501),
                    receive_queue: Some(0),
                    send_queue: Some(0),
                    extended: Some(Box::new(extended)),
                    ..Details::default()
                },
            },
            details: DarwinDetails { peer: None, last_pid: Some(4242), without_fd: None },
            generation: NonZeroU64::new(3041),
            pcb: 0x9f6c_173e_df3a_2fed,
            peer_pcb: 0,
        }
    );
}

#[test]
fn a_socket_of_macos_12_has_equal_fields() {
    let [old, new] = [TCP4_MACOS_12, TCP4].map(|text| fixture(text, None));
    assert_eq!((old.len(), new.len()), (640, 664));
    assert_eq!(only(PcbList::Tcp, &old), only(PcbList::Tcp, &new));
}

#[test]
fn a_udp6_socket_is_read_with_all_fields_of_its_records() {
    let pcb = only(PcbList::Udp, &fixture(UDP6, None));
    assert_eq!(
        pcb,
        Pcb {
            socket: Socket {
                inode: 0x1122_3344_5566_7788,
                net_namespace: None,
                binding: Binding::Inet {
                    v6: true,
                    protocol: 17,
                    local: endpoint("2001:db8::10", 5353),
                    remote: endpoint("2001:db8::53", 53),
                    state: None,
                },
                details: Details {
                    kind: 2,
                    uid: Some(65),
                    receive_queue: Some(0),
                    send_queue: Some(0),
                    ..Details::default()
                },
            },
            details: DarwinDetails { peer: None, last_pid: Some(321), without_fd: None },
            generation: NonZeroU64::new(2990),
            pcb: 0x99aa_bbcc_ddee_ff00,
            peer_pcb: 0,
        }
    );
}

#[test]
fn a_unix_socket_is_read_with_its_path_and_handles() {
    let record = fixture(UNIX_LISTENER, Some(592));
    let socket = KernelSocket {
        handle: 0x0102_0304_0506_0708,
        options: 2,
        queue: [2, 0, 128],
        family: 1,
        protocol: 0,
        last_pid: 9,
        ..KernelSocket::default()
    };
    let group = socket.group(PcbList::LocalStream, Layout::Macos13);
    let list = PcbList::LocalStream;
    let head = header(list, 3, 77);
    let pcb = only(list, &[&head[..], &record, &group[592..], &head].concat());
    assert_eq!(pcb.socket.binding, Binding::Unix { path: (*b"/var/run/example.sock").into() });
    assert_eq!((pcb.pcb, pcb.peer_pcb), (0x1112_1314_1516_1718, 0));
    let queues = (pcb.socket.details.receive_queue, pcb.socket.details.send_queue);
    assert_eq!(queues, (Some(2), Some(128)));
    assert_eq!(pcb.generation, NonZeroU64::new(77));
    assert_eq!(pcb.socket.inode, 0x0102_0304_0506_0708);
}

#[test]
fn a_unix_socket_names_the_control_block_of_its_peer() {
    let end = |handle, pcb, peer_pcb| KernelSocket {
        handle,
        pcb,
        peer_pcb,
        family: 1,
        protocol: 0,
        last_pid: 9,
        path: if handle == 1 { b"/tmp/s" } else { b"" },
        ..KernelSocket::default()
    };
    let list = PcbList::LocalStream;
    let listing =
        list.parse(&value(list, Layout::Macos13, &[end(1, 11, 12), end(2, 12, 11)])).unwrap();
    let seen: Vec<_> = listing
        .pcbs
        .iter()
        .map(|it| (it.socket.inode, it.pcb, it.peer_pcb, it.socket.binding.clone()))
        .collect();
    let unix = |path: &[u8]| Binding::Unix { path: path.into() };
    assert_eq!(seen, [(1, 11, 12, unix(b"/tmp/s")), (2, 12, 11, unix(b""))]);
}

#[test]
fn kernel_controls_and_events_are_read_with_their_names() {
    let socket = KernelSocket {
        handle: 5,
        family: 32,
        protocol: 2,
        kind: 2,
        last_pid: 9,
        name: "com.apple.network.statistics",
        numbers: [1, 2, 0, 0],
        ..KernelSocket::default()
    };
    let pcb =
        only(PcbList::Kctl, &value(PcbList::Kctl, Layout::Macos13, std::slice::from_ref(&socket)));
    let control = "com.apple.network.statistics".into();
    assert_eq!(pcb.socket.binding, Binding::System { protocol: 2, control });
    let socket = KernelSocket { protocol: 1, kind: 3, ..socket };
    let pcb = only(PcbList::Kevt, &value(PcbList::Kevt, Layout::Macos12, &[socket]));
    assert_eq!(pcb.socket.binding, Binding::System { protocol: 1, control: "1.2.0".into() });
    assert_eq!((pcb.socket.inode, pcb.socket.details.kind), (5, 3));
}

#[test]
fn a_connection_shows_window_segment_size_and_round_trip_time() {
    // 10.5 ms in 32ths, and 2.25 ms in 16ths.
    let tcp = [65_535, 1448, 336, 36];
    let connection = KernelSocket { handle: 7, tcp_state: 4, tcp, ..KernelSocket::default() };
    let of = |socket: &KernelSocket| {
        let value = value(PcbList::Tcp, Layout::Macos13, std::slice::from_ref(socket));
        only(PcbList::Tcp, &value).socket.details.extended.and_then(|extended| extended.tcp)
    };
    let expected = TcpDetails {
        rtt_us: Some(10_500),
        rtt_variance_us: Some(2_250),
        congestion_window: Some(65_535),
        send_mss: Some(1448),
        ..TcpDetails::default()
    };
    assert_eq!(of(&connection), Some(expected.clone()));
    // Not measured yet: the kernel has a variance then.
    let new = TcpDetails { rtt_us: None, rtt_variance_us: None, ..expected };
    assert_eq!(of(&KernelSocket { tcp: [65_535, 1448, 0, 36], ..connection.clone() }), Some(new));
    // A listener, and a connection without the numbers.
    assert_eq!(of(&KernelSocket { tcp_state: 1, ..connection.clone() }), None);
    assert_eq!(of(&KernelSocket { tcp: [0; 4], ..connection }), None);
}

#[test]
fn family_and_addresses_follow_the_flags_of_the_pcb() {
    let unspecified = || "0.0.0.0".parse().unwrap();
    for (list, family, vflag, local, shown) in [
        // A listener for both: osquery shows the IPv4 side.
        (PcbList::Tcp, 30, 3, end("::", 8080), (10, "0.0.0.0")),
        (PcbList::Udp, 30, 5, end("192.0.2.1", 53), (10, "192.0.2.1")),
        (PcbList::Tcp, 30, 1, end("192.0.2.1", 53), (10, "192.0.2.1")),
        (PcbList::Udp, 30, 2, end("fe80:4::1", 53), (10, "fe80::1")),
        (PcbList::Udp, 2, 1, end("192.0.2.1", 53), (2, "192.0.2.1")),
        // A user-space flow: its record has no family.
        (PcbList::Udp, 0, 2, end("2001:db8::1", 53), (10, "2001:db8::1")),
        (PcbList::Udp, 0, 1, end("192.0.2.1", 53), (2, "192.0.2.1")),
    ] {
        let remote = (unspecified(), 0);
        let (protocol, handle) = (0, 7);
        let socket =
            KernelSocket { handle, protocol, family, vflag, local, remote, ..Default::default() };
        let socket = only(list, &value(list, Layout::Macos13, &[socket])).socket;
        let address = socket.local().unwrap().address.to_string();
        assert_eq!((socket.family(), &*address), (Some(shown.0), shown.1), "{family} {vflag}");
        let protocol = if list == PcbList::Tcp { 6 } else { 17 };
        assert_eq!(socket.protocol(), Some(protocol));
        assert_eq!(socket.local_port(), i32::from(local.1));
    }
}

#[test]
fn raw_sockets_have_the_protocol_that_they_were_made_with() {
    // Few protocols have their own entry in the kernel; all others share the entry with the number 0.
    for (protocol, raw_protocol, shown) in
        [(1, 1, 1), (58, 58, 58), (255, 255, 255), (2, 2, 2), (0, 89, 89), (0, 132, 132), (0, 0, 0)]
    {
        let kind = 3;
        let socket = KernelSocket { handle: 7, protocol, raw_protocol, kind, ..Default::default() };
        let socket = only(PcbList::Raw, &value(PcbList::Raw, Layout::Macos13, &[socket])).socket;
        assert_eq!(socket.protocol(), Some(shown));
        assert_eq!((socket.details.kind, socket.state()), (3, ""));
    }
    // In another list this byte has no meaning.
    let socket = KernelSocket { handle: 7, protocol: 0, raw_protocol: 9, ..Default::default() };
    let socket = only(PcbList::Udp, &value(PcbList::Udp, Layout::Macos13, &[socket])).socket;
    assert_eq!(socket.protocol(), Some(17));
}

#[test]
fn the_reason_for_no_descriptor_follows_the_flags() {
    let of = |change: fn(&mut KernelSocket)| {
        let mut socket = KernelSocket { handle: 7, last_pid: 9, ..KernelSocket::default() };
        change(&mut socket);
        BOTH.map(|layout| {
            only(PcbList::Tcp, &value(PcbList::Tcp, layout, &[socket.clone()])).details.without_fd
        })
    };
    let both = |why| [Some(why); 2];
    assert_eq!(of(|_| {}), [None; 2]);
    assert_eq!(of(|it| (it.so_state, it.tcp_state) = (1, 10)), both(HolderUnknown::TimeWait));
    assert_eq!(of(|it| (it.so_state, it.tcp_state) = (1, 9)), both(HolderUnknown::Orphan));
    assert_eq!(of(|it| (it.so_state, it.tcp_state) = (0x801, 3)), both(HolderUnknown::SynRecv));
    assert_eq!(
        of(|it| (it.so_state, it.tcp_state) = (0x1001, 4)),
        both(HolderUnknown::AcceptQueue)
    );
    // In the same state, and held.
    assert_eq!(of(|it| (it.so_state, it.tcp_state) = (0, 10)), [None; 2]);
    assert_eq!(
        of(|it| (it.handle, it.generation, it.last_pid) = (0, 0, 88)),
        both(HolderUnknown::UserSpace)
    );
    // The kernel reports it since macOS 13; before, the sign is that no process has used the socket.
    let kernel = Some(HolderUnknown::Kernel);
    assert_eq!(of(|it| (it.last_pid, it.flags1) = (0, 0x10_0000)), [kernel; 2]);
    assert_eq!(of(|it| it.last_pid = 0), [kernel, None]);
    assert_eq!(of(|it| it.flags = 0x100_0000), [None, Some(HolderUnknown::Subflow)]);
}

#[test]
fn a_user_space_flow_has_no_handle_and_has_its_last_pid() {
    let flow = KernelSocket {
        generation: 0,
        kind: 0,
        family: 0,
        uid: 0,
        vflag: 2,
        local: end("2001:db8::1", 50000),
        remote: end("2001:db8::2", 443),
        tcp_state: 4,
        last_pid: 88,
        ..KernelSocket::default()
    };
    let pcb = only(PcbList::Tcp, &value(PcbList::Tcp, Layout::Macos13, &[flow]));
    assert_eq!((pcb.socket.inode, pcb.socket.family(), pcb.generation), (0, Some(10), None));
    assert_eq!((pcb.details.last_pid, pcb.socket.details.uid), (Some(88), None));
    assert_eq!((pcb.socket.state(), pcb.socket.details.kind), ("ESTABLISHED", 1));
}

#[test]
fn only_sockets_with_addresses_can_be_of_user_space() {
    for list in [PcbList::LocalStream, PcbList::Kctl, PcbList::Kevt] {
        let socket = KernelSocket { generation: 0, last_pid: 9, ..KernelSocket::default() };
        let pcb = only(list, &value(list, Layout::Macos13, &[socket]));
        assert_eq!(pcb.details.without_fd, Some(HolderUnknown::Orphan), "{list:?}");
        assert!(!pcb.may_be_held());
    }
}

#[test]
fn a_group_without_a_socket_is_kept_without_a_handle() {
    let list = PcbList::Tcp;
    let mut value = fixture(TCP4, None);
    // The kernel writes these so where the socket is gone.
    value[136..232].fill(0);
    for at in [232, 264] {
        value[at + 4..at + 32].fill(0);
    }
    let pcb = only(list, &value);
    assert_eq!((pcb.socket.inode, pcb.details.last_pid), (0, None));
    assert_eq!(pcb.details.without_fd, Some(HolderUnknown::Orphan));
    assert_eq!((pcb.socket.family(), pcb.socket.protocol()), (Some(2), Some(6)));
    assert_eq!(pcb.socket.details.receive_queue, None);
}

#[test]
fn every_list_round_trips_in_both_layouts() {
    let written = KernelSocket {
        handle: u64::MAX,
        pcb: 0x8000_0000_0000_0002,
        generation: 77,
        kind: 1,
        uid: 4_000_000_000,
        last_pid: 9,
        received: 5,
        sent: 6,
        vflag: 2,
        family: 30,
        local: end("2001:db8::1", 50_000),
        remote: end("2001:db8::2", 443),
        tcp_state: 5,
        path: b"/var/run/s",
        peer_pcb: 12,
        name: "com.apple.control",
        numbers: [1, 2, 3, 0],
        ..KernelSocket::default()
    };
    for layout in BOTH {
        for list in PcbList::ALL {
            let (family, protocol) = match list {
                PcbList::Tcp => (30, 6),
                PcbList::Udp => (30, 17),
                PcbList::Raw => (30, 58),
                PcbList::LocalStream | PcbList::LocalDgram => (1, 0),
                PcbList::Kctl => (32, 2),
                PcbList::Kevt => (32, 1),
            };
            let written = KernelSocket { family, protocol, ..written.clone() };
            let state = (list == PcbList::Tcp).then_some(TcpState::CloseWait);
            let protocol = u16::try_from(protocol).unwrap();
            let binding = match list {
                PcbList::Tcp | PcbList::Udp | PcbList::Raw => Binding::Inet {
                    v6: true,
                    protocol,
                    local: endpoint("2001:db8::1", 50_000),
                    remote: endpoint("2001:db8::2", 443),
                    state,
                },
                PcbList::LocalStream | PcbList::LocalDgram => {
                    Binding::Unix { path: (*b"/var/run/s").into() }
                }
                PcbList::Kctl => Binding::System { protocol, control: "com.apple.control".into() },
                PcbList::Kevt => Binding::System { protocol, control: "1.2.3".into() },
            };
            let has_generation = !matches!(list, PcbList::Kctl | PcbList::Kevt);
            let is_unix = list.families() == Families::UNIX;
            let read = Pcb {
                socket: Socket {
                    inode: u64::MAX,
                    net_namespace: None,
                    binding,
                    details: Details {
                        kind: 1,
                        uid: Some(4_000_000_000),
                        receive_queue: Some(5),
                        send_queue: Some(6),
                        ..Details::default()
                    },
                },
                details: DarwinDetails { peer: None, last_pid: Some(9), without_fd: None },
                generation: NonZeroU64::new(77).filter(|_| has_generation),
                pcb: 0x8000_0000_0000_0002,
                peer_pcb: if is_unix { 12 } else { 0 },
            };
            let several = vec![written; 3];
            let listing = list.parse(&value(list, layout, &several)).unwrap();
            let (count, groups, end) = (3, 3, End::Whole);
            let expected = Listing { pcbs: vec![read; 3], malformed: 0, end, count, groups };
            assert_eq!(listing, expected, "{layout:?} {list:?}");
        }
    }
}
