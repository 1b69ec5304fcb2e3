//! Scheduled queries: what osquery's differential log gets.

use std::collections::BTreeMap;

use crate::support::core::{Core, Row};
use crate::support::process::Extension;
use crate::*;

/// A scheduled query. Like osquery, it keeps the previous rows and logs the difference.
struct Scheduled {
    sql: String,
    previous: Vec<Row>,
    added: Vec<Row>,
}

impl Scheduled {
    fn new(sql: String) -> Scheduled {
        Scheduled { sql, previous: Vec::new(), added: Vec::new() }
    }

    /// Runs the query and logs the rows that are new; returns how many rows there are.
    fn run(&mut self, core: &Core) -> usize {
        let rows = core.query(&self.sql).unwrap();
        let mut known: BTreeMap<&Row, usize> = BTreeMap::new();
        for row in &self.previous {
            *known.entry(row).or_default() += 1;
        }
        let mut is_new = |row: &&Row| match known.get_mut(*row) {
            Some(count) if *count > 0 => {
                *count -= 1;
                false
            }
            _ => true,
        };
        let new: Vec<Row> = rows.iter().filter(|row| is_new(row)).cloned().collect();
        self.added.extend(new);
        self.previous = rows;
        self.previous.len()
    }

    /// Runs the query until there are so many rows.
    fn run_until(&mut self, core: &Core, count: usize) {
        let start = Instant::now();
        while self.run(core) < count {
            assert!(start.elapsed() < TEST_TIMEOUT, "{} rows of {count}", self.previous.len());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// How many events were logged, and how many different ones.
    fn logged(&self) -> (usize, usize) {
        let mut ids: Vec<&String> = self.added.iter().map(|row| &row["eid"]).collect();
        ids.sort();
        ids.dedup();
        (self.added.len(), ids.len())
    }
}

#[test]
fn scheduled_queries_log_each_event_once_over_restarts() {
    let test = "scheduled_queries_log_each_event_once_over_restarts";
    let Some((core, extension)) = collecting(test, &[]) else { return };
    let (listener, port) = listener();
    // Without the list of open sockets, it is unknown after the restart which process has the listener.
    let unknown = if program(&core, "open sockets")["value"] == "1" { "" } else { ", -1" };
    let ends = format!(
        "pid IN ({}{unknown}) AND family = 2 AND protocol = 6 AND {port} IN (local_port, remote_port) AND action <> 'listen'",
        std::process::id()
    );
    let mut all = Scheduled::new(format!("SELECT *, eid FROM process_socket_events WHERE {ends}"));
    let mut few = Scheduled::new(format!(
        "SELECT eid, time, action, process_path, process_cmdline, bytes_sent, duration_ns \
         FROM process_socket_events WHERE {ends} AND action IN ('connect', 'close')"
    ));
    for round in 1..=3 {
        connect(&listener);
        connect(&listener);
        all.run_until(&core, 8 * round);
        if round != 2 {
            few.run_until(&core, 6 * round);
        }
    }
    assert_eq!((all.logged(), few.logged()), ((24, 24), (18, 18)));

    // The core restarts. Events in between are not lost.
    let dir = core.crash();
    extension.wait_for_log(": waiting for it\n");
    connect(&listener);
    let core = Core::start(dir, &[NAME]);
    core.wait_for(NAME);
    all.run_until(&core, 28);
    few.run_until(&core, 21);
    assert_eq!((all.logged(), few.logged()), ((28, 28), (21, 21)));

    // The extension is killed and starts again. Its events are lost, and no later one.
    let uuid = core.uuid_of(NAME).unwrap();
    extension.send(rustix::process::Signal::KILL);
    drop(extension);
    core.drop_extension(uuid);
    let extension = start(&core, &[]);
    connect(&listener);
    all.run_until(&core, 4);
    few.run_until(&core, 3);
    all.run(&core);
    assert_eq!((all.logged(), few.logged()), ((32, 32), (24, 24)));
    end(extension);
}

fn end(extension: Extension) {
    extension.terminate();
    let (status, log) = extension.end();
    assert_eq!(status.code(), Some(0), "{log}");
}

#[test]
fn a_short_process_is_shown_after_its_end_with_all_cells() {
    let test = "a_short_process_is_shown_after_its_end_with_all_cells";
    let Some((core, _extension)) = collecting(test, &[]) else { return };
    let (listener, port) = listener();
    let child = connect_in_child(&listener);
    let sql = format!(
        "SELECT *, attribution FROM process_socket_events WHERE remote_port = {port} ORDER BY eid"
    );
    let rows = wait_for_rows(&core, &sql, 2);
    let executable = std::env::current_exe().unwrap().display().to_string();
    let names = [
        "action",
        "status",
        "errno",
        "pid",
        "parent",
        "process_path",
        "family",
        "type",
        "protocol",
        "local_address",
        "remote_address",
        "bytes_sent",
        "bytes_received",
        "closed_by",
        "attribution",
    ];
    let me = std::process::id();
    let expected = |action, end| {
        format!(
            "{action}|succeeded||{child}|{me}|{executable}|2|1|6|127.0.0.1|127.0.0.1|{end}|exact"
        )
    };
    assert_eq!(cells(&rows[0], &names), expected("connect", "||"));
    assert_eq!(cells(&rows[1], &names), expected("close", "5|0|local"));
    let duration = |row: usize| rows[row]["duration_ns"].parse::<u64>().unwrap();
    assert!(0 < duration(0) && duration(0) < duration(1), "{} {}", duration(0), duration(1));
    assert_eq!(rows[0]["local_port"], rows[1]["local_port"]);
}

#[test]
fn a_listener_and_its_connections_are_shown() {
    let test = "a_listener_and_its_connections_are_shown";
    let Some((core, _extension)) = collecting(test, &[]) else { return };
    let (listener, port) = listener();
    connect(&listener);
    let refused = closed_port();
    assert!(TcpStream::connect(("127.0.0.1", refused)).is_err());
    drop(listener);
    let sql = format!(
        "SELECT *, attribution FROM process_socket_events \
         WHERE {} AND (local_port = {port} OR remote_port IN ({port}, {refused})) ORDER BY eid",
        own_tcp()
    );
    // The last of them: a connect that is refused, and the end of the listener.
    let rows = wait_for_rows(&core, &sql, 7);
    let names =
        ["action", "status", "errno", "bytes_sent", "bytes_received", "closed_by", "attribution"];
    let mut shown: Vec<String> = rows.iter().map(|row| cells(row, &names)).collect();
    shown.sort();
    assert_eq!(
        shown,
        [
            "accept|succeeded|||||listener",
            "close|succeeded||5|7|local|exact",
            "close|succeeded||7|5|remote|exact",
            "close|succeeded||||local|exact",
            "connect|failed|ECONNREFUSED||||exact",
            "connect|succeeded|||||exact",
            "listen|succeeded|||||exact",
        ]
    );
}
