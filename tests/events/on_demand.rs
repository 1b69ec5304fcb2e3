//! When events are collected.

use crate::support::core::Core;
use crate::support::process::{Extension, command};
use crate::*;

const STARTS: &str = "the collection of socket events starts with this query, which has no rows";

#[test]
fn on_demand_collects_from_the_first_query_on() {
    let test = "on_demand_collects_from_the_first_query_on";
    if collecting(test, &[]).is_none() {
        return;
    }
    let core = Core::stock();
    let extension = Extension::sidecar(core.socket(), &["--events-idle=2"]);
    core.wait_for(NAME);
    let (listener, port) = listener();
    connect(&listener);
    let sql = format!("SELECT action FROM process_socket_events WHERE remote_port = {port}");
    let running = "SELECT value FROM socket_event_stats WHERE kind = 'running'";
    assert_eq!(core.query(running).unwrap()[0]["value"], "0");
    assert_eq!(core.query(&sql).unwrap(), []);
    extension.wait_for_log(STARTS);
    connect(&listener);
    wait_for_rows(&core, &sql, 2);
    extension.wait_for_log("no query read an event table for 2 s");
    assert_eq!(core.query(running).unwrap()[0]["value"], "0");
    assert_eq!(extension.log().matches(STARTS).count(), 1);
}

#[test]
fn without_bpf_the_table_is_empty_and_the_log_has_one_line() {
    let core = Core::stock();
    let extension = Extension::sidecar(core.socket(), &["--events=on", "--no-bpf"]);
    core.wait_for(NAME);
    for _ in 0..3 {
        assert_eq!(core.query("SELECT * FROM process_socket_events").unwrap(), []);
    }
    let reason =
        "no events are collected, since BPF is disabled by --no-bpf or PROCESS_OPEN_SOCKETS_NO_BPF";
    extension.wait_for_log(reason);
    assert_eq!(extension.log().matches(reason).count(), 1);
    let rows = core.query("SELECT value, detail FROM socket_event_stats LIMIT 1").unwrap();
    assert_eq!(cells(&rows[0], &["value", "detail"]), format!("0|{reason}"));
}

#[test]
fn with_events_off_the_table_is_empty() {
    let core = Core::stock();
    let extension = Extension::sidecar(core.socket(), &["--events=off"]);
    core.wait_for(NAME);
    assert_eq!(core.query("SELECT * FROM process_socket_events").unwrap(), []);
    extension.wait_for_log("no events are collected, since they are disabled by --events off or PROCESS_OPEN_SOCKETS_EVENTS");
}

#[test]
fn a_single_query_of_events_names_the_subcommand() {
    let sql = "SELECT * FROM process_socket_events";
    let output = command().args(["query", "--json", sql]).output().unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(errors.contains("use the subcommand 'events'"), "{errors}");
    assert_eq!((output.status.code(), &*output.stdout), (Some(0), &b"[\n]\n"[..]));
}

#[test]
fn settings_out_of_range_are_errors() {
    for flag in ["--events=maybe", "--events-max=0", "--events-max=50001", "--events-expiry=9"] {
        let (status, log) = Extension::run(command().args(["--socket", "/none", flag])).end();
        assert_eq!(status.code(), Some(2), "{flag}: {log}");
    }
}
