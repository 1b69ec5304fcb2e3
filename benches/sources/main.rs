//! BPF beside the walk and the dump, each in an extension that stays: from the request to the answer.
//!
//! `cargo bench --bench sources`, as root
//!
//! 100,000 TCP sockets in a few processes, and 500 processes with three sockets each. Both services run
//! all the time and are asked in limiter; each figure is the median of several rounds. A scan is timed until
//! the first byte of its answer, since the rows are written when all is collected.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

#[cfg(target_os = "linux")]
mod linux;

use std::process::ExitCode;

fn main() -> ExitCode {
    #[cfg(target_os = "linux")]
    return linux::main();
    #[cfg(not(target_os = "linux"))]
    {
        eprintln!("only Linux has BPF");
        ExitCode::SUCCESS
    }
}
