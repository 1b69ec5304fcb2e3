//! Requests of the core to the extension, and their answers.

use crate::support::core::{Core, Request};
use crate::support::osquery::{Osquery, TABLE};
use crate::support::process::Extension;
use crate::support::remote;
use crate::support::sql::request;
use tables::process_open_sockets::ProcessOpenSockets;
use tables::{Options, Table};

const ALL: [&str; 12] = [
    "family",
    "fd",
    "local_address",
    "local_port",
    "net_namespace",
    "path",
    "pid",
    "protocol",
    "remote_address",
    "remote_port",
    "socket",
    "state",
];

fn expected(constraints: &[(&str, u64, &str)], used: &[&str]) -> Request {
    Request {
        table: TABLE.to_owned(),
        action: "generate".to_owned(),
        constraints: constraints
            .iter()
            .map(|(column, operator, text)| ((*column).to_owned(), *operator, (*text).to_owned()))
            .collect(),
        columns_used: Some(used.iter().map(|name| (*name).to_owned()).collect()),
    }
}

/// The requests that a query makes.
#[track_caller]
fn requests(sql: &str) -> Vec<Request> {
    let Osquery::StandIn { core, extension: _extension } = Osquery::stand_in_over_captured() else {
        unreachable!()
    };
    core.query(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
    core.take_requests()
}

#[test]
fn a_query_without_a_constraint_is_one_request() {
    assert_eq!(requests("SELECT * FROM alt_process_open_sockets"), [expected(&[], &ALL)]);
}

#[test]
fn a_list_arrives_whole() {
    assert_eq!(
        requests("SELECT fd FROM alt_process_open_sockets WHERE pid IN (1, 2, 400)"),
        [expected(&[("pid", 2, "1"), ("pid", 2, "2"), ("pid", 2, "400")], &["fd", "pid"])]
    );
}

#[test]
fn an_or_is_a_request_a_branch() {
    assert_eq!(
        requests("SELECT * FROM alt_process_open_sockets WHERE pid = 1 OR local_port = 443"),
        [expected(&[("pid", 2, "1")], &ALL), expected(&[("local_port", 2, "443")], &ALL)]
    );
}

#[test]
fn a_count_uses_no_column() {
    assert_eq!(requests("SELECT count(*) FROM alt_process_open_sockets"), [expected(&[], &[])]);
}

#[test]
fn a_limit_is_a_constraint_of_the_first_column() {
    assert_eq!(
        requests("SELECT * FROM alt_process_open_sockets WHERE pid > 1000 LIMIT 5"),
        [expected(&[("pid", 4, "1000"), ("pid", 73, "5")], &ALL)]
    );
}

#[test]
fn a_filtered_join_with_processes_is_one_request() {
    assert_eq!(
        requests(
            "SELECT p.name, s.remote_address \
             FROM processes p JOIN alt_process_open_sockets s USING (pid) \
             WHERE s.remote_port > 0 AND s.state = 'ESTABLISHED'"
        ),
        [expected(
            &[("remote_port", 4, "0"), ("state", 2, "ESTABLISHED")],
            &["pid", "remote_address", "remote_port", "state"]
        )]
    );
}

#[test]
fn the_columns_are_requested_first_while_a_query_runs() {
    let Osquery::StandIn { core, extension: _extension } = Osquery::stand_in_over_captured() else {
        unreachable!()
    };
    let _busy = core.busy();
    core.query("SELECT count(*) FROM alt_process_open_sockets").unwrap();
    let actions: Vec<_> = core.take_requests().into_iter().map(|request| request.action).collect();
    assert_eq!(actions, ["columns", "generate"]);
}

#[test]
fn a_context_that_cannot_be_read_is_still_answered() {
    let Osquery::StandIn { core, extension } = Osquery::stand_in_over_captured() else {
        unreachable!()
    };
    let socket = core.socket_of(core.wait_for("process_open_sockets"));
    // The columns, and the row id.
    let cells = ProcessOpenSockets::new(Options::default()).columns().len() + 1;
    for context in ["", "{", "[]", "null", "\u{0}", &"[".repeat(10_000)] {
        let action = ("action", "generate");
        let rows = remote::call(&socket, TABLE, request([action, ("context", context)])).unwrap();
        assert!(!rows.is_empty(), "{context:?}");
        assert!(rows.iter().all(|row| row.len() == cells), "{context:?}");
    }
    let log = extension.log();
    assert_eq!(log.matches("the query context").count(), 1, "{log}");
}

#[test]
fn an_unknown_action_and_an_unknown_table_are_refused() {
    let core = Core::stock();
    let _extension = Extension::launch::<&str>(core.socket(), &[]);
    let socket = core.socket_of(core.wait_for("process_open_sockets"));
    assert!(remote::call(&socket, TABLE, request([("action", "explode")])).is_err());
    assert!(remote::call(&socket, "missing", request([("action", "columns")])).is_err());
    assert_eq!(remote::ping(&socket), Ok(()));
}
