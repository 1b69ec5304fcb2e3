//! The tables of the crate `tables`, in osquery and on the command line.
//!
//! [`extension`] serves them to osquery over Thrift; [`shell`] runs SQL on them without osquery. Both use a
//! table only through the trait [`tables::Table`].

pub mod clap_args;
pub mod cli;
pub mod environment;
#[cfg(any(feature = "shell", target_os = "linux"))]
mod escape;
#[cfg(target_os = "linux")]
pub mod events;
pub mod extension;
pub mod log_queue;
#[cfg(feature = "shell")]
pub mod shell;
pub mod version;
