//! Runs a command, and prints the most memory that it has had, in MB.

use std::process::{Command, Stdio};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let command: Vec<String> = std::env::args().skip(1).collect();
    let (program, arguments) = command.split_first().ok_or("usage: peak COMMAND [ARGUMENT …]")?;
    let nothing = || Stdio::null();
    let mut child =
        Command::new(program).args(arguments).stdout(nothing()).stderr(nothing()).spawn()?;
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    // What is read last before its end is the peak, but for what came in the last half millisecond.
    while child.try_wait()?.is_none() {
        let status = std::fs::read_to_string(&status).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        peak = kilobytes.unwrap_or(0u64).max(peak);
        std::thread::sleep(std::time::Duration::from_micros(500));
    }
    println!("{:.1}", peak as f64 / 1024.0);
    Ok(())
}
