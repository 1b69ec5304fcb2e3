//! Attacks of an unprivileged local user to hide a socket from a scan, or to make a scan fail.
//!
//! The suite runs itself again in a private PID, mount and network namespace: no other process is visible
//! there, and all attackers end with it. An attacker is this program, started again with the environment
//! variable `ATTACK`. It gives up its privileges unless the attack needs root. It ends when its standard
//! input is closed, at the latest after five minutes.
//!
//! Each attack runs against 20 scans of each query with each source. Some slow scans are only in the long
//! form (`ATTACKS_LONG=1`), which has 400 scans against each attack that is a race.
//!
//! The suite has no test harness: an attacker must have one thread, and the harness starts several.

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
