//! Compares BPF with the walk and the dump, each in a running extension, from the request to the answer.
//!
//! `cargo bench --bench sources`, as root
//!
//! `cargo bench --bench sources -- processes` measures the columns about processes and containers instead, and
//! `-- joins` only compares joins with these columns.
//!
//! 100,000 TCP sockets in a few processes, and 500 processes with three sockets each. Both services run
//! all the time and get alternating requests; each figure is the median of several rounds. The time of a scan
//! ends with the first byte of its answer, because the service writes rows after the scan.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
mod processes;

use std::process::ExitCode;

fn main() -> ExitCode {
    #[cfg(target_os = "linux")]
    return linux::main();
    #[cfg(not(target_os = "linux"))]
    {
        eprintln!("this bench needs Linux with BPF");
        ExitCode::SUCCESS
    }
}
