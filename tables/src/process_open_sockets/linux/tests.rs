//! The table against the running kernel, in a network namespace where nothing else happens.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::any::Any;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketType, ipproto};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use crate::linux::bpf::Records;
use crate::linux::quiet::{
    in_quiet_namespace, open_many_kinds, report_skip, report_skip_without_bpf,
};
use crate::model::omission::OmissionKind;
use crate::model::{Families, Source};
use crate::process_open_sockets::columns::Field;
use crate::process_open_sockets::{Options, ProcessOpenSockets, filter, sys};
use crate::{Constraint, Operator, QueryContext, Rows, Table, Value};

/// A table with this source and snapshot TTL.
fn table(source: Source, snapshot_ttl: Duration) -> ProcessOpenSockets {
    // Elsewhere without BPF, which needs no snapshot.
    let bpf_from_files = (source == Source::Bpf).then_some(0);
    ProcessOpenSockets::new(Options { source, snapshot_ttl, bpf_from_files, ..Options::default() })
}

fn is(field: Field, operator: Operator, text: impl ToString) -> Constraint {
    Constraint { column: field as usize, operator, text: text.to_string() }
}

/// The rows, each a list of cells, in order.
fn rows(table: &ProcessOpenSockets, constraints: &[Constraint]) -> Vec<Vec<String>> {
    let query = QueryContext { constraints: constraints.to_vec(), ..Default::default() };
    let rows = table.generate(&query).unwrap();
    let cell = |row: usize, field: Field| match rows.cell(row, field as usize) {
        Value::Null => "NULL".to_owned(),
        Value::Integer(number) => number.to_string(),
        Value::Text(text) => text.into_owned(),
    };
    // The sources differ in the hidden columns.
    let row = |row| Field::ALL.iter().take(12).map(|&field| cell(row, field)).collect();
    let mut rows: Vec<_> = (0..Rows::len(&*rows)).map(row).collect();
    rows.sort();
    rows
}

/// Selects the sockets of the network namespace of this thread.
fn in_this_namespace() -> Constraint {
    let link = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
    let link = link.to_str().unwrap();
    let number = link.strip_prefix("net:[").unwrap().strip_suffix(']').unwrap();
    is(Field::NetNamespace, Operator::Equals, number)
}

/// Sockets of all kinds that the kernel has, ping sockets included.
fn open_every_kind() -> Vec<Box<dyn Any>> {
    let mut opened = open_many_kinds();
    std::fs::write("/proc/sys/net/ipv4/ping_group_range", "0 0").unwrap();
    for (family, kind, protocol) in [
        (AddressFamily::INET, SocketType::DGRAM, ipproto::ICMP),
        (AddressFamily::INET6, SocketType::DGRAM, ipproto::ICMPV6),
        (AddressFamily::INET, SocketType::RAW, ipproto::ICMP),
        (AddressFamily::INET6, SocketType::RAW, ipproto::ICMPV6),
        (AddressFamily::INET, SocketType::DGRAM, ipproto::UDPLITE),
    ] {
        let Ok(socket) = rustix::net::socket(family, kind, Some(protocol)) else {
            // Not every kernel has UDP-Lite.
            assert_eq!(protocol, ipproto::UDPLITE);
            continue;
        };
        let any = if family == AddressFamily::INET { "0.0.0.0:0" } else { "[::]:0" };
        let any: std::net::SocketAddr = any.parse().unwrap();
        rustix::net::bind(&socket, &any).unwrap();
        opened.push(Box::new(socket));
    }
    opened
}

#[test]
fn netlink_and_proc_net_return_equal_rows() {
    in_quiet_namespace(module_path!(), "netlink_and_proc_net_return_equal_rows", || {
        let _sockets = open_every_kind();
        let [auto, procfs, netlink] = [Source::Auto, Source::Procfs, Source::Netlink]
            .map(|source| rows(&table(source, Duration::ZERO), &[in_this_namespace()]));
        assert!(procfs.len() > 70, "{}", procfs.len());
        // Of each table, by family and protocol.
        for (family, protocol, least) in [
            ("2", "6", 14),
            ("10", "6", 29),
            ("2", "17", 2),
            ("10", "17", 4),
            ("1", "0", 18),
            ("17", "35020", 1),
        ] {
            let is_of = |row: &&Vec<String>| {
                (&*row[Field::Family as usize], &*row[Field::Protocol as usize])
                    == (family, protocol)
            };
            let count = netlink.iter().filter(is_of).count();
            assert!(count >= least, "family {family}, protocol {protocol}: {count}");
        }
        assert_eq!(auto, procfs);
        // What this kernel has no dump of is missing, and nothing else.
        let (protocol, unknown) = (Field::Protocol as usize, ["1", "58", "255"]);
        let missing: Vec<_> = auto.iter().filter(|row| !netlink.contains(row)).collect();
        assert!(missing.iter().all(|row| unknown.contains(&&*row[protocol])), "{missing:?}");
        assert!(netlink.iter().all(|row| auto.contains(row)));
        assert_eq!(netlink.len() + missing.len(), auto.len());
    });
}

#[test]
fn tables_without_a_dump_are_omissions_with_netlink_alone() {
    in_quiet_namespace(
        module_path!(),
        "tables_without_a_dump_are_omissions_with_netlink_alone",
        || {
            let options = Options { source: Source::Netlink, ..Options::default() };
            let query =
                QueryContext { constraints: vec![in_this_namespace()], ..Default::default() };
            let snapshot = sys::Collector::new(options)
                .collect(&filter::Filter::new(&query, Families::default()))
                .unwrap();
            let omission = snapshot
                .omissions
                .iter()
                .find(|omission| omission.kind == OmissionKind::NoDump)
                .unwrap();
            // There is none of ping sockets; of raw ones there may be.
            assert!(
                matches!((omission.count, &*omission.first), (2, "icmp") | (4, "raw")),
                "{omission}"
            );
        },
    );
}

/// Whether BPF is available.
fn is_bpf_used() -> bool {
    let options = Options { source: Source::Bpf, ..Options::default() };
    let root = crate::linux::proc_root::ProcRoot::open(&options.procfs).unwrap();
    crate::linux::bpf::Bpf::new(options.source, options.bpf_from_files)
        .load_if_needed(&root, Records::Basic)
        .is_some()
}

/// The rows of a source, for comparison with its answers to queries with constraints.
struct Comparison {
    source: Source,
    table: ProcessOpenSockets,
    all: Vec<Vec<String>>,
    compared: usize,
}

impl Comparison {
    fn new(source: Source) -> Comparison {
        let table = table(source, Duration::ZERO);
        let all = rows(&table, &[in_this_namespace()]);
        Comparison { source, table, all, compared: 0 }
    }

    /// What is in the column, each once.
    fn values(&self, field: Field) -> Vec<String> {
        let mut values: Vec<String> =
            self.all.iter().map(|row| row[field as usize].clone()).collect();
        values.sort();
        values.dedup();
        values
    }

    /// Asserts that the answer to these constraints has all matching rows.
    fn holds(&mut self, constraints: &[(Field, Operator, String)]) {
        let kept = |rows: &[Vec<String>]| -> Vec<Vec<String>> {
            rows.iter().filter(|row| is_kept(row, constraints)).cloned().collect()
        };
        let mut expected = kept(&self.all);
        self.compared += expected.len();
        let mut constrained: Vec<_> =
            constraints.iter().map(|(field, operator, text)| is(*field, *operator, text)).collect();
        constrained.push(in_this_namespace());
        // The answer may have more rows: SQLite checks every row again.
        let mut came = kept(&rows(&self.table, &constrained));
        if came != expected {
            // A connection of an earlier source is over by now, perhaps.
            self.all = rows(&self.table, &[in_this_namespace()]);
            expected = kept(&self.all);
            came = kept(&rows(&self.table, &constrained));
        }
        assert_eq!(came, expected, "{:?} {constrained:?}", self.source);
    }
}

/// Whether SQLite keeps the row under these constraints.
fn is_kept(row: &[String], constraints: &[(Field, Operator, String)]) -> bool {
    constraints.iter().all(|(field, operator, text)| {
        let cell = &row[*field as usize];
        let number = |text: &str| text.parse::<i64>().unwrap();
        match operator {
            Operator::Equals => cell == text,
            Operator::NotEquals => cell != text,
            Operator::LessThanOrEquals => number(cell) <= number(text),
            _ => number(cell) > number(text),
        }
    })
}

/// Compares the answers of a source to queries with constraints of each kind.
fn compare_constraints(source: Source) {
    let (equals, not, most, more) =
        (Operator::Equals, Operator::NotEquals, Operator::LessThanOrEquals, Operator::GreaterThan);
    let mine = || (Field::Pid, equals, std::process::id().to_string());
    // The kernel removes connections in TIME_WAIT after a minute.
    let _sockets = open_every_kind();
    let mut comparison = Comparison::new(source);
    let numbers = [Field::Family, Field::Protocol, Field::LocalPort, Field::RemotePort];
    let of_numbers = numbers.map(|field| comparison.values(field));
    let [states, inodes] = [Field::State, Field::Socket].map(|field| comparison.values(field));
    for (field, values) in numbers.into_iter().zip(of_numbers) {
        for value in values {
            for operator in [equals, not, most, more] {
                comparison.holds(&[(field, operator, value.clone())]);
            }
            comparison.holds(&[(field, equals, value), mine()]);
        }
    }
    for state in states {
        comparison.holds(&[(Field::State, equals, state.clone())]);
        comparison.holds(&[(Field::State, not, state.clone())]);
        comparison
            .holds(&[(Field::State, equals, state.clone()), (Field::Pid, equals, "-1".into())]);
        comparison.holds(&[(Field::State, equals, state), mine()]);
    }
    for inode in inodes {
        comparison.holds(&[(Field::Socket, equals, inode.clone())]);
        comparison.holds(&[(Field::Socket, equals, inode), mine()]);
    }
    assert!(comparison.compared > 1000, "{source:?}: {}", comparison.compared);
}

const TEST_OF_CONSTRAINTS: &str = "no_constraint_changes_the_answer_of_any_source";

#[test]
fn no_constraint_changes_the_answer_of_any_source() {
    in_quiet_namespace(module_path!(), TEST_OF_CONSTRAINTS, || {
        for source in [Source::Auto, Source::Procfs, Source::Netlink, Source::Bpf] {
            if source == Source::Bpf && !is_bpf_used() {
                let reason = "BPF is not used; the tests of bpf print the error";
                report_skip_without_bpf(TEST_OF_CONSTRAINTS, reason);
                continue;
            }
            compare_constraints(source);
        }
    });
}

#[test]
#[allow(unsafe_code)]
fn netlink_and_proc_net_have_the_same_rows_of_a_namespace() {
    let test = "netlink_and_proc_net_have_the_same_rows_of_a_namespace";
    in_quiet_namespace(module_path!(), test, || {
        let (there, listener, mut sleeper) = std::thread::spawn(|| {
            // SAFETY: no descriptors are unshared, only this thread's network namespace.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
            let listener = TcpListener::bind("0.0.0.0:0").unwrap();
            // A namespace is found through a process in it.
            (in_this_namespace(), listener, Command::new("sleep").arg("600").spawn().unwrap())
        })
        .join()
        .unwrap();
        let [auto, procfs, netlink] = [Source::Auto, Source::Procfs, Source::Netlink]
            .map(|source| rows(&table(source, Duration::ZERO), std::slice::from_ref(&there)));
        let by_pid = rows(
            &table(Source::Auto, Duration::ZERO),
            &[is(Field::Pid, Operator::Equals, std::process::id()), there],
        );
        sleeper.kill().unwrap();
        sleeper.wait().unwrap();
        assert_eq!(procfs.len(), 1);
        assert_eq!(procfs[0][Field::Fd as usize], listener.as_raw_fd().to_string());
        assert_eq!([&auto, &netlink, &by_pid], [&procfs; 3]);
    });
}

const LONG: Duration = Duration::from_secs(3600);

/// The rows of this process, with the query of a join.
fn lookup(table: &ProcessOpenSockets) -> Vec<Vec<String>> {
    rows(table, &[is(Field::Pid, Operator::Equals, std::process::id())])
}

/// The rows among these that show the socket.
fn of(rows: &[Vec<String>], socket: &impl AsFd) -> Vec<Vec<String>> {
    let inode = rustix::fs::fstat(socket).unwrap().st_ino.to_string();
    rows.iter().filter(|row| row[Field::Socket as usize] == inode).cloned().collect()
}

fn state(rows: &[Vec<String>], socket: &impl AsFd) -> String {
    let [row] = &of(rows, socket)[..] else { return format!("{} rows", of(rows, socket).len()) };
    row[Field::State as usize].clone()
}

/// A table with a cached connection whose other end was closed since: the cached table shows it as ESTABLISHED, a new
/// read as CLOSE_WAIT.
fn table_with_cached_connection(ttl: Duration) -> (ProcessOpenSockets, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (server, _) = listener.accept().unwrap();
    let table = table(Source::Auto, ttl);
    // The first lookup keeps nothing, the second does.
    assert_eq!(lookup(&table), lookup(&table));
    drop(server);
    let end = Instant::now() + Duration::from_secs(30);
    let fresh = || rows(&super::tests::table(Source::Auto, Duration::ZERO), &[in_this_namespace()]);
    while state(&fresh(), &client) != "CLOSE_WAIT" {
        assert!(Instant::now() < end, "the other end is not closed");
    }
    (table, client)
}

/// Runs a test of the snapshot in a namespace without other processes.
fn run_in_quiet_namespace(test: &str, body: fn()) {
    in_quiet_namespace(module_path!(), test, body);
}

#[test]
fn a_lookup_in_a_burst_shows_the_cached_state() {
    run_in_quiet_namespace("a_lookup_in_a_burst_shows_the_cached_state", || {
        let (table, client) = table_with_cached_connection(LONG);
        assert_eq!(state(&lookup(&table), &client), "ESTABLISHED");
    });
}

#[test]
fn a_lookup_after_the_ttl_shows_the_current_state() {
    run_in_quiet_namespace("a_lookup_after_the_ttl_shows_the_current_state", || {
        let ttl = Duration::from_millis(200);
        let (table, client) = table_with_cached_connection(ttl);
        std::thread::sleep(ttl);
        assert_eq!(state(&lookup(&table), &client), "CLOSE_WAIT");
    });
}

#[test]
fn without_a_time_to_live_nothing_is_cached() {
    run_in_quiet_namespace("without_a_time_to_live_nothing_is_cached", || {
        let (table, client) = table_with_cached_connection(Duration::ZERO);
        assert_eq!(state(&lookup(&table), &client), "CLOSE_WAIT");
    });
}

#[test]
fn a_socket_opened_just_before_a_lookup_is_in_its_answer() {
    run_in_quiet_namespace("a_socket_opened_just_before_a_lookup_is_in_its_answer", || {
        let (table, client) = table_with_cached_connection(LONG);
        for _ in 0..20 {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            assert_eq!(state(&lookup(&table), &listener), "LISTEN");
            let (unix, _other) = std::os::unix::net::UnixStream::pair().unwrap();
            let rows = lookup(&table);
            assert_eq!(of(&rows, &unix).len(), 1);
            // The TCP table was read again for the new socket.
            assert_eq!(state(&rows, &client), "CLOSE_WAIT");
        }
    });
}

#[test]
fn a_lookup_sees_a_descriptor_that_was_just_opened_or_closed() {
    run_in_quiet_namespace("a_lookup_sees_a_descriptor_that_was_just_opened_or_closed", || {
        let (table, client) = table_with_cached_connection(LONG);
        let another = OwnedFd::from(client.try_clone().unwrap());
        assert_eq!(of(&lookup(&table), &client).len(), 2);
        drop(another);
        assert_eq!(of(&lookup(&table), &client).len(), 1);
        let inode = rustix::fs::fstat(&client).unwrap().st_ino.to_string();
        drop(client);
        assert!(lookup(&table).iter().all(|row| row[Field::Socket as usize] != inode));
    });
}

#[test]
fn a_socket_that_listens_just_before_a_lookup_is_in_its_answer() {
    let test = "a_socket_that_listens_just_before_a_lookup_is_in_its_answer";
    run_in_quiet_namespace(test, || {
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        rustix::net::bind(&socket, &"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap())
            .unwrap();
        let (table, _client) = table_with_cached_connection(LONG);
        assert_eq!(of(&lookup(&table), &socket).len(), 0);
        rustix::net::listen(&socket, 1).unwrap();
        assert_eq!(state(&lookup(&table), &socket), "LISTEN");
    });
}

#[test]
fn an_unlisted_socket_bound_just_before_a_lookup_is_found() {
    let test = "an_unlisted_socket_bound_just_before_a_lookup_is_found";
    run_in_quiet_namespace(test, || {
        let (table, _client) = table_with_cached_connection(LONG);
        let unbound = || rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None).unwrap();
        let socket = unbound();
        // The list of held inodes that this takes has the socket; the second lookup takes none.
        assert_eq!(of(&lookup(&table), &socket).len(), 0);
        assert_eq!(of(&lookup(&table), &socket).len(), 0);
        let address: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
        rustix::net::bind(&socket, &address).unwrap();
        assert_eq!(of(&lookup(&table), &socket).len(), 1);
        // A socket that is newer than that list.
        let newer = unbound();
        assert_eq!(of(&lookup(&table), &newer).len(), 0);
        rustix::net::bind(&newer, &address).unwrap();
        assert_eq!(of(&lookup(&table), &newer).len(), 1);
    });
}

#[test]
#[allow(unsafe_code)]
fn a_socket_of_a_namespace_made_just_before_a_lookup_is_found() {
    let test = "a_socket_of_a_namespace_made_just_before_a_lookup_is_found";
    run_in_quiet_namespace(test, || {
        let (table, _client) = table_with_cached_connection(LONG);
        let unbound = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None).unwrap();
        assert_eq!(of(&lookup(&table), &unbound).len(), 0);
        let (listening, listens) = std::sync::mpsc::channel();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            // SAFETY: no descriptors are unshared, only this thread's network namespace.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
            listening.send(TcpListener::bind("127.0.0.1:0").unwrap()).unwrap();
            let _ = ended.recv();
        });
        let listener = listens.recv().unwrap();
        assert_eq!(state(&lookup(&table), &listener), "LISTEN");
        drop(end);
        thread.join().unwrap();
    });
}

/// Listeners on one port are on one chain of the kernel's, where those that come and go may hide others.
fn finds_all_listeners_while_others_come_and_go(source: Source, lasting: usize, passing: usize) {
    const ROUNDS: usize = 10;
    let reusing = || {
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        rustix::net::sockopt::set_socket_reuseport(&socket, true).unwrap();
        let address: std::net::SocketAddr = "127.0.0.1:5555".parse().unwrap();
        rustix::net::bind(&socket, &address).unwrap();
        rustix::net::listen(&socket, 1).unwrap();
        socket
    };
    let held: Vec<OwnedFd> = (0..lasting).map(|_| reusing()).collect();
    let done = std::sync::atomic::AtomicBool::new(false);
    let mut hidden = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                let _passing: Vec<OwnedFd> = (0..passing).map(|_| reusing()).collect();
            }
        });
        let table = table(source, Duration::ZERO);
        for constraints in [
            vec![is(Field::Pid, Operator::Equals, std::process::id())],
            vec![in_this_namespace()],
            vec![is(Field::State, Operator::Equals, "LISTEN")],
        ] {
            for _ in 0..ROUNDS {
                let rows = rows(&table, &constraints);
                let shown: std::collections::HashSet<&str> =
                    rows.iter().map(|row| &*row[Field::Socket as usize]).collect();
                let inode = |socket: &OwnedFd| rustix::fs::fstat(socket).unwrap().st_ino;
                let is_hidden = |socket: &&OwnedFd| !shown.contains(&*inode(socket).to_string());
                hidden += held.iter().filter(is_hidden).count();
            }
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert_eq!(hidden, 0, "of {} times {lasting} listeners", 3 * ROUNDS);
}

#[test]
fn changing_listeners_hide_no_listener_on_the_same_port() {
    run_in_quiet_namespace("changing_listeners_hide_no_listener_on_the_same_port", || {
        finds_all_listeners_while_others_come_and_go(Source::Netlink, 400, 60);
        finds_all_listeners_while_others_come_and_go(Source::Procfs, 400, 60);
    });
}

#[test]
fn no_constraint_makes_a_listed_socket_unlisted() {
    run_in_quiet_namespace("no_constraint_makes_a_listed_socket_unlisted", || {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let pair = std::os::unix::net::UnixStream::pair().unwrap();
        let other = |family, kind| rustix::net::socket(family, kind, None).unwrap();
        let unbound = other(AddressFamily::INET, SocketType::DGRAM);
        let packet = other(AddressFamily::PACKET, SocketType::RAW);
        let me = || is(Field::Pid, Operator::Equals, std::process::id());
        for source in [Source::Auto, Source::Procfs] {
            let families = Families::all();
            let table = ProcessOpenSockets::new(Options { source, families, ..Options::default() });
            let mine = |mut rows: Vec<Vec<String>>| {
                rows.retain(|row| row[Field::Pid as usize] == std::process::id().to_string());
                rows
            };
            let all = mine(rows(&table, &[]));
            let count = |socket: &dyn AsFd| of(&all, &socket.as_fd()).len();
            assert_eq!([count(&listener), count(&pair.0), count(&unbound), count(&packet)], [1; 4]);
            assert_eq!(of(&all, &unbound)[0][Field::NetNamespace as usize], "");
            assert_eq!(rows(&table, &[me()]), all, "{source:?}");
            let namespace = &of(&all, &listener)[0][Field::NetNamespace as usize];
            for (field, operator, text) in [
                (Field::NetNamespace, Operator::NotEquals, namespace.as_str()),
                (Field::NetNamespace, Operator::Equals, ""),
                (Field::State, Operator::NotEquals, "NONE"),
                (Field::State, Operator::Equals, ""),
                (Field::Family, Operator::Equals, "2"),
                (Field::Protocol, Operator::NotEquals, "17"),
            ] {
                let mut expected = all.clone();
                expected
                    .retain(|row| (row[field as usize] == text) == (operator == Operator::Equals));
                for more in [vec![], vec![me()]] {
                    let constraints = [vec![is(field, operator, text)], more].concat();
                    let mut came = mine(rows(&table, &constraints));
                    came.retain(|row| {
                        (row[field as usize] == text) == (operator == Operator::Equals)
                    });
                    assert_eq!(came, expected, "{source:?} {constraints:?}");
                }
            }
        }
    });
}

#[test]
fn mptcp_subflows_are_found_with_and_without_a_pid() {
    run_in_quiet_namespace("mptcp_subflows_are_found_with_and_without_a_pid", || {
        let protocol = rustix::net::ipproto::MPTCP;
        let made = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, Some(protocol));
        let Ok(socket) = made else {
            return report_skip(
                "mptcp_subflows_are_found_with_and_without_a_pid",
                "this kernel has no MPTCP",
            );
        };
        let address: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
        rustix::net::bind(&socket, &address).unwrap();
        rustix::net::listen(&socket, 1).unwrap();
        let families = Families::default() | Families::MPTCP;
        let table = ProcessOpenSockets::new(Options { families, ..Options::default() });
        for constraint in
            [in_this_namespace(), is(Field::Pid, Operator::Equals, std::process::id())]
        {
            let rows = of(&rows(&table, &[constraint]), &socket);
            let protocols: Vec<_> =
                rows.iter().map(|row| &*row[Field::Protocol as usize]).collect();
            assert_eq!(protocols, ["262", "6"]);
        }
        let by_default = super::tests::table(Source::Auto, LONG);
        assert_eq!(of(&rows(&by_default, &[in_this_namespace()]), &socket).len(), 1);
    });
}

#[test]
fn a_constraint_on_a_field_that_changes_uses_no_cached_table() {
    run_in_quiet_namespace("a_constraint_on_a_field_that_changes_uses_no_cached_table", || {
        let (table, client) = table_with_cached_connection(LONG);
        let me = is(Field::Pid, Operator::Equals, std::process::id());
        let port = client.local_addr().unwrap().port();
        for changing in [
            is(Field::State, Operator::Equals, "CLOSE_WAIT"),
            is(Field::State, Operator::NotEquals, "LISTEN"),
            is(Field::LocalPort, Operator::Equals, port),
            is(Field::RemotePort, Operator::GreaterThan, 0),
            is(Field::Family, Operator::Equals, 2),
            // A constraint that the table cannot apply counts too.
            is(Field::State, Operator::from_code(65), "CLOSE%"),
            is(Field::State, Operator::GreaterThan, "CLOSE"),
            is(Field::LocalPort, Operator::from_code(65), "%"),
            is(Field::RemotePort, Operator::GreaterThan, "0.5"),
        ] {
            let rows = rows(&table, &[me.clone(), changing.clone()]);
            assert_eq!(state(&rows, &client), "CLOSE_WAIT", "{changing:?}");
        }
        // The next lookup uses the cached table.
        assert_eq!(state(&lookup(&table), &client), "ESTABLISHED");
    });
}

#[test]
fn a_scan_without_a_pid_is_always_fresh() {
    run_in_quiet_namespace("a_scan_without_a_pid_is_always_fresh", || {
        let (table, client) = table_with_cached_connection(LONG);
        assert_eq!(state(&rows(&table, &[]), &client), "CLOSE_WAIT");
        let inode = rustix::fs::fstat(&client).unwrap().st_ino;
        let by_inode = rows(&table, &[is(Field::Socket, Operator::Equals, inode)]);
        assert_eq!(state(&by_inode, &client), "CLOSE_WAIT");
        let above = rows(&table, &[is(Field::Pid, Operator::GreaterThan, 0)]);
        assert_eq!(state(&above, &client), "CLOSE_WAIT");
    });
}
