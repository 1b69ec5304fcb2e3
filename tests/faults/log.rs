//! Log lines and their levels.

use std::io::Write;
use std::time::{Duration, Instant};

use crate::support::core::Core;
use crate::support::osquery::{TABLE, registered_message};
use crate::support::proc_tree::{ProcTree, TCP_HEADER, tcp_line};
use crate::support::process::{Extension, command};
use crate::support::wire::{call, connect, exchange, ping};

const NAME: &str = "process_open_sockets";

fn registered() -> String {
    registered_message(TABLE)
}

/// The whole log of an extension that receives two requests with this context.
fn log_of(context: &str, tree: &ProcTree, arguments: &[&str], rust_log: Option<&str>) -> String {
    let core = Core::stock();
    let mut command = command();
    command.arg("--socket").arg(core.socket()).arg("--procfs").arg(tree.path()).args(arguments);
    if let Some(filter) = rust_log {
        command.env("RUST_LOG", filter);
    }
    let extension = Extension::run(&mut command);
    let socket = core.socket_of(core.wait_for(NAME));
    extension.wait_for_log(&registered());
    for _ in 0..2 {
        let request = call("table", TABLE, &[("action", "generate"), ("context", context)]);
        exchange(&socket, &request);
    }
    extension.terminate();
    extension.end().1
}

fn valid_tree() -> ProcTree {
    let lines: String = (0..1000).map(|n| tcp_line(443, &(10_000 + n).to_string())).collect();
    let tree = ProcTree::default().namespace(1).process(1, 1, &[]);
    tree.file(1, "tcp", format!("{TCP_HEADER}{lines}"))
}

#[test]
fn only_the_registration_is_logged_without_faults() {
    assert_eq!(log_of("{}", &valid_tree(), &[], None), registered());
}

#[test]
fn verbose_logs_the_launch_and_the_end_but_no_row() {
    let log = log_of("{}", &valid_tree(), &["--verbose"], None);
    assert!(log.starts_with("process_open_sockets: debug: Launch { socket: Some("), "{log}");
    assert!(log.ends_with("process_open_sockets: debug: received a signal: exiting\n"), "{log}");
    assert!(log.lines().count() < 20, "{log}");
}

#[test]
fn rust_log_raises_the_log_level() {
    let log = log_of("{}", &valid_tree(), &[], Some("debug"));
    assert!(log.contains("debug: received a signal: exiting\n"), "{log}");
}

#[test]
fn rust_log_lowers_the_log_level_despite_verbose() {
    assert_eq!(log_of("{", &valid_tree(), &["--verbose"], Some("error")), registered());
}

#[test]
fn queries_are_answered_after_stderr_is_closed() {
    let core = Core::stock();
    let (reader, stderr) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = command();
    command.arg("--socket").arg(core.socket()).args(["--interval=1", "--verbose"]);
    let mut extension = command.stderr(stderr).spawn().unwrap();
    let uuid = core.wait_for(NAME);
    core.drop_extension(uuid);
    core.wait_for_another(NAME, uuid);
    core.query("SELECT fd FROM alt_process_open_sockets WHERE pid = 1").unwrap();
    rustix::process::kill_process(
        rustix::process::Pid::from_child(&extension),
        rustix::process::Signal::TERM,
    )
    .unwrap();
    assert_eq!(extension.wait().unwrap().code(), Some(0));
}

#[test]
fn a_context_that_is_no_json_is_a_warning_once() {
    let log = log_of("{", &valid_tree(), &[], None);
    let warning = "process_open_sockets: warning: the query context is not JSON: ";
    assert_eq!((log.lines().count(), log.matches(warning).count()), (2, 1), "{log}");
}

#[test]
fn each_omission_kind_is_one_warning_a_query_with_its_count() {
    let mut tree = valid_tree().file(1, "udp", "malformed\nmalformed\n");
    for pid in 2..5 {
        tree = tree.process(pid, 1, &[]).with_unreadable_fds(pid);
    }
    let log = log_of("{}", &tree, &[], None);
    let fds = "warning: processes whose file descriptors could not be read: 3 (first: ";
    let lines = "warning: malformed lines: 2 (first: ";
    let counts = [fds, lines].map(|warning| log.matches(warning).count());
    assert_eq!((counts, log.lines().count()), ([1, 1], 3), "{log}");
}

/// Sends requests and reads no answer: the extension blocks when the buffers of the connection are full.
fn flood(stream: &mut std::os::unix::net::UnixStream) {
    let pings: Vec<u8> = (0..1000).flat_map(ping).collect();
    stream.set_nonblocking(true).unwrap();
    while stream.write(&pings).is_ok() {}
}

#[test]
fn a_connection_beyond_the_64_busy_ones_is_closed_and_logged() {
    let core = Core::stock();
    let extension = Extension::launch::<&str>(core.socket(), &[]);
    let socket = core.socket_of(core.wait_for(NAME));
    extension.wait_for_log(&registered());
    let refused = "process_open_sockets: warning: all 64 connections wait for answers: a new connection was \
                   closed; find the clients of the extension's socket\n";
    let start = Instant::now();
    let mut clients = Vec::new();
    while !extension.log().contains(refused) {
        assert!(start.elapsed() < Duration::from_secs(60), "{}", extension.log());
        clients.push(connect(&socket));
        // The extension closes an idle connection for a new one; a blocked one stays.
        clients.iter_mut().for_each(flood);
    }
    assert!(clients.len() > 64);
    // Further closed connections are only counted.
    for _ in 0..10 {
        assert_eq!(exchange(&socket, b""), b"");
    }
    assert_eq!(extension.log().matches("connections wait for answers").count(), 1);
}
