//! A full scan of the table's collector, without SQLite and without cells.
//!
//! Prints the milliseconds and the number of rows.

use std::error::Error;
use std::time::Instant;

use tables::process_open_sockets::ProcessOpenSockets;
use tables::{ColumnOptions, ColumnsUsed, Options, QueryContext, Table};

fn main() -> Result<(), Box<dyn Error>> {
    let table = ProcessOpenSockets::new(Options::default());
    // Those of `SELECT *`.
    let visible = table.columns().iter().enumerate();
    let visible = visible.filter(|(_, column)| !column.options.contains(ColumnOptions::HIDDEN));
    let columns_used = ColumnsUsed(visible.fold(0, |used, (index, _)| used | 1 << index));
    let start = Instant::now();
    let rows = table.generate(&QueryContext { columns_used, ..QueryContext::default() })?;
    println!("collect {:.1} rows {}", start.elapsed().as_secs_f64() * 1000.0, rows.len());
    Ok(())
}
