#[path = "../../tests/support/mod.rs"]
mod support;

use std::io::Read;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use process_open_sockets::extension::requests::Requests;
use process_open_sockets::extension::service::{Limits, Listening, Service};
use support::serving::Serving;
use support::waiting::{Waiting, wait_for_end};
use support::{context, remote};
use tables::process_open_sockets::ProcessOpenSockets;
use tables::process_socket_events::ProcessSocketEvents;
use tables::{
    ColumnOptions, ColumnsUsed, Constraint, EventMode, Operator, Options, QueryContext, Source,
    Table,
};

/// Each connection is two sockets, and a connect and an accept.
const CONNECTIONS: usize = 25_000;
/// So many of them are made after a pause: 1 %.
const LATE: usize = 250;
/// The number of processes that hold the others: few hosts allow a process so many open files.
const PROCESSES: usize = 6;
const EVENTS: usize = 2 * CONNECTIONS;
const ROUNDS: usize = 15;
/// How long two processes of one user flood.
const FLOOD: Duration = Duration::from_secs(10);
/// The connects of another user meanwhile.
const QUIET: u64 = 100;
/// Nothing listens there: each connect is refused, which is two changes of states and one event.
const FLOOD_PORT: u16 = 1;
const QUIET_PORT: u16 = 2;

impl Serving {
    fn rows(&self, table: &str, context: &str) -> usize {
        let request = [
            ("action".to_owned(), "generate".to_owned()),
            ("context".to_owned(), context.to_owned()),
        ];
        remote::call(&self.socket, table, request.into()).unwrap().len()
    }

    /// A number of the statistics.
    fn statistic(&self, kind: &str) -> u64 {
        let request = [("action".to_owned(), "generate".to_owned())];
        let rows = remote::call(&self.socket, "statistics", request.into()).unwrap();
        let row = rows.into_iter().find(|row| row["kind"] == kind);
        row.map_or(0, |row| row["value"].parse().unwrap_or_default())
    }

    /// A field of the status of the process, in megabytes.
    fn memory(&self, field: &str) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        let kilobytes: f64 =
            line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().unwrap();
        kilobytes * 1024.0 / 1e6
    }

    /// The time on a processor of the thread that reads events, in nanoseconds.
    fn reader_ns(&self) -> u64 {
        let tasks = format!("/proc/{}/task", self.child.id());
        let mut tasks = std::fs::read_dir(tasks).unwrap().map(|task| task.unwrap().path());
        let is_reader =
            |task: &PathBuf| std::fs::read_to_string(task.join("comm")).unwrap() == "events\n";
        let reader = tasks.find(is_reader).unwrap();
        let stat = std::fs::read_to_string(reader.join("schedstat")).unwrap();
        stat.split(' ').next().unwrap().parse().unwrap()
    }
}

fn options() -> Options {
    let events_max = EVENTS;
    Options { source: Source::Bpf, events: EventMode::On, events_max, ..Options::default() }
}

/// Serves until it is killed.
fn serve(socket: &str) {
    let (send, _events) = channel();
    let events = ProcessSocketEvents::new(&options());
    events.start().unwrap();
    let statistics: Arc<dyn Table> = Arc::new(events.statistics());
    let sockets: Arc<dyn Table> = Arc::new(ProcessOpenSockets::new(options()));
    let events: Arc<dyn Table> = Arc::new(events);
    let named = [("events", events), ("sockets", sockets), ("statistics", statistics)];
    let named = named.map(|(name, table)| (name.to_owned(), table)).into();
    let service =
        Arc::new(Service::new(Requests::new(named, Arc::default(), send), Limits::default()));
    let _listening = Listening::start(Path::new(socket), service).unwrap();
    loop {
        std::thread::park();
    }
}

/// The request of `SELECT *` with these constraints.
fn select_all(table: &dyn Table, constraints: &[(&str, Operator, String)]) -> String {
    let index = |name: &str| table.columns().iter().position(|column| column.name == name).unwrap();
    let is_shown =
        |column: &usize| !table.columns()[*column].options.contains(ColumnOptions::HIDDEN);
    let shown =
        (0..table.columns().len()).filter(is_shown).fold(0, |bits, column| bits | 1 << column);
    let constraint = |(name, operator, text): &(&str, Operator, String)| Constraint {
        column: index(name),
        operator: *operator,
        text: text.clone(),
    };
    let constraints = constraints.iter().map(constraint).collect();
    context::encode(
        &QueryContext { constraints, columns_used: ColumnsUsed(shown) },
        table.columns(),
    )
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// Starts a process with open connections to itself.
fn start_holding(connections: usize) -> Waiting {
    Waiting::start(&["hold", &connections.to_string()])
}

/// Holds so many connections until standard input ends.
fn hold(connections: usize) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let connect = |_| (TcpStream::connect(address).unwrap(), listener.accept().unwrap());
    let held: Vec<_> = (0..connections).map(connect).collect();
    wait_for_end();
    drop(held);
}

/// A process of another user that connects; dropping ends it.
struct Connecting(Child);

impl Connecting {
    fn start(uid: u32, port: u16, times: &str) -> Connecting {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["connect", &port.to_string(), times]).uid(uid);
        Connecting(command.stdout(Stdio::piped()).spawn().unwrap())
    }

    /// How often it connected.
    fn end(&mut self) -> u64 {
        let mut count = String::new();
        self.0.stdout.take().unwrap().read_to_string(&mut count).unwrap();
        assert!(self.0.wait().unwrap().success());
        count.trim().parse().unwrap()
    }
}

impl Drop for Connecting {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Connects so often, or as long as the flood lasts; prints how often it was.
fn connect(port: u16, times: Option<u64>) {
    let start = Instant::now();
    let mut count = 0;
    while times.map_or(start.elapsed() < FLOOD, |times| count < times) {
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap_err();
        count += 1;
        if times.is_some() {
            std::thread::sleep(FLOOD / (2 * QUIET as u32));
        }
    }
    println!("{count}");
}

struct Flood {
    /// Changes of states.
    produced: u64,
    captured: u64,
    lost: u64,
    skipped: u64,
    /// The events of the other user that are stored.
    quiet: u64,
    /// Nanoseconds of the reader for each change.
    reader_ns: f64,
}

/// One user connects as fast as it goes, another one now and then.
fn flood(serving: &Serving) -> Flood {
    const KINDS: [&str; 3] = ["captured", "lost_events", "skipped"];
    let before = KINDS.map(|kind| serving.statistic(kind));
    let reader_before = serving.reader_ns();
    let mut flooding = [(); 2].map(|()| Connecting::start(2_000_001, FLOOD_PORT, "flood"));
    let quiet = Connecting::start(1_001, QUIET_PORT, &QUIET.to_string()).end();
    assert_eq!(quiet, QUIET);
    let connects: u64 = flooding.iter_mut().map(Connecting::end).sum::<u64>() + quiet;
    let events = ProcessSocketEvents::new(&options());
    let of_quiet = [("remote_port", Operator::Equals, QUIET_PORT.to_string())];
    // The query also reads what is left in the ring buffer.
    let quiet = serving.rows("events", &select_all(&events, &of_quiet)) as u64;
    let reader_ns = serving.reader_ns() - reader_before;
    let after = KINDS.map(|kind| serving.statistic(kind));
    let [captured, lost, skipped] = [0, 1, 2].map(|index: usize| after[index] - before[index]);
    let reader_ns = reader_ns as f64 / captured as f64;
    Flood { produced: 2 * connects, captured, lost, skipped, quiet, reader_ns }
}

/// Does what the arguments say; returns false if they are those of the benchmark itself.
fn run_child() -> bool {
    let arguments: Vec<String> = std::env::args().collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        [_, "serve", socket] => serve(socket),
        [_, "hold", connections] => hold(connections.parse().unwrap()),
        [_, "connect", port, times] => connect(port.parse().unwrap(), times.parse().ok()),
        _ => return false,
    }
    true
}

pub(crate) fn main() -> ExitCode {
    if run_child() {
        return ExitCode::SUCCESS;
    }
    let directory = tempfile::tempdir().unwrap();
    let serving = Serving::start(&["serve"], directory.path().join("tables"));
    if serving.statistic("running") == 0 {
        println!("needs root and a kernel that accepts the programs");
        return ExitCode::FAILURE;
    }
    let empty = serving.memory("VmRSS");
    let flooded_by = flood(&serving);
    let flooded = serving.memory("VmHWM");

    let mut holding: Vec<Waiting> =
        (0..PROCESSES).map(|_| start_holding((CONNECTIONS - LATE) / PROCESSES)).collect();
    std::thread::sleep(Duration::from_secs(3));
    let late = now();
    holding.push(start_holding(LATE));
    let events = ProcessSocketEvents::new(&options());
    let all = select_all(&events, &[]);
    let few = select_all(&events, &[("time", Operator::GreaterThanOrEquals, late.to_string())]);
    let sockets = select_all(&ProcessOpenSockets::new(options()), &[]);
    let stored = serving.statistic("stored");
    let rows = serving.rows("events", &few);
    let of_query = serving.memory("VmHWM");
    let times: Vec<[[f64; 2]; 3]> = (0..ROUNDS)
        .map(|_| {
            [("events", &all), ("sockets", &sockets), ("events", &few)]
                .map(|(table, context)| serving.time(table, context))
        })
        .collect();
    let of = |query: usize, byte: usize| median(times.iter().map(|round| round[query][byte]));
    let ratio = |query: usize, byte: usize, to: usize| {
        median(times.iter().map(|round| round[query][byte] / round[to][byte]))
    };

    let mut reached = true;
    let mut verdict = |is: bool| {
        reached &= is;
        if is { "reached" } else { "MISSED" }
    };
    let Flood { produced, captured, lost, skipped, quiet, reader_ns } = flooded_by;
    // Other processes of the host can add some.
    let is_complete = captured + lost + skipped >= produced;
    println!(
        "flood: {:.0} changes of states a second, {produced} produced, {captured} captured, {lost} lost, {skipped} \
         skipped ({}); {quiet} events of {QUIET} of another user stored ({})",
        produced as f64 / FLOOD.as_secs_f64(),
        verdict(is_complete && lost + skipped == 0),
        verdict(quiet == QUIET)
    );
    println!(
        "reader: {reader_ns:.0} ns a change of state (at most 300: {})",
        verdict(reader_ns <= 300.0)
    );
    println!(
        "memory: {empty:.1} MB without events, {flooded:.1} MB after a flood, {of_query:.1} MB at the most with {stored} \
         events and a query (at most 48: {})",
        verdict(of_query <= 48.0)
    );
    println!("SELECT *                 | first byte | last byte");
    for (query, name) in
        ["50,000 events", "50,000 sockets", "1 % of the events by time"].iter().enumerate()
    {
        println!("{name:24} | {:7.2} ms | {:7.1} ms", of(query, 0), of(query, 1));
    }
    let first = ratio(0, 0, 1);
    println!("events to sockets, first byte: {first:.3} (at most 0.5: {})", verdict(first <= 0.5));
    let few = ratio(2, 1, 0);
    println!(
        "{rows} rows to {EVENTS}, last byte: {few:.3} (at most 0.02: {})",
        verdict(few <= 0.02)
    );
    if reached { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
