//! A full scan of the table's collector, without SQLite and without cells.
//!
//! Prints the milliseconds and the number of rows.

use std::error::Error;
use std::time::Instant;

use tables::process_open_sockets::ProcessOpenSockets;
use tables::{Options, QueryContext, Table};

fn main() -> Result<(), Box<dyn Error>> {
    let table = ProcessOpenSockets::new(Options::default());
    let start = Instant::now();
    let rows = table.generate(&QueryContext::default())?;
    println!("collect {:.1} rows {}", start.elapsed().as_secs_f64() * 1000.0, rows.len());
    Ok(())
}
