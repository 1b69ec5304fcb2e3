//! The subcommand `events`: prints socket events as they happen, without osquery and without SQL.

use std::io::{self, BufWriter, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use tables::process_socket_events::{EventStream, Losses};
use tables::{EventMode, Options, Rows, Table, Value};

use crate::clap_args::parse_up_to;
use crate::escape::escape;

const MAX_PID: u64 = i32::MAX as u64;
const MAX_PORT: u64 = u16::MAX as u64;
const MAX_SECONDS: u64 = u32::MAX as u64;

/// The arguments of `events`.
#[derive(clap::Args, Debug)]
pub struct Events {
    /// Print one JSON object a line, with every column as text
    #[arg(long)]
    pub json: bool,
    /// Print only events of these processes; several with commas between
    #[arg(long, value_name = "PID", value_delimiter = ',', value_parser = parse_up_to::<MAX_PID>)]
    pub pid: Vec<u64>,
    /// Print only events with one of these ports at either end; several with commas between
    #[arg(long, value_name = "PORT", value_delimiter = ',', value_parser = parse_up_to::<MAX_PORT>)]
    pub port: Vec<u64>,
    /// End after this time [default: at SIGINT, SIGTERM, or when standard output is closed]
    #[arg(long, value_name = "SECONDS", value_parser = parse_up_to::<MAX_SECONDS>)]
    pub seconds: Option<u64>,
}

/// The time between two reads of the events.
const INTERVAL: Duration = Duration::from_millis(200);

/// Prints events until a signal, the end of the time, or the end of the reader.
pub fn events(arguments: &Events, options: &Options) -> ExitCode {
    match run(arguments, options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "{}: error: {error}", env!("CARGO_PKG_NAME"));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Events, options: &Options) -> Result<(), String> {
    if options.events == EventMode::Off {
        let reason = "socket events are disabled by --events off or PROCESS_OPEN_SOCKETS_EVENTS; add --events on";
        return Err(reason.into());
    }
    let is_over = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // A second signal ends the process at once: a reader that stops reading blocks the output.
        flag::register_conditional_default(signal, Arc::clone(&is_over))
            .and_then(|_| flag::register(signal, Arc::clone(&is_over)))
            .map_err(|error| format!("cannot handle signals: {error}"))?;
    }
    let options = Options { events: EventMode::On, is_one_query: false, ..options.clone() };
    let mut stream = EventStream::start(&options)?;
    let mut printer = Printer::new(stream.table(), arguments);
    let end = arguments.seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let outcome = loop {
        let is_last =
            is_over.load(Ordering::Relaxed) || end.is_some_and(|end| Instant::now() >= end);
        let rows = match stream.next_rows() {
            Ok(rows) => rows,
            Err(error) => break Err(error),
        };
        match printer.print(&*rows) {
            Ok(()) if !is_last && !wait() => {}
            Ok(()) => break Ok(()),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break Ok(()),
            Err(error) => break Err(format!("cannot write to standard output: {error}")),
        }
    };
    let Losses { ring_buffer, skipped, evicted } = stream.losses();
    let _ = writeln!(
        io::stderr(),
        "{}: events: {}; lost: {ring_buffer} in the ring buffer, at most {skipped} skipped by the kernel, {evicted} \
         before they could be printed",
        env!("CARGO_PKG_NAME"),
        printer.printed,
    );
    outcome
}

/// Waits until the next read; returns whether the reader of standard output is gone. A signal ends the wait.
fn wait() -> bool {
    let stdout = io::stdout();
    // Without requested events, only the end of the reader counts.
    let mut watched = [PollFd::new(&stdout, PollFlags::empty())];
    let interval = Timespec { tv_sec: 0, tv_nsec: i64::from(INTERVAL.subsec_nanos()) };
    poll(&mut watched, Some(&interval)).is_ok_and(|ready| ready > 0)
}

/// Prints rows.
struct Printer<'a> {
    arguments: &'a Events,
    /// The names of the columns.
    names: Vec<&'static str>,
    /// The columns that are printed as text.
    shown: Vec<usize>,
    pid: usize,
    ports: [usize; 2],
    family: usize,
    kind: usize,
    has_titles: bool,
    printed: u64,
    out: BufWriter<io::Stdout>,
}

/// The columns of the text, with their titles and widths. The others are in the JSON.
const SHOWN: [(&str, &str, usize); 14] = [
    ("time", "TIME", 8),
    ("action", "ACTION", 7),
    ("protocol", "PROTO", 6),
    ("status", "STATUS", 11),
    ("errno", "ERRNO", 12),
    ("pid", "PID", 7),
    ("process_name", "NAME", 15),
    ("local_address", "LOCAL", 21),
    ("remote_address", "REMOTE", 21),
    ("duration_ns", "MS", 10),
    ("bytes_sent", "SENT", 9),
    ("bytes_received", "RECEIVED", 9),
    ("closed_by", "CLOSED", 7),
    ("process_path", "PATH", 0),
];

impl<'a> Printer<'a> {
    fn new(table: &dyn Table, arguments: &'a Events) -> Printer<'a> {
        let names: Vec<&str> = table.columns().iter().map(|column| column.name).collect();
        let index = |name: &str| names.iter().position(|it| *it == name).unwrap_or(usize::MAX);
        let shown = SHOWN.iter().map(|(name, ..)| index(name)).collect();
        let (pid, ports) = (index("pid"), [index("local_port"), index("remote_port")]);
        let (family, kind) = (index("family"), index("type"));
        let out = BufWriter::new(io::stdout());
        Printer {
            arguments,
            names,
            shown,
            pid,
            ports,
            family,
            kind,
            has_titles: false,
            printed: 0,
            out,
        }
    }

    fn print(&mut self, rows: &dyn Rows) -> io::Result<()> {
        // Before the first event, so that the user sees that the collection runs.
        if !self.arguments.json && !std::mem::replace(&mut self.has_titles, true) {
            self.print_titles()?;
        }
        for row in (0..rows.len()).filter(|row| self.is_selected(rows, *row)).collect::<Vec<_>>() {
            if self.arguments.json {
                self.print_json(rows, row)?
            } else {
                self.print_text(rows, row)?
            }
            self.printed += 1;
        }
        self.out.flush()
    }

    fn is_selected(&self, rows: &dyn Rows, row: usize) -> bool {
        let Events { pid, port, .. } = self.arguments;
        let has_pid = || match rows.cell(row, self.pid) {
            Value::Integer(number) => pid.iter().any(|pid| pid.cast_signed() == number),
            _ => false,
        };
        let has_port = |column: usize| match rows.cell(row, column) {
            Value::Integer(number) => port.iter().any(|port| port.cast_signed() == number),
            _ => false,
        };
        (pid.is_empty() || has_pid())
            && (port.is_empty() || self.ports.iter().any(|&it| has_port(it)))
    }

    fn print_json(&mut self, rows: &dyn Rows, row: usize) -> io::Result<()> {
        let out = &mut self.out;
        for (column, name) in self.names.iter().enumerate() {
            write!(out, "{}\"{name}\":", if column == 0 { '{' } else { ',' })?;
            serde_json::to_writer(&mut *out, &text(rows.cell(row, column)))?;
        }
        writeln!(out, "}}")
    }

    fn print_titles(&mut self) -> io::Result<()> {
        let titles = SHOWN.iter().map(|(_, title, width)| format!("{title:width$}"));
        writeln!(self.out, "{}", titles.collect::<Vec<_>>().join(" ").trim_end())
    }

    fn print_text(&mut self, rows: &dyn Rows, row: usize) -> io::Result<()> {
        let cells = self.shown.iter().zip(SHOWN).map(|(&column, (name, _, width))| {
            let cell = rows.cell(row, column);
            let port = |end: usize| {
                text(rows.cell(row, self.ports.get(end).copied().unwrap_or(usize::MAX)))
            };
            let shown = match (name, cell) {
                ("time", Value::Integer(seconds)) => clock(seconds),
                ("protocol", Value::Integer(number)) => {
                    let [family, kind] =
                        [self.family, self.kind].map(|column| rows.cell(row, column));
                    protocol(&family, &kind, number)
                }
                ("duration_ns", Value::Integer(time)) => format!("{:.3}", time as f64 / 1e6),
                ("local_address", cell) => endpoint(&text(cell), &port(0)),
                ("remote_address", cell) => endpoint(&text(cell), &port(1)),
                (_, cell) => escape(&text(cell)).into_owned(),
            };
            format!("{shown:width$}")
        });
        let line = cells.collect::<Vec<_>>().join(" ");
        writeln!(self.out, "{}", line.trim_end())
    }
}

fn text(value: Value<'_>) -> String {
    match value {
        Value::Null => String::new(),
        Value::Integer(number) => number.to_string(),
        Value::Text(text) => text.into_owned(),
    }
}

/// The short name of the protocol of a socket, `raw` for any of a raw socket. The JSON has the number.
fn protocol(family: &Value<'_>, kind: &Value<'_>, number: i64) -> String {
    let is = |value: &Value<'_>, number: i32| matches!(value, Value::Integer(it) if *it == i64::from(number));
    let name = match number {
        _ if is(family, libc::AF_PACKET) => "packet",
        _ if is(kind, libc::SOCK_RAW) => "raw",
        6 => "tcp",
        17 => "udp",
        1 => "icmp",
        58 => "icmpv6",
        262 => "mptcp",
        _ => return number.to_string(),
    };
    name.to_owned()
}

/// Packet sockets have no address.
fn endpoint(address: &str, port: &str) -> String {
    if address.is_empty() {
        return String::new();
    }
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

/// The time of the day, in UTC.
fn clock(seconds: i64) -> String {
    let second = seconds.rem_euclid(86_400);
    format!("{:02}:{:02}:{:02}", second / 3_600, second / 60 % 60, second % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_the_day_is_utc() {
        assert_eq!(clock(0), "00:00:00");
        assert_eq!(clock(1_700_000_000), "22:13:20");
        assert_eq!(clock(-1), "23:59:59");
    }

    #[test]
    fn a_raw_socket_is_raw_whatever_its_protocol() {
        let name = |family: i32, kind: i32, number| {
            protocol(&Value::Integer(family.into()), &Value::Integer(kind.into()), number)
        };
        assert_eq!(name(libc::AF_INET, libc::SOCK_STREAM, 6), "tcp");
        assert_eq!(name(libc::AF_INET6, libc::SOCK_DGRAM, 58), "icmpv6");
        assert_eq!(name(libc::AF_INET, libc::SOCK_RAW, 17), "raw");
        assert_eq!(name(libc::AF_PACKET, libc::SOCK_RAW, 0), "packet");
        assert_eq!(name(libc::AF_INET, libc::SOCK_DGRAM, 136), "136");
    }

    #[test]
    fn an_ipv6_address_is_in_brackets() {
        assert_eq!(endpoint("::1", "80"), "[::1]:80");
        assert_eq!(endpoint("127.0.0.1", "80"), "127.0.0.1:80");
        assert_eq!(endpoint("", "0"), "");
    }
}
