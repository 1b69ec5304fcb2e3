//! Tables about this host.
//!
//! This crate collects rows. It depends neither on osquery's Thrift interface nor on SQLite. The extension
//! and the shell use it through [`Table`].

mod deadline;
mod enum_table;
mod formats;
#[cfg(target_os = "linux")]
mod linux;
// The tests of everything but the system calls run on any system.
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

/// Returns the tables, in the order of `--help` and `schema`. No file is opened before the first query.
///
/// ```
/// let tables = tables::tables(&tables::Options::default());
/// let names: Vec<&str> = tables.iter().map(|table| table.name()).collect();
/// assert_eq!(names, ["process_open_sockets"]);
/// ```
pub fn tables(options: &Options) -> Vec<Arc<dyn Table>> {
    vec![Arc::new(ProcessOpenSockets::new(options.clone()))]
}
