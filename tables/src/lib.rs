//! What is known about this host, as tables.
//!
//! This crate collects; it knows neither osquery's Thrift interface nor SQLite. Whoever talks to
//! people or to osquery goes through [`Table`].

mod deadline;
mod enum_table;
mod formats;
#[cfg(target_os = "linux")]
mod linux;
// All of it but the system calls is tested on any system.
#[cfg(any(target_os = "macos", test))]
mod macos;
mod model;
pub mod options;
pub mod process_open_sockets;
mod table;
mod water_level;

use std::sync::Arc;

pub use model::{Families, Source, User};
pub use options::{Options, TableOption, Threads};
use process_open_sockets::ProcessOpenSockets;

pub use table::{
    Column, ColumnOptions, ColumnType, ColumnsUsed, Constraint, Error, Explanation, Operator,
    QueryContext, RowUser, Rows, Table, Value,
};
pub use water_level::water_level;

/// The tables, in the order of the help and of `schema`. Nothing is opened before the first query.
pub fn tables(options: &Options) -> Vec<Arc<dyn Table>> {
    vec![Arc::new(ProcessOpenSockets::new(options.clone()))]
}
