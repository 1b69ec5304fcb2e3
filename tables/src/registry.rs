//! The list of tables, one line each.

use std::sync::Arc;

use crate::process_open_sockets::ProcessOpenSockets;
use crate::{Options, Table};

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
