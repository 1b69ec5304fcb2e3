//! A core that refuses the extension, always or for some time.

use std::time::{Duration, Instant};

use crate::support::core::Core;
use crate::support::osquery::{registered_message, tables_beside_events};
use crate::support::process::Extension;

const NAME: &str = "process_open_sockets";
const ALTERNATIVE: &str = "alt_process_open_sockets";
const TOO_OLD: &str = "Incompatible extension SDK version";
const DUPLICATE: &str = "Duplicate extension registered";

fn conflict(name: &str) -> String {
    format!(
        "Failed adding registry: Registry item {name} conflicts with another item of the same name."
    )
}

fn is_too_old(core: &Core) -> String {
    format!(
        "process_open_sockets: error: osquery at {} refuses the extension: Incompatible extension SDK \
         version; osquery's log may have details (start osquery with --verbose)\n",
        core.socket().display()
    )
}

#[test]
fn a_refusal_is_one_line_and_status_1_after_an_interval() {
    let core = Core::stock();
    core.faults().refuse(TOO_OLD);
    let start = Instant::now();
    let (status, log) = Extension::launch::<&str>(core.socket(), &[]).end();
    assert_eq!((status.code(), log), (Some(1), is_too_old(&core)));
    let pause = Duration::from_secs(1)..Duration::from_secs(10);
    assert!(pause.contains(&start.elapsed()), "{:?}", start.elapsed());
}

#[test]
fn a_refused_sidecar_also_pauses_for_an_interval() {
    let core = Core::stock();
    core.faults().refuse(TOO_OLD);
    let start = Instant::now();
    let (status, log) = Extension::sidecar(core.socket(), &[]).end();
    assert_eq!((status.code(), log), (Some(1), is_too_old(&core)));
    let pause = Duration::from_secs(1)..Duration::from_secs(10);
    assert!(pause.contains(&start.elapsed()), "{:?}", start.elapsed());
}

#[test]
fn a_refusal_with_an_interval_of_zero_also_pauses() {
    let core = Core::stock();
    core.faults().refuse(TOO_OLD);
    let start = Instant::now();
    let (status, _) = Extension::sidecar(core.socket(), &["--interval=0"]).end();
    assert_eq!(status.code(), Some(1));
    assert!(start.elapsed() >= Duration::from_secs(1), "{:?}", start.elapsed());
}

#[test]
fn a_signal_ends_the_pause_after_a_refusal() {
    let core = Core::stock();
    core.faults().refuse(TOO_OLD);
    let extension = Extension::launch(core.socket(), &["--interval=600"]);
    extension.wait_for_log("--verbose)\n");
    let start = Instant::now();
    extension.terminate();
    assert_eq!(extension.end().0.code(), Some(1));
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[test]
fn registration_waits_until_the_core_drops_a_dead_extension() {
    let core = Core::stock();
    core.faults().refuse_next(3, DUPLICATE);
    // The extension has two intervals for four attempts, a quarter of the interval apart.
    let _extension = Extension::launch(core.socket(), &["--interval=5"]);
    core.wait_for(NAME);
    assert_eq!(tables_beside_events(&core), [ALTERNATIVE]);
}

#[test]
fn registration_waits_two_intervals_for_a_name_in_use() {
    let core = Core::stock();
    core.faults().refuse(DUPLICATE);
    let start = Instant::now();
    let extension = Extension::launch::<&str>(core.socket(), &[]);
    extension.wait_for_log("is already registered at");
    let two_intervals = Duration::from_secs(2)..Duration::from_secs(12);
    assert!(two_intervals.contains(&start.elapsed()), "{:?}", start.elapsed());
    assert_eq!(extension.end().0.code(), Some(1));
}

#[test]
fn the_alternative_name_is_used_if_the_first_is_taken_late() {
    let core = Core::with_tables(&[]);
    core.faults().refuse_next(1, &conflict(NAME));
    let extension = Extension::launch::<&str>(core.socket(), &[]);
    extension.wait_for_log(&registered_message(ALTERNATIVE));
    assert_eq!(tables_beside_events(&core), [ALTERNATIVE]);
}

#[test]
fn both_names_taken_after_the_check_are_an_error() {
    let core = Core::with_tables(&[]);
    core.faults().refuse_next(1, &conflict(NAME));
    core.faults().refuse_next(1, &conflict(ALTERNATIVE));
    let (status, log) = Extension::sidecar(core.socket(), &[]).end();
    let expected = "process_open_sockets: error: osquery already has tables named process_open_sockets \
                    and alt_process_open_sockets; set an unused name with \
                    --table-name or PROCESS_OPEN_SOCKETS_TABLE_NAME\n";
    assert_eq!((status.code(), log.as_str()), (Some(1), expected));
}

#[test]
fn a_name_from_the_flag_taken_after_the_check_is_an_error() {
    let core = Core::stock();
    core.faults().refuse(&conflict("mine"));
    let (status, log) = Extension::sidecar(core.socket(), &["--table-name=mine"]).end();
    let expected = "process_open_sockets: error: osquery already has a table named mine; set \
                    --table-name to another name, or omit it\n";
    assert_eq!((status.code(), log.as_str()), (Some(1), expected));
}

#[test]
fn a_registration_that_the_core_does_not_list_is_an_error() {
    let core = Core::stock();
    core.faults().lose_registrations();
    let (status, log) = Extension::sidecar(core.socket(), &["--when-gone=exit"]).end();
    let expected = format!(
        "process_open_sockets: error: osquery at {} accepted the extension but does not list it; osquery's log \
         has the reason (start osquery with --verbose)\n",
        core.socket().display()
    );
    assert_eq!((status.code(), log), (Some(1), expected));
    assert!(!core.socket_of(4711).exists());
}
