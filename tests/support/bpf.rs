//! Whether BPF answered the scans of a test.

use log::LevelFilter;

use super::left_out::report_left_out;
use super::log_capture::logged_from;

/// Runs scans with the source BPF; returns whether BPF answered all of them.
///
/// If BPF did not, and `REQUIRE_BPF` is 1, the test fails with the logged reason. Otherwise the test is reported
/// as left out.
pub(crate) fn with_bpf<T>(test: &str, scans: impl FnOnce() -> T) -> (T, bool) {
    let (value, lines) = logged_from(LevelFilter::Debug, scans);
    (value, is_used_or_report(test, &lines))
}

/// Whether BPF answered the scans that logged these lines, from level Debug on.
pub(crate) fn is_used_or_report(test: &str, lines: &[String]) -> bool {
    // On level Debug the table logs what an older kernel cannot do for one process.
    let is_debug = |line: &str| line.starts_with("DEBUG") || line.contains(": debug: ");
    let is_failure = |line: &&String| line.contains("using netlink and /proc") && !is_debug(line);
    let failure = lines.iter().find(is_failure);
    let is_loaded = lines.iter().any(|line| line.contains("a BPF program is loaded"));
    if is_loaded && failure.is_none() {
        return true;
    }
    let why = failure.map_or("no BPF program was loaded", String::as_str);
    let is_required = std::env::var("REQUIRE_BPF").is_ok_and(|value| value == "1");
    assert!(!is_required, "REQUIRE_BPF=1: {why}");
    report_left_out(test, "needs BPF: Linux 5.11 or later, CAP_BPF and CAP_PERFMON");
    eprintln!("{why}");
    false
}
