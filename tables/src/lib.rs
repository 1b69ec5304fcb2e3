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
pub mod process_open_sockets;
mod table;
mod water_level;

pub use table::{
    Column, ColumnOptions, ColumnType, ColumnsUsed, Constraint, Error, Explanation, Operator,
    QueryContext, RowUser, Rows, Table, User, Value,
};
pub use water_level::water_level;
