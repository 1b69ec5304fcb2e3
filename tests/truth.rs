//! The open_every_kind: sockets of all kinds in several network namespaces. The tests compare every row and every column of
//! the table with the expected ones.
//!
//! This process holds the sockets, some of them together with children. It is in none of these namespaces.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]
#![allow(unsafe_code)]

#[path = "truth/expected.rs"]
mod expected;
#[path = "truth/netns.rs"]
mod netns;
#[path = "truth/process.rs"]
mod process;
#[cfg(feature = "shell")]
#[path = "truth/sidecar.rs"]
mod sidecar;
mod support;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use expected::{Row, inode, wait_for};
use netns::{Netns, Parked};
use rustix::net::{AddressFamily, SocketAddrUnix, ipproto};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use support::bpf;
use support::left_out::{is_root_or_report, report_left_out};
use support::log_capture::logged;
use support::set_on_drop::SetOnDrop;
use support::sleeper::Sleeper;
use tables::{Families, Options, Source, Threads};

/// Runs one test at a time: until execve(2), a child holds all descriptors of this process.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

const LOCALHOST: Ipv4Addr = Ipv4Addr::LOCALHOST;

fn can_run(test: &str) -> bool {
    is_root_or_report(test, "network namespaces and mounts need CAP_SYS_ADMIN")
}

fn without_bpf() -> Options {
    Options { bpf_from_files: None, ..Options::default() }
}

fn with_bpf() -> Options {
    Options { source: Source::Bpf, ..Options::default() }
}

/// The open sockets of the open_every_kind.
type Held = Vec<Box<dyn std::any::Any + Send>>;

fn tcp(netns: &Netns, held: &mut Held) -> Vec<Row> {
    let (listener, client, server, waiting) = netns.inside(|| {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        listener.bind(&SocketAddr::from((LOCALHOST, 7001)).into()).unwrap();
        listener.listen(5).unwrap();
        let listener = TcpListener::from(listener);
        let mut client = TcpStream::connect((LOCALHOST, 7001)).unwrap();
        let (server, _) = listener.accept().unwrap();
        client.write_all(b"abc").unwrap();
        let waiting = TcpStream::connect((LOCALHOST, 7001)).unwrap();
        (listener, client, server, waiting)
    });
    // The owner is another user than that of this process.
    rustix::fs::fchown(&client, Some(rustix::fs::Uid::from_raw(1234)), None).unwrap();
    let port = |stream: &TcpStream| stream.local_addr().unwrap().port();
    let listening = netns.own_row(&listener).inet(6, "127.0.0.1:7001", "0.0.0.0:0").state("LISTEN");
    let (client_end, server_end) = (format!("127.0.0.1:{}", port(&client)), "127.0.0.1:7001");
    let client_row = netns.own_row(&client).inet(6, &client_end, server_end).state("ESTABLISHED");
    let server_row = netns.own_row(&server).inet(6, server_end, &client_end).state("ESTABLISHED");
    let waiting_end = format!("127.0.0.1:{}", port(&waiting));
    let waiting_row =
        netns.own_row(&waiting).inet(6, &waiting_end, server_end).state("ESTABLISHED");
    let rows = vec![
        listening.queues(1, 5),
        client_row.uid("1234").queues(0, 0),
        server_row.queues(3, 0),
        waiting_row.queues(0, 0),
        // No process has accepted this connection.
        netns
            .unheld("accept_queue")
            .inet(6, server_end, &waiting_end)
            .state("ESTABLISHED")
            .queues(0, 0),
    ];
    held.push(Box::new((listener, client, server, waiting)));
    rows
}

fn unheld_tcp(netns: &Netns, held: &mut Held) -> Vec<Row> {
    let (listener, client_end, deferring, deferred) = netns.inside(|| {
        let listener = TcpListener::bind((LOCALHOST, 7002)).unwrap();
        let client = TcpStream::connect((LOCALHOST, 7002)).unwrap();
        let client_end = client.local_addr().unwrap();
        let (server, _) = listener.accept().unwrap();
        // The end that closes first enters TIME_WAIT.
        drop(client);
        let mut end = [0];
        assert_eq!(std::io::Read::read(&mut &server, &mut end).unwrap(), 0);
        drop(server);
        // With TCP_DEFER_ACCEPT, a connection stays in SYN_RECV until data arrives.
        let deferring = TcpListener::bind((LOCALHOST, 7003)).unwrap();
        let seconds: libc::c_int = 600;
        // SAFETY: the pointer and the length describe `seconds`.
        let set = unsafe {
            libc::setsockopt(
                deferring.as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_DEFER_ACCEPT,
                (&raw const seconds).cast(),
                size_of_val(&seconds) as libc::socklen_t,
            )
        };
        assert_eq!(set, 0);
        let deferred = TcpStream::connect((LOCALHOST, 7003)).unwrap();
        (listener, client_end, deferring, deferred)
    });
    let deferred_end = deferred.local_addr().unwrap().to_string();
    let (listens, defers) = ("127.0.0.1:7002", "127.0.0.1:7003");
    let rows = vec![
        netns.own_row(&listener).inet(6, listens, "0.0.0.0:0").state("LISTEN").queues(0, 128),
        netns
            .unheld("time_wait")
            .inet(6, &client_end.to_string(), listens)
            .state("TIME_WAIT")
            .queues(0, 0)
            .cgroup(""),
        netns.own_row(&deferring).inet(6, defers, "0.0.0.0:0").state("LISTEN").queues(0, 128),
        netns.own_row(&deferred).inet(6, &deferred_end, defers).state("ESTABLISHED").queues(0, 0),
        netns
            .unheld("syn_recv")
            .inet(6, defers, &deferred_end)
            .state("SYN_RECV")
            .queues(0, 0)
            .cgroup(""),
    ];
    held.push(Box::new((listener, deferring, deferred)));
    rows
}

/// A connection to a listener with a full accept queue, which does not answer the SYN.
fn tcp_before_a_full_queue(netns: &Netns, held: &mut Held) -> Vec<Row> {
    let (listener, first, second) = netns.inside(|| {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let address: SockAddr = SocketAddr::from((LOCALHOST, 7004)).into();
        listener.bind(&address).unwrap();
        listener.listen(0).unwrap();
        let first = TcpStream::connect((LOCALHOST, 7004)).unwrap();
        let second = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        second.set_nonblocking(true).unwrap();
        second.connect(&address).unwrap_err();
        (listener, first, second)
    });
    let full = "127.0.0.1:7004";
    let first_end = first.local_addr().unwrap().to_string();
    let second_end = second.local_addr().unwrap().as_socket().unwrap().to_string();
    let rows = vec![
        netns.own_row(&listener).inet(6, full, "0.0.0.0:0").state("LISTEN").queues(1, 0),
        netns.own_row(&first).inet(6, &first_end, full).state("ESTABLISHED").queues(0, 0),
        netns.unheld("accept_queue").inet(6, full, &first_end).state("ESTABLISHED").queues(0, 0),
        // The kernel counts the SYN as a byte in the send queue.
        netns.own_row(&second).inet(6, &second_end, full).state("SYN_SENT").queues(0, 1),
    ];
    held.push(Box::new((listener, first, second)));
    rows
}

fn tcp_over_both(netns: &Netns, held: &mut Held) -> Vec<Row> {
    let (listener, client, server) = netns.inside(|| {
        let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 7005)).unwrap();
        let client = TcpStream::connect((LOCALHOST, 7005)).unwrap();
        let (server, _) = listener.accept().unwrap();
        (listener, client, server)
    });
    let client_end = client.local_addr().unwrap();
    let mapped = format!("[::ffff:127.0.0.1]:{}", client_end.port());
    let rows = vec![
        netns.own_row(&listener).inet(6, "[::]:7005", "[::]:0").state("LISTEN").queues(0, 128),
        netns
            .own_row(&client)
            .inet(6, &client_end.to_string(), "127.0.0.1:7005")
            .state("ESTABLISHED")
            .queues(0, 0),
        netns
            .own_row(&server)
            .inet(6, "[::ffff:127.0.0.1]:7005", &mapped)
            .state("ESTABLISHED")
            .queues(0, 0),
    ];
    held.push(Box::new((listener, client, server)));
    rows
}

/// UDP sockets on one port; a child holds one of them, too.
fn a_group_of_udp_sockets(netns: &Netns, held: &mut Held) -> Vec<Row> {
    let group: Vec<Socket> = netns.inside(|| {
        let one = |_| {
            let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
            socket.set_reuse_port(true).unwrap();
            socket.bind_device(Some(b"lo")).unwrap();
            socket.bind(&SocketAddr::from((LOCALHOST, 7006)).into()).unwrap();
            socket
        };
        (0..3).map(one).collect()
    });
    let shared = group[0].try_clone().unwrap();
    let sleeper = Sleeper::holding(OwnedFd::from(shared));
    let udp = |row: Row| row.inet(17, "127.0.0.1:7006", "0.0.0.0:0").queues(0, 0).interface("lo");
    let mut rows: Vec<Row> = group.iter().map(|socket| udp(netns.own_row(socket))).collect();
    rows.push(udp(netns.row_of(sleeper.pid(), 0, inode(&group[0]))));
    held.push(Box::new((group, sleeper)));
    rows
}

fn other_protocols(netns: &Netns, held: &mut Held) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut keep = |socket: Socket, row: fn(Row) -> Row| {
        rows.push(row(netns.own_row(&socket)).queues(0, 0));
        held.push(Box::new(socket));
    };
    let raw =
        netns.inside(|| Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)).unwrap());
    keep(raw, |row| row.inet(255, "0.0.0.0:1", "0.0.0.0:0").kind("3").any_cgroup());
    let ping = netns.inside(|| {
        std::fs::write("/proc/sys/net/ipv4/ping_group_range", "0 0").unwrap();
        let ping = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::ICMPV4)).unwrap();
        ping.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, 77)).into()).unwrap();
        ping
    });
    keep(ping, |row| row.inet(1, "0.0.0.0:77", "0.0.0.0:0").any_cgroup());
    let raw =
        netns.inside(|| Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6)).unwrap());
    keep(raw, |row| row.inet(255, "[::]:58", "[::]:0").kind("3").any_cgroup());
    // The kernel lists each of the two ping sockets in the tables of both families.
    let ping = netns.inside(|| {
        let ping = Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::ICMPV6)).unwrap();
        ping.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, 77)).into()).unwrap();
        ping
    });
    keep(ping, |row| row.inet(58, "[::]:77", "[::]:0").kind("2").any_cgroup());
    let connected = netns.inside(|| {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
        socket.bind(&SocketAddr::from((LOCALHOST, 7007)).into()).unwrap();
        socket.connect(&SocketAddr::from((LOCALHOST, 7006)).into()).unwrap();
        socket
    });
    keep(connected, |row| row.inet(17, "127.0.0.1:7007", "127.0.0.1:7006"));
    let packet = netns.inside(|| {
        let ethertype = i32::from(0x88cc_u16.to_be());
        Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(ethertype))).unwrap()
    });
    keep(packet, |row| row.packet(0x88cc).kind("3").cgroup(""));
    rows
}

/// UNIX sockets with hostile names: blanks, NULs, and a line in the format of `/proc/net/unix`.
fn unix(netns: &Netns, held: &mut Held, victim: u64, name: &str) -> Vec<Row> {
    let folder = tempfile::tempdir().unwrap();
    let line = format!("0000000000000000: 00000002 00000000 00010000 0001 01 {victim} ");
    let hostile = folder.path().join(format!("x\n{line}"));
    std::fs::create_dir(&hostile).unwrap();
    let hostile = hostile.join("forged");
    let blanks = folder.path().join(" a  b ");
    let (listener, waiting, pair, names) = netns.inside(|| {
        let listener = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        listener.bind(&SockAddr::unix(&hostile).unwrap()).unwrap();
        listener.listen(3).unwrap();
        let waiting = UnixStream::connect(&hostile).unwrap();
        let pair = UnixStream::pair().unwrap();
        let name = SocketAddrUnix::new_abstract_name(format!("{name}\0x").as_bytes()).unwrap();
        let abstracted =
            rustix::net::socket(AddressFamily::UNIX, rustix::net::SocketType::SEQPACKET, None)
                .unwrap();
        rustix::net::bind(&abstracted, &name).unwrap();
        let blank = UnixDatagram::bind(&blanks).unwrap();
        let unbound = UnixDatagram::unbound().unwrap();
        (listener, waiting, pair, (abstracted, blank, unbound))
    });
    let hostile = hostile.to_str().unwrap();
    let rows = vec![
        netns.own_row(&listener).unix(hostile, "1").queues(1, 3).listening(),
        netns.unheld("accept_queue").unix(hostile, "1"),
        netns.own_row(&waiting).unix("", "1").queues(0, 0),
        netns.own_row(&pair.0).unix("", "1").queues(0, 0).peer(inode(&pair.1)),
        netns.own_row(&pair.1).unix("", "1").queues(0, 0).peer(inode(&pair.0)),
        netns.own_row(&names.0).unix(&format!("@{name}@x"), "5").queues(0, 0),
        netns.own_row(&names.1).unix(blanks.to_str().unwrap(), "2").queues(0, 0),
        netns.own_row(&names.2).unix("", "2").queues(0, 0),
    ];
    held.push(Box::new((listener, waiting, pair, names, folder)));
    rows
}

/// A socket in flight: in a message that no process has received.
fn in_flight(netns: &Netns, held: &mut Held) -> Vec<Row> {
    let (socket, pair) = netns
        .inside(|| (UdpSocket::bind((LOCALHOST, 7008)).unwrap(), UnixDatagram::pair().unwrap()));
    let number = inode(&socket);
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = rustix::net::SendAncillaryBuffer::new(&mut space);
    let sent = [socket.as_fd()];
    assert!(ancillary.push(rustix::net::SendAncillaryMessage::ScmRights(&sent)));
    let text = [std::io::IoSlice::new(b"x")];
    rustix::net::sendmsg(&pair.0, &text, &mut ancillary, rustix::net::SendFlags::empty()).unwrap();
    drop(socket);
    let rows = vec![
        netns
            .unheld(expected::unknown_with_file())
            .socket(number)
            .uid("0")
            .inet(17, "127.0.0.1:7008", "0.0.0.0:0")
            .queues(0, 0),
        // The kernel counts the message with its memory overhead.
        netns.own_row(&pair.0).unix("", "2").any_queues().peer(inode(&pair.1)),
        netns.own_row(&pair.1).unix("", "2").any_queues().peer(inode(&pair.0)),
    ];
    held.push(Box::new(pair));
    rows
}

fn a_listener(netns: &Netns, port: u16, held: &mut Held) -> Vec<Row> {
    let listener = netns.inside(|| TcpListener::bind((LOCALHOST, port)).unwrap());
    let row = netns.own_row(&listener).inet(6, &format!("127.0.0.1:{port}"), "0.0.0.0:0");
    held.push(Box::new(listener));
    vec![row.state("LISTEN").queues(0, 128)]
}

/// A listener that only a child holds, and the child is in the same namespace.
fn a_listener_of_a_child(netns: &Netns, held: &mut Held) -> Vec<Row> {
    let (sleeper, number) = netns.inside(|| {
        let listener = TcpListener::bind((LOCALHOST, 7009)).unwrap();
        let number = inode(&listener);
        (Sleeper::holding(OwnedFd::from(listener)), number)
    });
    let row = netns.row_of(sleeper.pid(), 0, number).inet(6, "127.0.0.1:7009", "0.0.0.0:0");
    held.push(Box::new(sleeper));
    vec![row.state("LISTEN").queues(0, 128)]
}

/// Sockets of all kinds in four namespaces: one with a process, one with a thread of this process, and two that are
/// only mounted, one of them in another mount namespace.
fn open_every_kind(held: &mut Held) -> (Vec<Netns>, Vec<Row>) {
    let (mut inhabited, mut visited) = (Netns::new(), Netns::new());
    let (mut mounted, mut mounted_elsewhere) = (Netns::new(), Netns::new());
    inhabited.keep_by_process();
    visited.keep_by_thread();
    mounted.keep_by_mount();
    mounted_elsewhere.keep_by_mount_of_a_child();
    let mut rows = tcp(&inhabited, held);
    let elsewhere = a_listener(&visited, 7101, held);
    let forged = [("tcp", rows[0].inode()), ("elsewhere", elsewhere[0].inode())];
    rows.extend(elsewhere);
    rows.extend(unheld_tcp(&inhabited, held));
    rows.extend(tcp_before_a_full_queue(&inhabited, held));
    rows.extend(tcp_over_both(&inhabited, held));
    rows.extend(a_group_of_udp_sockets(&inhabited, held));
    rows.extend(other_protocols(&inhabited, held));
    rows.extend(a_listener_of_a_child(&inhabited, held));
    for (name, number) in forged {
        rows.extend(unix(&inhabited, held, number, name));
    }
    rows.extend(in_flight(&inhabited, held));
    rows.extend(a_listener(&mounted, 7102, held));
    rows.extend(a_listener(&mounted_elsewhere, 7103, held));
    (vec![inhabited, visited, mounted, mounted_elsewhere], rows)
}

#[test]
fn every_cell_of_every_socket_kind_has_the_expected_value() {
    let _alone = alone();
    let test = "every_cell_of_every_socket_kind_has_the_expected_value";
    if !can_run(test) {
        return;
    }
    let mut held = Held::new();
    let (namespaces, mut rows) = open_every_kind(&mut held);
    // Lines about another UNIX socket and about no socket: in `/proc/net/unix` they look like true ones.
    let victim = namespaces[0].inside(|| UnixDatagram::unbound().unwrap());
    rows.push(namespaces[0].own_row(&victim).unix("", "2").queues(0, 0));
    for (name, number) in [("unix", inode(&victim)), ("none", 4_242_424_242)] {
        rows.extend(unix(&namespaces[0], &mut held, number, name));
    }
    // Segments in transit arrive.
    wait_for(|| expected::differences(Options::default(), &namespaces, &rows).is_empty());
    let holders: BTreeSet<&str> =
        rows.iter().filter(|row| row.is_held()).map(|row| row.cell("pid")).collect();
    assert_eq!(holders.len(), 3, "this process and two of its children");
    let inodes = rows.iter().filter(|row| row.is_held() && !row.is_own()).map(Row::inode);
    let inodes: Vec<u64> = inodes.collect();
    let compare = |options: Options| {
        let mut different = expected::differences(options.clone(), &namespaces, &rows);
        for pid in &holders {
            different.extend(expected::differences_of(
                options.clone(),
                "pid",
                pid,
                &namespaces,
                &rows,
            ));
        }
        for inode in &inodes {
            let inode = inode.to_string();
            different.extend(expected::differences_of(
                options.clone(),
                "socket",
                &inode,
                &namespaces,
                &rows,
            ));
        }
        different
    };
    assert_eq!(compare(without_bpf()), [""; 0]);
    assert_eq!(bpf::with_bpf(test, || compare(with_bpf())).0, [""; 0]);
    let own = rows.iter().filter(|row| row.is_own()).count();
    assert!(own > 20 && rows.len() > own + 5);
}

/// Compares the sources in all rows of these namespaces. Fields that `/proc/net` does not report are ignored.
#[test]
fn all_sources_return_equal_rows_of_every_socket_kind() {
    let _alone = alone();
    let test = "all_sources_return_equal_rows_of_every_socket_kind";
    if !can_run(test) {
        return;
    }
    let mut held = Held::new();
    let (namespaces, rows) = open_every_kind(&mut held);
    wait_for(|| expected::differences(Options::default(), &namespaces, &rows).is_empty());
    let own_rows = |options| {
        let mut rows = expected::own_rows(options);
        rows.sort();
        rows
    };
    let netlink = expected::rows_of_namespaces(without_bpf(), &namespaces);
    let files = Options { source: Source::Procfs, ..Options::default() };
    let (files, warnings) = logged(|| expected::rows_of_namespaces(files, &namespaces));
    assert_eq!(expected::contradictions(&netlink, &files), [""; 0], "{warnings:?}");
    let ((bpf, own_bpf, all), _) = bpf::with_bpf(test, || {
        let bpf = expected::rows_of_namespaces(with_bpf(), &namespaces);
        (bpf, own_rows(with_bpf()), expected::rows_of_namespaces(with_bpf(), &namespaces))
    });
    // BPF reports more fields where the kernel has no dump.
    assert_eq!(expected::contradictions(&bpf, &netlink), [""; 0]);
    let own_netlink = own_rows(without_bpf());
    assert_eq!(expected::contradictions(&own_bpf, &own_netlink), [""; 0]);
    let here = |row: &Row| namespaces.iter().any(|netns| row.is_in(netns));
    let select_own = |rows: &[Row]| -> Vec<Row> {
        rows.iter().filter(|row| row.is_own() && here(row)).cloned().collect()
    };
    assert_eq!(select_own(&all), select_own(&own_bpf), "a constraint changes the answer");
    let lengths = [own_netlink.len(), own_bpf.len()];
    assert!(lengths.iter().all(|length| *length > 20), "{lengths:?}");
}

#[test]
fn bpf_shows_the_sockets_of_an_unreachable_namespace() {
    let _alone = alone();
    let test = "bpf_shows_the_sockets_of_an_unreachable_namespace";
    if !can_run(test) {
        return;
    }
    let mut held = Held::new();
    // A descriptor of this process keeps the namespace alive, and no process is in it.
    let netns = Netns::new();
    let mut rows = a_listener(&netns, 7601, &mut held);
    let udp = netns.inside(|| UdpSocket::bind((LOCALHOST, 7602)).unwrap());
    rows.push(netns.own_row(&udp).inet(17, "127.0.0.1:7602", "0.0.0.0:0").queues(0, 0));
    let pair = netns.inside(|| UnixStream::pair().unwrap());
    rows.push(netns.own_row(&pair.0).unix("", "1").queues(0, 0).peer(inode(&pair.1)));
    rows.push(netns.own_row(&pair.1).unix("", "1").queues(0, 0).peer(inode(&pair.0)));
    // Unread bytes: only the table of UNIX sockets has the length of the receive queue.
    let packets = netns.inside(|| Socket::pair(Domain::UNIX, Type::SEQPACKET, None).unwrap());
    packets.0.send(b"abc").unwrap();
    let row = |socket: &Socket, peer| netns.own_row(socket).unix("", "5").peer(inode(peer));
    rows.push(row(&packets.0, &packets.1).any_queues());
    rows.push(row(&packets.1, &packets.0).any_queues());
    let namespaces = [netns];
    let (different, is_used) = bpf::with_bpf(test, || {
        let differences_of_both = |families: Families| {
            let options = Options { families, ..with_bpf() };
            let all = expected::differences(options.clone(), &namespaces, &rows);
            [all, expected::differences_of_own(options, &namespaces, &rows)].concat()
        };
        let with_unlisted = Families::default() | Families::UNLISTED;
        let different =
            [differences_of_both(Families::default()), differences_of_both(with_unlisted)].concat();
        // An MPTCP socket needs a read of its table, which must not lose other rows.
        let mptcp = Protocol::from(ipproto::MPTCP.as_raw().get().cast_signed());
        let mptcp = Socket::new(Domain::IPV4, Type::STREAM, Some(mptcp));
        let beside_mptcp = differences_of_both(Families::default());
        drop(mptcp);
        [different, beside_mptcp].concat()
    });
    if is_used {
        assert_eq!(different, [""; 0]);
    }
}

#[test]
fn a_thread_adds_the_sockets_of_its_own_descriptor_table() {
    let _alone = alone();
    let test = "a_thread_adds_the_sockets_of_its_own_descriptor_table";
    if !can_run(test) {
        return;
    }
    let mut held = Held::new();
    let mut netns = Netns::new();
    netns.keep_by_process();
    let mut rows = a_listener(&netns, 7201, &mut held);
    // The table of the thread is a copy with one more socket.
    let parked =
        Parked::with_own_descriptors(&netns, || TcpListener::bind((LOCALHOST, 7202)).unwrap());
    let (fd, number) = parked.has;
    let listening = |row: Row| {
        row.inet(6, "127.0.0.1:7202", "0.0.0.0:0").state("LISTEN").queues(0, 128).uid("0")
    };
    let netns = [netns];
    let pid = std::process::id();
    rows.push(listening(netns[0].row_of(pid, fd, number)).tid(parked.tid));
    let with_threads = |options: Options| {
        let with = Options { threads: Threads::On, ..options };
        assert_eq!(expected::differences(with.clone(), &netns, &rows), [""; 0]);
        assert_eq!(expected::differences_of_own(with, &netns, &rows), [""; 0]);
    };
    with_threads(without_bpf());
    bpf::with_bpf(test, || with_threads(with_bpf()));
    // With BPF on Linux 6.7 or later, threads are on by default.
    if has_iterator_of_all_threads() {
        let by_default = || expected::differences(with_bpf(), &netns, &rows);
        let (differences, is_used) = bpf::with_bpf(test, by_default);
        assert!(!is_used || differences.is_empty(), "{differences:?}");
    }
    // Without BPF, the socket has no holder.
    *rows.last_mut().unwrap() =
        listening(netns[0].unheld(expected::unknown_with_file()).socket(number));
    assert_eq!(expected::differences(without_bpf(), &netns, &rows), [""; 0]);
    let off = Options { threads: Threads::Off, ..with_bpf() };
    assert_eq!(expected::differences(off, &netns, &rows), [""; 0]);
}

/// Whether the kernel's iterator visits all threads of a process: since Linux 6.7, and where it was backported.
fn has_iterator_of_all_threads() -> bool {
    let types = std::fs::read("/sys/kernel/btf/vmlinux").unwrap_or_default();
    let function = b"\0bpf_iter_task_new\0";
    types.windows(function.len()).any(|window| window == function)
}

#[test]
fn only_sockets_of_the_chosen_families_are_shown() {
    let _alone = alone();
    if !can_run("only_sockets_of_the_chosen_families_are_shown") {
        return;
    }
    let mut netns = Netns::new();
    netns.keep_by_process();
    let (netlink, bound, unbound, mptcp) = netns.inside(|| {
        let kind = rustix::net::SocketType::RAW;
        let netlink = rustix::net::socket(AddressFamily::NETLINK, kind, None).unwrap();
        let address = rustix::net::netlink::SocketAddrNetlink::new(4321, 0);
        rustix::net::bind(&netlink, &address).unwrap();
        let bound = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        bound.bind(&SocketAddr::from((LOCALHOST, 7301)).into()).unwrap();
        let unbound = Socket::new(Domain::IPV6, Type::DGRAM, None).unwrap();
        let mptcp = Protocol::from(ipproto::MPTCP.as_raw().get().cast_signed());
        let mptcp = Socket::new(Domain::IPV4, Type::STREAM, Some(mptcp)).ok().inspect(|mptcp| {
            mptcp.bind(&SocketAddr::from((LOCALHOST, 7302)).into()).unwrap();
            mptcp.listen(3).unwrap();
        });
        (netlink, bound, unbound, mptcp)
    });
    let netlink_row = netns.own_row(&netlink).netlink(0, 4321).kind("3").queues(0, 0).cgroup("");
    let bound_row = netns.own_row(&bound).inet(6, "127.0.0.1:7301", "0.0.0.0:0").state("CLOSED");
    let bound_row = bound_row.queues(0, 0);
    let unlisted = netns.own_row(&unbound).unlisted("10", "17");
    let subflow = |protocol| {
        let row = netns.own_row(mptcp.as_ref()?).inet(protocol, "127.0.0.1:7302", "0.0.0.0:0");
        Some(row.state("LISTEN").queues(0, 3))
    };
    let chosen = |families: Families| Options { families, ..Options::default() };
    let namespaces = [netns.clone_number()];
    let check = |families: Families, rows: Vec<Row>| {
        let different = expected::differences_of_own(chosen(families), &namespaces, &rows);
        assert_eq!(different, [""; 0], "{families:?}");
    };
    let (tcp, connection) = (subflow(6), subflow(262));
    check(Families::default(), tcp.clone().into_iter().collect());
    check(Families::NETLINK, vec![netlink_row.clone()]);
    check(Families::MPTCP, connection.clone().into_iter().collect());
    check(Families::VSOCK | Families::SCTP, vec![]);
    // An unlisted socket has no namespace to select it by.
    let mut all = vec![netlink_row, unlisted];
    all.extend(tcp.into_iter().chain(connection));
    let own = expected::own_rows(chosen(Families::all()));
    let is_shown = |row: &Row| own.iter().any(|shown| row.is_like(shown));
    for row in &all {
        assert!(is_shown(row), "{row:?} is not among {own:#?}");
    }
    // Linux 6.8 and later list bound-inactive sockets; before, only the descriptor shows the socket.
    assert!(is_shown(&bound_row) || is_shown(&netns.own_row(&bound).unlisted("2", "6")));
    drop((netlink, bound, unbound, mptcp));
}

/// A socket, and a process that passes it to a child and ends on command.
struct Chain {
    netns: Option<Netns>,
    number: u64,
    first: Child,
    commands: ChildStdin,
    pids: BufReader<ChildStdout>,
}

impl Chain {
    /// The socket is the standard error of the process. Each process prints its pid and waits for a line.
    fn new(netns: Netns) -> Chain {
        const SCRIPT: &str = r#"exec 3<&0; echo $$; read -r line && { sh -c "$0" "$0" <&3 & }"#;
        let (number, mut first) = netns.inside(|| {
            let listener = TcpListener::bind((LOCALHOST, 7501)).unwrap();
            let number = inode(&listener);
            let mut sh = Command::new("sh");
            sh.args(["-c", SCRIPT, SCRIPT]).stderr(OwnedFd::from(listener));
            (number, sh.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap())
        });
        let commands = first.stdin.take().unwrap();
        let pids = BufReader::new(first.stdout.take().unwrap());
        let mut chain = Chain { netns: Some(netns), number, first, commands, pids };
        chain.wait();
        chain
    }

    fn begin(&mut self) {
        self.commands.write_all(b"\n").unwrap();
    }

    /// Waits until the next process has the socket.
    fn wait(&mut self) {
        let mut line = String::new();
        self.pids.read_line(&mut line).unwrap();
        assert!(line.trim().parse::<i32>().is_ok(), "no pid: {line:?}");
    }
}

/// The last process reads the end of the file and ends.
impl Drop for Chain {
    fn drop(&mut self) {
        let _ = self.first.wait();
    }
}

#[test]
fn a_socket_passed_during_a_scan_is_shown_with_its_holder() {
    let _alone = alone();
    let test = "a_socket_passed_during_a_scan_is_shown_with_its_holder";
    if !can_run(test) {
        return;
    }
    // From here on, only the process with the socket is in the namespace.
    let mut chain = Chain::new(Netns::new());
    drop(chain.netns.take());
    let mut scan = |options: Options| {
        for _ in 0..20 {
            chain.begin();
            let rows = expected::rows_of_socket(options.clone(), chain.number);
            chain.wait();
            assert!(!rows.is_empty() && rows.iter().all(Row::is_held), "{rows:#?}");
        }
    };
    scan(without_bpf());
    bpf::with_bpf(test, || scan(with_bpf()));
}

/// A scan reads the descriptors of one process after the other. It may read each of many processes before or after
/// the process holds the socket; then the table shows the socket without a holder.
#[test]
fn a_socket_passed_many_times_during_a_scan_is_shown() {
    let _alone = alone();
    let test = "a_socket_passed_many_times_during_a_scan_is_shown";
    if !can_run(test) {
        return;
    }
    let mut netns = Netns::new();
    netns.keep_by_process();
    let mut chain = Chain::new(netns);
    let number = chain.number;
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                chain.begin();
                chain.wait();
            }
        });
        let _set_over = SetOnDrop(&over);
        let scan = |options: Options| {
            for _ in 0..20 {
                let rows = expected::rows_of_socket(options.clone(), number);
                let is_listener =
                    |row: &Row| (row.cell("local_port"), row.cell("state")) == ("7501", "LISTEN");
                assert!(!rows.is_empty() && rows.iter().all(is_listener), "{rows:#?}");
            }
        };
        scan(without_bpf());
        bpf::with_bpf(test, || scan(with_bpf()));
    });
}

#[test]
fn a_socket_shows_the_control_group_in_which_it_was_made() {
    let _alone = alone();
    let test = "a_socket_shows_the_control_group_in_which_it_was_made";
    if !can_run(test) {
        return;
    }
    let Some(group) = expected::ControlGroup::new() else {
        return report_left_out(test, "no tree of control groups of version 2 that can be written");
    };
    let mut netns = Netns::new();
    netns.keep_by_process();
    let listener = group.inside(|| netns.inside(|| TcpListener::bind((LOCALHOST, 7601)).unwrap()));
    let row = netns.own_row(&listener).inet(6, "127.0.0.1:7601", "0.0.0.0:0").state("LISTEN");
    let row = row.queues(0, 128).cgroup(&group.path);
    assert_eq!(expected::differences(Options::default(), &[netns], &[row]), [""; 0]);
}

#[test]
fn scope_is_1_in_the_namespace_of_the_first_process() {
    let listener = TcpListener::bind((LOCALHOST, 0)).unwrap();
    // Both paths have the same inode only in the same namespace.
    let file = |pid: &str| {
        std::os::unix::fs::MetadataExt::ino(
            &std::fs::metadata(format!("/proc/{pid}/net/tcp")).unwrap(),
        )
    };
    let scope = if file("1") == file("self") { "1" } else { "0" };
    let rows = expected::rows_of_socket(Options::default(), inode(&listener));
    assert!(!rows.is_empty() && rows.iter().all(|row| row.cell("scope") == scope), "{rows:#?}");
}

#[test]
fn an_orphaned_socket_is_recognized_by_its_state() {
    let _alone = alone();
    if !can_run("an_orphaned_socket_is_recognized_by_its_state") {
        return;
    }
    let mut netns = Netns::new();
    netns.keep_by_process();
    let (listener, server, client_end) = netns.inside(|| {
        let listener = TcpListener::bind((LOCALHOST, 7401)).unwrap();
        let client = TcpStream::connect((LOCALHOST, 7401)).unwrap();
        let (server, client_end) = listener.accept().unwrap();
        // The server does not close its side.
        drop(client);
        (listener, server, client_end.to_string())
    });
    let listens = "127.0.0.1:7401";
    let rows = [
        netns.own_row(&listener).inet(6, listens, "0.0.0.0:0").state("LISTEN").queues(0, 128),
        // The kernel counts the FIN as a byte in the receive queue.
        netns.own_row(&server).inet(6, listens, &client_end).state("CLOSE_WAIT").queues(1, 0),
        netns
            .unheld("orphan")
            .inet(6, &client_end, listens)
            .state("FIN_WAIT2")
            .any_queues()
            .cgroup(""),
    ];
    let namespaces = [netns];
    wait_for(|| expected::differences(Options::default(), &namespaces, &rows).is_empty());
    assert_eq!(expected::differences(Options::default(), &namespaces, &rows), [""; 0]);
}
