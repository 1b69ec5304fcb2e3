#[path = "joins.rs"]
mod joins;
#[path = "../../tests/support/mod.rs"]
mod support;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Instant;

use process_open_sockets::extension::requests::Requests;
use process_open_sockets::extension::service::{Limits, Listening, Service};
use support::context;
use support::serving::Serving;
use tables::process_open_sockets::ProcessOpenSockets;
use tables::{
    ColumnOptions, ColumnsUsed, Constraint, Operator, Options, QueryContext, Source, Table,
};

const NAME: &str = "sockets";
const SOCKETS: &str = "100000";
const LOOKUPS: usize = 500;
pub(crate) const ROUNDS: usize = 9;

/// The load of `benches/compare`; dropping ends it.
pub(crate) struct Load {
    child: Child,
    input: Option<ChildStdin>,
    idle: Vec<u32>,
}

impl Load {
    pub(crate) fn start(processes: usize, lookups: usize) -> Load {
        let (processes, expected) = (processes.to_string(), lookups);
        let lookups = lookups.to_string();
        let mut child = Command::new(env!("CARGO"))
            .args(["run", "--quiet", "--release", "--no-default-features", "--bin", "load"])
            .args(["--manifest-path", "benches/compare/Cargo.toml", "--", "--list"])
            .args(["--sockets", SOCKETS, "--processes", &processes, "--idle-processes", &lookups])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let mut idle = Vec::new();
        for line in lines {
            if let Some(pid) = line.strip_prefix("idle ") {
                idle.push(pid.parse().unwrap());
            }
            if line.starts_with("ready ") {
                break;
            }
        }
        assert_eq!(idle.len(), expected);
        Load { input: child.stdin.take(), child, idle }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.child.wait();
    }
}

pub(crate) fn table(how: &str) -> ProcessOpenSockets {
    let options = match how {
        "bpf" => Options { source: Source::Bpf, ..Options::default() },
        _ => Options { bpf_from_files: None, ..Options::default() },
    };
    ProcessOpenSockets::new(options)
}

/// The columns of `SELECT *`.
fn visible(table: &dyn Table) -> ColumnsUsed {
    let columns = table.columns().iter().enumerate();
    let visible = columns.filter(|(_, column)| !column.options.contains(ColumnOptions::HIDDEN));
    ColumnsUsed(visible.fold(0, |used, (index, _)| used | 1 << index))
}

/// The same, and the bytes and round-trip times of TCP.
fn with_tcp(table: &dyn Table) -> ColumnsUsed {
    let names = ["bytes_sent", "bytes_received", "rtt_us", "retransmits", "congestion_algorithm"];
    let columns = table.columns().iter().enumerate();
    let of_tcp = columns.filter(|(_, column)| names.contains(&column.name));
    ColumnsUsed(of_tcp.fold(visible(table).0, |used, (index, _)| used | 1 << index))
}

/// Serves until it is killed.
fn serve(how: &str, socket: &str) {
    let (send, _events) = channel();
    let table: Arc<dyn Table> = Arc::new(table(how));
    let requests = Requests::new([(NAME.to_owned(), table)].into(), Arc::default(), send);
    let service = Arc::new(Service::new(requests, Limits::default()));
    let _listening = Listening::start(Path::new(socket), service).unwrap();
    loop {
        std::thread::park();
    }
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Returns the size of the kernel's slab caches in megabytes.
fn slab() -> f64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("Slab:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<f64>().unwrap() / 1000.0
}

pub(crate) fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        [_, "serve", how, socket] => {
            serve(how, socket);
            return ExitCode::SUCCESS;
        }
        [_, "listen"] => {
            joins::listen();
            return ExitCode::SUCCESS;
        }
        _ => {}
    }
    if arguments.iter().any(|argument| argument == "processes") {
        return super::processes::main();
    }
    let load = Load::start(6, LOOKUPS);
    if arguments.iter().any(|argument| argument == "joins") {
        return if joins::compare() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let directory = tempfile::tempdir().unwrap();
    let table = table("walk");
    let context_with = |constraints: Vec<Constraint>, columns_used| {
        context::encode(&QueryContext { constraints, columns_used }, table.columns())
    };
    let context = |constraints| context_with(constraints, visible(&table));
    let tcp = context_with(vec![], with_tcp(&table));
    let pid = table.columns().iter().position(|column| column.name == "pid").unwrap();
    let by_pid = |number: &u32| {
        let operator = Operator::Equals;
        context(vec![Constraint { column: pid, operator, text: number.to_string() }])
    };
    let (all, one) = (context(vec![]), by_pid(&load.idle[0]));
    let lookups: Vec<String> = load.idle.iter().map(by_pid).collect();

    let start = |how| Serving::start(&["serve", how], directory.path().join(how));
    let time = |service: &Serving, context: &str| service.time(NAME, context);
    let bpf = start("bpf");
    time(&bpf, &one);
    // Measure BPF before the first walk: a walk fills the kernel's caches.
    let mut kept = [slab(); 3];
    time(&bpf, &all);
    kept[1] = slab();
    let walk = start("walk");
    time(&walk, &all);
    kept[2] = slab();

    let services = [bpf, walk];
    let mut times = [const { [const { Vec::new() }; 2] }; 3];
    let mut tcp_times = [const { Vec::new() }; 2];
    for _ in 0..ROUNDS {
        for (index, service) in services.iter().enumerate() {
            times[0][index].push(time(service, &all)[0]);
            tcp_times[index].push(time(service, &tcp)[0]);
            times[1][index].extend((0..20).map(|_| time(service, &one)[1]));
            let start = Instant::now();
            for context in &lookups {
                time(service, context);
            }
            times[2][index].push(start.elapsed().as_secs_f64() * 1000.0);
        }
    }
    drop(services);
    let reached = print_figures(times, tcp_times, kept);
    let reached = joins::compare() && reached;
    drop(load);
    if reached { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Prints the table; returns whether each figure is reached. `times` has a row for each request, `kept` is the size of
/// the slab caches at first, after BPF, and after the walk.
fn print_figures(times: [[Vec<f64>; 2]; 3], tcp_times: [Vec<f64>; 2], kept: [f64; 3]) -> bool {
    let mut reached = true;
    let mut verdict = |is: bool| {
        reached &= is;
        if is { "reached" } else { "**not reached**" }
    };
    println!(
        "| request | BPF, ms | walk and dump, ms | ratio | at most | |\n|---|---|---|---|---|---|"
    );
    let names = ["full scan", "one pid, 3 sockets", "500 pids, one by one"];
    let ratios = [0, 1].map(|index| {
        median(tcp_times[index].iter().zip(&times[0][index]).map(|(tcp, all)| tcp / all).collect())
    });
    for (index, (name, [bpf, walk])) in names.into_iter().zip(times).enumerate() {
        let ratio = median(bpf.iter().zip(&walk).map(|(bpf, walk)| bpf / walk).collect());
        let (bpf, walk) = (median(bpf), median(walk));
        let (most, is) = match index {
            0 => ("the other", ratio <= 1.0),
            1 => ("1 ms", bpf <= 1.0),
            _ => ("250 ms", bpf <= 250.0),
        };
        println!("| {name} | {bpf:.2} | {walk:.2} | {ratio:.3} | {most} | {} |", verdict(is));
    }
    let [bpf, walk] = tcp_times.map(median);
    let [of_bpf, of_walk] = ratios;
    let is = verdict(of_bpf <= 1.5 && of_walk <= 1.5);
    let name = "full scan with bytes and round-trip times";
    println!(
        "| {name} | {bpf:.2} | {walk:.2} | {of_bpf:.3} and {of_walk:.3} | 1.5 of the full scan | {is} |"
    );
    let [bpf, walk] = [kept[1] - kept[0], kept[2] - kept[1]];
    let ratio = bpf / walk;
    let (what, is) = ("kernel memory still in use after a full scan, MB", verdict(ratio <= 0.1));
    println!("| {what} | {bpf:.1} | {walk:.1} | {ratio:.3} | 0.1 of the other | {is} |");
    reached
}
