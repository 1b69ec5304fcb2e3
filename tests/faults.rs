//! What goes wrong at either end of the wire, and what comes of it. `docs/faults.md` lists it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "faults/answers.rs"]
mod answers;
#[path = "faults/core.rs"]
mod core;
#[path = "faults/crowds.rs"]
mod crowds;
#[cfg(target_os = "linux")]
#[path = "faults/descriptors.rs"]
mod descriptors;
// They need a scan that lasts as long as a tree makes it.
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
#[path = "faults/nonsense.rs"]
mod nonsense;
#[path = "faults/refusals.rs"]
mod refusals;
// They count what is in /proc.
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
