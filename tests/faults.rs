//! Faults between osquery and the extension. `docs/faults.md` lists them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "faults/answers.rs"]
mod answers;
#[path = "faults/clients.rs"]
mod clients;
#[path = "faults/core.rs"]
mod core;
#[cfg(target_os = "linux")]
#[path = "faults/descriptors.rs"]
mod descriptors;
// These tests need a scan that blocks on a file of the tree.
#[cfg(target_os = "linux")]
#[path = "faults/end.rs"]
mod end;
#[cfg(target_os = "linux")]
#[path = "faults/large_lists.rs"]
mod large_lists;
#[path = "faults/listed.rs"]
mod listed;
#[cfg(target_os = "linux")]
#[path = "faults/log.rs"]
mod log;
#[path = "faults/malformed.rs"]
mod malformed;
#[path = "faults/refusals.rs"]
mod refusals;
// These tests count entries of /proc.
#[cfg(target_os = "linux")]
#[path = "faults/restarts.rs"]
mod restarts;
#[cfg(target_os = "linux")]
#[path = "faults/signals.rs"]
mod signals;
#[path = "faults/socket.rs"]
mod socket;
#[path = "faults/stderr.rs"]
mod stderr;
mod support;
