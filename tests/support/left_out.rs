//! Reports of tests that cannot run.

use std::io::Write;

/// Reports on standard error that a test is left out and why: `LEFT OUT: <test>: <reason>`.
///
/// It writes one line in one call, past the capture of the test runner. `.ci/skips` compares these lines with
/// the expected ones: `why` must be the same in every run.
pub fn report_left_out(test: &str, why: &str) {
    let _ = std::io::stderr().write_all(format!("\nLEFT OUT: {test}: {why}\n").as_bytes());
}

/// Whether this process is root. If not, reports that the test is left out.
pub fn is_root_or_report(test: &str, why: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        report_left_out(test, &format!("needs root: {why}"));
    }
    root
}
