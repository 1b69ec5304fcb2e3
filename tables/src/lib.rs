//! What is known about this host, as tables.
//!
//! This crate collects; it knows neither osquery's Thrift interface nor SQLite. Whoever talks to
//! people or to osquery goes through [`Table`].

pub mod process_open_sockets;
mod table;
mod water_level;

pub use table::{
    Column, ColumnOptions, ColumnType, ColumnsUsed, Constraint, Error, Explanation, Operator,
    QueryContext, RowUser, Rows, Table, User, Value,
};
pub use water_level::water_level;
