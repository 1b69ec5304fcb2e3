use std::net::IpAddr;

use proptest::prelude::*;

use super::super::xnu_records::{KernelSocket, Layout, fixture, header, value};
use super::*;
use crate::process_open_sockets::model::Endpoint;

const TCP4: &str = include_str!("../../../../../fixtures/xnu/tcp4.pcblist_n");
const TCP4_MACOS_12: &str = include_str!("../../../../../fixtures/xnu/tcp4-macos-12.pcblist_n");
const UDP6: &str = include_str!("../../../../../fixtures/xnu/udp6.pcblist_n");
const UNIX_LISTENER: &str = include_str!("../../../../../fixtures/xnu/unix-listener.xunpcb_n");

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

/// The handles of a list's sockets.
fn handles(listing: &Listing) -> Vec<u64> {
    listing.pcbs.iter().map(|pcb| pcb.socket.inode).collect()
}

fn with_handles(handles: &[u64]) -> Vec<KernelSocket> {
    let socket = |&handle| KernelSocket { handle, last_pid: 9, ..KernelSocket::default() };
    handles.iter().map(socket).collect()
}

#[test]
fn a_tcp_socket_is_read_with_all_that_its_records_say() {
    let pcb = only(PcbList::Tcp, &fixture(TCP4, None));
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
fn the_same_socket_reads_the_same_from_macos_12() {
    let [old, new] = [TCP4_MACOS_12, TCP4].map(|text| fixture(text, None));
    assert_eq!((old.len(), new.len()), (640, 664));
    assert_eq!(only(PcbList::Tcp, &old), only(PcbList::Tcp, &new));
}

#[test]
fn a_udp_socket_of_ipv6_is_read_with_all_that_its_records_say() {
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
    assert_eq!((pcb.generation, pcb.socket.inode), (None, 0x0102_0304_0506_0708));
}

#[test]
fn a_unix_socket_names_the_part_of_its_peer_that_the_kernel_connects() {
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
fn kernel_controls_and_events_are_read_with_what_names_them() {
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
fn what_is_written_is_read_back_in_both_layouts_and_every_list() {
    for layout in BOTH {
        for list in PcbList::ALL {
            let sockets = with_handles(&[3, 4, u64::MAX]);
            let listing = list.parse(&value(list, layout, &sockets)).unwrap();
            assert_eq!(handles(&listing), [3, 4, u64::MAX], "{layout:?} {list:?}");
            assert_eq!((listing.malformed, listing.end), (0, End::Whole), "{layout:?} {list:?}");
        }
    }
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
        // Of user space, which tells no family.
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
fn a_socket_without_addresses_is_being_torn_down_and_left_out() {
    let sockets = [KernelSocket { handle: 7, vflag: 0, ..Default::default() }];
    let listing = PcbList::Tcp.parse(&value(PcbList::Tcp, Layout::Macos13, &sockets)).unwrap();
    assert_eq!((listing.pcbs.len(), listing.malformed, listing.end), (0, 0, End::Whole));
}

#[test]
fn raw_sockets_keep_their_protocol() {
    for protocol in [1, 58, 255, 89] {
        let socket = KernelSocket { handle: 7, protocol, kind: 3, ..Default::default() };
        let socket = only(PcbList::Raw, &value(PcbList::Raw, Layout::Macos13, &[socket])).socket;
        assert_eq!(socket.protocol().map(i32::from), Some(protocol));
        assert_eq!((socket.details.kind, socket.state()), (3, ""));
    }
}

#[test]
fn why_no_descriptor_can_be_a_sockets_follows_its_flags() {
    let of = |change: fn(&mut KernelSocket)| {
        let mut socket = KernelSocket { handle: 7, last_pid: 9, ..KernelSocket::default() };
        change(&mut socket);
        BOTH.map(|layout| {
            only(PcbList::Tcp, &value(PcbList::Tcp, layout, &[socket.clone()])).details.without_fd
        })
    };
    let both = |why| [Some(why); 2];
    assert_eq!(of(|_| {}), [None; 2]);
    assert_eq!(of(|it| (it.so_state, it.tcp_state) = (1, 10)), both(OwnerUnknown::TimeWait));
    assert_eq!(of(|it| (it.so_state, it.tcp_state) = (1, 9)), both(OwnerUnknown::Orphan));
    assert_eq!(of(|it| (it.so_state, it.tcp_state) = (0x801, 3)), both(OwnerUnknown::SynRecv));
    assert_eq!(of(|it| (it.so_state, it.tcp_state) = (0x1001, 4)), both(OwnerUnknown::AcceptQueue));
    // In the same state, and held.
    assert_eq!(of(|it| (it.so_state, it.tcp_state) = (0, 10)), [None; 2]);
    assert_eq!(
        of(|it| (it.handle, it.generation, it.last_pid) = (0, 0, 88)),
        both(OwnerUnknown::UserSpace)
    );
    // The kernel says it itself since macOS 13; before, no process has used the socket.
    let kernel = Some(OwnerUnknown::Kernel);
    assert_eq!(of(|it| (it.last_pid, it.flags1) = (0, 0x10_0000)), [kernel; 2]);
    assert_eq!(of(|it| it.last_pid = 0), [kernel, None]);
    assert_eq!(of(|it| it.flags = 0x100_0000), [None, Some(OwnerUnknown::Subflow)]);
}

#[test]
fn a_flow_of_user_space_has_no_handle_and_names_its_process_as_the_last() {
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
fn an_empty_list_has_one_header_and_no_sockets() {
    for list in PcbList::ALL {
        let listing = list.parse(&header(list, 0, 5)).unwrap();
        assert_eq!(listing, Listing { pcbs: vec![], malformed: 0, end: End::Whole }, "{list:?}");
    }
}

#[test]
fn a_count_without_sockets_is_said_to_be_withheld() {
    for list in PcbList::ALL {
        let head = header(list, 250, 5);
        let listing = list.parse(&[&head[..], &head].concat()).unwrap();
        let end = End::Withheld { count: 250 };
        assert_eq!(listing, Listing { pcbs: vec![], malformed: 0, end }, "{list:?}");
        // Cut before the first socket: nothing is known.
        assert_eq!(list.parse(&head).unwrap().end, End::Cut, "{list:?}");
    }
}

#[test]
fn the_end_is_not_taken_for_a_record_whatever_it_counts() {
    for count in [1, 2, 4, 8, 0x10, 0x20, 0x80, 0x100, 0x200] {
        for list in PcbList::ALL {
            let head = header(list, count, 1_000_000);
            let group = with_handles(&[7])[0].group(list, Layout::Macos13);
            let listing = list.parse(&[&head[..], &group, &head].concat()).unwrap();
            assert_eq!((handles(&listing), listing.end), (vec![7], End::Whole), "{list:?} {count}");
            assert_eq!(listing.malformed, 0, "{list:?} {count}");
        }
    }
}

#[test]
fn what_was_never_written_after_the_end_is_ignored() {
    let mut value = fixture(TCP4, None);
    let whole = PcbList::Tcp.parse(&value);
    value.extend([0; 999]);
    assert_eq!(PcbList::Tcp.parse(&value), whole);
    // Nor is it a socket where the end is missing.
    let mut cut = fixture(TCP4, None);
    cut.truncate(640);
    cut.extend([0; 999]);
    let listing = PcbList::Tcp.parse(&cut).unwrap();
    assert_eq!((listing.pcbs.len(), listing.malformed, listing.end), (1, 0, End::Cut));
}

#[test]
fn a_cut_list_keeps_the_sockets_that_are_whole() {
    for layout in BOTH {
        for list in PcbList::ALL {
            let sockets = with_handles(&[3, 4, 5]);
            let value = value(list, layout, &sockets);
            let head = header(list, 3, 1_000_000).len();
            let group = sockets[0].group(list, layout).len();
            for length in 0..value.len() {
                let parsed = list.parse(&value[..length]);
                if length < head {
                    assert_eq!(parsed, Err(Malformed), "{list:?} {length}");
                    continue;
                }
                let listing = parsed.unwrap();
                // What fills the last record up does not count.
                let filling = if list == PcbList::Tcp { 4 } else { 0 };
                let whole = (length + filling - head) / group;
                assert_eq!(handles(&listing), &[3, 4, 5][..whole.min(3)], "{list:?} {length}");
                assert_eq!((listing.malformed, listing.end), (0, End::Cut), "{list:?} {length}");
            }
        }
    }
}

#[test]
fn lengths_that_cannot_be_end_the_list() {
    let value = fixture(TCP4, None);
    for length in [0, 4, 7, 0x7fff_ffff, 0xffff_fffc, u32::MAX] {
        for at in [24, 128, 232, 432] {
            let mut value = value.clone();
            value[at..at + 4].copy_from_slice(&u32::to_le_bytes(length));
            let listing = PcbList::Tcp.parse(&value).unwrap();
            assert_eq!((listing.pcbs.len(), listing.end), (0, End::Cut), "{length} {at}");
        }
    }
}

#[test]
fn a_socket_that_came_after_the_header_is_left_out() {
    let list = PcbList::Udp;
    let socket = |handle, generation| KernelSocket { handle, generation, ..Default::default() };
    let groups = [socket(1, 50), socket(2, 51)].map(|it| it.group(list, Layout::Macos13)).concat();
    let head = header(list, 2, 50);
    let listing = list.parse(&[&head[..], &groups, &head].concat()).unwrap();
    assert_eq!((handles(&listing), listing.end), (vec![1], End::Whole));
}

#[test]
fn records_of_a_kind_that_is_not_known_are_skipped() {
    let value = fixture(TCP4, None);
    // 13 bytes, and 3 to the next record.
    let unknown = [&[13, 0, 0, 0, 0, 4, 0, 0], &[0xff; 8][..]].concat();
    let expected = PcbList::Tcp.parse(&value);
    for at in [24, 128, 232, 296, 432, 640] {
        let value = [&value[..at], &unknown, &value[at..]].concat();
        assert_eq!(PcbList::Tcp.parse(&value), expected, "{at}");
    }
}

#[test]
fn records_that_have_grown_are_read_as_far_as_they_are_known() {
    let value = fixture(TCP4, None);
    let expected = PcbList::Tcp.parse(&value);
    for (at, length) in [(24, 104), (128, 104), (232, 32), (264, 32), (296, 136), (432, 204_u32)] {
        let end = at + usize::try_from(length).unwrap().next_multiple_of(8);
        let mut value = [&value[..end], &[0xee; 16], &value[end..]].concat();
        value[at..at + 4].copy_from_slice(&(length + 16).to_le_bytes());
        assert_eq!(PcbList::Tcp.parse(&value), expected, "{at}");
    }
}

#[test]
fn records_that_are_too_short_are_counted_and_left_out() {
    let short = |kind: u8| [&[16, 0, 0, 0, kind, 0, 0, 0], &[0; 8][..]].concat();
    for (list, kind) in [(PcbList::Tcp, 0x10), (PcbList::Kctl, 0x80), (PcbList::Kevt, 0)] {
        let group = with_handles(&[7])[0].group(list, Layout::Macos13);
        let head = header(list, 2, 1_000_000);
        let mut short = short(kind);
        if list == PcbList::Kevt {
            short[5] = 1;
        }
        let listing = list.parse(&[&head[..], &short, &group, &head].concat()).unwrap();
        assert_eq!((handles(&listing), listing.end), (vec![7], End::Whole), "{list:?}");
        assert_eq!(listing.malformed, 1, "{list:?}");
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
    assert_eq!(pcb.details.without_fd, Some(OwnerUnknown::Orphan));
    assert_eq!((pcb.socket.family(), pcb.socket.protocol()), (Some(2), Some(6)));
    assert_eq!(pcb.socket.details.receive_queue, None);
}

#[test]
fn a_value_that_does_not_begin_as_a_list_is_malformed() {
    // A header that ends before its last field, and nothing missing behind it.
    let mut short = [0; 96];
    short[0] = 31;
    for bytes in [&b""[..], &[24, 0, 0, 0], &[0; 24], &[0; 64], &short, &[24; 24], &[0xff; 64]] {
        for list in PcbList::ALL {
            assert_eq!(list.parse(bytes), Err(Malformed), "{bytes:?}");
        }
    }
}

fn any_list() -> impl Strategy<Value = PcbList> {
    prop::sample::select(&PcbList::ALL[..])
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(
        list in any_list(),
        bytes in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let _ = list.parse(&bytes);
        let head = header(list, 1, 1_000_000);
        let _ = list.parse(&[&head[..], &bytes].concat());
    }

    #[test]
    fn changed_bytes_harm_no_socket_before_them(
        list in any_list(),
        old in any::<bool>(),
        place in any::<prop::sample::Index>(),
        change in 1..=u8::MAX,
    ) {
        let layout = BOTH[usize::from(!old)];
        let sockets = with_handles(&[3, 4, 5, 6]);
        let whole = value(list, layout, &sockets);
        let expected = list.parse(&whole).unwrap();
        let head = header(list, 4, 0).len();
        let group = sockets[0].group(list, layout).len();
        let at = head + place.index(whole.len() - head);
        let mut bytes = whole;
        bytes[at] ^= change;
        let listing = list.parse(&bytes).unwrap();
        let before = ((at - head) / group).min(4);
        prop_assert_eq!(listing.pcbs.get(..before), expected.pcbs.get(..before));
    }

    #[test]
    fn what_is_cut_is_a_beginning_of_what_was_whole(
        list in any_list(),
        handles in prop::collection::vec(any::<u64>(), 0..5),
        length in any::<prop::sample::Index>(),
    ) {
        let value = value(list, Layout::Macos13, &with_handles(&handles));
        let whole = list.parse(&value).unwrap();
        if let Ok(listing) = list.parse(&value[..length.index(value.len())]) {
            prop_assert!(whole.pcbs.starts_with(&listing.pcbs));
            prop_assert_eq!((listing.end, listing.malformed), (End::Cut, 0));
        }
    }
}
