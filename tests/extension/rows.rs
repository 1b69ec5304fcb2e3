//! Rows of queries: scenarios for the stand-in core and for a real osqueryi.

use std::collections::BTreeSet;
use std::net::{TcpListener, TcpStream};

use crate::support::core::Row;
use crate::support::osquery::{Osquery, everywhere};

fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// The pid of this process. Between fork and exec, a child of another test holds the sockets of this process, too. Tests
/// of other columns use `+pid`: SQLite then removes the rows of such a child, and the table gets no constraint.
fn own_pid() -> u32 {
    std::process::id()
}

fn row(pairs: &[(&str, &str)]) -> Row {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn a_listener_is_found_with_all_its_columns() {
    use std::os::fd::AsRawFd;
    let (listener, port) = listener();
    let fd = listener.as_raw_fd();
    let link = |path: String| std::fs::read_link(path).unwrap().display().to_string();
    let number = |link: String| link.replace(|c: char| !c.is_ascii_digit(), "");
    let socket = number(link(format!("/proc/self/fd/{fd}")));
    let namespace = link("/proc/self/ns/net".to_owned());
    let namespace = namespace.trim_start_matches("net:[").trim_end_matches(']').to_owned();
    everywhere(|osquery| {
        let rows = osquery.rows(&format!(
            "SELECT * FROM alt_process_open_sockets WHERE pid = {} AND local_port = {port} \
             AND state = 'LISTEN'",
            own_pid()
        ));
        let expected = row(&[
            ("pid", &own_pid().to_string()),
            ("fd", &fd.to_string()),
            ("socket", &socket),
            ("family", "2"),
            ("protocol", "6"),
            ("local_address", "127.0.0.1"),
            ("remote_address", "0.0.0.0"),
            ("local_port", &port.to_string()),
            ("remote_port", "0"),
            ("path", ""),
            ("state", "LISTEN"),
            ("net_namespace", &namespace),
        ]);
        assert_eq!(rows, [expected]);
    });
}

#[test]
fn every_member_of_a_list_is_found() {
    let listeners: Vec<_> = (0..3).map(|_| listener()).collect();
    let ports: Vec<String> = listeners.iter().map(|(_, port)| port.to_string()).collect();
    everywhere(|osquery| {
        let rows = osquery.rows(&format!(
            "SELECT local_port FROM alt_process_open_sockets \
             WHERE local_port IN ({}) AND state = 'LISTEN' AND +pid = {}",
            ports.join(", "),
            own_pid()
        ));
        let found: BTreeSet<&String> = rows.iter().map(|row| &row["local_port"]).collect();
        assert_eq!((rows.len(), found), (3, ports.iter().collect()));
    });
}

#[test]
fn an_or_across_columns_loses_no_row() {
    let (first, a) = listener();
    let (_second, b) = listener();
    let client = TcpStream::connect(("127.0.0.1", a)).unwrap();
    let (_server, _) = first.accept().unwrap();
    let from = client.local_addr().unwrap().port();
    let mut expected = [(a, 0), (a, from), (b, 0), (from, a)]
        .map(|(local, remote)| (local.to_string(), remote.to_string()));
    expected.sort_unstable();
    everywhere(|osquery| {
        let rows = osquery.rows(&format!(
            "SELECT local_port, remote_port FROM alt_process_open_sockets \
             WHERE (local_port = {a} OR remote_port = {a} OR local_port = {b}) AND +pid = {}",
            own_pid()
        ));
        let mut ports: Vec<(String, String)> = rows
            .into_iter()
            .map(|row| (row["local_port"].clone(), row["remote_port"].clone()))
            .collect();
        ports.sort_unstable();
        assert_eq!(ports, expected);
        if let Osquery::StandIn { core, .. } = osquery {
            assert!(core.take_requests().len() > 1, "there was no request for each branch");
        }
    });
}

#[test]
fn rowids_are_unique_and_stay() {
    let listeners: Vec<_> = (0..20).map(|_| listener()).collect();
    let ports: Vec<String> = listeners.iter().map(|(_, port)| port.to_string()).collect();
    let sql = |operand: &str| {
        format!(
            "SELECT rowid, local_port FROM alt_process_open_sockets \
             WHERE {operand} AND local_port IN ({}) AND state = 'LISTEN' AND +pid = {} \
             ORDER BY local_port",
            ports.join(", "),
            own_pid()
        )
    };
    let osquery = Osquery::stand_in();
    let first = osquery.rows(&sql("pid >= 0"));
    let ids: BTreeSet<&String> = first.iter().map(|row| &row["rowid"]).collect();
    assert_eq!((first.len(), ids.len()), (20, 20));
    assert_eq!(osquery.rows(&sql(&format!("pid = {}", own_pid()))), first);
}

#[test]
fn a_join_with_processes_names_the_holder() {
    let (_listener, port) = listener();
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let name = &stat[stat.find('(').unwrap() + 1..stat.rfind(')').unwrap()];
    everywhere(|osquery| {
        for from in [
            "processes p JOIN alt_process_open_sockets s USING (pid)",
            "alt_process_open_sockets s JOIN processes p USING (pid)",
        ] {
            let rows = osquery.rows(&format!(
                "SELECT p.pid, p.name FROM {from} \
                 WHERE s.local_port = {port} AND s.state = 'LISTEN' AND +s.pid = {}",
                own_pid()
            ));
            assert_eq!(rows, [row(&[("pid", &own_pid().to_string()), ("name", name)])], "{from}");
        }
    });
}

#[test]
fn a_self_join_finds_both_ends() {
    let (listener, port) = listener();
    let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let (_server, _) = listener.accept().unwrap();
    let from = client.local_addr().unwrap().port();
    everywhere(|osquery| {
        let rows = osquery.rows(&format!(
            "SELECT a.local_port AS here, b.local_port AS there \
             FROM alt_process_open_sockets a JOIN alt_process_open_sockets b \
             ON a.local_port = b.remote_port AND a.remote_port = b.local_port \
             WHERE a.family = 2 AND a.local_port = {port} AND a.state = 'ESTABLISHED' \
             AND +a.pid = {0} AND +b.pid = {0}",
            own_pid()
        ));
        assert_eq!(rows, [row(&[("here", &port.to_string()), ("there", &from.to_string())])]);
    });
}

#[test]
fn a_limit_only_truncates_the_answer() {
    let _listeners: Vec<_> = (0..4).map(|_| listener()).collect();
    everywhere(|osquery| {
        let rows = osquery.rows(&format!(
            "SELECT fd FROM alt_process_open_sockets \
             WHERE pid = {} AND state = 'LISTEN' LIMIT 3",
            own_pid()
        ));
        assert_eq!(rows.len(), 3);
        let rows = osquery.rows(&format!(
            "SELECT fd FROM alt_process_open_sockets \
             WHERE pid = {} AND state = 'LISTEN' LIMIT 1 OFFSET 2",
            own_pid()
        ));
        assert_eq!(rows.len(), 1);
    });
}

#[test]
fn a_count_counts() {
    let listeners: Vec<_> = (0..5).map(|_| listener()).collect();
    let ports: Vec<String> = listeners.iter().map(|(_, port)| port.to_string()).collect();
    everywhere(|osquery| {
        let rows = osquery.rows(&format!(
            "SELECT count(*) AS n FROM alt_process_open_sockets \
             WHERE local_port IN ({}) AND state = 'LISTEN' AND +pid = {}",
            ports.join(", "),
            own_pid()
        ));
        assert_eq!(rows, [row(&[("n", "5")])]);
        let own = osquery.rows(&format!(
            "SELECT count(*) AS n FROM alt_process_open_sockets WHERE pid = {}",
            own_pid()
        ));
        assert!(own[0]["n"].parse::<u32>().unwrap() >= 5);
    });
}

#[test]
fn a_wrong_table_name_is_the_core_s_error() {
    everywhere(|osquery| {
        let error = osquery.query("SELECT * FROM alt_process_open_socket").unwrap_err();
        assert!(error.contains("no such table: alt_process_open_socket"), "{error}");
    });
}
