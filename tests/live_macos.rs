//! The table on macOS: sockets of the tests, in columns that osquery has and in further ones.

#![cfg(target_os = "macos")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod support;

use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tables::process_open_sockets::ProcessOpenSockets;
use tables::{Constraint, Families, Operator, Options, QueryContext, Table, Value};

/// The rows under these constraints, as cells by column name.
fn rows(families: Families, wanted: &[(&str, i64)]) -> Vec<Vec<(String, String)>> {
    let table = ProcessOpenSockets::new(Options { families, ..Options::default() });
    let columns = table.columns();
    let index_of = |name: &str| columns.iter().position(|column| column.name == name).unwrap();
    let constraint = |&(name, number): &(&str, i64)| Constraint {
        column: index_of(name),
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
        let cell = |(index, column): (usize, &tables::Column)| {
            (column.name.to_string(), text(answer.cell(row, index)))
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

/// These cells of the only row of that descriptor of this process.
fn own<const N: usize>(socket: &impl AsRawFd, names: [&str; N]) -> [String; N] {
    let pid = i64::from(std::process::id());
    let rows = rows(Families::all(), &[("pid", pid), ("fd", socket.as_raw_fd().into())]);
    assert_eq!(rows.len(), 1, "{rows:?}");
    names.map(|name| cell(&rows[0], name).to_owned())
}

/// Reads until the condition holds, for a second at most: the kernel adds a connection to its lists and queues
/// shortly after connect(2) has returned.
fn wait_for<T>(read: impl Fn() -> T, is_complete: impl Fn(&T) -> bool) -> T {
    let end = Instant::now() + Duration::from_secs(1);
    loop {
        let value = read();
        if is_complete(&value) || Instant::now() >= end {
            return value;
        }
        thread::sleep(Duration::from_millis(20));
    }
}

const ENDS: [&str; 7] =
    ["family", "protocol", "local_address", "local_port", "remote_address", "remote_port", "state"];

#[test]
fn a_tcp_connection_shows_both_ends_and_the_listener() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (other, from) = listener.accept().unwrap();
    let from = from.port().to_string();
    let here = "127.0.0.1";
    assert_eq!(own(&listener, ENDS), ["2", "6", here, &port, "0.0.0.0", "0", "LISTEN"]);
    assert_eq!(own(&one, ENDS), ["2", "6", here, &from, here, &port, "ESTABLISHED"]);
    assert_eq!(own(&other, ENDS), ["2", "6", here, &port, here, &from, "ESTABLISHED"]);
    assert_eq!(own(&one, ["path", "socket_type", "holder_unknown"]), ["", "1", ""]);
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

/// Tests the lists of the kernel, which macOS 27 does not show to all processes.
#[test]
fn a_connection_before_accept_is_in_the_accept_queue() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = i64::from(listener.local_addr().unwrap().port());
    let _waiting = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let read = || rows(Families::all(), &[("pid", -1), ("local_port", port)]);
    let rows = wait_for(read, |rows| !rows.is_empty());
    if rows.is_empty() {
        support::left_out::report_left_out(
            "the accept queue",
            "the kernel does not show its lists",
        );
        return;
    }
    let why: Vec<&str> = rows.iter().map(|row| cell(row, "holder_unknown")).collect();
    assert_eq!(why, ["accept_queue"]);
}

/// Tests the columns that only the lists of the kernel have.
#[test]
fn a_listener_waits_with_its_queue_and_its_user() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let _waiting = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let read = || own(&listener, ["rx_queue", "tx_queue", "socket_uid", "last_pid"]);
    let [waiting, room, uid, last] = wait_for(read, |[waiting, ..]| waiting == "1");
    assert_eq!(waiting, "1");
    assert_ne!(room, "NULL");
    if uid == "NULL" {
        support::left_out::report_left_out(
            "uid and last_pid",
            "the kernel does not show its lists",
        );
        return;
    }
    assert_eq!(uid, rustix::process::getuid().as_raw().to_string());
    assert_eq!(last, std::process::id().to_string());
}

/// The program, without settings from the environment of the tests.
fn program() -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_process_open_sockets"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PROCESS_OPEN_SOCKETS_") {
            program.env_remove(name);
        }
    }
    program
}

/// The output of a command that succeeds.
#[cfg(feature = "shell")]
fn printed(arguments: &[&str]) -> String {
    let output = program().args(arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[cfg(feature = "shell")]
#[test]
fn the_program_answers_sql_without_a_flag() {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let (pid, fd) = (std::process::id(), socket.as_raw_fd());
    let port = socket.local_addr().unwrap().port();
    for name in ["process_open_sockets", "alt_process_open_sockets"] {
        let sql = format!("SELECT local_port FROM {name} WHERE pid = {pid} AND fd = {fd}");
        assert_eq!(printed(&["query", "--list", "--noheader", &sql]), format!("{port}\n"));
    }
    let all = "SELECT count(*) > 0 FROM process_open_sockets";
    assert_eq!(printed(&["query", "--list", "--noheader", all]), "1\n");
}

#[cfg(feature = "shell")]
#[test]
fn the_program_prints_its_schema_without_a_flag() {
    let schema = printed(&["schema"]);
    assert!(schema.contains(r#""last_pid" INTEGER HIDDEN"#), "{schema}");
}

/// osqueryd passes its flags to the extension: here those of an osquery that does not run.
#[test]
fn the_program_starts_as_an_extension_and_misses_osquery_only() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("no-osquery.em");
    let output = program()
        .env("OSQUERY_EXTENSION", std::process::id().to_string())
        .args(["--timeout", "0", "--interval", "1", "--socket"])
        .arg(&socket)
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains(socket.to_str().unwrap()), "{stderr}");
    assert_ne!(output.status.code(), Some(2), "{stderr}");
}

#[test]
fn flags_for_linux_do_not_exist_on_macos() {
    for flag in ["--procfs=/", "--source=auto", "--snapshot-ttl-ms=0", "--threads"] {
        let output = program().args([flag, "--version"]).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{flag}");
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(stderr.contains("unexpected argument"), "{flag}: {stderr}");
    }
}
