//! Runs the tests one after the other in private namespaces.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, ExitCode};
use std::time::Instant;

use super::Test;
use crate::support::left_out::report_left_out;

/// The environment variable that is set in the process in those namespaces.
const INSIDE: &str = "ATTACKS_INSIDE";
/// `unshare` with the namespaces of the suite. All processes in them end with the suite. The shell is their
/// init: it waits for orphaned processes of attackers.
const UNSHARE: [&str; 9] = [
    "unshare",
    "--fork",
    "--kill-child",
    "--pid",
    "--mount-proc",
    "--net",
    "sh",
    "-c",
    r#""$0" "$@"; exit $?"#,
];

/// Whether the suite runs in its long form.
pub(super) fn is_long() -> bool {
    std::env::var_os("ATTACKS_LONG").is_some_and(|value| value != "0")
}

/// Runs the tests that the command line selects, as the test harness of Rust does.
pub(crate) fn run(tests: &[Test]) -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let selected = select(tests, &arguments);
    if arguments.iter().any(|argument| argument == "--list") {
        selected.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    if std::env::var_os(INSIDE).is_none() && !selected.is_empty() {
        return run_inside(&selected, &arguments);
    }
    if !selected.is_empty() {
        let up = Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap();
        assert!(up.success(), "ip, of iproute2, sets the loopback interface up");
    }
    println!("\nrunning {} tests", selected.len());
    let start = Instant::now();
    let failed: Vec<&str> =
        selected.iter().filter(|test| !passes(test)).map(|(name, _)| *name).collect();
    let outcome = if failed.is_empty() { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {outcome}. {} passed; {} failed; finished in {:.2}s\n",
        selected.len() - failed.len(),
        failed.len(),
        start.elapsed().as_secs_f64()
    );
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(101) }
}

fn select(tests: &[Test], arguments: &[String]) -> Vec<Test> {
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    if has("--ignored") {
        return Vec::new();
    }
    let mut filters = Vec::new();
    let mut skipped = Vec::new();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match argument.as_str() {
            "--skip" => skipped.extend(rest.next()),
            "--test-threads" | "--color" | "--format" | "--logfile" | "-Z" => drop(rest.next()),
            flag if flag.starts_with('-') => {}
            _ => filters.push(argument),
        }
    }
    let matches = |name: &str, filter: &String| {
        if has("--exact") { name == filter } else { name.contains(filter.as_str()) }
    };
    let is_selected = |(name, _): &&Test| {
        (filters.is_empty() || filters.iter().any(|filter| matches(name, filter)))
            && !skipped.iter().any(|filter| matches(name, filter))
    };
    tests.iter().filter(is_selected).copied().collect()
}

fn passes((name, test): &Test) -> bool {
    let start = Instant::now();
    let passed = catch_unwind(AssertUnwindSafe(test)).is_ok();
    let outcome = if passed { "ok" } else { "FAILED" };
    println!("test {name} ... {outcome} ({:.1} s)", start.elapsed().as_secs_f64());
    passed
}

/// Runs this program again in private namespaces. Where that is not possible, the tests are reported as left out.
fn run_inside(selected: &[Test], arguments: &[String]) -> ExitCode {
    let unshare = |program: &std::ffi::OsStr, arguments: &[String]| {
        let mut command = Command::new(UNSHARE[0]);
        command.args(&UNSHARE[1..]).arg(program).args(arguments).env(INSIDE, "1").status()
    };
    if !unshare("true".as_ref(), &[]).is_ok_and(|status| status.success()) {
        for (name, _) in selected {
            report_left_out(name, "needs root: namespaces need CAP_SYS_ADMIN");
        }
        return ExitCode::SUCCESS;
    }
    let program = std::env::current_exe().unwrap();
    let status = unshare(program.as_os_str(), arguments).unwrap();
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    ExitCode::from(code.unwrap_or(101))
}
