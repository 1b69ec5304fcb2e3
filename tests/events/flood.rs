//! A user who makes many events.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;

use crate::support::left_out::is_root_or_report;
use crate::support::program::copy_program;
use crate::*;

/// A copy of this test that every user can run.
fn program(directory: &Path) -> std::path::PathBuf {
    let program = directory.join("events");
    let everyone = std::fs::Permissions::from_mode(0o755);
    copy_program(&std::env::current_exe().unwrap(), &program);
    std::fs::set_permissions(directory, everyone.clone()).unwrap();
    std::fs::set_permissions(&program, everyone).unwrap();
    program
}

/// A child of this user that connects so often to that port.
fn child_of(program: &Path, uid: u32, port: u16, times: u32) -> std::process::Child {
    let mut command = Command::new(program);
    command.args(["--exact", "child", "--nocapture"]).uid(uid).gid(uid).stdout(Stdio::null());
    command.env(CHILD_PORT, port.to_string()).env(CHILD_TIMES, times.to_string());
    command.current_dir("/").spawn().unwrap()
}

#[test]
fn a_flood_of_one_user_evicts_no_event_of_another() {
    let test = "a_flood_of_one_user_evicts_no_event_of_another";
    if !is_root_or_report(test, "children of other users") {
        return;
    }
    let Some((core, _extension)) = collecting(test, &["--events-max=2000"]) else { return };
    let directory = tempfile::tempdir().unwrap();
    let program = program(directory.path());
    let (closed, other) = (closed_port(), closed_port());
    const TIMES: u32 = 20_000;
    let mut flood = child_of(&program, 2_000_001, closed, TIMES);
    let mut quiet = child_of(&program, 1_001, other, 100);
    assert!(quiet.wait().unwrap().success() && flood.wait().unwrap().success());
    let sql =
        format!("SELECT eid FROM process_socket_events WHERE uid = 1001 AND remote_port = {other}");
    assert_eq!(core.query(&sql).unwrap().len(), 100);
    // All at once: other processes of the host make events, too.
    let rows = core.query("SELECT kind, value FROM socket_event_stats").unwrap();
    let statistic = |kind: &str| {
        let row = rows.iter().find(|row| row["kind"] == kind).unwrap();
        row["value"].parse::<u64>().unwrap()
    };
    let lost = statistic("lost_events") + statistic("skipped");
    assert!(statistic("captured") + lost >= u64::from(2 * (TIMES + 100)));
    assert!(statistic("stored") <= 2_000);
    let evicted =
        ["evicted_age", "evicted_number", "evicted_user", "evicted_memory"].map(statistic);
    let evicted: u64 = evicted.iter().sum();
    assert_eq!(statistic("events"), statistic("stored") + evicted);
    assert!(evicted >= u64::from(TIMES) - 2_000 - lost, "{evicted}");
}
