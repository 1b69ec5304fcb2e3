//! What is logged, and how loud.

use std::io::Write;
use std::time::{Duration, Instant};

use crate::support::core::Core;
use crate::support::osquery::TABLE;
use crate::support::proc_tree::{ProcTree, TCP_HEADER, tcp_line};
use crate::support::process::{Extension, command};
use crate::support::wire::{call, connect, exchange, ping};

const NAME: &str = "process_open_sockets";
const REGISTERED: &str = "process_open_sockets: registered with osquery; the table is named \
                          alt_process_open_sockets\n";

/// All that it says from its start to its end, asked so many times in between.
fn said(context: &str, tree: &ProcTree, arguments: &[&str], rust_log: Option<&str>) -> String {
    let core = Core::stock();
    let mut command = command();
    command.arg("--socket").arg(core.socket()).arg("--procfs").arg(tree.path()).args(arguments);
    if let Some(filter) = rust_log {
        command.env("RUST_LOG", filter);
    }
    let extension = Extension::run(&mut command);
    let socket = core.socket_of(core.wait_for(NAME));
    extension.wait_until_it_says(REGISTERED);
    for _ in 0..2 {
        let request = call("table", TABLE, &[("action", "generate"), ("context", context)]);
        exchange(&socket, &request);
    }
    extension.terminate();
    extension.end().1
}

fn sound() -> ProcTree {
    let lines: String = (0..1000).map(|n| tcp_line(443, &(10_000 + n).to_string())).collect();
    let tree = ProcTree::default().namespace(1).process(1, 1, &[]);
    tree.file(1, "tcp", format!("{TCP_HEADER}{lines}"))
}

#[test]
fn only_the_registration_is_logged_without_faults() {
    assert_eq!(said("{}", &sound(), &[], None), REGISTERED);
}

#[test]
fn verbose_logs_the_launch_and_the_end_but_no_row() {
    let said = said("{}", &sound(), &["--verbose"], None);
    assert!(said.starts_with("process_open_sockets: debug: Launch { socket: Some("), "{said}");
    assert!(said.ends_with("process_open_sockets: debug: ending: a signal came\n"), "{said}");
    assert!(said.lines().count() < 20, "{said}");
}

#[test]
fn rust_log_raises_the_log_level() {
    let said = said("{}", &sound(), &[], Some("debug"));
    assert!(said.contains("debug: ending: a signal came\n"), "{said}");
}

#[test]
fn rust_log_lowers_the_log_level_despite_verbose() {
    assert_eq!(said("{", &sound(), &["--verbose"], Some("error")), REGISTERED);
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
    core.forget(uuid);
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
    let said = said("{", &sound(), &[], None);
    let warning = "process_open_sockets: warning: the query context is not JSON: ";
    assert_eq!((said.lines().count(), said.matches(warning).count()), (2, 1), "{said}");
}

#[test]
fn each_omission_kind_is_one_warning_a_query_with_its_count() {
    let mut tree = sound().file(1, "udp", "nonsense\nnonsense\n");
    for pid in 2..5 {
        tree = tree.process(pid, 1, &[]).with_unreadable_fds(pid);
    }
    let said = said("{}", &tree, &[], None);
    let fds = "warning: processes whose file descriptors could not be read: 3 (first: ";
    let lines = "warning: malformed lines: 2 (first: ";
    let counts = [fds, lines].map(|warning| said.matches(warning).count());
    assert_eq!((counts, said.lines().count()), ([1, 1], 3), "{said}");
}

/// Requests whose answers are not read: the connection waits to send the first that finds no room.
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
    extension.wait_until_it_says(REGISTERED);
    let refused = "process_open_sockets: warning: all 64 connections wait for answers: a new connection was \
                   closed; find the clients of the extension's socket\n";
    let start = Instant::now();
    let mut clients = Vec::new();
    while !extension.said().contains(refused) {
        assert!(start.elapsed() < Duration::from_secs(60), "{}", extension.said());
        clients.push(connect(&socket));
        // A client that was not stuck yet made room for another.
        clients.iter_mut().for_each(flood);
    }
    assert!(clients.len() > 64);
    // More of them are only counted.
    for _ in 0..10 {
        assert_eq!(exchange(&socket, b""), b"");
    }
    assert_eq!(extension.said().matches("connections wait for answers").count(), 1);
}
