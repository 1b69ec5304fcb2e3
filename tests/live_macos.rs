//! The table over this Mac: its own sockets, as osquery shows them and as it does not.

#![cfg(target_os = "macos")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod support;

use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};

use tables::process_open_sockets::{Families, Options, ProcessOpenSockets};
use tables::{Constraint, Operator, QueryContext, Table, Value};

/// Cells by the names of their columns, of rows where all of that holds.
fn rows(families: Families, wanted: &[(&str, i64)]) -> Vec<Vec<(String, String)>> {
    let table = ProcessOpenSockets::new(Options { families, ..Options::default() });
    let columns = table.columns();
    let place = |name: &str| columns.iter().position(|column| column.name == name).unwrap();
    let constraint = |&(name, number): &(&str, i64)| Constraint {
        column: place(name),
        operator: Operator::Equals,
        text: number.to_string(),
    };
    let constraints = wanted.iter().map(constraint).collect();
    let answer = table.generate(&QueryContext { constraints, ..QueryContext::default() }).unwrap();
    let text = |value| match value {
        Value::Null => "NULL".to_owned(),
        Value::Integer(number) => number.to_string(),
        Value::Text(text) => text.into_owned(),
    };
    let cells = |row| {
        let cell = |(place, column): (usize, &tables::Column)| {
            (column.name.to_string(), text(answer.cell(row, place)))
        };
        columns.iter().enumerate().map(cell).collect::<Vec<_>>()
    };
    let holds = |row: &Vec<(String, String)>| {
        wanted.iter().all(|(name, number)| cell(row, name) == number.to_string())
    };
    (0..answer.len()).map(cells).filter(holds).collect()
}

fn cell<'a>(row: &'a [(String, String)], name: &str) -> &'a str {
    &row.iter().find(|(column, _)| column == name).unwrap().1
}

/// The one row of that descriptor of ours, and of it these cells.
fn own<const N: usize>(socket: &impl AsRawFd, names: [&str; N]) -> [String; N] {
    let pid = i64::from(std::process::id());
    let rows = rows(Families::all(), &[("pid", pid), ("fd", socket.as_raw_fd().into())]);
    assert_eq!(rows.len(), 1, "{rows:?}");
    names.map(|name| cell(&rows[0], name).to_owned())
}

const ENDS: [&str; 7] =
    ["family", "protocol", "local_address", "local_port", "remote_address", "remote_port", "state"];

#[test]
fn a_tcp_connection_is_shown_from_both_ends_and_its_listener_too() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (other, from) = listener.accept().unwrap();
    let from = from.port().to_string();
    let here = "127.0.0.1";
    assert_eq!(own(&listener, ENDS), ["2", "6", here, &port, "0.0.0.0", "0", "LISTEN"]);
    assert_eq!(own(&one, ENDS), ["2", "6", here, &from, here, &port, "ESTABLISHED"]);
    assert_eq!(own(&other, ENDS), ["2", "6", here, &port, here, &from, "ESTABLISHED"]);
    assert_eq!(own(&one, ["path", "type", "owner_unknown"]), ["", "1", ""]);
}

#[test]
fn a_udp_socket_of_ipv6_has_its_address_and_no_state() {
    let socket = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
    let port = socket.local_addr().unwrap().port().to_string();
    assert_eq!(own(&socket, ENDS), ["10", "17", "::1", &port, "::", "0", ""]);
}

#[test]
fn the_ends_of_a_unix_pair_name_each_other() {
    let (one, other) = UnixStream::pair().unwrap();
    let [first, first_peer] = own(&one, ["socket", "peer_socket"]);
    let [second, second_peer] = own(&other, ["socket", "peer_socket"]);
    assert_eq!((first_peer, second_peer), (second, first));
    assert_eq!(own(&one, ["family", "protocol", "path", "state"]), ["1", "0", "", ""]);
}

#[test]
fn a_unix_listener_has_its_path() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    assert_eq!(own(&listener, ["path"]), [path.to_str().unwrap()]);
}

#[test]
fn every_process_that_holds_a_socket_has_a_row() {
    let (one, _other) = UnixStream::pair().unwrap();
    let [handle] = own(&one, ["socket"]);
    let shared = Stdio::from(std::os::fd::OwnedFd::from(one.try_clone().unwrap()));
    let mut child = Command::new("sleep").arg("600").stdin(shared).spawn().unwrap();
    let rows = rows(Families::all(), &[("socket", handle.parse().unwrap())]);
    child.kill().unwrap();
    child.wait().unwrap();
    let holders: Vec<&str> = rows.iter().map(|row| cell(row, "pid")).collect();
    let (us, them) = (std::process::id().to_string(), child.id().to_string());
    assert!(holders.contains(&&*us) && holders.contains(&&*them), "{holders:?}");
}

/// The lists of the kernel: macOS 27 does not show them to everybody.
#[test]
fn a_connection_that_nobody_has_accepted_is_in_the_accept_queue() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = i64::from(listener.local_addr().unwrap().port());
    let _waiting = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let rows = rows(Families::all(), &[("pid", -1), ("local_port", port)]);
    if rows.is_empty() {
        support::left_out::say_left_out("the accept queue", "the kernel does not show its lists");
        return;
    }
    let why: Vec<&str> = rows.iter().map(|row| cell(row, "owner_unknown")).collect();
    assert_eq!(why, ["accept_queue"]);
}

/// What only the lists tell: the same caution.
#[test]
fn a_listener_waits_with_its_queue_and_its_user() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let _waiting = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let [waiting, room, uid, last] = own(&listener, ["rx_queue", "tx_queue", "uid", "last_pid"]);
    assert_eq!(waiting, "1");
    assert_ne!(room, "NULL");
    if uid == "NULL" {
        support::left_out::say_left_out("uid and last_pid", "the kernel does not show its lists");
        return;
    }
    assert_eq!(uid, rustix::process::getuid().as_raw().to_string());
    assert_eq!(last, std::process::id().to_string());
}
