//! The cost of the columns about processes and containers: 100,000 sockets in 500 processes.

use std::process::ExitCode;
use std::time::Instant;

use tables::process_open_sockets::ProcessOpenSockets;
use tables::{ColumnsUsed, QueryContext, Rows, Table};

use super::linux::{Load, ROUNDS, median, table};

/// The time of a scan with these columns at most, beside one without.
const AT_MOST: f64 = 1.15;

/// The columns of osquery's own table, and those whose names begin like this.
fn columns(table: &ProcessOpenSockets, prefixes: &[&str]) -> QueryContext {
    let is_used = |name: &str| prefixes.iter().any(|prefix| name.starts_with(prefix));
    let columns = table.columns().iter().enumerate();
    let used = columns.filter(|(index, column)| *index < 12 || is_used(column.name));
    let columns_used = ColumnsUsed(used.fold(0, |used, (index, _)| used | 1 << index));
    QueryContext { columns_used, ..Default::default() }
}

pub(crate) fn main() -> ExitCode {
    let _load = Load::start(500, 0);
    let groups: [(&str, &[&str]); 5] = [
        ("none", &[]),
        ("process_name", &["process_name"]),
        ("container_id", &["container_id"]),
        ("process_cmdline", &["process_cmdline"]),
        ("all", &["process_", "container_", "pod_uid"]),
    ];
    let mut reached = true;
    println!(
        "| columns | source | scan, ms | ratio | processor, ms | ratio | cells, ms | at most | |\n\
         |---|---|---|---|---|---|---|---|---|"
    );
    for how in ["bpf", "walk"] {
        let table = table(how);
        let queries: Vec<_> =
            groups.iter().map(|(_, prefixes)| columns(&table, prefixes)).collect();
        let mut times = vec![(Vec::new(), Vec::new(), Vec::new()); groups.len()];
        table.generate(&queries[groups.len() - 1]).unwrap();
        for _ in 0..ROUNDS {
            for (query, (scan, work, cells)) in queries.iter().zip(&mut times) {
                let start = Instant::now();
                let ms = || start.elapsed().as_secs_f64() * 1000.0;
                let start_cpu = cpu();
                let rows = table.generate(query).unwrap();
                let scanned = ms();
                scan.push(scanned);
                work.push(cpu() - start_cpu);
                read_all(&*rows, &table, query);
                cells.push(ms() - scanned);
            }
        }
        let [without, work_without] = [times[0].0.clone(), times[0].1.clone()];
        let ratio_of = |with: &[f64], without: &[f64]| {
            median(with.iter().zip(without).map(|(with, without)| with / without).collect())
        };
        for ((name, _), (scan, work, cells)) in groups.iter().zip(times) {
            let ratio = ratio_of(&scan, &without);
            let of_work = ratio_of(&work, &work_without);
            let is = ratio <= AT_MOST;
            reached &= is;
            let verdict = if is { "reached" } else { "**not reached**" };
            let (scan, work, cells) = (median(scan), median(work), median(cells));
            println!(
                "| {name} | {how} | {scan:.1} | {ratio:.3} | {work:.1} | {of_work:.3} | {cells:.1} | {AT_MOST} | \
                 {verdict} |"
            );
        }
    }
    if reached { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The processor time of this process in milliseconds: it depends less on other processes than the time.
fn cpu() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 * 1000.0 + time.tv_nsec as f64 / 1e6
}

/// Makes each cell of the used columns.
fn read_all(rows: &dyn Rows, table: &ProcessOpenSockets, query: &QueryContext) {
    let is_used = |column: &usize| query.columns_used.contains(*column);
    let used: Vec<usize> = (0..table.columns().len()).filter(is_used).collect();
    for row in 0..rows.len() {
        for &column in &used {
            std::hint::black_box(rows.cell(row, column));
        }
    }
}
