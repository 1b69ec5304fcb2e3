//! The steps of a scan, and whole scans, at three sizes of a host.
//!
//! `cargo bench --manifest-path benches/compare/Cargo.toml`, as root. Other processes hold the
//! sockets of each size during its measurement.

#![allow(clippy::expect_used)]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use divan::{Bencher, black_box};
use tables::process_open_sockets::ProcessOpenSockets;
use tables::process_open_sockets::bench::{self, Collected};
use tables::{ColumnOptions, ColumnsUsed, Constraint, Operator, Options, QueryContext, Table};

/// How many TCP sockets the host has.
const SIZES: [u32; 3] = [1_000, 10_000, 100_000];
/// Number of additional processes with three sockets each; a burst reads them.
const LOOKUPS: usize = 500;
/// Below the limit of descriptors that most systems have.
const SOCKETS_A_PROCESS: u32 = 16_000;

fn main() {
    divan::main();
    *held() = None;
}

/// Sockets that are held by other processes.
struct Load {
    size: u32,
    child: Child,
    /// Those with three sockets each.
    pids: Vec<String>,
}

impl Drop for Load {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

fn held() -> std::sync::MutexGuard<'static, Option<Arc<Load>>> {
    static HELD: Mutex<Option<Arc<Load>>> = Mutex::new(None);
    HELD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A host of that size.
fn host(size: u32) -> Arc<Load> {
    let mut held = held();
    match &*held {
        Some(load) if load.size == size => Arc::clone(load),
        _ => {
            *held = None;
            Arc::clone(held.insert(Arc::new(start(size).expect("a load"))))
        }
    }
}

fn start(size: u32) -> std::io::Result<Load> {
    let processes = size.div_ceil(SOCKETS_A_PROCESS).max(3);
    let mut child = Command::new(env!("CARGO_BIN_EXE_load"))
        .args(["--list", "--sockets", &size.to_string(), "--processes", &processes.to_string()])
        .args(["--idle-processes", &LOOKUPS.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut pids = Vec::new();
    for line in BufReader::new(child.stdout.take().expect("a pipe")).lines() {
        match line?.split_once(' ') {
            Some(("idle", pid)) => pids.push(pid.to_owned()),
            Some(("ready", _)) => break,
            _ => {}
        }
    }
    Ok(Load { size, child, pids })
}

fn table() -> ProcessOpenSockets {
    ProcessOpenSockets::new(Options::default())
}

/// The query `SELECT *`.
fn all(table: &dyn Table) -> QueryContext {
    let visible = table.columns().iter().enumerate();
    let visible = visible.filter(|(_, column)| !column.options.contains(ColumnOptions::HIDDEN));
    let columns_used = ColumnsUsed(visible.fold(0, |used, (index, _)| used | 1 << index));
    QueryContext { columns_used, ..QueryContext::default() }
}

fn equals(table: &dyn Table, column: &str, text: &str) -> QueryContext {
    let index = table.columns().iter().position(|it| it.name == column).expect("a column");
    let constraint = Constraint { column: index, operator: Operator::Equals, text: text.into() };
    QueryContext { constraints: vec![constraint], ..all(table) }
}

#[divan::bench(args = SIZES)]
fn parse_proc_net(bencher: Bencher, size: u32) {
    let line = "   0: 0100007F:1F90 0200007F:9C40 01 00000000:00000000 00:00000000 00000000  1000        0 \
                4711 1 0000000000000000 20 4 30 10 -1\n";
    let text = line.repeat(size as usize);
    bencher.bench(|| assert_eq!(bench::parse_proc_net(black_box(text.as_bytes())), size as usize));
}

#[divan::bench(args = SIZES)]
fn parse_dump(bencher: Bencher, size: u32) {
    let mut message = vec![88, 0, 0, 0, 20, 0, 2, 0, 1, 0, 0, 0, 0, 0, 0, 0];
    message.extend([2, 1, 0, 0]);
    message.resize(88, 7);
    let dump = message.repeat(size as usize);
    bencher.bench(|| assert_eq!(bench::parse_dump(black_box(&dump)), size as usize));
}

#[divan::bench(args = SIZES)]
fn correlate(bencher: Bencher, size: u32) {
    bencher.with_inputs(|| Collected::new(size)).bench_values(Collected::correlate);
}

#[divan::bench(args = SIZES, sample_count = 20)]
fn walk(bencher: Bencher, size: u32) {
    let _host = host(size);
    bencher.bench(|| bench::walk().expect("a walk"));
}

#[divan::bench(args = SIZES, sample_count = 20)]
fn dump(bencher: Bencher, size: u32) {
    let _host = host(size);
    bencher.bench(|| bench::dump_tcp().expect("a dump"));
}

#[divan::bench(args = SIZES, sample_count = 20)]
fn scan(bencher: Bencher, size: u32) {
    let _host = host(size);
    bencher.bench(|| {
        let table = table();
        table.generate(&all(&table)).expect("rows").len()
    });
}

#[divan::bench(args = SIZES, sample_count = 20)]
fn scan_listen(bencher: Bencher, size: u32) {
    let _host = host(size);
    let table = table();
    let query = equals(&table, "state", "LISTEN");
    bencher.bench(|| table.generate(&query).expect("rows").len());
}

#[divan::bench(args = SIZES, sample_count = 20)]
fn one_pid(bencher: Bencher, size: u32) {
    let host = host(size);
    let query = equals(&table(), "pid", host.pids.first().expect("a small process"));
    // A new table each time, with empty caches.
    bencher.bench(|| assert_eq!(table().generate(&query).expect("rows").len(), 3));
}

#[divan::bench(args = SIZES, sample_count = 5)]
fn burst_of_500_pids(bencher: Bencher, size: u32) {
    let host = host(size);
    bencher.bench(|| {
        let table = table();
        for pid in &host.pids {
            let query = equals(&table, "pid", pid);
            assert_eq!(table.generate(&query).expect("rows").len(), 3);
        }
    });
}
