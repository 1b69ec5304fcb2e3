//! A zoo of sockets in network namespaces made for it, and every row and column of it that the table
//! shows, checked against what was built.
//!
//! The zoo's sockets are this process's, which is in none of the zoo's namespaces; some are shared with
//! children.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]
#![allow(unsafe_code)]

#[path = "truth/expected.rs"]
mod expected;
#[path = "truth/place.rs"]
mod place;
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
use place::{Parked, Place};
use rustix::net::{AddressFamily, SocketAddrUnix, ipproto};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use support::bpf;
use support::left_out::{is_root_or_say, say_left_out};
use support::log_capture::logged;
use support::over::Over;
use support::sleeper::Sleeper;
use tables::{Families, Options, Source, Threads};

/// One test at a time: until a child is a program of its own it holds all that this process holds.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

const LOCALHOST: Ipv4Addr = Ipv4Addr::LOCALHOST;

fn can_run(test: &str) -> bool {
    is_root_or_say(test, "network namespaces and mounts need CAP_SYS_ADMIN")
}

fn without_bpf() -> Options {
    Options { bpf_from_files: None, ..Options::default() }
}

fn with_bpf() -> Options {
    Options { source: Source::Bpf, ..Options::default() }
}

/// Something that lives as long as the zoo.
type Held = Vec<Box<dyn std::any::Any + Send>>;

fn tcp(place: &Place, held: &mut Held) -> Vec<Row> {
    let (listener, client, server, waiting) = place.inside(|| {
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
    // Of another user than us.
    rustix::fs::fchown(&client, Some(rustix::fs::Uid::from_raw(1234)), None).unwrap();
    let port = |stream: &TcpStream| stream.local_addr().unwrap().port();
    let listening = place.mine(&listener).inet(6, "127.0.0.1:7001", "0.0.0.0:0").state("LISTEN");
    let (ours, theirs) = (format!("127.0.0.1:{}", port(&client)), "127.0.0.1:7001");
    let client_row = place.mine(&client).inet(6, &ours, theirs).state("ESTABLISHED");
    let server_row = place.mine(&server).inet(6, theirs, &ours).state("ESTABLISHED");
    let waiting_ours = format!("127.0.0.1:{}", port(&waiting));
    let waiting_row = place.mine(&waiting).inet(6, &waiting_ours, theirs).state("ESTABLISHED");
    let rows = vec![
        listening.queues(1, 5),
        client_row.uid("1234").queues(0, 0),
        server_row.queues(3, 0),
        waiting_row.queues(0, 0),
        // Nobody has accepted it.
        place
            .nobody("accept_queue")
            .inet(6, theirs, &waiting_ours)
            .state("ESTABLISHED")
            .queues(0, 0),
    ];
    held.push(Box::new((listener, client, server, waiting)));
    rows
}

fn tcp_that_nobody_has(place: &Place, held: &mut Held) -> Vec<Row> {
    let (listener, gone, deferring, deferred) = place.inside(|| {
        let listener = TcpListener::bind((LOCALHOST, 7002)).unwrap();
        let client = TcpStream::connect((LOCALHOST, 7002)).unwrap();
        let gone = client.local_addr().unwrap();
        let (server, _) = listener.accept().unwrap();
        // Who closes first waits.
        drop(client);
        let mut end = [0];
        assert_eq!(std::io::Read::read(&mut &server, &mut end).unwrap(), 0);
        drop(server);
        // A listener that wants to see data before it takes a connection.
        let deferring = TcpListener::bind((LOCALHOST, 7003)).unwrap();
        let seconds: libc::c_int = 600;
        // SAFETY: the value is of the length that is given with it.
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
        (listener, gone, deferring, deferred)
    });
    let deferred_ours = deferred.local_addr().unwrap().to_string();
    let (listens, defers) = ("127.0.0.1:7002", "127.0.0.1:7003");
    let rows = vec![
        place.mine(&listener).inet(6, listens, "0.0.0.0:0").state("LISTEN").queues(0, 128),
        place
            .nobody("time_wait")
            .inet(6, &gone.to_string(), listens)
            .state("TIME_WAIT")
            .queues(0, 0)
            .cgroup(""),
        place.mine(&deferring).inet(6, defers, "0.0.0.0:0").state("LISTEN").queues(0, 128),
        place.mine(&deferred).inet(6, &deferred_ours, defers).state("ESTABLISHED").queues(0, 0),
        place
            .nobody("syn_recv")
            .inet(6, defers, &deferred_ours)
            .state("SYN_RECV")
            .queues(0, 0)
            .cgroup(""),
    ];
    held.push(Box::new((listener, deferring, deferred)));
    rows
}

/// A connection whose other end nobody answers for: the queue of the listener is full.
fn tcp_before_a_full_queue(place: &Place, held: &mut Held) -> Vec<Row> {
    let (listener, first, second) = place.inside(|| {
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
    let first_ours = first.local_addr().unwrap().to_string();
    let second_ours = second.local_addr().unwrap().as_socket().unwrap().to_string();
    let rows = vec![
        place.mine(&listener).inet(6, full, "0.0.0.0:0").state("LISTEN").queues(1, 0),
        place.mine(&first).inet(6, &first_ours, full).state("ESTABLISHED").queues(0, 0),
        place.nobody("accept_queue").inet(6, full, &first_ours).state("ESTABLISHED").queues(0, 0),
        // The SYN counts for a byte that is on its way.
        place.mine(&second).inet(6, &second_ours, full).state("SYN_SENT").queues(0, 1),
    ];
    held.push(Box::new((listener, first, second)));
    rows
}

fn tcp_over_both(place: &Place, held: &mut Held) -> Vec<Row> {
    let (listener, client, server) = place.inside(|| {
        let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 7005)).unwrap();
        let client = TcpStream::connect((LOCALHOST, 7005)).unwrap();
        let (server, _) = listener.accept().unwrap();
        (listener, client, server)
    });
    let ours = client.local_addr().unwrap();
    let mapped = format!("[::ffff:127.0.0.1]:{}", ours.port());
    let rows = vec![
        place.mine(&listener).inet(6, "[::]:7005", "[::]:0").state("LISTEN").queues(0, 128),
        place
            .mine(&client)
            .inet(6, &ours.to_string(), "127.0.0.1:7005")
            .state("ESTABLISHED")
            .queues(0, 0),
        place
            .mine(&server)
            .inet(6, "[::ffff:127.0.0.1]:7005", &mapped)
            .state("ESTABLISHED")
            .queues(0, 0),
    ];
    held.push(Box::new((listener, client, server)));
    rows
}

/// Listeners on one port; one is a child's too.
fn a_group_of_udp_sockets(place: &Place, held: &mut Held) -> Vec<Row> {
    let group: Vec<Socket> = place.inside(|| {
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
    let mut rows: Vec<Row> = group.iter().map(|socket| udp(place.mine(socket))).collect();
    rows.push(udp(place.of(sleeper.pid(), 0, inode(&group[0]))));
    held.push(Box::new((group, sleeper)));
    rows
}

fn other_protocols(place: &Place, held: &mut Held) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut keep = |socket: Socket, row: fn(Row) -> Row| {
        rows.push(row(place.mine(&socket)).queues(0, 0));
        held.push(Box::new(socket));
    };
    let raw =
        place.inside(|| Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)).unwrap());
    keep(raw, |row| row.inet(255, "0.0.0.0:1", "0.0.0.0:0").kind("3").any_cgroup());
    let ping = place.inside(|| {
        std::fs::write("/proc/sys/net/ipv4/ping_group_range", "0 0").unwrap();
        let ping = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::ICMPV4)).unwrap();
        ping.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, 77)).into()).unwrap();
        ping
    });
    keep(ping, |row| row.inet(1, "0.0.0.0:77", "0.0.0.0:0").any_cgroup());
    let raw =
        place.inside(|| Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6)).unwrap());
    keep(raw, |row| row.inet(255, "[::]:58", "[::]:0").kind("3").any_cgroup());
    // The kernel lists each of the two ping sockets among those of the other's family as well.
    let ping = place.inside(|| {
        let ping = Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::ICMPV6)).unwrap();
        ping.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, 77)).into()).unwrap();
        ping
    });
    keep(ping, |row| row.inet(58, "[::]:77", "[::]:0").kind("2").any_cgroup());
    let connected = place.inside(|| {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
        socket.bind(&SocketAddr::from((LOCALHOST, 7007)).into()).unwrap();
        socket.connect(&SocketAddr::from((LOCALHOST, 7006)).into()).unwrap();
        socket
    });
    keep(connected, |row| row.inet(17, "127.0.0.1:7007", "127.0.0.1:7006"));
    let packet = place.inside(|| {
        let ethertype = i32::from(0x88cc_u16.to_be());
        Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(ethertype))).unwrap()
    });
    keep(packet, |row| row.packet(0x88cc).kind("3").cgroup(""));
    rows
}

/// Names that strangers give: blanks, NULs, and a line as `/proc/net/unix` would print one.
fn unix(place: &Place, held: &mut Held, victim: u64, name: &str) -> Vec<Row> {
    let folder = tempfile::tempdir().unwrap();
    let line = format!("0000000000000000: 00000002 00000000 00010000 0001 01 {victim} ");
    let hostile = folder.path().join(format!("x\n{line}"));
    std::fs::create_dir(&hostile).unwrap();
    let hostile = hostile.join("forged");
    let blanks = folder.path().join(" a  b ");
    let (listener, waiting, pair, names) = place.inside(|| {
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
        place.mine(&listener).unix(hostile, "1").queues(1, 3),
        place.nobody("accept_queue").unix(hostile, "1"),
        place.mine(&waiting).unix("", "1").queues(0, 0),
        place.mine(&pair.0).unix("", "1").queues(0, 0).peer(inode(&pair.1)),
        place.mine(&pair.1).unix("", "1").queues(0, 0).peer(inode(&pair.0)),
        place.mine(&names.0).unix(&format!("@{name}@x"), "5").queues(0, 0),
        place.mine(&names.1).unix(blanks.to_str().unwrap(), "2").queues(0, 0),
        place.mine(&names.2).unix("", "2").queues(0, 0),
    ];
    held.push(Box::new((listener, waiting, pair, names, folder)));
    rows
}

/// A socket on its way from one process to another: in a message that nobody has received.
fn in_flight(place: &Place, held: &mut Held) -> Vec<Row> {
    let (socket, pair) = place
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
        place
            .nobody(expected::unknown_with_file())
            .socket(number)
            .uid("0")
            .inet(17, "127.0.0.1:7008", "0.0.0.0:0")
            .queues(0, 0),
        // What is on its way is counted with the memory that it takes.
        place.mine(&pair.0).unix("", "2").any_queues().peer(inode(&pair.1)),
        place.mine(&pair.1).unix("", "2").any_queues().peer(inode(&pair.0)),
    ];
    held.push(Box::new(pair));
    rows
}

fn a_listener(place: &Place, port: u16, held: &mut Held) -> Vec<Row> {
    let listener = place.inside(|| TcpListener::bind((LOCALHOST, port)).unwrap());
    let row = place.mine(&listener).inet(6, &format!("127.0.0.1:{port}"), "0.0.0.0:0");
    held.push(Box::new(listener));
    vec![row.state("LISTEN").queues(0, 128)]
}

/// A listener that a child alone holds, which is in its namespace.
fn a_listener_of_a_child(place: &Place, held: &mut Held) -> Vec<Row> {
    let (sleeper, number) = place.inside(|| {
        let listener = TcpListener::bind((LOCALHOST, 7009)).unwrap();
        let number = inode(&listener);
        (Sleeper::holding(OwnedFd::from(listener)), number)
    });
    let row = place.of(sleeper.pid(), 0, number).inet(6, "127.0.0.1:7009", "0.0.0.0:0");
    held.push(Box::new(sleeper));
    vec![row.state("LISTEN").queues(0, 128)]
}

/// All kinds of sockets, in four namespaces: one with a process in it, one with a thread of ours, and two
/// that are only mounted, one of them where we do not see it.
fn zoo(held: &mut Held) -> (Vec<Place>, Vec<Row>) {
    let (mut inhabited, mut visited) = (Place::new(), Place::new());
    let (mut mounted, mut mounted_elsewhere) = (Place::new(), Place::new());
    inhabited.keep_by_process();
    visited.keep_by_thread();
    mounted.keep_by_mount();
    mounted_elsewhere.keep_by_mount_of_another();
    let mut rows = tcp(&inhabited, held);
    let elsewhere = a_listener(&visited, 7101, held);
    let forged = [("tcp", rows[0].inode()), ("elsewhere", elsewhere[0].inode())];
    rows.extend(elsewhere);
    rows.extend(tcp_that_nobody_has(&inhabited, held));
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
fn every_cell_of_the_socket_zoo_matches_what_was_built() {
    let _alone = alone();
    let test = "every_cell_of_the_socket_zoo_matches_what_was_built";
    if !can_run(test) {
        return;
    }
    let mut held = Held::new();
    let (places, mut rows) = zoo(&mut held);
    // Lines about another UNIX socket and about none: `/proc/net/unix` alone cannot show that they are forged.
    let victim = places[0].inside(|| UnixDatagram::unbound().unwrap());
    rows.push(places[0].mine(&victim).unix("", "2").queues(0, 0));
    for (name, number) in [("unix", inode(&victim)), ("none", 4_242_424_242)] {
        rows.extend(unix(&places[0], &mut held, number, name));
    }
    // Segments that are under way arrive.
    wait_for(|| expected::differences(Options::default(), &places, &rows).is_empty());
    let holders: BTreeSet<&str> =
        rows.iter().filter(|row| row.is_held()).map(|row| row.cell("pid")).collect();
    assert_eq!(holders.len(), 3, "this process and two of its children");
    let inodes = rows.iter().filter(|row| row.is_held() && !row.is_ours()).map(Row::inode);
    let inodes: Vec<u64> = inodes.collect();
    let compare = |options: Options| {
        let mut different = expected::differences(options.clone(), &places, &rows);
        for pid in &holders {
            different.extend(expected::differences_of(options.clone(), "pid", pid, &places, &rows));
        }
        for inode in &inodes {
            let inode = inode.to_string();
            different.extend(expected::differences_of(
                options.clone(),
                "socket",
                &inode,
                &places,
                &rows,
            ));
        }
        different
    };
    assert_eq!(compare(without_bpf()), [""; 0]);
    assert_eq!(bpf::with_bpf(test, || compare(with_bpf())).0, [""; 0]);
    let ours = rows.iter().filter(|row| row.is_ours()).count();
    assert!(ours > 20 && rows.len() > ours + 5);
}

/// Each source against the others, on all that the host has in these places; what `/proc/net` does not
/// know it leaves open.
#[test]
fn all_sources_return_equal_rows_of_the_socket_zoo() {
    let _alone = alone();
    let test = "all_sources_return_equal_rows_of_the_socket_zoo";
    if !can_run(test) {
        return;
    }
    let mut held = Held::new();
    let (places, rows) = zoo(&mut held);
    wait_for(|| expected::differences(Options::default(), &places, &rows).is_empty());
    let mine = |options| {
        let mut rows = expected::rows_of_mine(options);
        rows.sort();
        rows
    };
    let told = expected::rows_of_places(without_bpf(), &places);
    let files = Options { source: Source::Procfs, ..Options::default() };
    let (files, warnings) = logged(|| expected::rows_of_places(files, &places));
    assert_eq!(expected::contradictions(&told, &files), [""; 0], "{warnings:?}");
    let ((bpf, of_mine, all), _) = bpf::with_bpf(test, || {
        let bpf = expected::rows_of_places(with_bpf(), &places);
        (bpf, mine(with_bpf()), expected::rows_of_places(with_bpf(), &places))
    });
    // Where the kernel has no dump, it knows more.
    assert_eq!(expected::contradictions(&bpf, &told), [""; 0]);
    let told = mine(without_bpf());
    let bpf = of_mine;
    assert_eq!(expected::contradictions(&bpf, &told), [""; 0]);
    let here = |row: &Row| places.iter().any(|place| row.is_of(place));
    let of_mine = |rows: &[Row]| -> Vec<Row> {
        rows.iter().filter(|row| row.is_ours() && here(row)).cloned().collect()
    };
    assert_eq!(of_mine(&all), of_mine(&bpf), "a constraint changes the answer");
    assert!(told.len() > 20 && bpf.len() > 20, "{} {}", told.len(), bpf.len());
}

#[test]
fn bpf_shows_the_sockets_of_an_unreachable_namespace() {
    let _alone = alone();
    let test = "bpf_shows_the_sockets_of_an_unreachable_namespace";
    if !can_run(test) {
        return;
    }
    let mut held = Held::new();
    // Our descriptor keeps it, and no process is in it.
    let place = Place::new();
    let mut rows = a_listener(&place, 7601, &mut held);
    let udp = place.inside(|| UdpSocket::bind((LOCALHOST, 7602)).unwrap());
    rows.push(place.mine(&udp).inet(17, "127.0.0.1:7602", "0.0.0.0:0").queues(0, 0));
    let pair = place.inside(|| UnixStream::pair().unwrap());
    rows.push(place.mine(&pair.0).unix("", "1").queues(0, 0).peer(inode(&pair.1)));
    rows.push(place.mine(&pair.1).unix("", "1").queues(0, 0).peer(inode(&pair.0)));
    // It waits to be read: the table of UNIX sockets has to be asked how much it is.
    let packets = place.inside(|| Socket::pair(Domain::UNIX, Type::SEQPACKET, None).unwrap());
    packets.0.send(b"abc").unwrap();
    let row = |ours: &Socket, theirs| place.mine(ours).unix("", "5").peer(inode(theirs));
    rows.push(row(&packets.0, &packets.1).any_queues());
    rows.push(row(&packets.1, &packets.0).any_queues());
    let places = [place];
    let (different, is_used) = bpf::with_bpf(test, || {
        let all_and_mine = |families: Families| {
            let options = Options { families, ..with_bpf() };
            let all = expected::differences(options.clone(), &places, &rows);
            [all, expected::differences_of_mine(options, &places, &rows)].concat()
        };
        let with_unlisted = Families::default() | Families::UNLISTED;
        let different = [all_and_mine(Families::default()), all_and_mine(with_unlisted)].concat();
        // What only its table tells of makes that be asked; nothing else is lost by it.
        let mptcp = Protocol::from(ipproto::MPTCP.as_raw().get().cast_signed());
        let mptcp = Socket::new(Domain::IPV4, Type::STREAM, Some(mptcp));
        let beside_mptcp = all_and_mine(Families::default());
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
    let mut place = Place::new();
    place.keep_by_process();
    let mut rows = a_listener(&place, 7201, &mut held);
    // It begins as a copy, and has one socket more.
    let parked =
        Parked::with_own_descriptors(&place, || TcpListener::bind((LOCALHOST, 7202)).unwrap());
    let (fd, number) = parked.has;
    let listening = |row: Row| {
        row.inet(6, "127.0.0.1:7202", "0.0.0.0:0").state("LISTEN").queues(0, 128).uid("0")
    };
    let place = [place];
    let pid = std::process::id();
    rows.push(listening(place[0].of(pid, fd, number)).tid(parked.tid));
    let with_threads = |options: Options| {
        let with = Options { threads: Threads::On, ..options };
        assert_eq!(expected::differences(with.clone(), &place, &rows), [""; 0]);
        assert_eq!(expected::differences_of_mine(with, &place, &rows), [""; 0]);
    };
    with_threads(without_bpf());
    bpf::with_bpf(test, || with_threads(with_bpf()));
    // By default with BPF.
    bpf::with_bpf(test, || assert_eq!(expected::differences(with_bpf(), &place, &rows), [""; 0]));
    // Otherwise its socket has no holder.
    *rows.last_mut().unwrap() =
        listening(place[0].nobody(expected::unknown_with_file()).socket(number));
    assert_eq!(expected::differences(without_bpf(), &place, &rows), [""; 0]);
    let off = Options { threads: Threads::Off, ..with_bpf() };
    assert_eq!(expected::differences(off, &place, &rows), [""; 0]);
}

#[test]
fn only_sockets_of_the_chosen_families_are_shown() {
    let _alone = alone();
    if !can_run("only_sockets_of_the_chosen_families_are_shown") {
        return;
    }
    let mut place = Place::new();
    place.keep_by_process();
    let (netlink, bound, unbound, mptcp) = place.inside(|| {
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
    let netlink_row = place.mine(&netlink).netlink(0, 4321).kind("3").queues(0, 0).cgroup("");
    let bound_row = place.mine(&bound).inet(6, "127.0.0.1:7301", "0.0.0.0:0").state("CLOSED");
    let bound_row = bound_row.queues(0, 0);
    let unlisted = place.mine(&unbound).unlisted("10", "17");
    let subflow = |protocol| {
        let row = place.mine(mptcp.as_ref()?).inet(protocol, "127.0.0.1:7302", "0.0.0.0:0");
        Some(row.state("LISTEN").queues(0, 3))
    };
    let chosen = |families: Families| Options { families, ..Options::default() };
    let places = [place.clone_number()];
    let is = |families: Families, rows: Vec<Row>| {
        let different = expected::differences_of_mine(chosen(families), &places, &rows);
        assert_eq!(different, [""; 0], "{families:?}");
    };
    let (tcp, connection) = (subflow(6), subflow(262));
    is(Families::default(), tcp.clone().into_iter().collect());
    is(Families::NETLINK, vec![netlink_row.clone()]);
    is(Families::MPTCP, connection.clone().into_iter().collect());
    is(Families::VSOCK | Families::SCTP, vec![]);
    // What only its descriptor tells of has no namespace to be chosen by.
    let mut all = vec![netlink_row, unlisted];
    all.extend(tcp.into_iter().chain(connection));
    let all_of_mine = expected::rows_of_mine(chosen(Families::all()));
    let is_shown = |row: &Row| all_of_mine.iter().any(|shown| row.is_like(shown));
    for row in &all {
        assert!(is_shown(row), "{row:?} is not among {all_of_mine:#?}");
    }
    // Since Linux 6.8 the kernel tells of it; before it is known by its descriptor alone.
    assert!(is_shown(&bound_row) || is_shown(&place.mine(&bound).unlisted("2", "6")));
    drop((netlink, bound, unbound, mptcp));
}

/// A socket in a place, and a process that leaves it to another one and ends, on command.
struct Chain {
    place: Option<Place>,
    number: u64,
    first: Child,
    commands: ChildStdin,
    pids: BufReader<ChildStdout>,
}

impl Chain {
    /// The socket is its standard error. Each process prints its pid, and waits for a line.
    fn new(place: Place) -> Chain {
        const SCRIPT: &str = r#"exec 3<&0; echo $$; read -r line && { sh -c "$0" "$0" <&3 & }"#;
        let (number, mut first) = place.inside(|| {
            let listener = TcpListener::bind((LOCALHOST, 7501)).unwrap();
            let number = inode(&listener);
            let mut sh = Command::new("sh");
            sh.args(["-c", SCRIPT, SCRIPT]).stderr(OwnedFd::from(listener));
            (number, sh.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap())
        });
        let commands = first.stdin.take().unwrap();
        let pids = BufReader::new(first.stdout.take().unwrap());
        let mut chain = Chain { place: Some(place), number, first, commands, pids };
        chain.wait();
        chain
    }

    fn begin(&mut self) {
        self.commands.write_all(b"\n").unwrap();
    }

    /// Until the next process has the socket.
    fn wait(&mut self) {
        let mut line = String::new();
        self.pids.read_line(&mut line).unwrap();
        assert!(line.trim().parse::<i32>().is_ok(), "no pid: {line:?}");
    }
}

/// Its last process reads no more line and ends.
impl Drop for Chain {
    fn drop(&mut self) {
        let _ = self.first.wait();
    }
}

#[test]
fn a_socket_handed_on_during_a_scan_is_shown_with_its_holder() {
    let _alone = alone();
    let test = "a_socket_handed_on_during_a_scan_is_shown_with_its_holder";
    if !can_run(test) {
        return;
    }
    // From here on no process but that is in the namespace.
    let mut chain = Chain::new(Place::new());
    drop(chain.place.take());
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

/// A scan reads the descriptors of one process after the other. So it may see each of many processes only
/// before it has the socket or after it; then the socket is shown without a holder.
#[test]
fn a_socket_handed_on_many_times_during_a_scan_is_shown() {
    let _alone = alone();
    let test = "a_socket_handed_on_many_times_during_a_scan_is_shown";
    if !can_run(test) {
        return;
    }
    let mut place = Place::new();
    place.keep_by_process();
    let mut chain = Chain::new(place);
    let number = chain.number;
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                chain.begin();
                chain.wait();
            }
        });
        let _over = Over(&over);
        let scan = |options: Options| {
            for _ in 0..20 {
                let rows = expected::rows_of_socket(options.clone(), number);
                let is_it =
                    |row: &Row| (row.cell("local_port"), row.cell("state")) == ("7501", "LISTEN");
                assert!(!rows.is_empty() && rows.iter().all(is_it), "{rows:#?}");
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
        return say_left_out(test, "no tree of control groups of version 2 that can be written");
    };
    let mut place = Place::new();
    place.keep_by_process();
    let listener = group.inside(|| place.inside(|| TcpListener::bind((LOCALHOST, 7601)).unwrap()));
    let row = place.mine(&listener).inet(6, "127.0.0.1:7601", "0.0.0.0:0").state("LISTEN");
    let row = row.queues(0, 128).cgroup(&group.path);
    assert_eq!(expected::differences(Options::default(), &[place], &[row]), [""; 0]);
}

#[test]
fn the_scope_is_the_host_s_where_its_first_process_is() {
    let listener = TcpListener::bind((LOCALHOST, 0)).unwrap();
    // The same file in both only if the namespace is the same.
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
    let mut place = Place::new();
    place.keep_by_process();
    let (listener, server, gone) = place.inside(|| {
        let listener = TcpListener::bind((LOCALHOST, 7401)).unwrap();
        let client = TcpStream::connect((LOCALHOST, 7401)).unwrap();
        let (server, gone) = listener.accept().unwrap();
        // The server does not close its side.
        drop(client);
        (listener, server, gone.to_string())
    });
    let listens = "127.0.0.1:7401";
    let rows = [
        place.mine(&listener).inet(6, listens, "0.0.0.0:0").state("LISTEN").queues(0, 128),
        // The FIN counts for a byte that can be read.
        place.mine(&server).inet(6, listens, &gone).state("CLOSE_WAIT").queues(1, 0),
        place.nobody("orphan").inet(6, &gone, listens).state("FIN_WAIT2").any_queues().cgroup(""),
    ];
    let places = [place];
    wait_for(|| expected::differences(Options::default(), &places, &rows).is_empty());
    assert_eq!(expected::differences(Options::default(), &places, &rows), [""; 0]);
}
