//! The subcommand `events`.

use std::io::{BufRead, BufReader};
use std::process::Child;

use serde_json::Value;

use crate::support::process::command;
use crate::*;

/// Starts the subcommand, and waits until it prints a connection of the test. None if events cannot be collected.
fn printing(test: &str, flags: &[&str]) -> Option<(Child, impl Iterator<Item = String> + use<>)> {
    collecting(test, &[])?;
    let mut command = command();
    command.arg("events").args(flags).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    Some((child, lines))
}

fn send(child: &Child, signal: rustix::process::Signal) {
    rustix::process::kill_process(rustix::process::Pid::from_child(child), signal).unwrap();
}

fn stderr(child: Child) -> (Option<i32>, String) {
    let output = child.wait_with_output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

/// Connects until a line is printed.
fn first_line(listener: &TcpListener, lines: &mut impl Iterator<Item = String>) -> String {
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                connect(listener);
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        let line = lines.next();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        line.expect("a line")
    })
}

#[test]
fn events_are_printed_as_json_until_a_signal() {
    let test = "events_are_printed_as_json_until_a_signal";
    let (listener, port) = listener();
    let (pid, port) = (std::process::id().to_string(), port.to_string());
    let flags = ["--json", "--pid", &pid, "--port", &port];
    let Some((child, mut lines)) = printing(test, &flags) else { return };
    let line = first_line(&listener, &mut lines);
    send(&child, rustix::process::Signal::INT);
    let mut printed = 1;
    for line in [line].into_iter().chain(lines.inspect(|_| printed += 1)) {
        let event: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(event["pid"], pid.as_str());
        assert!(
            [&event["local_port"], &event["remote_port"]].contains(&&Value::from(&*port)),
            "{line}"
        );
        assert!(event["socket_cookie"].is_string() && event["process_path"].is_string());
    }
    let (status, errors) = stderr(child);
    assert_eq!(status, Some(0));
    let is_of_old_kernel = |line: &&str| line.contains("only from Linux 5.12 on");
    let errors: String = errors.split_inclusive('\n').filter(|it| !is_of_old_kernel(it)).collect();
    let (losses, evicted) = errors.split_once(" skipped by the kernel, ").unwrap();
    assert_eq!(evicted, "0 before they could be printed\n");
    // From Linux 7 on, another test can make the kernel skip a run.
    let (losses, skipped) = losses.rsplit_once(' ').unwrap();
    assert!(skipped.parse::<u64>().is_ok(), "{errors}");
    let expected =
        format!("process_open_sockets: events: {printed}; lost: 0 in the ring buffer, at most");
    assert_eq!(losses, expected);
}

#[test]
fn the_text_has_a_title_and_a_line_for_each_event() {
    let test = "the_text_has_a_title_and_a_line_for_each_event";
    let (listener, port) = listener();
    let port = port.to_string();
    let Some((child, mut lines)) = printing(test, &["--port", &port]) else { return };
    // Before the first event.
    let title = lines.next().unwrap();
    assert!(title.starts_with("TIME     ACTION  PROTO  STATUS "), "{title}");
    let line = first_line(&listener, &mut lines);
    assert!(line.contains(&format!("127.0.0.1:{port}")) && line.contains(" tcp "), "{line}");
    send(&child, rustix::process::Signal::TERM);
    lines.for_each(drop);
    assert_eq!(stderr(child).0, Some(0));
}

#[test]
fn a_closed_output_ends_the_command() {
    let test = "a_closed_output_ends_the_command";
    // No event has this pid: the command writes nothing.
    let Some((child, lines)) = printing(test, &["--pid", "2147483647"]) else { return };
    drop(lines);
    let (status, errors) = stderr(child);
    assert_eq!(status, Some(0), "{errors}");
    assert!(errors.contains("events: 0; lost: 0 "), "{errors}");
}

#[test]
fn the_command_ends_after_its_time() {
    let test = "the_command_ends_after_its_time";
    let Some((child, lines)) = printing(test, &["--seconds=1", "--pid=2147483647"]) else { return };
    lines.for_each(drop);
    assert_eq!(stderr(child).0, Some(0));
}

#[test]
fn an_argument_that_is_no_number_is_an_error() {
    for flag in ["--pid=-1", "--pid=a", "--port=abc", "--port=65536", "--seconds=abc"] {
        let output = command().args(["events", flag]).output().unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{flag}: {errors}");
        assert!(errors.contains("not a whole number from 0 to "), "{errors}");
    }
}

#[test]
fn without_bpf_the_command_is_an_error() {
    let output = command().args(["events", "--no-bpf"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(
        errors.contains("BPF is disabled by --no-bpf or PROCESS_OPEN_SOCKETS_NO_BPF"),
        "{errors}"
    );
}

#[test]
fn the_subcommand_refuses_events_off() {
    let output = command().args(["events", "--events", "off"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let expected = "process_open_sockets: error: socket events are disabled by --events off or \
                    PROCESS_OPEN_SOCKETS_EVENTS; add --events on\n";
    assert_eq!(String::from_utf8(output.stderr).unwrap(), expected);
}
