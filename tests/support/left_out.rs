//! What a test says when it cannot run.

use std::io::Write;

/// Says on standard error, past the test runner's capture, that a test is left out and why. A line
/// of its own, although the test runner may have begun one, and in one piece, although other tests
/// print too.
pub fn say_left_out(test: &str, why: &str) {
    let _ = std::io::stderr().write_all(format!("\nLEFT OUT: {test}: {why}\n").as_bytes());
}

/// Whether this process is root. If not, says that the test is left out.
pub fn is_root_or_say(test: &str, why: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        say_left_out(test, &format!("needs root: {why}"));
    }
    root
}
