//! The binary of the tests, as a program that tests start.

use std::process::Command;

/// The variable with the command of the process.
pub(super) const COMMAND: &str = "SOCKET_EVENTS_CHILD";

/// Lets the binary of the tests run a command of [`super::child`].
pub(super) fn arguments<'a>(program: &'a mut Command, command: &str) -> &'a mut Command {
    program
        .args(["--exact", "linux::bpf::socket_events::tests::child::child", "--nocapture"])
        .args(["--test-threads", "1"])
        .env(COMMAND, command)
}

/// The path of the binary.
pub(super) fn own_executable() -> std::path::PathBuf {
    std::env::current_exe().unwrap()
}
