//! Compares queries of 50,000 socket events with queries of 50,000 sockets, and measures the thread that reads events and
//! the memory that they take.
//!
//! `cargo bench --bench events`, as root, on Linux.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::cast_precision_loss)]

#[cfg(target_os = "linux")]
mod linux;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    linux::main()
}

#[cfg(not(target_os = "linux"))]
fn main() {}
