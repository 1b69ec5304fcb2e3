//! A core that dies, restarts, drops the extension, is slow, or truncates its answers.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use process_open_sockets::extension::manager::{Error, Manager};

use crate::support::core::{Core, socket_in};
use crate::support::process::Extension;
use crate::support::remote;
use crate::support::wire::{LIST, MAP, REPLY, STRUCT, field, hangs_up_within, message, rest};

/// No wait of a test takes this long, unless the test fails.
const TEST_TIMEOUT: Duration = Duration::from_secs(60);

const NAME: &str = "process_open_sockets";
const QUERY: &str = "SELECT fd FROM alt_process_open_sockets WHERE pid = 1";

/// Replaces the core by another one and checks that the extension serves it.
fn check_that_it_outlives_the_core(launch: impl FnOnce(&Core) -> Extension) {
    let core = Core::stock();
    let extension = launch(&core);
    let socket = core.socket_of(core.wait_for(NAME));
    extension.wait_for_log("registered with osquery");
    let dir = core.crash();
    extension.wait_for_log(": waiting for it\n");
    assert!(!socket.exists());
    let core = Core::start(dir, &[NAME]);
    core.wait_for(NAME);
    core.query(QUERY).unwrap();
}

#[test]
fn a_sidecar_waits_for_a_dead_core_and_serves_the_next_one() {
    check_that_it_outlives_the_core(|core| Extension::sidecar(core.socket(), &[]));
}

#[test]
fn a_launched_extension_with_wait_waits_for_a_dead_core() {
    check_that_it_outlives_the_core(|core| Extension::launch(core.socket(), &["--when-gone=wait"]));
}

#[test]
fn a_sidecar_with_exit_ends_with_the_core() {
    let core = Core::stock();
    let extension = Extension::sidecar(core.socket(), &["--when-gone=exit"]);
    let socket = core.socket_of(core.wait_for(NAME));
    extension.wait_for_log("registered with osquery");
    let _dir = core.crash();
    assert_eq!(extension.end().0.code(), Some(0));
    assert!(!socket.exists());
}

#[test]
fn a_sidecar_deregisters_and_registers_again_after_shutdown() {
    let core = Core::stock();
    let extension = Extension::sidecar(core.socket(), &[]);
    let uuid = core.wait_for(NAME);
    let socket = core.socket_of(uuid);
    extension.wait_for_log("registered with osquery");
    let start = Instant::now();
    remote::shutdown(&socket);
    extension.wait_for_log(": waiting for it\n");
    assert!(!socket.exists());
    core.wait_for_another(NAME, uuid);
    assert!(start.elapsed() >= Duration::from_secs(1), "after an interval: {:?}", start.elapsed());
    core.query(QUERY).unwrap();
}

#[test]
fn a_signal_during_registration_leaves_no_registration() {
    let core = Core::stock();
    core.faults().hold_registrations();
    let extension = Extension::launch(core.socket(), &["--verbose"]);
    let start = Instant::now();
    // The core has registered the extension and has not answered yet.
    while core.uuid_of(NAME).is_none() {
        assert!(start.elapsed() < TEST_TIMEOUT, "the extension does not register");
        thread::sleep(Duration::from_millis(5));
    }
    extension.terminate();
    extension.wait_for_log("received a signal: exiting");
    core.faults().release_registrations();
    assert_eq!(extension.end().0.code(), Some(0));
    assert_eq!(core.uuid_of(NAME), None);
}

#[test]
fn an_answer_that_trickles_from_the_core_times_out() {
    let dir = tempfile::tempdir().unwrap();
    let socket = socket_in(dir.path());
    let listener = UnixListener::bind(&socket).unwrap();
    let core = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut answer = message(REPLY, "query", 1, &[0; 1000]).into_iter();
        while answer.next().is_some_and(|byte| stream.write_all(&[byte]).is_ok()) {
            if hangs_up_within(&stream, Duration::from_millis(50)) {
                break;
            }
        }
    });
    let start = Instant::now();
    let error = Manager::new(&socket, Duration::from_millis(500)).query("SELECT 1").unwrap_err();
    assert!(matches!(error, Error::TimedOut { .. }), "{error}");
    // The whole answer takes 50 s.
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    core.join().unwrap();
}

#[test]
fn the_timeout_applies_to_a_core_with_a_full_accept_queue() {
    let dir = tempfile::tempdir().unwrap();
    let socket = socket_in(dir.path());
    let address = rustix::net::SocketAddrUnix::new(&socket).unwrap();
    let kind = rustix::net::SocketType::STREAM;
    let listener = rustix::net::socket(rustix::net::AddressFamily::UNIX, kind, None).unwrap();
    rustix::net::bind(&listener, &address).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let _first_in_the_queue = UnixStream::connect(&socket).unwrap();
    let start = Instant::now();
    let (status, log) = Extension::launch(&socket, &["--timeout=1"]).end();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

#[test]
fn a_sidecar_registers_again_after_a_lost_registration() {
    let core = Core::stock();
    core.faults().lose_registrations();
    let extension = Extension::sidecar(core.socket(), &[]);
    extension.wait_for_log("but does not list it");
    let core = Core::start(core.crash(), &[NAME]);
    core.wait_for(NAME);
    core.query(QUERY).unwrap();
}

#[test]
fn an_idle_connection_is_closed_with_its_registration() {
    let core = Core::stock();
    let extension = Extension::launch::<&str>(core.socket(), &[]);
    let uuid = core.wait_for(NAME);
    extension.wait_for_log("registered with osquery");
    let mut idle = UnixStream::connect(core.socket_of(uuid)).unwrap();
    idle.set_nonblocking(true).unwrap();
    core.drop_extension(uuid);
    // This is within an interval, and long before the request timeout would close the connection.
    extension.wait_for_log("registering again");
    assert_eq!(idle.read(&mut [0; 1]).unwrap(), 0);
}

#[test]
fn a_sidecar_with_exit_ends_after_shutdown() {
    let core = Core::stock();
    let extension = Extension::sidecar(core.socket(), &["--when-gone=exit"]);
    let socket = core.socket_of(core.wait_for(NAME));
    extension.wait_for_log("registered with osquery");
    remote::shutdown(&socket);
    assert_eq!(extension.end().0.code(), Some(0));
    assert!(!socket.exists());
}

#[test]
fn a_launched_extension_ends_with_0_if_the_core_ends_after_drop() {
    let core = Core::stock();
    let extension = Extension::launch(core.socket(), &["--timeout=1"]);
    let uuid = core.wait_for(NAME);
    extension.wait_for_log("registered with osquery");
    core.drop_extension(uuid);
    core.faults().answer_after(Duration::from_millis(500));
    extension.wait_for_log("registering again");
    let _dir = core.crash();
    let (status, log) = extension.end();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(log.contains(": osquery is gone from "), "{log}");
}

#[test]
fn a_core_that_restarts_between_two_polls_is_served() {
    let core = Core::stock();
    let extension = Extension::sidecar(core.socket(), &[]);
    core.wait_for(NAME);
    extension.wait_for_log("registered with osquery");
    let core = Core::start(core.crash(), &[NAME]);
    core.wait_for(NAME);
    core.query(QUERY).unwrap();
}

/// Starts the core after the timeout of the extension, which is 0, and returns the log of the extension.
fn log_of_a_late_core(launch: impl FnOnce(&Path) -> Extension) -> String {
    let dir = tempfile::tempdir().unwrap();
    let extension = launch(&socket_in(dir.path()));
    extension.wait_for_log(": warning: waiting for osquery at ");
    // The core runs until the extension has registered.
    let core = Core::start(dir, &[NAME]);
    core.wait_for(NAME);
    extension.wait_for_log("registered with osquery");
    extension.log()
}

#[test]
fn a_sidecar_waits_past_the_timeout_and_logs_the_wait_once() {
    let log = log_of_a_late_core(|socket| Extension::sidecar(socket, &["--timeout=0"]));
    let lines: Vec<_> = log.lines().collect();
    assert_eq!(lines.len(), 2, "{log}");
    assert!(
        lines[0].starts_with("process_open_sockets: warning: waiting for osquery at /"),
        "{log}"
    );
}

#[test]
fn a_launched_extension_with_wait_waits_past_the_timeout() {
    let flags = ["--when-gone=wait", "--timeout=0"];
    let log = log_of_a_late_core(|socket| Extension::launch(socket, &flags));
    assert_eq!(log.matches(": waiting for osquery at /").count(), 1, "{log}");
}

#[test]
fn a_sidecar_with_exit_ends_if_no_core_starts() {
    let dir = tempfile::tempdir().unwrap();
    let socket = socket_in(dir.path());
    let start = Instant::now();
    let (status, log) = Extension::sidecar(&socket, &["--when-gone=exit", "--timeout=1"]).end();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(start.elapsed() >= Duration::from_secs(1), "{:?}", start.elapsed());
    assert!(log.contains("no osquery extension manager listens at "), "{log}");
    assert_eq!(log.lines().count(), 1, "{log}");
}

#[test]
fn a_signal_ends_the_wait_for_a_core() {
    let dir = tempfile::tempdir().unwrap();
    let extension = Extension::sidecar(&socket_in(dir.path()), &[]);
    extension.wait_for_log("waiting for osquery at ");
    extension.terminate();
    assert_eq!(extension.end().0.code(), Some(0));
}

#[test]
fn an_extension_dropped_twice_registers_twice_with_new_uuids() {
    let core = Core::stock();
    let extension = Extension::launch::<&str>(core.socket(), &[]);
    let first = core.wait_for(NAME);
    extension.wait_for_log("registered with osquery");
    core.drop_extension(first);
    let second = core.wait_for_another(NAME, first);
    core.drop_extension(second);
    let third = core.wait_for_another(NAME, second);
    assert_ne!(third, first);
    assert_eq!([first, second].map(|uuid| core.socket_of(uuid).exists()), [false, false]);
    core.query(QUERY).unwrap();
}

#[test]
fn the_extension_waits_for_a_slow_core() {
    let core = Core::stock();
    core.faults().answer_after(Duration::from_millis(500));
    let _extension = Extension::launch::<&str>(core.socket(), &[]);
    core.wait_for(NAME);
    core.query(QUERY).unwrap();
}

#[test]
fn a_signal_ends_the_wait_for_a_slow_registration() {
    let core = Core::stock();
    core.faults().answer_after(TEST_TIMEOUT);
    let extension = Extension::launch::<&str>(core.socket(), &[]);
    core.faults().wait_for_late_answer();
    let start = Instant::now();
    extension.terminate();
    assert_eq!(extension.end().0.code(), Some(0));
    // The timeout of the extension for an answer is 10 s.
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

#[test]
fn a_signal_ends_the_wait_for_a_slow_poll() {
    let core = Core::stock();
    let extension = Extension::launch::<&str>(core.socket(), &[]);
    let socket = core.socket_of(core.wait_for(NAME));
    extension.wait_for_log("registered with osquery");
    core.faults().answer_after(TEST_TIMEOUT);
    core.faults().wait_for_late_answer();
    let start = Instant::now();
    extension.terminate();
    assert_eq!(extension.end().0.code(), Some(0));
    // The timeout of the extension for an answer is 10 s.
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    assert!(!socket.exists());
}

#[test]
fn a_sidecar_retries_when_the_core_hangs_up_during_a_request() {
    let core = Core::stock();
    core.faults().cut_next(2);
    let extension = Extension::sidecar(core.socket(), &[]);
    core.wait_for(NAME);
    assert_eq!(core.faults().cut(), 2);
    let log = extension.log();
    assert_eq!(
        log.matches("does not follow the protocol of osquery's extension manager").count(),
        2
    );
}

#[test]
fn a_launched_extension_ends_when_the_core_hangs_up() {
    let core = Core::stock();
    core.faults().cut_next(1);
    let (status, log) = Extension::launch::<&str>(core.socket(), &[]).end();
    assert_eq!(status.code(), Some(1));
    assert_eq!(log.lines().count(), 1, "{log}");
    let expected =
        format!("process_open_sockets: error: the server at {}", core.socket().display());
    assert!(log.starts_with(&expected), "{log}");
}

#[test]
fn a_claim_of_two_billion_rows_takes_no_memory() {
    let dir = tempfile::tempdir().unwrap();
    let socket = socket_in(dir.path());
    let listener = UnixListener::bind(&socket).unwrap();
    let core = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let claim = [&[MAP][..], &i32::MAX.to_be_bytes()].concat();
        let rows = field(STRUCT, 0, &field(LIST, 2, &claim));
        stream.write_all(&message(REPLY, "query", 1, &rows)).unwrap();
        rest(stream);
    });
    let error = Manager::new(&socket, Duration::from_secs(5)).query("SELECT 1").unwrap_err();
    let Error::Protocol { source: thrift::Error::Protocol(source), .. } = error else {
        panic!("{error}")
    };
    assert_eq!(source.message, "a container claims 2147483647 elements");
    core.join().unwrap();
}

#[test]
fn a_registered_extension_stays_when_one_answer_is_cut() {
    let core = Core::stock();
    let extension = Extension::launch::<&str>(core.socket(), &[]);
    let uuid = core.wait_for(NAME);
    extension.wait_for_log("registered with osquery");
    core.faults().cut_next(1);
    core.faults().wait_for_cuts(1);
    // The extension requests the list again an interval later, and the core still lists it.
    core.wait_for_another_list();
    assert_eq!((core.faults().cut(), core.uuid_of(NAME)), (1, Some(uuid)));
    core.query(QUERY).unwrap();
}
