//! First sends of UDP, raw, ping and packet sockets.

use std::io::IoSlice;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;

use rustix::net::sockopt::socket_cookie;
use rustix::net::{
    AddressFamily, Protocol, RawProtocol, SendAncillaryBuffer, SendFlags, SocketType, send,
    sendmsg_addr, sendto, socket,
};

use super::child::spawn;
use super::this_binary::own_executable;
use super::*;
use crate::model::tcp_event::SocketKey;

impl Recorded {
    /// The first sends in a namespace, as soon as there are so many.
    pub(super) fn wait_for_first_sends(
        &mut self,
        namespace: NetNamespace,
        count: usize,
    ) -> Vec<FirstDatagram> {
        let is_there =
            |first: &&FirstDatagram| first.is_first_send && first.socket.net_namespace == namespace;
        self.wait(
            |it| it.first_sends.iter().filter(is_there).copied().collect(),
            |first_sends| first_sends.len() >= count,
        )
    }
}

/// Runs the body in a network namespace while events are recorded, on kernels with the tracepoint: with the program for
/// first sends, and once more with those that count.
fn record_first_sends(
    test: &'static str,
    body: impl Fn(NetNamespace, &mut Recorded) + Clone + Send + 'static,
) {
    if Layout::of_running_kernel().send.is_none() {
        return report_skip(test, "the kernel is older than 6.3");
    }
    let first_use = body.clone();
    record_in_own_netns(test, move |namespace, recorded| {
        recorded.source.datagrams.as_ref().unwrap();
        first_use(namespace, recorded);
    });
    record_in_own_netns(test, move |namespace, recorded| {
        recorded.source.begin_counting(&proc_root());
        assert_eq!(recorded.source.counting.reason(), None);
        body(namespace, recorded);
    });
}

fn key(socket: &impl AsFd) -> SocketKey {
    SocketKey::Cookie(socket_cookie(socket).unwrap())
}

fn to(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), port)
}

#[test]
fn a_first_send_is_recorded_once_with_its_ends() {
    record_first_sends("a_first_send_is_recorded_once_with_its_ends", |namespace, recorded| {
        let udp = |address| UdpSocket::bind((address, 0)).unwrap();
        let [sendto4, sendmsg4, connected] = [(); 3].map(|()| udp("0.0.0.0"));
        let [sendto6, mapped] = [(); 2].map(|()| udp("::"));
        connected.connect(to("127.0.0.1", 55)).unwrap();
        // Only the first send of a socket is reported, and no receive.
        let receiver = udp("127.0.0.1");
        for _ in 0..3 {
            sendto4.send_to(b"ab", receiver.local_addr().unwrap()).unwrap();
            assert_eq!(receiver.recv(&mut [0; 10]).unwrap(), 2);
        }
        let (message, control) = ([IoSlice::new(b"ab")], &mut SendAncillaryBuffer::default());
        sendmsg_addr(&sendmsg4, &to("127.0.0.1", 54), &message, control, SendFlags::empty())
            .unwrap();
        connected.send(b"ab").unwrap();
        sendto6.send_to(b"ab", to("::1", 56)).unwrap();
        mapped.send_to(b"ab", to("::ffff:127.0.0.1", 57)).unwrap();
        let found = recorded.wait_for_first_sends(namespace, 5);
        let sent = [
            (&sendto4, receiver.local_addr().unwrap()),
            (&sendmsg4, to("127.0.0.1", 54)),
            (&connected, to("127.0.0.1", 55)),
            (&sendto6, to("::1", 56)),
            (&mapped, to("::ffff:127.0.0.1", 57)),
        ];
        assert_eq!(found.len(), sent.len(), "{found:#?}");
        for (first, (socket, peer)) in found.iter().zip(sent) {
            assert_eq!(
                (first.socket.key, first.socket.remote),
                (key(socket), endpoint(peer)),
                "{first:#?}"
            );
            assert_eq!(first.socket.local.port, socket.local_addr().unwrap().port());
            assert_eq!((first.socket.kind, first.socket.protocol, first.errno), (2, 17, 0));
            assert_eq!(first.socket.inode, rustix::fs::fstat(socket).unwrap().st_ino);
            let actor = first.actor.unwrap();
            assert_eq!((actor.pid, actor.fd), (own_pid(), socket.as_raw_fd()));
            let own = std::fs::read_link("/proc/self/exe").unwrap();
            assert_eq!(recorded.path(&actor).unwrap().path, own.as_os_str().as_encoded_bytes());
        }
    });
}

#[test]
fn a_first_send_that_fails_has_its_errno() {
    record_first_sends("a_first_send_that_fails_has_its_errno", |namespace, recorded| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        // The broadcast address needs SO_BROADCAST.
        socket.send_to(b"a", to("127.255.255.255", 9)).unwrap_err();
        let [first] = recorded.wait_for_first_sends(namespace, 1)[..] else { unreachable!() };
        assert_eq!((first.errno, first.socket.remote), (13, endpoint(to("127.255.255.255", 9))));
    });
}

#[test]
fn raw_ping_and_packet_sockets_are_recorded() {
    record_first_sends("raw_ping_and_packet_sockets_are_recorded", |namespace, recorded| {
        std::fs::write("/proc/sys/net/ipv4/ping_group_range", "0 0").unwrap();
        // An echo request: type, code, checksum, identifier, sequence.
        let echo = [8, 0, 0xf7, 0xff, 0, 0, 0, 0];
        let open = |family, kind, protocol: u32| {
            let protocol = Protocol::from_raw(RawProtocol::new(protocol).unwrap());
            socket(family, kind, Some(protocol)).unwrap()
        };
        let raw = open(AddressFamily::INET, SocketType::RAW, 1);
        sendto(&raw, &echo, SendFlags::empty(), &to("127.0.0.1", 0)).unwrap();
        let ping = open(AddressFamily::INET, SocketType::DGRAM, 1);
        sendto(&ping, &echo, SendFlags::empty(), &to("127.0.0.1", 0)).unwrap();
        let raw6 = open(AddressFamily::INET6, SocketType::RAW, 253);
        let localhost = SocketAddr::from((Ipv6Addr::LOCALHOST, 0));
        // Of a raw socket the kernel ignores the port, or takes it for the protocol.
        let with_port = SocketAddr::from((Ipv6Addr::LOCALHOST, 253));
        sendto(&raw6, &echo, SendFlags::empty(), &with_port).unwrap();
        let found = recorded.wait_for_first_sends(namespace, 3);
        let shown: Vec<_> = found
            .iter()
            .map(|first| first.socket)
            .map(|it| (it.key, it.family, it.kind, it.protocol, it.local.port, it.remote))
            .collect();
        let loopback = endpoint(to("127.0.0.1", 0));
        let identifier = shown[1].4;
        assert_eq!(
            shown,
            [
                (key(&raw), 2, 3, 1, 0, loopback),
                (key(&ping), 2, 2, 1, identifier, loopback),
                (key(&raw6), 10, 3, 253, 0, endpoint(localhost)),
            ]
        );
        let packet = open(AddressFamily::PACKET, SocketType::RAW, 0x0300);
        // It has no interface to send on.
        assert_eq!(send(&packet, &[0; 60], SendFlags::empty()), Err(Errno::NXIO));
        let found = recorded.wait_for_first_sends(namespace, 4);
        let first = found[3];
        assert_eq!(
            (first.socket.key, first.socket.family, first.socket.kind),
            (key(&packet), 17, 3)
        );
        assert_eq!((first.socket.protocol, first.socket.local.port), (0, 0));
        assert_eq!(first.errno, Errno::NXIO.raw_os_error());
        assert_eq!(first.actor.map(|actor| actor.pid), Some(own_pid()));
    });
}

#[test]
fn first_sends_of_short_processes_have_their_paths() {
    record_first_sends("first_sends_of_short_processes_have_their_paths", |namespace, recorded| {
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = receiver.local_addr().unwrap();
        let own = own_executable();
        let mut pids = Vec::new();
        for _ in 0..40 {
            let mut child = spawn(&own, &format!("send {address}"));
            pids.push(child.id().cast_signed());
            assert!(child.wait().unwrap().success());
        }
        // No process exists any more.
        let found = recorded.wait_for_first_sends(namespace, pids.len());
        let actors: Vec<Actor> = found.iter().map(|first| first.actor.unwrap()).collect();
        assert_eq!(actors.iter().map(|actor| actor.pid).collect::<Vec<_>>(), pids);
        for (first, actor) in found.iter().zip(&actors) {
            assert_eq!((first.socket.remote, actor.parent), (endpoint(address), own_pid()));
            assert_eq!(recorded.path(actor).unwrap().path, own.as_os_str().as_encoded_bytes());
        }
    });
}

#[test]
fn a_socket_without_option_memory_is_recorded_once() {
    let test = "a_socket_without_option_memory_is_recorded_once";
    record_first_sends(test, move |namespace, recorded| {
        // Since Linux 6.8 a network namespace has its own limit.
        if std::fs::write("/proc/sys/net/core/optmem_max", "0").is_err() {
            return report_skip(test, "the kernel is older than 6.8");
        }
        let [first, second] = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
        for _ in 0..3 {
            first.send_to(b"a", to("127.0.0.1", 9)).unwrap();
        }
        second.send_to(b"a", to("127.0.0.1", 9)).unwrap();
        let found = recorded.wait_for_first_sends(namespace, 2);
        let sockets: Vec<SocketKey> = found.iter().map(|it| it.socket.key).collect();
        assert_eq!(sockets, [key(&first), key(&second)]);
    });
}

#[test]
fn threads_that_send_at_once_make_one_record() {
    record_first_sends("threads_that_send_at_once_make_one_record", |namespace, recorded| {
        const SOCKETS: usize = 50;
        for _ in 0..SOCKETS {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            let barrier = std::sync::Barrier::new(4);
            thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        barrier.wait();
                        socket.send_to(b"a", to("127.0.0.1", 9)).unwrap();
                    });
                }
            });
        }
        let found = recorded.wait_for_first_sends(namespace, SOCKETS);
        let mut keys: Vec<u64> = found.iter().map(|it| it.socket.key.cookie().unwrap()).collect();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!((found.len(), keys.len()), (SOCKETS, SOCKETS));
    });
}

#[test]
fn lost_and_read_first_sends_add_up_to_all() {
    let test = "lost_and_read_first_sends_add_up_to_all";
    record_first_sends(test, move |namespace, _| {
        const SOCKETS: u64 = 1000;
        let small = Settings { ring_size: 64 * 1024, ..Settings::default() };
        let Some(small) = start(test, &small) else { return };
        for _ in 0..SOCKETS {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.send_to(b"a", to("127.0.0.1", 9)).unwrap();
        }
        let (mut own, mut others) = (0, 0);
        let count = &mut |record| {
            if let EventRecord::Datagram(first) = record {
                *if first.socket.net_namespace == namespace { &mut own } else { &mut others } += 1;
            }
        };
        small.drain(Duration::ZERO, count).unwrap();
        let lost = small.losses().ring_datagrams;
        assert!(own > 100 && lost > SOCKETS / 2, "{own} read, {lost} lost");
        // Other processes of the host can have lost some, too.
        assert!((SOCKETS..=SOCKETS + 200).contains(&(own + lost)), "{own}, {others}, {lost}");
    });
}

#[test]
fn without_datagrams_the_program_does_not_run() {
    let test = "without_datagrams_the_program_does_not_run";
    let off = Settings { datagrams: EventDatagrams::Off, ..Settings::default() };
    let Some(source) = start(test, &off) else { return };
    let reason = "disabled by --events-datagrams off".to_owned();
    assert_eq!(source.programs()[1], (SEND, Err(reason)));
}
