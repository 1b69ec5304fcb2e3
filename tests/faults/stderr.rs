//! A stderr that no process reads.

use std::io::{PipeReader, PipeWriter, Read, Write};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use crate::support::core::Core;
use crate::support::process::{Extension, command};
use crate::support::wire::exchange;

const NAME: &str = "process_open_sockets";
const QUERY: &str = "SELECT fd FROM alt_process_open_sockets WHERE pid = 1";
/// The byte that fills the pipe before the extension starts.
const FILLER: u8 = b'#';

/// A full pipe, in blocking mode.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = std::io::pipe().unwrap();
    let flags = fcntl_getfl(&writer).unwrap();
    fcntl_setfl(&writer, flags | OFlags::NONBLOCK).unwrap();
    for size in [4096, 1] {
        while writer.write(&vec![FILLER; size]).is_ok() {}
    }
    fcntl_setfl(&writer, flags).unwrap();
    (reader, writer)
}

/// A sidecar with a verbose log.
fn sidecar(socket: &Path) -> Command {
    let mut command = command();
    command.arg("--socket").arg(socket).args(["--interval=1", "--verbose"]);
    command
}

#[test]
fn queries_are_answered_while_stderr_is_full() {
    let core = Core::stock();
    let (_reader, writer) = full_pipe();
    let _extension = Extension::with_stderr(&mut sidecar(core.socket()), writer);
    core.wait_for(NAME);
    for _ in 0..20 {
        core.query(QUERY).unwrap();
    }
}

#[test]
fn a_restarted_core_is_served_while_stderr_is_full() {
    let core = Core::stock();
    let (_reader, writer) = full_pipe();
    let _extension = Extension::with_stderr(&mut sidecar(core.socket()), writer);
    core.wait_for(NAME);
    core.wait_for_another_list();
    let core = Core::start(core.crash(), &[NAME]);
    core.wait_for(NAME);
    core.query(QUERY).unwrap();
}

#[test]
fn sigterm_ends_the_extension_while_stderr_is_full() {
    let core = Core::stock();
    let (_reader, writer) = full_pipe();
    let extension = Extension::with_stderr(&mut sidecar(core.socket()), writer);
    let socket = core.socket_of(core.wait_for(NAME));
    core.query(QUERY).unwrap();
    let start = Instant::now();
    extension.terminate();
    let (status, _) = extension.end();
    let time = start.elapsed();
    println!("ended {time:?} after SIGTERM");
    assert_eq!(status.code(), Some(0));
    assert_eq!(core.uuid_of(NAME), None);
    assert!(!socket.exists());
    // The end takes less than a second; a busy host may need more.
    assert!(time < Duration::from_secs(10), "{time:?}");
}

#[test]
fn lines_dropped_at_a_full_stderr_are_counted_after_a_read() {
    let core = Core::stock();
    let (mut reader, writer) = full_pipe();
    let mut command = sidecar(core.socket());
    let extension = Extension::with_stderr(&mut command, writer);
    // The command has a copy of the writing end of the pipe.
    drop(command);
    let socket = core.socket_of(core.wait_for(NAME));
    // Each connection logs a line; 2000 lines can wait.
    for _ in 0..3000 {
        exchange(&socket, b"no message of Thrift's");
    }
    let (mut text, mut part) = (String::new(), [0; 4096]);
    while !text.contains("log messages dropped: ") {
        let length = reader.read(&mut part).unwrap();
        text.push_str(std::str::from_utf8(&part[..length]).unwrap());
    }
    extension.terminate();
    assert_eq!(extension.end().0.code(), Some(0));
    reader.read_to_string(&mut text).unwrap();
    let log = text.trim_start_matches(char::from(FILLER));
    assert!(log.starts_with("process_open_sockets: debug: Launch { socket: Some("), "{log}");
    assert!(log.ends_with("process_open_sockets: debug: received a signal: exiting\n"), "{log}");
    let ends = log.matches("debug: connection ended: ").count();
    let mut counts = log.lines().filter_map(|line| {
        line.strip_prefix("process_open_sockets: warning: log messages dropped: ")
    });
    let dropped: usize = counts.next().unwrap().parse().unwrap();
    assert_eq!(counts.next(), None);
    assert!(ends + dropped >= 3000, "{ends} lines, {dropped} dropped");
    assert!((900..1500).contains(&dropped), "{ends} lines, {dropped} dropped");
}

#[test]
fn no_log_line_is_lost_at_the_end_while_stderr_is_read() {
    let core = Core::stock();
    let extension = Extension::run(&mut sidecar(core.socket()));
    let socket = core.socket_of(core.wait_for(NAME));
    for _ in 0..1000 {
        exchange(&socket, b"no message of Thrift's");
    }
    extension.terminate();
    let (status, log) = extension.end();
    assert_eq!(status.code(), Some(0));
    assert_eq!(log.matches("debug: connection ended: ").count(), 1000);
    assert!(log.ends_with("debug: received a signal: exiting\n"), "{log}");
}
