//! Reports of tests that cannot run.

use std::io::Write;

/// Reports on standard error that a test is left out and why: `LEFT OUT: <test>: <reason>`.
///
/// It writes past the capture of the test runner, a line of its own, in one piece. Lists of expected skips
/// are compared with these lines: `why` has nothing in it that differs from run to run.
pub fn say_left_out(test: &str, why: &str) {
    let _ = std::io::stderr().write_all(format!("\nLEFT OUT: {test}: {why}\n").as_bytes());
}

/// Whether this process is root. If not, reports that the test is left out.
pub fn is_root_or_say(test: &str, why: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        say_left_out(test, &format!("needs root: {why}"));
    }
    root
}
