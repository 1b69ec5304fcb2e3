use std::net::IpAddr;

use proptest::prelude::*;

use super::super::xnu_records::{KernelSocket, fixture};
use super::*;
use crate::model::Endpoint;

const TCP4: &str = include_str!("../../../../../fixtures/xnu/tcp4.socket_fdinfo");
const UDP6: &str = include_str!("../../../../../fixtures/xnu/udp6.socket_fdinfo");
const UNIX_LISTENER: &str = include_str!("../../../../../fixtures/xnu/unix-listener.socket_fdinfo");

fn held(text: &str) -> Held {
    parse(&fixture(text, Some(LENGTH))).unwrap()
}

fn endpoint(address: &str, port: u16) -> Endpoint {
    Endpoint { address: address.parse().unwrap(), port }
}

fn made(socket: &KernelSocket) -> Held {
    parse(&socket.socket_fdinfo()).unwrap()
}

#[test]
fn a_tcp_socket_is_read_with_all_fields_of_the_record() {
    let binding = Binding::Inet {
        v6: false,
        protocol: 6,
        local: endpoint("192.0.2.10", 49807),
        remote: endpoint("198.51.100.7", 443),
        state: Some(TcpState::Established),
    };
    let (receive_queue, send_queue) = (Some(0), Some(0));
    let details = Details { kind: 1, receive_queue, send_queue, ..Details::default() };
    let inode = 0xb7de_eb0d_189f_7a3a;
    assert_eq!(
        held(TCP4),
        Held {
            socket: Socket { inode, net_namespace: None, binding, details },
            details: DarwinDetails::default(),
            pcb: 0x9f6c_173e_df3a_2fed,
            generation: NonZeroU64::new(3041),
        }
    );
}

#[test]
fn a_udp6_socket_is_read_with_all_fields_of_the_record() {
    let binding = Binding::Inet {
        v6: true,
        protocol: 17,
        local: endpoint("2001:db8::10", 5353),
        remote: endpoint("2001:db8::53", 53),
        state: None,
    };
    let (receive_queue, send_queue) = (Some(0), Some(0));
    let details = Details { kind: 2, receive_queue, send_queue, ..Details::default() };
    let inode = 0x1122_3344_5566_7788;
    assert_eq!(
        held(UDP6),
        Held {
            socket: Socket { inode, net_namespace: None, binding, details },
            details: DarwinDetails::default(),
            pcb: 0x99aa_bbcc_ddee_ff00,
            generation: NonZeroU64::new(2990),
        }
    );
}

#[test]
fn a_unix_listener_is_read_with_its_path_and_queue() {
    let Held { socket, details, pcb, generation } = held(UNIX_LISTENER);
    assert_eq!(socket.inode, 0x0102_0304_0506_0708);
    assert_eq!(socket.binding, Binding::Unix { path: (*b"/var/run/example.sock").into() });
    assert_eq!((socket.family(), socket.protocol(), socket.state()), (Some(1), Some(0), ""));
    assert_eq!((details.peer, pcb, generation), (None, 0x1112_1314_1516_1718, None));
}

#[test]
fn a_unix_socket_names_the_handle_of_its_peer() {
    let (soi_kind, family, protocol, peer) = (3, 1, 0, 0x8000_0000_0000_0001);
    let held =
        made(&KernelSocket { soi_kind, family, protocol, peer, handle: 7, ..Default::default() });
    assert_eq!(held.details.peer, NonZeroU64::new(peer));
    assert_eq!(held.socket.binding, Binding::Unix { path: Box::default() });
}

#[test]
fn a_listener_for_both_versions_is_shown_as_osquery_shows_it() {
    let local = ("::".parse().unwrap(), 8080);
    let listener = KernelSocket { family: 30, vflag: 3, local, tcp_state: 1, ..Default::default() };
    let socket = made(&KernelSocket { options: 2, queue: [3, 1, 128], ..listener }).socket;
    assert_eq!(socket.local(), Some(endpoint("0.0.0.0", 8080)));
    assert_eq!((socket.family(), socket.state()), (Some(10), "LISTEN"));
    let queues = (socket.details.receive_queue, socket.details.send_queue);
    assert_eq!(queues, (Some(2), Some(128)));
}

#[test]
fn an_ipv6_socket_that_talks_ipv4_has_ipv4_addresses() {
    let local: (IpAddr, u16) = ("192.0.2.1".parse().unwrap(), 53);
    let socket = KernelSocket {
        soi_kind: 1,
        family: 30,
        vflag: 5,
        protocol: 17,
        local,
        ..Default::default()
    };
    let socket = made(&socket).socket;
    assert_eq!(socket.local(), Some(endpoint("192.0.2.1", 53)));
    assert_eq!((socket.family(), socket.protocol(), socket.state()), (Some(10), Some(17), ""));
}

#[test]
fn raw_sockets_have_the_number_of_their_protocol_entry() {
    // That of all protocols without an entry of their own is 0, and nothing else here soi_kind the protocol.
    for (protocol, raw_protocol) in [(1, 1), (58, 58), (255, 255), (0, 89)] {
        let socket =
            KernelSocket { soi_kind: 1, protocol, raw_protocol, kind: 3, ..Default::default() };
        assert_eq!(made(&socket).socket.protocol().map(i32::from), Some(protocol));
    }
}

#[test]
fn a_socket_without_a_control_block_has_no_addresses() {
    for (family, shown, address) in [(2, 2, "0.0.0.0"), (30, 10, "::")] {
        let socket =
            made(&KernelSocket { soi_kind: 0, family, handle: 7, ..Default::default() }).socket;
        assert_eq!(socket.family(), Some(shown));
        assert_eq!(
            (socket.local(), socket.remote()),
            (Some(endpoint(address, 0)), Some(endpoint(address, 0)))
        );
        assert_eq!((socket.protocol(), socket.state()), (Some(6), ""));
    }
    let unix =
        made(&KernelSocket { soi_kind: 0, family: 1, protocol: 0, ..Default::default() }).socket;
    assert_eq!(unix.binding, Binding::Unix { path: Box::default() });
}

#[test]
fn kernel_controls_and_events_are_named() {
    let name = "com.apple.net.utun_control";
    let control = KernelSocket { soi_kind: 6, family: 32, protocol: 2, name, ..Default::default() };
    let binding = made(&control).socket.binding;
    assert_eq!(binding, Binding::System { protocol: 2, control: name.into() });
    let numbers = [1, 1, 6, 0];
    let events =
        KernelSocket { soi_kind: 5, family: 32, protocol: 1, numbers, ..Default::default() };
    let socket = made(&events).socket;
    assert_eq!(socket.binding, Binding::System { protocol: 1, control: "1.1.6".into() });
    assert_eq!((socket.family(), socket.state()), (Some(32), ""));
}

#[test]
fn a_socket_for_frames_names_its_interface() {
    let ndrv = KernelSocket {
        soi_kind: 4,
        family: 27,
        protocol: 0,
        name: "en",
        numbers: [0, 1, 0, 0],
        ..KernelSocket::default()
    };
    let socket = made(&ndrv).socket;
    assert_eq!((&socket.binding, socket.family()), (&Binding::Ndrv { protocol: 0 }, Some(27)));
    let interface = socket.details.interface().and_then(|interface| interface.name.clone());
    assert_eq!(interface.as_deref(), Some("en1"));
    let unbound = made(&KernelSocket { name: "", ..ndrv }).socket;
    assert_eq!(unbound.details.interface(), None);
}

#[test]
fn a_vsock_socket_has_its_ends() {
    let numbers = [3, 1024, 2, u32::MAX];
    let socket =
        made(&KernelSocket { soi_kind: 7, family: 40, protocol: 0, numbers, ..Default::default() })
            .socket;
    let (local, remote) =
        (VsockAddress { cid: 3, port: 1024 }, VsockAddress { cid: 2, port: u32::MAX });
    assert_eq!(socket.binding, Binding::Vsock { local, remote, state: None });
    assert_eq!((socket.family(), socket.state()), (Some(40), ""));
}

#[test]
fn families_without_details_keep_their_number() {
    // PF_ROUTE, PF_KEY, AF_MULTIPATH.
    for family in [17, 29, 39] {
        let socket =
            made(&KernelSocket { soi_kind: 0, family, protocol: 0, ..Default::default() }).socket;
        let shown = u8::try_from(family).ok();
        assert_eq!(socket.binding, Binding::Unlisted { family: shown, protocol: Some(0) });
    }
}

#[test]
fn a_cut_answer_is_malformed_as_far_as_its_kind_needs() {
    for (text, needed) in [(TCP4, 348), (UDP6, 344), (UNIX_LISTENER, 535)] {
        let answer = fixture(text, Some(LENGTH));
        for length in 0..LENGTH {
            let parsed = parse(&answer[..length]);
            if length < needed {
                assert_eq!(parsed, Err(Malformed), "{length}");
            } else {
                assert_eq!(parsed, parse(&answer), "{length}");
            }
        }
    }
}

#[test]
fn the_known_fields_of_a_longer_record_are_read() {
    for text in [TCP4, UDP6, UNIX_LISTENER] {
        let answer = fixture(text, Some(LENGTH));
        assert_eq!(parse(&[&answer[..], &[0xee; 40]].concat()), parse(&answer));
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..900)) {
        let _ = parse(&bytes);
    }

    #[test]
    fn every_kind_with_any_bytes_is_read(
        soi_kind in 0..9_i32,
        family in prop::sample::select(&[1, 2, 17, 27, 30, 32, 40][..]),
        bytes in prop::collection::vec(any::<u8>(), LENGTH),
    ) {
        let mut bytes = bytes;
        bytes[256..260].copy_from_slice(&soi_kind.to_le_bytes());
        bytes[184..188].copy_from_slice(&i32::to_le_bytes(family));
        let held = parse(&bytes).unwrap();
        prop_assert_eq!(held.socket.inode.to_le_bytes(), &bytes[160..168]);
    }
}
