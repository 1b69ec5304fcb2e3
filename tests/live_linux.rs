//! The table over the `/proc` of this host without privileges: the tests open a socket of each kind.
//!
//! No test here starts a process: until execve(2), a child holds copies of all descriptors of this process, and the
//! table shows them. `truth.rs` has tests that need privileges, and `churn.rs` tests with child processes.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketType, ipproto};
use support::bpf::with_bpf;
use support::left_out::report_left_out;
use support::own::{forge_line_of, inode, net_namespace, pid, row, rows_of};
use support::rows::{rows_where, table};
use support::set_on_drop::SetOnDrop;
use tables::process_open_sockets::ProcessOpenSockets;
use tables::{Constraint, Operator, Options, QueryContext, Source, Table, Value};

#[test]
fn tcp_over_ipv4_listening_and_established() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let client = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    let (server, peer) = listener.accept().unwrap();
    let peer = peer.port();
    let expected = row(&listener, &format!("2|6|127.0.0.1|0.0.0.0|{port}|0||LISTEN"));
    assert_eq!(rows_of(&listener), [expected]);
    let expected = row(&client, &format!("2|6|127.0.0.1|127.0.0.1|{peer}|{port}||ESTABLISHED"));
    assert_eq!(rows_of(&client), [expected]);
    let expected = row(&server, &format!("2|6|127.0.0.1|127.0.0.1|{port}|{peer}||ESTABLISHED"));
    assert_eq!(rows_of(&server), [expected]);
}

#[test]
fn tcp_over_ipv6_listening_and_established() {
    let listener = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let client = TcpStream::connect((Ipv6Addr::LOCALHOST, port)).unwrap();
    let (server, peer) = listener.accept().unwrap();
    let peer = peer.port();
    let expected = row(&listener, &format!("10|6|::1|::|{port}|0||LISTEN"));
    assert_eq!(rows_of(&listener), [expected]);
    let expected = row(&client, &format!("10|6|::1|::1|{peer}|{port}||ESTABLISHED"));
    assert_eq!(rows_of(&client), [expected]);
    let expected = row(&server, &format!("10|6|::1|::1|{port}|{peer}||ESTABLISHED"));
    assert_eq!(rows_of(&server), [expected]);
}

#[test]
fn ipv4_connection_to_ipv6_listener_shows_the_mapped_address() {
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let _client = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    let (server, peer) = listener.accept().unwrap();
    let rest =
        format!("10|6|::ffff:127.0.0.1|::ffff:127.0.0.1|{port}|{}||ESTABLISHED", peer.port());
    assert_eq!(rows_of(&server), [row(&server, &rest)]);
}

#[test]
fn a_connection_has_no_inode_and_holder_before_accept() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let client = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    let peer = client.local_addr().unwrap().port();
    let namespace = net_namespace("self");
    // Other network namespaces have ports of the same numbers.
    let constraints = [
        ("local_port", &*port.to_string()),
        ("remote_port", &*peer.to_string()),
        ("net_namespace", &*namespace),
    ];
    let expected =
        format!("-1|-1|0|2|6|127.0.0.1|127.0.0.1|{port}|{peer}||ESTABLISHED|{namespace}");
    // The last segment of the handshake may still be in transit.
    let end = Instant::now() + Duration::from_secs(30);
    let mut rows = rows_where(&table(Path::new("/proc")), &constraints);
    while rows != [&*expected] && Instant::now() < end {
        rows = rows_where(&table(Path::new("/proc")), &constraints);
    }
    assert_eq!(rows, [expected]);
}

#[test]
fn udp_bound_and_connected() {
    let bound = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = bound.local_addr().unwrap().port();
    assert_eq!(rows_of(&bound), [row(&bound, &format!("2|17|127.0.0.1|0.0.0.0|{port}|0||"))]);
    let connected = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
    connected.connect(SocketAddr::from((Ipv6Addr::LOCALHOST, 9))).unwrap();
    let port = connected.local_addr().unwrap().port();
    assert_eq!(rows_of(&connected), [row(&connected, &format!("10|17|::1|::1|{port}|9||"))]);
}

#[test]
fn udplite_sockets_are_shown_if_the_kernel_has_udplite() {
    let Ok(socket) = net::socket(AddressFamily::INET, SocketType::DGRAM, Some(ipproto::UDPLITE))
    else {
        report_left_out(
            "udplite_sockets_are_shown_if_the_kernel_has_udplite",
            "this kernel has no UDP-Lite",
        );
        return;
    };
    net::bind(&socket, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let port = SocketAddr::try_from(net::getsockname(&socket).unwrap()).unwrap().port();
    assert_eq!(rows_of(&socket), [row(&socket, &format!("2|136|127.0.0.1|0.0.0.0|{port}|0||"))]);
}

#[test]
fn unix_sockets_show_paths_with_blanks_and_abstract_names() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a path  with blanks ");
    let shown = path.to_str().unwrap();

    let listener = UnixListener::bind(&path).unwrap();
    assert_eq!(rows_of(&listener), [row(&listener, &format!("1|0|||0|0|{shown}|"))]);
    let client = UnixStream::connect(&path).unwrap();
    let (server, _) = listener.accept().unwrap();
    assert_eq!(rows_of(&client), [row(&client, "1|0|||0|0||")]);
    assert_eq!(rows_of(&server), [row(&server, &format!("1|0|||0|0|{shown}|"))]);

    let path = directory.path().join("datagram");
    let datagram = UnixDatagram::bind(&path).unwrap();
    let expected = row(&datagram, &format!("1|0|||0|0|{}|", path.display()));
    assert_eq!(rows_of(&datagram), [expected]);

    let seqpacket = net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
    let name = format!("seq\0packet {}", pid());
    let address = SocketAddrUnix::new_abstract_name(name.as_bytes()).unwrap();
    net::bind(&seqpacket, &address).unwrap();
    let expected = row(&seqpacket, &format!("1|0|||0|0|@seq@packet {}|", pid()));
    assert_eq!(rows_of(&seqpacket), [expected]);
}

#[test]
fn a_path_that_imitates_a_line_of_another_kind_adds_no_row() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let _forger = forge_line_of(&inode(&listener));
    let expected = row(&listener, &format!("2|6|127.0.0.1|0.0.0.0|{port}|0||LISTEN"));
    assert_eq!(rows_of(&listener), [expected]);
}

#[test]
fn an_o_path_descriptor_of_a_socket_is_no_holder() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let link = format!("/proc/self/fd/{}", listener.as_raw_fd());
    let handle = rustix::fs::open(link, OFlags::PATH, Mode::empty()).unwrap();
    assert_eq!(inode(&handle), inode(&listener));
    let number = inode(&listener);
    let fds = |options: &Options| {
        let table = ProcessOpenSockets::new(options.clone());
        [("socket", number.clone()), ("pid", pid())].map(|(column, value)| {
            let rows = rows_where(&table, &[(column, &value)]);
            let cells = rows.iter().map(|row| row.split('|').collect::<Vec<_>>());
            let of_socket = cells.filter(|cells| cells[2] == number);
            of_socket.map(|cells| cells[1].to_owned()).collect::<Vec<_>>()
        })
    };
    let holds = || [vec![listener.as_raw_fd().to_string()], vec![listener.as_raw_fd().to_string()]];
    let walk = Options { bpf_from_files: None, ..Options::default() };
    assert_eq!(fds(&walk), holds());
    let bpf = Options { source: Source::Bpf, ..Options::default() };
    let (of_bpf, _) = with_bpf("an_o_path_descriptor_of_a_socket_is_no_holder", || fds(&bpf));
    assert_eq!(of_bpf, holds());
}

#[test]
fn a_thread_is_no_process() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let table = table(Path::new("/proc"));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let tid = rustix::thread::gettid().as_raw_nonzero().to_string();
            assert_ne!(tid, pid());
            assert_eq!(rows_where(&table, &[("pid", &tid)]), [""; 0]);
        });
    });
    let of_process = rows_where(&table, &[("pid", &pid()), ("socket", &inode(&listener))]);
    assert_eq!(of_process.len(), 1);
}

/// Two threads open and close sockets during the scans.
#[test]
fn a_socket_closed_during_the_scan_has_that_reason() {
    const THREADS: usize = 2;
    const SCANS: usize = 100;
    // Only this process uses this address.
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let address = Ipv4Addr::new(127, 77, high, low);
    let over = AtomicBool::new(false);
    let (mut held, mut closed) = (0, 0);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let sockets: [_; 100] =
                        std::array::from_fn(|_| UdpSocket::bind((address, 0)).unwrap());
                    drop(sockets);
                }
            });
        }
        let _set_over = SetOnDrop(&over);
        let table = table(Path::new("/proc"));
        // The scans repeat until an answer has such a row.
        let end = Instant::now() + Duration::from_secs(60);
        let mut scans = 0;
        while (scans < SCANS || held == 0 || closed == 0) && Instant::now() < end {
            let reasons = reasons(&table, &address.to_string());
            let count = |reason: &str| reasons.iter().filter(|it| *it == reason).count();
            held += count("");
            closed += count("closed_during_scan");
            scans += 1;
        }
    });
    assert!(held > 0 && closed > 0, "{held} held sockets, {closed} closed ones");
}

/// The `holder_unknown` of each UDP socket at that IPv4 address; '' if it has a holder.
fn reasons(table: &ProcessOpenSockets, address: &str) -> Vec<String> {
    let column = |name| table.columns().iter().position(|column| column.name == name).unwrap();
    let equals = |name, text: &str| Constraint {
        column: column(name),
        operator: Operator::Equals,
        text: text.into(),
    };
    let constraints = vec![equals("family", "2"), equals("protocol", "17")];
    let rows = table.generate(&QueryContext { constraints, ..QueryContext::default() }).unwrap();
    let text = |row, name| match rows.cell(row, column(name)) {
        Value::Text(text) => text.into_owned(),
        other => panic!("{name}: {other:?}"),
    };
    let here = (0..rows.len()).filter(|&row| text(row, "local_address") == address);
    here.map(|row| text(row, "holder_unknown")).collect()
}
