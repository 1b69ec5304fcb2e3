//! Compares answers to osquery of this crate's service and of osquery-rust-ng's server.
//!
//! `cargo bench --bench answer`
//!
//! Both serve the same table of generated sockets without a scan, each in a separate process. The time runs
//! from the request to the last byte of the answer; memory is the peak of the process (VmHWM). Each figure is
//! the median of several alternating rounds.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::io::{BufReader, Read, Write};
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use osquery_rust_ng::Server;
use osquery_rust_ng::plugin::Plugin;
use process_open_sockets::extension::plugin::TablePlugin;
use process_open_sockets::extension::requests::Requests;
use process_open_sockets::extension::service::{Limits, Listening, Service};
use support::core::Core;
use support::remote;
use tables::process_open_sockets::ProcessOpenSockets;
use tables::{Column, Error, Options, QueryContext, Rows, Table, Value};
use thrift::protocol::{TBinaryInputProtocol, TInputProtocol, TType};

const ROUNDS: usize = 7;
const NAME: &str = "sockets";
const ALL_COLUMNS: &str = "{}";
const TWO_COLUMNS: &str = r#"{"colsUsed":["pid","local_port"]}"#;

/// A table with the columns of the real one. It generates TCP connections row by row, as the real table makes
/// rows from its records.
struct Sockets {
    count: usize,
    columns: Vec<Column>,
}

impl Table for Sockets {
    fn name(&self) -> &str {
        NAME
    }
    fn description(&self) -> &str {
        "Rows of a test"
    }
    fn columns(&self) -> &[Column] {
        &self.columns
    }

    fn generate(&self, _: &QueryContext) -> Result<Box<dyn Rows>, Error> {
        Ok(Box::new(Connections(self.count)))
    }
}

struct Connections(usize);

impl Rows for Connections {
    fn len(&self) -> usize {
        self.0
    }

    fn id(&self, row: usize) -> i64 {
        0x1234_5678_9abc_0000 + row as i64
    }

    fn cell(&self, row: usize, column: usize) -> Value<'_> {
        let number = |number: usize| Value::Integer(number as i64);
        let host = |host: usize| Value::Text(Ipv4Addr::from(host as u32).to_string().into());
        match column {
            0 => number(1000 + row / 20_000),
            1 => number(3 + row % 20_000),
            2 => number(1_000_000 + row),
            3 => number(2),
            4 => number(6),
            5 => host(0x7f00_0001 + row / 20_000),
            6 => host(0x0a00_0001 + row),
            7 => number(9000),
            8 => number(1024 + row % 60_000),
            9 => Value::Text("".into()),
            10 => Value::Text("ESTABLISHED".into()),
            _ => Value::Text("4026531840".into()),
        }
    }
}

fn table(count: usize) -> Arc<dyn Table> {
    let columns = ProcessOpenSockets::new(Options::default()).columns().to_vec();
    Arc::new(Sockets { count, columns })
}

/// A process that serves a given number of rows.
struct Serving {
    child: Child,
    socket: std::path::PathBuf,
}

impl Serving {
    fn own(directory: &Path, rows: usize) -> Serving {
        let socket = directory.join(format!("own.{rows}"));
        let serving = Serving::start("own", &socket, rows, socket.clone());
        remote::wait_for_service(&serving.socket);
        serving
    }

    fn osquery_rust(core: &Core, rows: usize) -> Serving {
        let mut serving = Serving::start("osquery-rust", core.socket(), rows, Default::default());
        serving.socket = core.socket_of(core.wait_for(NAME));
        serving
    }

    fn start(how: &str, at: &Path, rows: usize, socket: std::path::PathBuf) -> Serving {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["serve", how]).arg(at).arg(rows.to_string()).stdin(Stdio::piped());
        Serving { child: command.spawn().unwrap(), socket }
    }

    /// In kilobytes.
    fn peak_memory(&self) -> u64 {
        let status = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(status).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
    }

    fn send_request(&self, context: &str) -> UnixStream {
        let mut stream = UnixStream::connect(&self.socket).unwrap();
        stream.write_all(&remote::request(NAME, context)).unwrap();
        stream
    }

    /// Returns the bytes of the answer.
    fn length(&self, context: &str) -> u64 {
        struct Counted<R>(R, u64);
        impl<R: Read> Read for Counted<R> {
            fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
                let length = self.0.read(bytes)?;
                self.1 += length as u64;
                Ok(length)
            }
        }
        let counted = Counted(BufReader::new(self.send_request(context)), 0);
        let mut input = TBinaryInputProtocol::new(counted, true);
        input.read_message_begin().unwrap();
        input.skip(TType::Struct).unwrap();
        input.transport.1
    }

    /// Returns the time from the request to the last byte of an answer of that length.
    fn time(&self, context: &str, length: u64) -> Duration {
        let start = Instant::now();
        let mut stream = self.send_request(context).take(length);
        let mut buffer = vec![0; 256 << 10];
        let mut remaining = length;
        while remaining > 0 {
            let received = stream.read(&mut buffer).unwrap();
            assert!(received > 0, "the answer is truncated");
            remaining -= received as u64;
        }
        start.elapsed()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// Serves until it is killed.
fn serve(how: &str, socket: &str, rows: usize) {
    if how == "own" {
        let (send, _events) = channel();
        let requests = Requests::new([(NAME.to_owned(), table(rows))].into(), Arc::default(), send);
        let service = Arc::new(Service::new(requests, Limits::default()));
        let _listening = Listening::start(Path::new(socket), service).unwrap();
        loop {
            std::thread::park();
        }
    }
    let mut server: Server<Plugin> = Server::new(Some(NAME), socket).unwrap();
    let plugin = TablePlugin::new(NAME.to_owned(), table(rows));
    server.register_plugin(Plugin::readonly_table(plugin));
    server.run().unwrap();
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, word, how, socket, rows] = &arguments[..]
        && word == "serve"
    {
        serve(how, socket, rows.parse().unwrap());
        return ExitCode::SUCCESS;
    }

    let directory = tempfile::tempdir().unwrap();
    let core = Core::with_tables(&[]);
    let own = Serving::own(directory.path(), 100_000);
    let other = Serving::osquery_rust(&core, 100_000);
    let length = own.length(ALL_COLUMNS);
    let other_length = other.length(ALL_COLUMNS);
    let (mut own_times, mut other_times) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        own_times.push(own.time(ALL_COLUMNS, length));
        other_times.push(other.time(ALL_COLUMNS, other_length));
    }
    let (own_time, other_time) = (median(own_times), median(other_times));
    let (own_peak, other_peak) = (own.peak_memory(), other.peak_memory());
    drop((own, other));

    let million = Serving::own(directory.path(), 1_000_000);
    let million_length = million.length(TWO_COLUMNS);
    let million_time = million.time(TWO_COLUMNS, million_length);
    let million_peak = million.peak_memory();
    drop(million);

    let busy = Serving::own(directory.path(), 300_000);
    let busy_length = busy.length(ALL_COLUMNS);
    let mut pings = Vec::new();
    std::thread::scope(|scope| {
        let answer = scope.spawn(|| busy.time(ALL_COLUMNS, busy_length));
        while !answer.is_finished() {
            let start = Instant::now();
            remote::ping(&busy.socket).unwrap();
            pings.push(start.elapsed());
        }
    });
    let worst_ping = pings.iter().max().copied().unwrap_or_default();
    let ping = median(pings);

    let ms = |time: Duration| time.as_secs_f64() * 1000.0;
    let mb = |kilobytes: u64| kilobytes as f64 / 1000.0;
    let mut reached = true;
    let mut verdict = |is: bool| {
        reached &= is;
        if is { "reached" } else { "MISSED" }
    };
    let ratio = own_time.as_secs_f64() / other_time.as_secs_f64();
    println!("100,000 rows, 12 columns | this crate | osquery-rust-ng | ratio");
    println!(
        "time to the last byte    | {:.0} ms | {:.0} ms | {ratio:.2} (at most 0.33: {})",
        ms(own_time),
        ms(other_time),
        verdict(ratio <= 1.0 / 3.0)
    );
    let ratio = own_peak as f64 / other_peak as f64;
    println!(
        "peak memory              | {:.1} MB | {:.1} MB | {ratio:.3} (at most 0.2: {})",
        mb(own_peak),
        mb(other_peak),
        verdict(ratio <= 0.2)
    );
    println!(
        "1,000,000 rows, 2 columns: {:.0} ms, peak memory {:.1} MB (at most 200: {})",
        ms(million_time),
        mb(million_peak),
        verdict(million_peak <= 200_000)
    );
    println!(
        "a ping beside 300,000 rows of 12 columns: median {:.2} ms, worst {:.1} ms (at most 50: {})",
        ms(ping),
        ms(worst_ping),
        verdict(worst_ping <= Duration::from_millis(50))
    );
    if reached { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
