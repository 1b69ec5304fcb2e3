//! Published queries in their usual form, a join with osquery's `processes`, and with the process columns instead.
//!
//! Both run through the stand-in core, whose `processes` reads the same files as osquery's.

use std::net::TcpListener;
use std::time::Instant;

use super::median;
use super::support::core::Core;
use super::support::process::Extension;
use super::support::waiting::{Waiting, wait_for_end};

/// The rounds of each query: a join can take long.
const ROUNDS: usize = 3;
/// The number of processes that listen, each on one port.
const LISTENERS: usize = 30;
/// The name of the extension.
const NAME: &str = "process_open_sockets";

/// What a query asks, with the join, and without.
const QUERIES: [(&str, &str, &str); 3] = [
    (
        "listeners with their process",
        "SELECT DISTINCT p.name AS name, s.local_address, s.local_port, p.pid AS pid
         FROM processes p JOIN alt_process_open_sockets s USING (pid) WHERE s.state = 'LISTEN'",
        "SELECT DISTINCT process_name AS name, local_address, local_port, pid
         FROM alt_process_open_sockets WHERE state = 'LISTEN' AND pid > 0",
    ),
    (
        "connections to unusual ports, with command line",
        "SELECT s.pid AS pid, p.path AS path, p.cmdline AS cmdline, s.remote_address, s.remote_port
         FROM alt_process_open_sockets s JOIN processes p USING (pid)
         WHERE s.family = 2 AND s.state = 'ESTABLISHED' AND s.remote_port NOT IN (80, 443)",
        "SELECT pid, process_path AS path, process_cmdline AS cmdline, remote_address, remote_port
         FROM alt_process_open_sockets
         WHERE family = 2 AND state = 'ESTABLISHED' AND remote_port NOT IN (80, 443) AND pid > 0",
    ),
    (
        "IPv4 sockets of each control group",
        "SELECT p.cgroup_path AS cgroup_path, count(*) AS sockets
         FROM processes p JOIN alt_process_open_sockets s USING (pid) WHERE s.family = 2
         GROUP BY p.cgroup_path",
        "SELECT process_cgroup_path AS cgroup_path, count(*) AS sockets
         FROM alt_process_open_sockets WHERE pid > 0 AND family = 2 GROUP BY process_cgroup_path",
    ),
];

/// Listens until standard input ends.
pub(super) fn listen() {
    let _listener = TcpListener::bind("127.0.0.1:0").unwrap();
    wait_for_end();
}

/// Prints a row for each query; returns whether both forms have equal rows and no join is faster.
pub(super) fn compare() -> bool {
    let _listening: Vec<Waiting> = (0..LISTENERS).map(|_| Waiting::start(&["listen"])).collect();
    let core = Core::stock();
    let _extension = Extension::launch(core.socket(), &["--source=bpf"]);
    core.wait_for(NAME);
    println!("\n| query | join, ms | columns, ms | ratio | rows | |\n|---|---|---|---|---|---|");
    let mut reached = true;
    for (what, join, columns) in QUERIES {
        let mut times = [Vec::new(), Vec::new()];
        let mut answers = [Vec::new(), Vec::new()];
        for _ in 0..ROUNDS {
            for (form, sql) in [join, columns].into_iter().enumerate() {
                let start = Instant::now();
                let mut rows = core.query(sql).unwrap();
                times[form].push(start.elapsed().as_secs_f64() * 1000.0);
                rows.sort();
                answers[form] = rows;
            }
        }
        let ratio = median(times[1].iter().zip(&times[0]).map(|(new, old)| new / old).collect());
        let [join, columns] = times.map(median);
        let (is_equal, rows) = (answers[0] == answers[1], answers[1].len());
        let is_reached = is_equal && ratio <= 1.0;
        reached &= is_reached;
        let verdict = if is_reached { "reached" } else { "**not reached**" };
        println!("| {what} | {join:.1} | {columns:.1} | {ratio:.3} | {rows} | {verdict} |");
    }
    reached
}
