//! The packs: their format, and an answer to every query.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;
use support::left_out::report_left_out;

const PACK: &str = include_str!("../packaging/packs/process_open_sockets.conf");
#[cfg(target_os = "linux")]
const EVENTS: &str = include_str!("../packaging/packs/socket_events.conf");

fn queries() -> BTreeMap<String, Value> {
    queries_of(PACK)
}

fn queries_of(pack: &str) -> BTreeMap<String, Value> {
    let pack: Value = serde_json::from_str(pack).expect("a pack is JSON");
    let queries = pack["queries"].as_object().expect("queries by name");
    queries.iter().map(|(name, query)| (name.clone(), query.clone())).collect()
}

fn answer(sql: &str) -> Vec<BTreeMap<String, String>> {
    let output = Command::new(env!("CARGO_BIN_EXE_process_open_sockets"))
        .env_remove("PROCESS_OPEN_SOCKETS_PROCFS")
        .args(["query", "--json", sql])
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{sql}: {errors}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn sql(name: &str) -> String {
    queries()[name]["query"].as_str().unwrap().to_owned()
}

#[test]
fn the_pack_has_three_queries_with_all_required_keys() {
    let queries = queries();
    let names: Vec<&str> = queries.keys().map(String::as_str).collect();
    assert_eq!(names, ["exposed_listeners", "packet_capture", "shared_sockets"]);
    for (name, query) in queries {
        assert!(query["interval"].as_u64().is_some_and(|seconds| seconds >= 60), "{name}");
        assert!(query["description"].is_string() && query["value"].is_string(), "{name}");
    }
}

/// The statement on one line, with the name that the table has in osqueryi without osquery's own.
fn on_one_line(sql: &str) -> String {
    let words = sql.replace("alt_process_open_sockets", "process_open_sockets");
    words.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn readme_and_docs_have_the_pack_s_query_of_exposed_listeners() {
    let query = on_one_line(&sql("exposed_listeners"));
    for page in [include_str!("../README.md"), include_str!("../docs/columns.md")] {
        assert!(on_one_line(page).contains(&query), "{query}");
    }
}

#[test]
fn exposed_listeners_are_those_that_are_not_on_the_loopback() {
    let outside = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let inside = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let udp = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    let rows = answer(&sql("exposed_listeners"));
    let found = |listener: &std::net::TcpListener| {
        let port = listener.local_addr().unwrap().port().to_string();
        let pid = std::process::id().to_string();
        // The UDP socket can have the same port.
        let is_found = |row: &&BTreeMap<String, String>| {
            row["local_port"] == port && row["pid"] == pid && row["protocol"] == "6"
        };
        rows.iter().filter(is_found).count()
    };
    let port = outside.local_addr().unwrap().port();
    let own = answer(&format!(
        "SELECT scope FROM process_open_sockets WHERE pid = {} AND local_port = {port}",
        std::process::id()
    ));
    if own[0]["scope"] != "1" {
        let test = "exposed_listeners_are_those_that_are_not_on_the_loopback";
        return report_left_out(test, "scope = 1: this is not the host's network namespace");
    }
    let is_udp = |row: &&BTreeMap<String, String>| {
        row["local_port"] == udp.local_addr().unwrap().port().to_string() && row["protocol"] == "17"
    };
    assert_eq!((found(&outside), found(&inside)), (1, 0), "{rows:?}");
    let name = std::fs::read_to_string("/proc/self/comm").unwrap();
    let row = rows.iter().find(is_udp).expect("the UDP socket");
    assert_eq!(row["process_name"], name.trim_end());
}

#[test]
fn shared_sockets_are_those_that_a_child_holds_too() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let mut child = Command::new("sleep")
        .arg("60")
        .stdin(std::os::fd::OwnedFd::from(listener.try_clone().unwrap()))
        .spawn()
        .unwrap();
    let rows = answer(&sql("shared_sockets"));
    child.kill().unwrap();
    child.wait().unwrap();
    let (me, child) = (std::process::id().to_string(), child.id().to_string());
    let pids_of = |row: &BTreeMap<String, String>| -> Vec<String> {
        row["pids"].split(',').map(str::to_owned).collect()
    };
    let is_mine =
        |row: &&BTreeMap<String, String>| row["local_port"] == port && pids_of(row).contains(&me);
    let row = rows.iter().find(is_mine).expect("the shared listener");
    let pids = pids_of(row);
    assert!(pids.contains(&child), "{row:?}");
    // A child of another test also holds the listener, between fork and exec.
    assert_eq!(row["holders"], pids.len().to_string());
}

#[test]
fn packet_capture_is_answered() {
    let rows = answer(&sql("packet_capture"));
    assert!(rows.iter().all(|row| row.contains_key("pid") && row.contains_key("protocol")));
}

#[test]
#[cfg(target_os = "linux")]
fn the_pack_of_events_logs_no_removed_rows() {
    let pack: Value = serde_json::from_str(EVENTS).unwrap();
    assert_eq!(pack["platform"], "linux");
    let queries = queries_of(EVENTS);
    assert_eq!(queries.len(), 9);
    for (name, query) in queries {
        // A snapshot logs all its rows, and none as removed.
        let is_snapshot = query["snapshot"] == true;
        assert!(is_snapshot || query["removed"] == false, "{name}");
        assert!(
            query["interval"].as_u64().is_some_and(|seconds| (60..=3600).contains(&seconds)),
            "{name}"
        );
        assert!(query["description"].is_string() && query["value"].is_string(), "{name}");
        // A single query has no events, but it is valid SQL.
        answer(query["query"].as_str().unwrap());
    }
}
