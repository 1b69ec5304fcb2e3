//! Tables about this host.
//!
//! This crate collects rows. It depends neither on osquery's Thrift interface nor on SQLite. The extension
//! and the shell use it through [`Table`].

mod condition;
mod deadline;
mod enum_table;
mod formats;
mod inet_ntop;
#[cfg(target_os = "linux")]
mod linux;
// The tests of everything but the system calls run on any system.
#[cfg(any(target_os = "macos", test))]
mod macos;
mod model;
pub mod options;
pub mod process_open_sockets;
#[cfg(target_os = "linux")]
pub mod process_socket_events;
mod registry;
mod table;
mod water_level;

#[cfg(all(feature = "bench", target_os = "linux"))]
pub use linux::bpf::socket_events::bench as socket_events_bench;
pub use model::{Families, Source, User};
pub use options::{EventDatagrams, EventMode, Options, TableOption, Threads};
pub use registry::tables;
pub use table::{
    Column, ColumnOptions, ColumnType, ColumnsUsed, Constraint, Error, Explanation, Operator,
    QueryContext, RowUser, Rows, Table, Value,
};
pub use water_level::water_level;
