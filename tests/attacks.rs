//! Attacks of an unprivileged local user who wants to hide a socket from a scan, or to break it.
//!
//! The suite runs itself again in a PID, mount and network namespace of its own: no other process
//! is seen there, and all attackers end with it. An attacker is this program, started again with the
//! environment variable `ATTACK`. It gives up its privileges unless the attack needs root, and ends when
//! its standard input is closed, at the latest after five minutes.
//!
//! Each attack has to stand 20 scans of each query with each source. Where they take long, some are in
//! the long form alone (`ATTACKS_LONG=1`), in which the attacks that are a race have to stand 400.
//!
//! It has no test harness: an attacker must be a process of one thread, with which the harness does
//! not start one.

#[cfg(target_os = "linux")]
#[path = "attacks/mod.rs"]
mod attacks;
#[cfg(target_os = "linux")]
mod support;

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("attacks: ignored, the attacks are on Linux");
}

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    attacks::attacker::run_if_requested();
    attacks::runner::run(&attacks::tests())
}
