//! Flags, table names, registration and end.

use std::time::{Duration, Instant};

use crate::support::core::{Core, socket_in};
use crate::support::osquery::{registered_message, tables_beside_events};
use crate::support::process::{BINARY, Extension, command};
use crate::support::remote;

const NAME: &str = "process_open_sockets";
const ALTERNATIVE: &str = "alt_process_open_sockets";

fn wait_until_registered(extension: &Extension, table: &str) {
    extension.wait_for_log(&registered_message(table));
}

/// Launches the extension with these arguments, and checks its status and its whole log.
#[track_caller]
fn check_end(core: &Core, arguments: &[&str], status: i32, message: &str) {
    let (ended, log) = Extension::launch(core.socket(), arguments).end();
    assert_eq!((ended.code(), log.as_str()), (Some(status), message));
}

#[test]
fn the_table_has_the_alternative_name_beside_the_built_in() {
    let core = Core::stock();
    let extension = Extension::launch::<&str>(core.socket(), &[]);
    core.wait_for(NAME);
    assert_eq!(tables_beside_events(&core), [ALTERNATIVE]);
    wait_until_registered(&extension, ALTERNATIVE);
}

#[test]
fn the_table_has_its_name_if_the_core_has_no_such_table() {
    let core = Core::with_tables(&[]);
    let extension = Extension::launch::<&str>(core.socket(), &[]);
    core.wait_for(NAME);
    assert_eq!(tables_beside_events(&core), [NAME]);
    wait_until_registered(&extension, NAME);
}

#[test]
fn a_free_name_from_the_flag_is_the_name_of_the_table() {
    let core = Core::stock();
    let extension = Extension::launch(core.socket(), &["--table-name", "Sockets_2"]);
    core.wait_for(NAME);
    assert_eq!(tables_beside_events(&core), ["Sockets_2"]);
    wait_until_registered(&extension, "Sockets_2");
}

#[test]
fn a_taken_name_from_the_flag_is_an_error() {
    check_end(
        &Core::stock(),
        &["--table-name=Processes"],
        1,
        "process_open_sockets: error: osquery already has a table named Processes; set --table-name \
         to another name, or omit it\n",
    );
}

#[test]
fn a_name_that_is_invalid_in_sql_is_an_error() {
    let core = Core::stock();
    for name in ["", "1st", "a b", "a;drop", "a\"b", "größe", "sqlite_x", &"x".repeat(65)] {
        let (status, log) = Extension::launch(core.socket(), &["--table-name", name]).end();
        assert_eq!(status.code(), Some(2), "{name}");
        assert!(log.contains("for '--table-name <NAME>'"), "{log}");
    }
}

#[test]
fn two_taken_names_are_an_error_that_names_both() {
    check_end(
        &Core::with_tables(&[NAME, ALTERNATIVE]),
        &[],
        1,
        "process_open_sockets: error: osquery already has tables named process_open_sockets and \
         alt_process_open_sockets; set an unused name with --table-name or \
         PROCESS_OPEN_SOCKETS_TABLE_NAME\n",
    );
}

#[test]
fn a_second_extension_of_the_name_is_an_error() {
    let core = Core::stock();
    let _first = Extension::launch::<&str>(core.socket(), &[]);
    core.wait_for(NAME);
    check_end(
        &core,
        &["--table-name", "another"],
        1,
        &format!(
            "process_open_sockets: error: an extension named process_open_sockets is already registered \
             at {}; stop that process, or remove the duplicate line from extensions.load\n",
            core.socket().display()
        ),
    );
}

#[test]
fn a_refused_registration_is_an_error_with_the_reason() {
    let core = Core::stock();
    core.faults().refuse("Failed adding registry: refused by the test");
    let message = format!(
        "process_open_sockets: error: osquery at {} refuses the extension: Failed adding registry: \
         refused by the test; osquery's log may have details (start osquery with --verbose)\n",
        core.socket().display()
    );
    check_end(&core, &[], 1, &message);
}

#[test]
fn an_extension_started_before_its_core_registers() {
    let dir = tempfile::tempdir().unwrap();
    let extension = Extension::launch(&socket_in(dir.path()), &["--verbose"]);
    extension.wait_for_log("Launch {");
    let core = Core::start(dir, &[NAME]);
    core.wait_for(NAME);
    wait_until_registered(&extension, ALTERNATIVE);
}

#[test]
fn a_socket_that_never_appears_is_an_error_with_its_path() {
    let dir = tempfile::tempdir().unwrap();
    let socket = socket_in(dir.path());
    let start = Instant::now();
    let mut launch = command();
    launch.env("OSQUERY_EXTENSION", "1").arg("--socket").arg(&socket);
    let (status, log) = Extension::run(launch.args(["--timeout=1", "--interval=1"])).end();
    assert_eq!(status.code(), Some(1));
    assert!(start.elapsed() >= Duration::from_secs(1));
    let expected = format!(
        "process_open_sockets: error: no osquery extension manager listens at {} ",
        socket.display()
    );
    assert!(log.starts_with(&expected), "{log}");
}

#[test]
fn a_start_without_a_socket_prints_both_commands() {
    let (status, log) = Extension::run(&mut command()).end();
    assert_eq!(status.code(), Some(2));
    assert!(log.contains(&format!("{BINARY} query \"SELECT")), "{log}");
    assert!(log.contains(&format!("osqueryi --extension {BINARY}, ")), "{log}");
}

#[test]
fn flags_accept_values_after_an_equals_sign() {
    let core = Core::stock();
    let _extension = Extension::run(
        command()
            .arg("--verbose")
            .arg(format!("--socket={}", core.socket().display()))
            .args(["--timeout=5", "--interval=1"]),
    );
    core.wait_for(NAME);
}

#[test]
fn every_flag_can_be_a_variable() {
    let core = Core::stock();
    let _extension = Extension::run(
        command()
            .env("PROCESS_OPEN_SOCKETS_SOCKET", core.socket())
            .env("PROCESS_OPEN_SOCKETS_TIMEOUT", "5")
            .env("PROCESS_OPEN_SOCKETS_INTERVAL", "1")
            .env("PROCESS_OPEN_SOCKETS_VERBOSE", "1")
            .env("PROCESS_OPEN_SOCKETS_PROCFS", "/proc")
            .env("PROCESS_OPEN_SOCKETS_SOURCE", "procfs")
            .env("PROCESS_OPEN_SOCKETS_SNAPSHOT_TTL_MS", "0")
            .env("PROCESS_OPEN_SOCKETS_TABLE_NAME", "from_a_variable"),
    );
    core.wait_for(NAME);
    assert_eq!(tables_beside_events(&core), ["from_a_variable"]);
}

#[test]
fn times_that_are_no_whole_seconds_are_errors() {
    for flag in ["--timeout=3.5", "--timeout=soon", "--timeout=-1", "--interval=86401"] {
        let (status, log) = Extension::run(command().args(["--socket", "/none", flag])).end();
        assert_eq!(status.code(), Some(2), "{flag}");
        assert!(log.contains("<SECONDS>'"), "{flag}: {log}");
    }
}

#[test]
fn an_interval_of_zero_is_taken_for_one() {
    let core = Core::stock();
    let extension = Extension::launch(core.socket(), &["--interval=0"]);
    let uuid = core.wait_for(NAME);
    wait_until_registered(&extension, ALTERNATIVE);
    core.drop_extension(uuid);
    core.wait_for_another(NAME, uuid);
}

#[test]
fn sigterm_ends_the_extension_deregistered_without_a_socket() {
    let core = Core::stock();
    let extension = Extension::launch::<&str>(core.socket(), &[]);
    let socket = core.socket_of(core.wait_for(NAME));
    wait_until_registered(&extension, ALTERNATIVE);
    extension.terminate();
    let (status, log) = extension.end();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(!socket.exists());
    assert_eq!(core.uuid_of(NAME), None);
    assert_eq!(log, registered_message(ALTERNATIVE));
}

#[test]
fn a_shutdown_ends_the_extension_and_removes_the_socket() {
    let core = Core::stock();
    let extension = Extension::launch::<&str>(core.socket(), &[]);
    let socket = core.socket_of(core.wait_for(NAME));
    remote::shutdown(&socket);
    let (status, log) = extension.end();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(!socket.exists());
}

#[test]
fn an_extension_that_the_core_dropped_registers_again() {
    let core = Core::stock();
    let extension = Extension::launch::<&str>(core.socket(), &[]);
    let uuid = core.wait_for(NAME);
    wait_until_registered(&extension, ALTERNATIVE);
    core.drop_extension(uuid);
    extension.wait_for_log("osquery no longer lists the extension: registering again");
    assert_ne!(core.wait_for(NAME), uuid);
    assert!(!core.socket_of(uuid).exists());
    assert!(core.query("SELECT fd FROM alt_process_open_sockets WHERE pid = 1").is_ok());
}

#[test]
fn a_launched_extension_ends_with_the_core_and_logs_the_end() {
    let core = Core::stock();
    let extension = Extension::launch::<&str>(core.socket(), &[]);
    core.wait_for(NAME);
    wait_until_registered(&extension, ALTERNATIVE);
    let last_line =
        format!("process_open_sockets: osquery is gone from {}\n", core.socket().display());
    drop(core);
    let (status, log) = extension.end();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(log.ends_with(&last_line), "{log}");
}
