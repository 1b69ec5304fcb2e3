//! The columns of TCP connections and UNIX sockets, and the socket cookie: compared with ss(8), with bytes that the test
//! counts, and with what the kernel returns to the holder of a socket.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod support;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{
    IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket,
};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::net::sockopt::{socket_cookie, socket_peercred};
use rustix::net::{AddressFamily, SocketType, ipproto};
use support::bpf::with_bpf;
use support::isolated::in_own_namespaces;
use support::left_out::report_left_out;
use support::other_end::{OtherEnd, ip};
use tables::process_open_sockets::ProcessOpenSockets;
use tables::{
    ColumnsUsed, Constraint, Families, Operator, Options, QueryContext, Source, Table, Value,
};

/// The cells of a row by column.
type Cells = BTreeMap<&'static str, Value<'static>>;

const KEYS: &[&str] = &["pid", "fd", "state", "local_address", "local_port", "remote_port"];
const TCP: &[&str] = &[
    "bytes_sent",
    "bytes_received",
    "bytes_retransmitted",
    "rtt_us",
    "rtt_variance_us",
    "min_rtt_us",
    "retransmits",
    "lost",
    "congestion_algorithm",
    "congestion_window",
    "send_mss",
    "last_sent_ms",
    "last_received_ms",
    "delivery_rate",
    "busy_time_us",
];
const UNIX: &[&str] = &["peer_pid", "peer_uid", "path_inode", "path_device"];
const COOKIE: &[&str] = &["socket_cookie"];

fn from(source: Source) -> Options {
    match source {
        Source::Bpf => Options { source, ..Options::default() },
        _ => Options { source, bpf_from_files: None, ..Options::default() },
    }
}

/// The rows of this process, or with `full`, all rows in which it is the holder or there is none; with these columns.
fn rows(options: Options, full: bool, columns: &[&str]) -> Vec<Cells> {
    let table = ProcessOpenSockets::new(options);
    let index = |name: &&str| table.columns().iter().position(|it| it.name == *name).unwrap();
    let used = KEYS.iter().chain(columns).map(index).fold(0, |used, column| used | 1 << column);
    let text = std::process::id().to_string();
    let own = Constraint { column: index(&"pid"), operator: Operator::Equals, text: text.clone() };
    let constraints = if full { Vec::new() } else { vec![own] };
    let query = QueryContext { constraints, columns_used: ColumnsUsed(used) };
    let answer = table.generate(&query).unwrap();
    let cell = |row, column| match answer.cell(row, column) {
        Value::Text(text) => Value::Text(text.into_owned().into()),
        Value::Integer(number) => Value::Integer(number),
        Value::Null => Value::Null,
    };
    let cells = |row| {
        let columns = table.columns().iter().enumerate();
        columns.map(|(column, it)| (it.name, cell(row, column))).collect::<Cells>()
    };
    let is_shown = |row: &Cells| {
        [Value::Integer(text.parse().unwrap()), Value::Integer(-1)].contains(&row["pid"])
    };
    (0..answer.len()).map(cells).filter(is_shown).collect()
}

/// The row of a socket of this process.
fn row_of<'a>(rows: &'a [Cells], socket: &impl AsRawFd) -> &'a Cells {
    let fd = Value::Integer(socket.as_raw_fd().into());
    rows.iter().find(|row| row["fd"] == fd).unwrap()
}

/// Runs a comparison with each source that has the fields, and with a lookup and a full scan of each.
fn with_each_source(test: &str, compare: impl Fn(Source, bool)) {
    for full in [false, true] {
        compare(Source::Netlink, full);
        with_bpf(test, || compare(Source::Bpf, full));
    }
}

/// Waits until the condition holds, at most half a minute.
fn wait_for(what: &str, is_true: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !is_true() {
        assert!(Instant::now() < end, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whether this program of iproute2 is there.
fn is_installed(program: &str) -> bool {
    Command::new(program).arg("-V").output().is_ok()
}

/// Both ends of a connection to the other end of a veth pair.
fn connect_there(other: &OtherEnd) -> [Counted; 2] {
    let listen = |address| other.inside(move || TcpListener::bind(address).unwrap());
    connect(OtherEnd::THERE.into(), listen)
}

/// A socket, and the bytes that the test wrote to it and read from it.
struct Counted {
    stream: TcpStream,
    sent: i64,
    received: i64,
}

impl Counted {
    fn new(stream: TcpStream) -> Counted {
        Counted { stream, sent: 0, received: 0 }
    }

    fn send(&mut self, to: &mut Counted, count: usize) {
        let bytes = vec![7; count];
        std::thread::scope(|scope| {
            scope.spawn(|| self.stream.write_all(&bytes).unwrap());
            to.stream.read_exact(&mut vec![0; count]).unwrap();
        });
        self.sent += count as i64;
        to.received += count as i64;
    }
}

/// Both ends of a connection to this address, of which `inside` makes the listener.
fn connect(address: IpAddr, listen: impl FnOnce(SocketAddr) -> TcpListener) -> [Counted; 2] {
    let listener = listen(SocketAddr::new(address, 0));
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (server, _) = listener.accept().unwrap();
    [client, server].map(Counted::new)
}

/// Connections that transferred some bytes, all of which were acknowledged.
fn connections(other: Option<&OtherEnd>) -> Vec<Counted> {
    let here = |address| TcpListener::bind(address).unwrap();
    let mut pairs =
        vec![connect(Ipv4Addr::LOCALHOST.into(), here), connect(Ipv6Addr::LOCALHOST.into(), here)];
    pairs.extend(other.map(connect_there));
    for [client, server] in &mut pairs {
        client.send(server, 3_000_000);
        server.send(client, 1234);
        client.send(server, 1);
    }
    // Idle, and half-closed: a FIN is no payload.
    pairs.push(connect(Ipv4Addr::LOCALHOST.into(), here));
    let mut half_closed = vec![connect(Ipv4Addr::LOCALHOST.into(), here)];
    half_closed.extend(other.map(connect_there));
    for [client, server] in &mut half_closed {
        client.send(server, 5);
        client.stream.shutdown(Shutdown::Write).unwrap();
        server.send(client, 6);
    }
    pairs.append(&mut half_closed);
    pairs.extend(other.map(with_retransmissions));
    pairs.into_iter().flatten().collect()
}

/// A connection whose client sent bytes again, since the answers of the other end were lost.
fn with_retransmissions(other: &OtherEnd) -> [Counted; 2] {
    let [mut client, mut server] = connect_there(other);
    server.send(&mut client, 100);
    let blackhole =
        |change| other.inside(move || ip(&["route", change, "blackhole", "198.51.100.1"]));
    blackhole("add");
    client.stream.write_all(&[7; 5000]).unwrap();
    client.sent += 5000;
    wait_for("a retransmission", || {
        let rows = rows(from(Source::Netlink), false, TCP);
        matches!(row_of(&rows, &client.stream)["retransmits"], Value::Integer(1..))
    });
    blackhole("delete");
    server.stream.read_exact(&mut [0; 5000]).unwrap();
    server.received += 5000;
    [client, server]
}

/// What ss prints of each connection of a namespace: its words, by the local and the remote port.
fn printed() -> BTreeMap<(i64, i64), Vec<String>> {
    let output = Command::new("ss").args(["-tinHO"]).output().unwrap();
    let port = |end: &str| end.rsplit_once(':').unwrap().1.parse().unwrap();
    let parse = |line: &str| {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        ((port(&words[3]), port(&words[4])), words)
    };
    String::from_utf8(output.stdout).unwrap().lines().map(parse).collect()
}

/// The value of a word `name:value`; ss leaves it out if it is 0.
fn value<'a>(words: &'a [String], name: &str) -> Option<&'a str> {
    words.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix(':'))
}

fn count(words: &[String], name: &str) -> i64 {
    value(words, name).map_or(0, |value| value.trim_end_matches("ms").parse().unwrap())
}

/// Milliseconds with decimals as microseconds.
fn micros(milliseconds: &str) -> Value<'static> {
    Value::Integer((milliseconds.parse::<f64>().unwrap() * 1000.0).round() as i64)
}

/// Compares a row with what ss printed before and after.
fn compare_with_ss(row: &Cells, before: &[String], after: &[String]) {
    let number = |name: &str| match row[name] {
        Value::Integer(number) => number,
        ref other => unreachable!("{name}: {other:?}: {row:?}"),
    };
    let again = count(before, "bytes_retrans");
    assert_eq!(number("bytes_sent"), count(before, "bytes_sent") - again);
    assert_eq!(number("bytes_retransmitted"), again);
    let fin = i64::from(["CLOSE-WAIT", "LAST-ACK", "CLOSING"].contains(&before[0].as_str()));
    assert_eq!(number("bytes_received"), count(before, "bytes_received") - fin);
    let (rtt, variance) = value(before, "rtt").unwrap().split_once('/').unwrap();
    assert_eq!(row["rtt_us"], micros(rtt));
    assert_eq!(row["rtt_variance_us"], micros(variance));
    assert_eq!(row["min_rtt_us"], value(before, "minrtt").map_or(Value::Null, micros));
    let retransmits =
        value(before, "retrans").and_then(|it| it.split_once('/')).map_or("0", |it| it.1);
    assert_eq!(number("retransmits").to_string(), retransmits);
    assert_eq!(number("lost"), count(before, "lost"));
    assert_eq!(number("congestion_window"), count(before, "cwnd"));
    assert_eq!(number("send_mss"), count(before, "mss"));
    let Value::Text(algorithm) = &row["congestion_algorithm"] else { unreachable!("{row:?}") };
    assert!(before.iter().any(|word| word == algorithm), "{algorithm}: {before:?}");
    let rate = before.iter().position(|word| word == "delivery_rate").map(|at| &before[at + 1]);
    let rate = rate.map_or(Value::Null, |bits| {
        Value::Integer(bits.strip_suffix("bps").unwrap().parse::<i64>().unwrap() / 8)
    });
    assert_eq!(row["delivery_rate"], rate);
    assert_eq!(number("busy_time_us") / 1000, count(before, "busy"));
    for (column, name) in [("last_sent_ms", "lastsnd"), ("last_received_ms", "lastrcv")] {
        let range = count(before, name)..=count(after, name);
        assert!(
            range.contains(&number(column)),
            "{column}: {} is not in {range:?}",
            number(column)
        );
    }
}

const TCP_TEST: &str = "tcp_cells_are_those_of_ss_and_of_the_bytes_counted";

#[test]
fn tcp_cells_are_those_of_ss_and_of_the_bytes_counted() {
    if !is_installed("ss") {
        return report_left_out(TCP_TEST, "needs ss (iproute2)");
    }
    in_own_namespaces(TCP_TEST, || {
        let other = OtherEnd::new();
        if other.is_none() {
            report_left_out(TCP_TEST, "a veth pair cannot be made: only loopback is compared");
        }
        compare_all_with_ss(TCP_TEST, other.as_ref());
    });
}

const NETEM_TEST: &str = "tcp_cells_are_those_of_ss_under_delay_and_loss";

#[test]
fn tcp_cells_are_those_of_ss_under_delay_and_loss() {
    in_own_namespaces(NETEM_TEST, || {
        if !is_installed("tc") || !is_installed("ss") {
            return report_left_out(NETEM_TEST, "needs ss and tc (iproute2)");
        }
        let netem = "qdisc add dev here root netem delay 20ms loss 2%".split(' ');
        let other = OtherEnd::new().filter(|_| {
            let added = Command::new("tc").args(netem).output();
            added.is_ok_and(|added| added.status.success())
        });
        let Some(other) = other else {
            return report_left_out(NETEM_TEST, "this kernel has no veth pairs or no netem");
        };
        let [mut client, mut server] = connect_there(&other);
        client.send(&mut server, 5);
        server.send(&mut client, 5);
        compare_all_with_ss(NETEM_TEST, Some(&other));
        let rows = rows(from(Source::Netlink), false, TCP);
        for end in [client, server] {
            let Value::Integer(least) = row_of(&rows, &end.stream)["min_rtt_us"] else {
                unreachable!("{rows:?}");
            };
            assert!(least >= 20_000, "{least}");
        }
    });
}

/// Compares the cells of many connections with what ss prints, and with the bytes that they transferred.
fn compare_all_with_ss(test: &str, other: Option<&OtherEnd>) {
    let all = connections(other);
    let all_printed = || {
        let there = other.map(|other| other.inside(printed));
        [Some(printed()), there].into_iter().flatten().collect::<Vec<_>>()
    };
    let is_quiet = || {
        let words = all_printed();
        let mut words = words.iter().flat_map(BTreeMap::values);
        words.all(|words| value(words, "unacked").is_none() && count(words, "lastsnd") > 100)
    };
    wait_for("silence", is_quiet);
    let [files, dumps] = [Source::Procfs, Source::Netlink].map(|it| rows(from(it), true, TCP));
    for socket in &all {
        let window = |rows| row_of(rows, &socket.stream)["congestion_window"].clone();
        assert_eq!(window(&files), window(&dumps));
    }
    with_each_source(test, |source, full| {
        let before = all_printed();
        let rows = rows(from(source), full, TCP);
        let after = all_printed();
        for (index, socket) in all.iter().enumerate() {
            let row = row_of(&rows, &socket.stream);
            let key = ["local_port", "remote_port"].map(|port| match row[port] {
                Value::Integer(port) => port,
                _ => 0,
            });
            let words = |all: &[BTreeMap<(i64, i64), Vec<String>>]| {
                all.iter().find_map(|of| of.get(&key.into())).cloned().unwrap()
            };
            assert_eq!(row["bytes_sent"], Value::Integer(socket.sent), "{index}: {row:?}");
            assert_eq!(row["bytes_received"], Value::Integer(socket.received), "{index}");
            compare_with_ss(row, &words(&before), &words(&after));
        }
        if other.is_none() {
            return;
        }
        let lost = row_of(&rows, &all[all.len() - 2].stream);
        let Value::Integer(again @ 1..) = lost["bytes_retransmitted"] else {
            unreachable!("{lost:?}");
        };
        // At least one segment, or all of them several times.
        assert!(again <= 5000 * 20, "{again}");
    });
}

const STATES: &str = "tcp_cells_without_a_value_are_null";

#[test]
fn tcp_cells_without_a_value_are_null() {
    in_own_namespaces(STATES, || {
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        // The end that closes first enters TIME_WAIT.
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        let cookie = socket_cookie(&client).unwrap();
        drop(client);
        assert_eq!(server.read(&mut [0]).unwrap(), 0);
        drop(server);
        with_each_source(STATES, |source, full| {
            let rows = rows(from(source), full, &[TCP, COOKIE].concat());
            assert!(TCP.iter().all(|name| row_of(&rows, &udp)[name] == Value::Null));
            let listening = row_of(&rows, &listener);
            for name in TCP {
                let is_shown = ["congestion_algorithm", "congestion_window"].contains(name);
                assert_eq!(listening[name] != Value::Null, is_shown, "{name}");
            }
            let time_wait = rows.iter().find(|row| row["state"] == Value::Text("TIME_WAIT".into()));
            assert_eq!(time_wait.is_some(), full);
            if let Some(time_wait) = time_wait {
                assert!(TCP.iter().all(|name| time_wait[name] == Value::Null), "{time_wait:?}");
                assert_eq!(time_wait["socket_cookie"], Value::Integer(cookie.cast_signed()));
            }
        });
        let files = rows(from(Source::Procfs), true, TCP);
        let listening = row_of(&files, &listener);
        for name in TCP {
            assert_eq!(listening[name] != Value::Null, *name == "congestion_window", "{name}");
        }
        let time_wait = files.iter().find(|row| row["state"] == Value::Text("TIME_WAIT".into()));
        assert!(TCP.iter().all(|name| time_wait.unwrap()[name] == Value::Null), "{time_wait:?}");
    });
}

const COOKIES: &str = "cookies_are_those_of_so_cookie";

#[test]
fn cookies_are_those_of_so_cookie() {
    in_own_namespaces(COOKIES, || {
        let socket = |family, kind, protocol| rustix::net::socket(family, kind, protocol).unwrap();
        let bound = |socket: OwnedFd, address: &str| {
            let address: SocketAddr = address.parse().unwrap();
            rustix::net::bind(&socket, &address).unwrap();
            socket
        };
        let (v4, v6) = (AddressFamily::INET, AddressFamily::INET6);
        let (stream, peer) = UnixStream::pair().unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        // Each has a dump in every kernel that has the family.
        let dumped: Vec<OwnedFd> = vec![
            listener.into(),
            client.into(),
            TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).unwrap().into(),
            bound(socket(v4, SocketType::DGRAM, None), "127.0.0.1:0"),
            bound(socket(v6, SocketType::DGRAM, None), "[::1]:0"),
            stream.into(),
            peer.into(),
            UnixDatagram::unbound().unwrap().into(),
            socket(AddressFamily::UNIX, SocketType::SEQPACKET, None),
            socket(AddressFamily::PACKET, SocketType::RAW, None),
        ];
        // Not every kernel dumps these, or none.
        let others: Vec<OwnedFd> = vec![
            socket(v4, SocketType::RAW, Some(ipproto::ICMP)),
            socket(v6, SocketType::RAW, Some(ipproto::ICMPV6)),
            socket(AddressFamily::NETLINK, SocketType::RAW, None),
            // In no table.
            socket(v4, SocketType::STREAM, None),
        ];
        let cookie =
            |socket: &OwnedFd| Value::Integer(socket_cookie(socket).unwrap().cast_signed());
        let options = |source| Options { families: Families::all(), ..from(source) };
        // Returns how many of `others` have no cookie.
        let compare = |source, full| {
            let rows = rows(options(source), full, COOKIE);
            let shown = |socket: &OwnedFd| row_of(&rows, socket)["socket_cookie"].clone();
            for (index, socket) in dumped.iter().enumerate() {
                assert_eq!(shown(socket), cookie(socket), "{index}");
            }
            let is_null = |socket: &&OwnedFd| shown(socket) == Value::Null;
            let (nulls, with_cookie): (Vec<&OwnedFd>, Vec<_>) = others.iter().partition(is_null);
            for socket in with_cookie {
                assert_eq!(shown(socket), cookie(socket));
            }
            nulls.len()
        };
        for full in [false, true] {
            compare(Source::Netlink, full);
            let (nulls, is_bpf) = with_bpf(COOKIES, || compare(Source::Bpf, full));
            assert!(!is_bpf || nulls == 0, "{nulls} without a cookie");
        }
        let files = rows(options(Source::Procfs), true, COOKIE);
        assert!(files.iter().all(|row| row["socket_cookie"] == Value::Null));
    });
}

const PEERS: &str = "unix_peers_are_those_of_so_peercred";
const CHILD: &str = "child_that_connects_as_another_user";
const CHILD_PATH: &str = "TEST_CHILD_PATH";

#[test]
#[ignore = "is the child process of another test"]
fn child_that_connects_as_another_user() {
    let path = std::env::var_os(CHILD_PATH).unwrap();
    let nobody = rustix::process::Uid::from_raw(65534);
    // In a user namespace with one user this fails.
    let _ = rustix::thread::set_thread_res_uid(nobody, nobody, nobody);
    let _connected = UnixStream::connect(path).unwrap();
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

#[test]
fn unix_peers_are_those_of_so_peercred() {
    in_own_namespaces(PEERS, || {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        for path in [folder.path(), &path] {
            let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
            std::fs::set_permissions(path, open).unwrap();
        }
        // Its pid in this PID namespace differs from those in its own and in the first one.
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "--kill-child"]).arg(std::env::current_exe().unwrap());
        command.args(["--exact", CHILD, "--ignored"]).env(CHILD_PATH, &path);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let (of_child, _) = listener.accept().unwrap();
        let client = UnixStream::connect(&path).unwrap();
        let (server, _) = listener.accept().unwrap();
        let pair = UnixStream::pair().unwrap();
        let listener = OwnedFd::from(listener);
        let with_peers = [&of_child, &client, &server, &pair.0, &pair.1].map(|it| it.as_fd());
        let credentials: Vec<_> =
            with_peers.iter().map(|socket| socket_peercred(socket).unwrap()).collect();
        let pids: Vec<i32> = credentials.iter().map(|it| it.pid.as_raw_nonzero().get()).collect();
        let own = std::process::id().cast_signed();
        assert!(pids[0] != own && pids[1..] == [own; 4], "{pids:?}");
        let without = UnixDatagram::unbound().unwrap();
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let compare = |source, full| {
            let rows = rows(from(source), full, UNIX);
            for (index, socket) in with_peers.iter().enumerate() {
                let row = row_of(&rows, socket);
                assert_eq!(row["peer_pid"], Value::Integer(pids[index].into()), "{index}");
                let uid = credentials[index].uid.as_raw();
                assert_eq!(row["peer_uid"], Value::Integer(uid.into()), "{index}");
            }
            // The kernel records the process that listens, too.
            assert_eq!(row_of(&rows, &listener)["peer_pid"], Value::Integer(own.into()));
            for name in UNIX {
                assert_eq!(row_of(&rows, &without)[name], Value::Null);
                assert_eq!(row_of(&rows, &udp)[name], Value::Null);
            }
        };
        for full in [false, true] {
            with_bpf(PEERS, || {
                // In a user namespace BPF does not load.
                if rustix::process::geteuid().is_root() && is_bpf_there() {
                    compare(Source::Bpf, full);
                }
            });
            let netlink = rows(from(Source::Netlink), full, UNIX);
            assert_eq!(row_of(&netlink, &client)["peer_pid"], Value::Null);
        }
        drop(child.stdin.take());
        child.wait().unwrap();
    });
}

/// Whether BPF answers: it is the only source of peers.
fn is_bpf_there() -> bool {
    let (client, _server) = UnixStream::pair().unwrap();
    row_of(&rows(from(Source::Bpf), false, UNIX), &client)["peer_pid"] != Value::Null
}

const PATHS: &str = "path_inode_and_device_are_those_of_stat";

/// Compares the file of a bound socket with stat(2) of its path before the path was changed.
fn compare_files(bound: &[(&OwnedFd, std::fs::Metadata)]) {
    with_each_source(PATHS, |source, full| {
        let rows = rows(from(source), full, UNIX);
        for (index, &(socket, ref file)) in bound.iter().enumerate() {
            let row = row_of(&rows, socket);
            let number = |number: u64| Value::Integer(number.cast_signed());
            let inode = match source {
                Source::Bpf => file.ino(),
                _ => file.ino() & u64::from(u32::MAX),
            };
            assert_eq!(row["path_inode"], number(inode), "{index} {source:?} {full}");
            assert_eq!(row["path_device"], number(file.dev()), "{index} {source:?} {full}");
        }
    });
}

#[test]
fn path_inode_and_device_are_those_of_stat() {
    in_own_namespaces(PATHS, || {
        let folder = tempfile::tempdir().unwrap();
        let bind = |path: &Path| {
            let socket = OwnedFd::from(UnixListener::bind(path).unwrap());
            (socket, std::fs::metadata(path).unwrap())
        };
        let path = |name: &str| folder.path().join(name);
        let (replaced, first) = bind(&path("replaced"));
        std::fs::rename(path("replaced"), path("moved")).unwrap();
        let (replacing, second) = bind(&path("replaced"));
        assert_ne!(first.ino(), second.ino());
        let (removed, third) = bind(&path("removed"));
        std::fs::remove_file(path("removed")).unwrap();
        let mount = |arguments: &[&str]| {
            let mounted = Command::new("mount").args(arguments).status();
            assert!(mounted.unwrap().success(), "mount {arguments:?}");
        };
        // Other file systems have other devices.
        let memory = path("memory");
        std::fs::create_dir(&memory).unwrap();
        mount(&["-t", "tmpfs", "tmpfs", memory.to_str().unwrap()]);
        let (on_tmpfs, fourth) = bind(&memory.join("socket"));
        let mut bound =
            vec![(&replaced, first), (&replacing, second), (&removed, third), (&on_tmpfs, fourth)];
        // An overlay whose layers are on one file system, as those of containers are.
        let layers = ["lower", "upper", "work", "merged"].map(|name| memory.join(name));
        for layer in &layers {
            std::fs::create_dir(layer).unwrap();
        }
        let [lower, upper, work, merged] = layers.each_ref().map(|it| it.to_str().unwrap());
        let layers = format!("lowerdir={lower},upperdir={upper},workdir={work}");
        let mut overlay = Command::new("mount");
        overlay.args(["-t", "overlay", "-o", &layers, "none", merged]);
        let overlaid;
        if overlay.output().is_ok_and(|output| output.status.success()) {
            let (socket, file) = bind(&Path::new(merged).join("socket"));
            overlaid = socket;
            bound.push((&overlaid, file));
        } else {
            report_left_out(PATHS, "an overlay cannot be mounted");
        }
        compare_files(&bound);
        // Neither a path nor a file.
        let name = rustix::net::SocketAddrUnix::new_abstract_name(b"name").unwrap();
        let abstracted =
            rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
        rustix::net::bind(&abstracted, &name).unwrap();
        with_each_source(PATHS, |source, full| {
            let rows = rows(from(source), full, UNIX);
            assert_eq!(row_of(&rows, &abstracted)["path_inode"], Value::Null);
        });
    });
}
