//! What the extension lives through: an osquery that refuses, forgets, dies, returns, and ends it.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::core::{Core, socket_in};
use crate::support::proc_tree::ProcTree;
use crate::support::process::{BINARY, Extension, command};
use crate::support::remote;

const NAME: &str = "process_open_sockets";
const ALTERNATIVE: &str = "alt_process_open_sockets";
const DUPLICATE: &str = "Duplicate extension registered";

/// Launched by somebody else than osquery.
fn sidecar(socket: &Path, more: &[&str]) -> Extension {
    Extension::run(command().arg("--socket").arg(socket).arg("--interval=1").args(more))
}

fn counts(core: &Core) {
    let rows = core.query("SELECT count(*) AS n FROM alt_process_open_sockets WHERE pid = 1");
    assert_eq!(rows.unwrap().len(), 1);
}

/// Waits until the core no longer has an extension of that number and has one of another.
fn wait_for_another(core: &Core, uuid: i64) -> i64 {
    let start = Instant::now();
    loop {
        match core.uuid_of(NAME) {
            Some(another) if another != uuid => return core.wait_for(NAME),
            _ => assert!(start.elapsed() < Duration::from_secs(20), "it did not register anew"),
        }
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn it_says_who_it_is() {
    let core = Core::stock();
    let _extension = Extension::launch::<&str>(core.socket(), &[]);
    let uuid = core.wait_for(NAME);
    let registered = core.extensions().remove(&uuid).unwrap();
    assert_eq!(registered.info.version.as_deref(), Some(env!("CARGO_PKG_VERSION")));
    assert_eq!(registered.info.sdk_version.as_deref(), Some("5.23.0"));
}

#[test]
fn a_name_that_is_taken_after_the_look_gives_the_other_one() {
    let core = Core::with_tables(&[]);
    core.refuse(
        "Failed adding registry: Registry item process_open_sockets conflicts with another item of \
         the same name.",
        1,
    );
    let extension = Extension::launch::<&str>(core.socket(), &[]);
    extension.wait_until_it_says("the table is named alt_process_open_sockets\n");
    let tables = core.extensions().into_values().flat_map(|e| e.tables.into_keys());
    assert_eq!(tables.collect::<Vec<_>>(), [ALTERNATIVE]);
}

#[test]
fn its_own_name_left_from_a_crash_is_waited_out() {
    let core = Core::stock();
    core.refuse(DUPLICATE, 3);
    let extension = Extension::launch::<&str>(core.socket(), &[]);
    extension.wait_until_it_says("registered with osquery");
    counts(&core);
}

#[test]
fn a_refused_extension_waits_before_it_ends() {
    let core = Core::stock();
    core.refuse("Incompatible extension SDK version", usize::MAX);
    let start = Instant::now();
    let (status, _) = Extension::launch(core.socket(), &[] as &[&str]).end();
    assert_eq!(status.code(), Some(1));
    assert!(start.elapsed() >= Duration::from_secs(1), "{:?}", start.elapsed());
}

#[test]
fn a_core_that_dies_and_returns_is_served_again_by_a_sidecar() {
    let core = Core::stock();
    let extension = sidecar(core.socket(), &[]);
    let old = core.socket_of(core.wait_for(NAME));
    let directory = core.die();
    extension.wait_until_it_says("waiting for it");
    assert!(!old.exists(), "its socket is still there");
    let core = Core::start(directory, &[NAME]);
    core.wait_for(NAME);
    counts(&core);
}

#[test]
fn a_core_that_returns_at_once_is_served_again() {
    let core = Core::stock();
    let _extension = sidecar(core.socket(), &[]);
    core.wait_for(NAME);
    let core = Core::start(core.die(), &[NAME]);
    core.wait_for(NAME);
    counts(&core);
}

#[test]
fn what_to_do_when_osquery_is_gone_can_be_said() {
    let core = Core::stock();
    let extension = sidecar(core.socket(), &["--when-gone=exit"]);
    core.wait_for(NAME);
    extension.wait_until_it_says("registered with osquery");
    core.die();
    assert_eq!(extension.end().0.code(), Some(0));

    let core = Core::stock();
    let extension = Extension::launch(core.socket(), &["--when-gone", "wait"]);
    core.wait_for(NAME);
    let core = {
        let directory = core.die();
        extension.wait_until_it_says("waiting for it");
        Core::start(directory, &[NAME])
    };
    core.wait_for(NAME);
}

#[test]
fn a_sidecar_waits_for_a_core_that_is_not_there_yet() {
    let directory = tempfile::tempdir().unwrap();
    let extension = sidecar(&socket_in(directory.path()), &["--timeout=1"]);
    thread::sleep(Duration::from_millis(1500));
    assert_eq!(extension.said(), "");
    let core = Core::start(directory, &[NAME]);
    core.wait_for(NAME);
}

#[test]
fn a_sidecar_that_waits_ends_at_once_when_told_to() {
    let directory = tempfile::tempdir().unwrap();
    let extension = sidecar(&socket_in(directory.path()), &[]);
    thread::sleep(Duration::from_millis(500));
    let start = Instant::now();
    extension.terminate();
    assert_eq!(extension.end().0.code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
}

#[test]
fn a_lost_registration_comes_back_under_another_number() {
    let core = Core::stock();
    let extension = Extension::launch::<&str>(core.socket(), &[]);
    let uuid = core.wait_for(NAME);
    extension.wait_until_it_says("registered with osquery");
    core.forget(uuid);
    let another = wait_for_another(&core, uuid);
    assert!(!core.socket_of(uuid).exists(), "the old socket is still there");
    assert!(core.socket_of(another).exists());
    counts(&core);
}

#[test]
fn a_sigterm_in_the_middle_of_a_scan_ends_it_within_a_second() {
    // Opening a pipe that nobody writes to never ends.
    let tree = ProcTree::default().namespace(5).process(1, 5, &[(3, "7")]);
    let pipe = tree.path().join("namespace-5/udp");
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();

    let core = Core::stock();
    let procfs = tree.path().to_str().unwrap();
    let extension = Extension::launch(core.socket(), &["--procfs", procfs]);
    let socket = core.socket_of(core.wait_for(NAME));
    extension.wait_until_it_says("registered with osquery");
    let scan = thread::spawn({
        let socket = socket.clone();
        let request = [("action".to_owned(), "generate".to_owned())].into();
        move || remote::call(&socket, ALTERNATIVE, request)
    });
    thread::sleep(Duration::from_millis(300));
    assert!(!scan.is_finished());
    let start = Instant::now();
    extension.terminate();
    let (status, _) = extension.end();
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    assert_eq!(status.code(), Some(0));
    assert_eq!(core.uuid_of(NAME), None);
    assert!(!socket.exists());
    assert!(scan.join().unwrap().is_err());
}

#[test]
fn a_socket_that_is_not_its_own_is_left_alone() {
    let core = Core::stock();
    let extension = Extension::launch::<&str>(core.socket(), &[]);
    let socket = core.socket_of(core.wait_for(NAME));
    std::fs::remove_file(&socket).unwrap();
    let _another = UnixListener::bind(&socket).unwrap();
    extension.terminate();
    assert_eq!(extension.end().0.code(), Some(0));
    assert!(socket.exists(), "it removed another's socket");
}

#[test]
fn its_socket_is_for_its_owner_alone_whatever_the_umask() {
    for umask in ["000", "777"] {
        let core = Core::stock();
        let mut shell = std::process::Command::new("sh");
        let script = format!("umask {umask}; exec \"$0\" \"$@\"");
        shell.args(["-c", &script, BINARY, "--interval=1", "--socket"]).arg(core.socket());
        let _extension = Extension::run(&mut shell);
        let socket = core.socket_of(core.wait_for(NAME));
        let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
        assert_eq!(format!("{:o}", mode & 0o777), "600", "under umask {umask}");
    }
}

#[test]
fn claims_of_gigabytes_cost_no_memory() {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    let core = Core::stock();
    let extension = Extension::launch::<&str>(core.socket(), &[]);
    let socket = core.socket_of(core.wait_for(NAME));
    let peak = || -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", extension.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
    };
    let send = |bytes: &[u8]| {
        let mut stream = UnixStream::connect(&socket).unwrap();
        let _ = stream.write_all(bytes);
        // No more will come: what is claimed cannot be waited for.
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = stream.read(&mut [0]);
    };
    send(b"warming up");
    let before = peak();
    let call = b"\x80\x01\x00\x01\x00\x00\x00\x04call\x00\x00\x00\x01";
    for _ in 0..20 {
        send(b"\x80\x01\x00\x01\x7f\xff\xff\xffx");
        send(&[&call[..], b"\x0b\x00\x01\x7f\xff\xff\xffx"].concat());
        send(&[&call[..], b"\x0d\x00\x03\x0b\x0b\x7f\xff\xff\xff"].concat());
        send(&[&call[..], b"\x0f\x00\x09\x0c\x00\x00\x80\x00"].concat());
    }
    let grown = peak() - before;
    assert!(grown < 1024, "{grown} kB");
}

#[test]
fn a_context_that_is_no_json_is_complained_of_once() {
    let core = Core::stock();
    let extension = Extension::launch::<&str>(core.socket(), &[]);
    let socket = core.socket_of(core.wait_for(NAME));
    for _ in 0..3 {
        let request = [("action", "generate"), ("context", "{")];
        let request = request.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        assert!(!remote::call(&socket, ALTERNATIVE, request).unwrap().is_empty());
    }
    extension.terminate();
    let (_, said) = extension.end();
    assert_eq!(said.matches("the query context is not JSON").count(), 1, "{said}");
}

#[test]
fn the_log_is_as_loud_as_asked() {
    let said = |variable: (&str, &str), flags: &[&str]| {
        let core = Core::stock();
        let mut launch = command();
        launch.env(variable.0, variable.1).arg("--socket").arg(core.socket()).args(flags);
        let extension = Extension::run(&mut launch);
        extension.wait_until_it_says("registered with osquery");
        extension.terminate();
        extension.end().1
    };
    let name = "process_open_sockets: registered with osquery; the table is named \
                alt_process_open_sockets\n";
    assert_eq!(said(("X", ""), &[]), name);
    for loud in [said(("X", ""), &["--verbose"]), said(("RUST_LOG", "debug"), &[])] {
        assert!(loud.contains("debug: ending: a signal came\n"), "{loud}");
        assert!(loud.contains(name), "{loud}");
    }
}
