//! A constraint never changes the answer: for every query, the table returns the rows that SQLite selects from all
//! of its rows.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use support::conditions::{COLUMNS, answer, check, condition, config, database};
use support::isolated::in_own_namespaces;
use support::own::net_namespace;
use support::proc_tree::{ProcTree, TCP_HEADER, UNIX_HEADER, tcp_line, unix_line};
use support::rows::{table, texts};
use tables::{Constraint, Operator, QueryContext, Table};

fn captured() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/one-of-each"))
}

/// A tree with two namespaces, processes with sockets of both, shared sockets, a process with unreadable descriptors,
/// a process with an unreadable namespace link, and equal sockets without an inode.
fn tangled_tree() -> ProcTree {
    let tcp = |ports: &[(u16, &str)]| {
        let lines: String = ports.iter().map(|(port, inode)| tcp_line(*port, inode)).collect();
        format!("{TCP_HEADER}{lines}")
    };
    let unix = |paths: &[(&str, &str)]| {
        let lines: String = paths.iter().map(|(inode, path)| unix_line(inode, path)).collect();
        format!("{UNIX_HEADER}{lines}")
    };
    ProcTree::default()
        .namespace(5)
        .namespace(4026532177)
        .file(5, "tcp", tcp(&[(1, "11"), (443, "12"), (80, "0"), (80, "0"), (3, "13")]))
        .file(5, "unix", unix(&[("21", "/run/a b"), ("0", "/run/a b"), ("0", "/run/a b")]))
        .file(4026532177, "tcp", tcp(&[(1, "31"), (443, "18446744073709551615")]))
        .file(4026532177, "unix", unix(&[("41", "@x")]))
        .process(1, 5, &[(3, "11"), (4, "31"), (5, "777")])
        .process(2, 5, &[(3, "11"), (4, "11"), (7, "21")])
        .process(3, 4026532177, &[(3, "18446744073709551615"), (1, "21"), (4, "41")])
        .process(4, 4026532177, &[])
        .process(5, 5, &[(3, "12")])
        .with_unreadable_fds(4)
        .without_namespace_link(1)
        .without_namespace_link(3)
}

#[test]
fn over_the_captured_tree() {
    let connection = database(table(captured()));
    proptest!(config(1500), |(condition in condition())| check(&connection, &condition, "1")?);
}

#[test]
fn over_a_tangled_tree() {
    let tree = tangled_tree();
    let connection = database(table(tree.path()));
    proptest!(config(1500), |(condition in condition())| check(&connection, &condition, "1")?);
}

/// Runs in private namespaces, since a scan takes long on a host with many processes.
#[test]
fn over_this_host() {
    in_own_namespaces("over_this_host", compare_on_live_sockets);
}

fn compare_on_live_sockets() {
    let directory = tempfile::tempdir().unwrap();
    let four = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let six = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
    let _connected =
        (TcpStream::connect(four.local_addr().unwrap()).unwrap(), four.accept().unwrap());
    let not_accepted = TcpStream::connect(six.local_addr().unwrap()).unwrap();
    let _udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let path = directory.path().join("socket");
    let _unix = (UnixListener::bind(&path).unwrap(), UnixStream::connect(&path).unwrap());
    let shared = four.try_clone().unwrap();

    // Sockets of other processes may change between two answers, and may have the same ports. The condition selects
    // the connection before accept by its address, both ports and its namespace.
    let namespace = net_namespace("self");
    let [port, peer] = [six.local_addr(), not_accepted.local_addr()].map(|it| it.unwrap().port());
    let is_ours = format!(
        "(t.pid = {} OR t.path = '{}' OR (t.net_namespace = {namespace} \
         AND t.local_address = '::1' AND t.local_port = {port} AND t.remote_port = {peer}))",
        std::process::id(),
        path.display()
    );
    // The last segment of the handshake may still be in transit.
    let end = Instant::now() + Duration::from_secs(30);
    let here = || database(table(Path::new("/proc")));
    let mut connection = here();
    while answer(&connection, "plain", "WHERE state = 'ESTABLISHED' AND pid = -1", &is_ours).len()
        != 1
        && Instant::now() < end
    {
        connection = here();
    }
    let own = answer(&connection, "plain", "", &is_ours);
    assert_eq!(own.len(), 11, "{own:#?}");
    proptest!(config(200), |(condition in condition())| check(&connection, &condition, &is_ours)?);
    drop(shared);
}

#[test]
fn a_limit_returns_the_right_number_of_rows() {
    let connection = database(table(captured()));
    proptest!(config(500), |(condition in condition(), limit in -1..9, offset in 0..9)| {
        let all = answer(&connection, "plain", &format!("WHERE {condition}"), "1");
        let limited = format!("WHERE {condition} LIMIT {limit} OFFSET {offset}");
        let some = answer(&connection, "mounted", &limited, "1");
        prop_assert_eq!(some.len(), answer(&connection, "plain", &limited, "1").len());
        prop_assert!(some.iter().all(|row| all.contains(row)), "{:?} not all in {:?}", some, all);
    });
}

#[test]
fn a_condition_without_a_comparison_omits_no_row() {
    let table = table(captured());
    let rows = |constraints| {
        let query = QueryContext { constraints, ..Default::default() };
        texts(&table, &*table.generate(&query).unwrap())
    };
    let all = rows(vec![]);
    assert_eq!(all.len(), 29);
    let comparisons = [2, 4, 8, 16, 32, 68, 69, 72];
    for code in (0..=255u8).filter(|code| !comparisons.contains(code)) {
        for (column, name) in COLUMNS.iter().enumerate() {
            let operator = Operator::from_code(code);
            let constraint = Constraint { column, operator, text: "5".into() };
            assert_eq!(rows(vec![constraint]), all, "operator {code} on {name}");
        }
    }
}

#[test]
fn the_number_of_a_row_does_not_depend_on_the_query() {
    let tree = tangled_tree();
    let table = table(tree.path());
    let numbered = |constraints: Vec<Constraint>| {
        let query = QueryContext { constraints, ..Default::default() };
        let rows = table.generate(&query).unwrap();
        let mut ids: Vec<i64> = (0..rows.len()).map(|row| rows.id(row)).collect();
        ids.sort_unstable();
        ids
    };
    let equals = |column, text: &str| {
        vec![Constraint { column, operator: Operator::Equals, text: text.into() }]
    };
    let all = numbered(vec![]);
    let mut distinct = all.clone();
    distinct.dedup();
    assert_eq!(distinct, all, "two rows have the same number");
    assert!(all.iter().all(|id| *id >= 0));
    for (column, text, count) in [(0, "2", 3), (0, "-1", 5), (10, "", 5), (2, "11", 3)] {
        let some = numbered(equals(column, text));
        assert_eq!(some.len(), count, "{} = {text:?}", COLUMNS[column]);
        assert!(
            some.iter().all(|id| all.binary_search(id).is_ok()),
            "{} = {text:?}",
            COLUMNS[column]
        );
    }
}
