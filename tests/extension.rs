//! The extension binary under a stand-in core. The scenarios in `rows` also run with a real osqueryi if
//! the variable OSQUERYI names one.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "extension/launch.rs"]
mod launch;
#[path = "extension/requests.rs"]
mod requests;
#[path = "extension/rows.rs"]
mod rows;
mod support;
