//! The table `process_open_sockets`, for osquery and for people.
//!
//! [`extension`] serves it to osquery over Thrift, [`shell`] answers SQL without osquery. The table
//! itself, and all that is known about sockets, is in the crate `tables`.

pub mod cli;
pub mod extension;
pub mod log_queue;
#[cfg(feature = "shell")]
pub mod shell;
mod variables;
