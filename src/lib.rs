//! The tables of the crate `tables`, for osquery and for people.
//!
//! [`extension`] serves them to osquery over Thrift, [`shell`] answers SQL without osquery. Both know a
//! table by the trait [`tables::Table`] alone.

pub mod cli;
pub mod environment;
pub mod extension;
pub mod log_queue;
#[cfg(feature = "shell")]
pub mod shell;
pub mod table_flags;
