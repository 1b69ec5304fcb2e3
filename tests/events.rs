//! The tables of events and the subcommand `events`, with connections of this test and its children.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "events/command.rs"]
mod command;
#[path = "events/datagrams.rs"]
mod datagrams;
#[path = "events/flood.rs"]
mod flood;
#[path = "events/flows.rs"]
mod flows;
#[path = "events/on_demand.rs"]
mod on_demand;
#[path = "events/packs.rs"]
mod packs;
#[path = "events/published.rs"]
mod published;
#[path = "events/scheduled.rs"]
mod scheduled;
#[path = "events/skipped_runs.rs"]
mod skipped_runs;
mod support;
#[path = "events/transfers.rs"]
mod transfers;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use support::core::{Core, Row};
use support::left_out::report_left_out;
use support::process::Extension;

const NAME: &str = "process_open_sockets";
/// No wait of a test takes this long, unless the test fails.
const TEST_TIMEOUT: Duration = Duration::from_secs(60);
/// The variable with the port to which a child of a test connects.
const CHILD_PORT: &str = "TEST_CHILD_PORT";
/// How often it connects; once without the variable.
const CHILD_TIMES: &str = "TEST_CHILD_TIMES";

/// A core with an extension that collects events from its start on. None if this host forbids that; the test is then
/// reported as left out.
fn collecting(test: &str, flags: &[&str]) -> Option<(Core, Extension)> {
    let core = Core::stock();
    let extension = start(&core, flags);
    is_collecting_or_report(test, &core).then_some((core, extension))
}

/// Starts an extension that collects events and outlives its core.
fn start(core: &Core, flags: &[&str]) -> Extension {
    // Other processes of the host make events, too.
    let flags = [&["--events=on", "--events-max=50000"], flags].concat();
    let extension = Extension::sidecar(core.socket(), &flags);
    core.wait_for(NAME);
    extension
}

fn is_collecting_or_report(test: &str, core: &Core) -> bool {
    let sql = "SELECT value, detail FROM socket_event_stats WHERE kind = 'running'";
    let rows = core.query(sql).unwrap();
    if rows[0]["value"] == "1" {
        return true;
    }
    let is_required = std::env::var("REQUIRE_BPF").is_ok_and(|value| value == "1");
    assert!(!is_required, "REQUIRE_BPF=1: {}", rows[0]["detail"]);
    report_left_out(test, "needs BPF: Linux 5.11 or later, CAP_BPF and CAP_PERFMON");
    eprintln!("{}", rows[0]["detail"]);
    false
}

/// The row of the statistics about this program.
fn program(core: &Core, name: &str) -> Row {
    let sql = format!(
        "SELECT value, detail FROM socket_event_stats WHERE kind = 'program' AND detail LIKE '{name}%'"
    );
    core.query(&sql).unwrap().remove(0)
}

fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// A condition for the rows of TCP sockets of this process over IPv4. Other sockets can have the same port.
fn own_tcp() -> String {
    format!("pid = {} AND family = 2 AND protocol = 6", std::process::id())
}

/// A connection of this process to itself, with 5 bytes one way and 7 bytes the other way: four events, two of each end.
fn connect(listener: &TcpListener) {
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    client.write_all(b"hello").unwrap();
    server.read_exact(&mut [0; 5]).unwrap();
    server.write_all(b"goodbye").unwrap();
    client.read_exact(&mut [0; 7]).unwrap();
    drop(client);
    assert_eq!(server.read(&mut [0; 1]).unwrap(), 0);
}

/// A port of the loopback on which no process listens.
fn closed_port() -> u16 {
    listener().1
}

/// A child that connects to that port, sends 5 bytes and ends.
fn connect_in_child(listener: &TcpListener) -> u32 {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env(CHILD_PORT, listener.local_addr().unwrap().port().to_string())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let (mut server, _) = listener.accept().unwrap();
    let mut text = Vec::new();
    server.read_to_end(&mut text).unwrap();
    assert_eq!(text, b"hello");
    assert!(child.wait().unwrap().success());
    child.id()
}

/// Not a test, but the child of one.
#[test]
fn child() {
    let Ok(port) = std::env::var(CHILD_PORT) else { return };
    if let Ok(times) = std::env::var(CHILD_TIMES) {
        for _ in 0..times.parse().unwrap() {
            let _ = TcpStream::connect(("127.0.0.1", port.parse().unwrap()));
        }
    } else {
        let mut stream = TcpStream::connect(("127.0.0.1", port.parse().unwrap())).unwrap();
        stream.write_all(b"hello").unwrap();
    }
}

/// The rows of a query once there are so many. The kernel can end a connection later than close(2).
fn wait_for_rows(core: &Core, sql: &str, count: usize) -> Vec<Row> {
    let start = Instant::now();
    loop {
        let rows = core.query(sql).unwrap();
        if rows.len() >= count {
            assert_eq!(rows.len(), count, "{rows:?}");
            return rows;
        }
        assert!(start.elapsed() < TEST_TIMEOUT, "{} rows of {count}: {rows:?}", rows.len());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The text of these cells with `|` between.
fn cells(row: &Row, names: &[&str]) -> String {
    names.iter().map(|name| row[*name].as_str()).collect::<Vec<_>>().join("|")
}
