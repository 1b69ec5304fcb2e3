//! Support of the tests: trees in the format of `/proc`, answers of the table as text, a stand-in for
//! osquery's core, and the extension launched as osquery launches it.

// Each test binary uses only some of these modules.
#![allow(dead_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

pub(crate) mod bpf;
#[cfg(feature = "shell")]
pub(crate) mod conditions;
pub(crate) mod context;
#[cfg(feature = "shell")]
pub(crate) mod core;
#[cfg(feature = "shell")]
pub(crate) mod core_faults;
#[cfg(target_os = "linux")]
pub(crate) mod isolated;
pub(crate) mod left_out;
pub(crate) mod log_capture;
#[cfg(feature = "shell")]
pub(crate) mod native;
#[cfg(feature = "shell")]
pub(crate) mod osquery;
#[cfg(target_os = "linux")]
pub(crate) mod other_end;
#[cfg(target_os = "linux")]
pub(crate) mod own;
#[cfg(target_os = "linux")]
pub(crate) mod proc_tree;
#[cfg(feature = "shell")]
pub(crate) mod process;
pub(crate) mod program;
#[cfg(feature = "shell")]
pub(crate) mod remote;
pub(crate) mod rows;
pub(crate) mod served;
#[cfg(feature = "shell")]
pub(crate) mod serving;
pub(crate) mod set_on_drop;
pub(crate) mod sleeper;
#[cfg(feature = "shell")]
pub(crate) mod sql;
pub(crate) mod waiting;
pub(crate) mod wire;
