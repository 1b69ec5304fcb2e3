//! The cost of socket events: a connection and a message with the programs attached against without, and the reader's CPU
//! time.
//!
//! `cargo bench --manifest-path benches/compare/Cargo.toml --bench events`, as root. Slices with the programs, without, and
//! with programs without work alternate; each figure is a median. Ends with 1 if a figure is missed. Other processes on the
//! host should be idle.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use tables::socket_events_bench::{EmptyPrograms, Events};

type Failure = Box<dyn std::error::Error>;

/// Rounds of slices, and connections in a slice.
const ROUNDS: usize = 201;
const CONNECTIONS: u32 = 200;
/// At most so much, with against without.
const MAX_RATIO: f64 = 1.12;
/// Limits for a message of 16 bytes of a socket that has sent before.
#[derive(Clone, Copy)]
struct Limits {
    /// With against without.
    total: f64,
    /// With against empty programs: what the programs do, without what the kernel takes to call them.
    over_calls: f64,
}
const DATAGRAM: Limits = Limits { total: 1.06, over_calls: 1.02 };
/// While datagrams are counted.
const COUNTED: Limits = Limits { total: 1.11, over_calls: 1.05 };
const TCP: Limits = Limits { total: 1.04, over_calls: 1.02 };
const UNIX: Limits = Limits { total: 1.15, over_calls: 1.03 };
/// At most so many nanoseconds of CPU time an event.
const MAX_READER: f64 = 300.0;
/// Changes of a connection from connect(2) to the end of both sides, without those of its listener.
const CHANGES: u64 = 7;

fn main() -> Result<ExitCode, Failure> {
    let listener = TcpListener::bind("0.0.0.0:0")?;
    let mut events = Events::start()?;
    let ratio = cost(&listener, &mut events)?;
    let are_messages_cheap = messages(&mut events)?;
    let reader = reader(&listener, &events)?;
    let is_met = ratio <= MAX_RATIO && are_messages_cheap && reader <= MAX_READER;
    Ok(if is_met { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The nanoseconds that a connection takes: connect, accept, close of both ends. It is the median of a slice, so that
/// interruptions by other processes do not count. Every slice has an address of its own, so that sockets in TIME_WAIT do
/// not use up the ports.
fn slice(listener: &TcpListener, number: u32) -> Result<f64, Failure> {
    let [_, b, c, d] = number.to_be_bytes();
    let address = SocketAddrV4::new(Ipv4Addr::new(127, 1 + b, c, d), listener.local_addr()?.port());
    let mut times = Vec::new();
    for _ in 0..CONNECTIONS {
        let start = Instant::now();
        let client = TcpStream::connect(address)?;
        let server = listener.accept()?;
        drop(client);
        drop(server);
        times.push(start.elapsed().as_secs_f64() * 1e9);
    }
    Ok(median(times))
}

/// Prints the cost of a connection; returns the median of the ratios.
fn cost(listener: &TcpListener, events: &mut Events) -> Result<f64, Failure> {
    let mut number = 0;
    let attach = |events: &mut Events, state| {
        let is_attached = state == 1;
        if is_attached {
            events.attach()?
        } else {
            events.detach()
        }
        events.set_datagrams(is_attached)
    };
    let [without, with] = measure_in_turn(events, attach, || {
        number += 1;
        slice(listener, number)
    })?;
    let (lost, skipped) = events.lost();
    let ratio = ratio(&with, &without);
    println!(
        "connect, accept, close: {:.2} us without, {:.2} us with: {ratio:.3} (at most {MAX_RATIO}); {lost} lost, {skipped} \
         skipped",
        median(without) / 1e3,
        median(with) / 1e3,
    );
    events.attach()?;
    Ok(ratio)
}

/// The median of the ratios of slices of the same round.
fn ratio(times: &[f64], to: &[f64]) -> f64 {
    median(times.iter().zip(to).map(|(time, to)| time / to).collect())
}

/// Measures slices in the states 0 to N - 1, in turn: the times in nanoseconds of each state.
fn measure_in_turn<const N: usize>(
    events: &mut Events,
    mut enter: impl FnMut(&mut Events, usize) -> Result<(), String>,
    mut measure: impl FnMut() -> Result<f64, Failure>,
) -> Result<[Vec<f64>; N], Failure> {
    let mut times = [(); N].map(|()| Vec::new());
    enter(events, 0)?;
    for _ in 0..20 {
        measure()?;
    }
    for round in 0..ROUNDS {
        // Each state is the first of some rounds.
        for state in (0..N).map(|state| (state + round) % N) {
            enter(events, state)?;
            let time = measure()?;
            if let Some(times) = times.get_mut(state) {
                times.push(time);
            }
            // Not while it is measured: the reader works on another processor, a fifth of a microsecond an event.
            events.drain(Duration::ZERO)?;
        }
    }
    Ok(times)
}

/// A message that one end sends and the other one receives.
type Exchange<'a> = &'a dyn Fn() -> io::Result<()>;

/// The nanoseconds that a message takes to send and to receive: the median of some hundred in a row.
fn message_slice(exchange: Exchange<'_>) -> Result<f64, Failure> {
    const ROWS: u32 = 40;
    const IN_ROW: u32 = 50;
    let mut times = Vec::new();
    for _ in 0..ROWS {
        let start = Instant::now();
        for _ in 0..IN_ROW {
            exchange()?;
        }
        times.push(start.elapsed().as_secs_f64() * 1e9 / f64::from(IN_ROW));
    }
    Ok(median(times))
}

/// The programs for messages, and how they are attached.
struct Programs {
    /// As many without work have the same calls.
    count: usize,
    set_attached: fn(&mut Events, bool) -> Result<(), String>,
}

/// Prints the cost of a message of a socket that has sent before; returns whether it is within the limits.
fn message(
    what: &str,
    limits: Limits,
    events: &mut Events,
    programs: &Programs,
    exchange: Exchange<'_>,
) -> Result<bool, Failure> {
    let mut empty = EmptyPrograms::load()?;
    let enter = |events: &mut Events, state| {
        (programs.set_attached)(events, state == 2)?;
        empty.attach(if state == 1 { programs.count } else { 0 })
    };
    let [without, calls, with] = measure_in_turn(events, enter, || message_slice(exchange))?;
    let (total, over_calls) = (ratio(&with, &without), ratio(&with, &calls));
    println!(
        "send and receive, {what}: {:.0} ns without, {:.0} ns with empty programs ({:.3}), {:.0} ns with ({total:.3}, at \
         most {}): {over_calls:.3} of empty ones (at most {})",
        median(without.clone()),
        median(calls.clone()),
        ratio(&calls, &without),
        median(with),
        limits.total,
        limits.over_calls,
    );
    Ok(total <= limits.total && over_calls <= limits.over_calls)
}

/// The cost of messages of UDP, TCP and UNIX sockets; returns whether each is small enough.
fn messages(events: &mut Events) -> Result<bool, Failure> {
    let receiver = UdpSocket::bind("127.0.0.1:0")?;
    let sender = UdpSocket::bind("127.0.0.1:0")?;
    sender.connect(receiver.local_addr()?)?;
    let udp = || sender.send(&[1; 16]).and_then(|_| receiver.recv(&mut [0; 16])).map(drop);
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let client = TcpStream::connect(listener.local_addr()?)?;
    client.set_nodelay(true)?;
    let server = listener.accept()?.0;
    let tcp = || (&client).write_all(&[1; 16]).and_then(|()| (&server).read_exact(&mut [0; 16]));
    let (a, b) = UnixStream::pair()?;
    let unix = || (&a).write_all(&[1; 16]).and_then(|()| (&b).read_exact(&mut [0; 16]));
    let first_use = Programs { count: 1, set_attached: Events::set_datagrams };
    let first = message("UDP, first use", DATAGRAM, events, &first_use, &udp)?;
    events.begin_counting()?;
    let counting = Programs { count: 2, set_attached: Events::set_counting };
    let results = [
        first,
        message("UDP, counted", COUNTED, events, &counting, &udp)?,
        message("TCP", TCP, events, &counting, &tcp)?,
        message("UNIX stream", UNIX, events, &counting, &unix)?,
    ];
    Ok(results.into_iter().all(|is_met| is_met))
}

/// Prints the reader's CPU time an event, and returns it in nanoseconds.
fn reader(listener: &TcpListener, events: &Events) -> Result<f64, Failure> {
    const SLICES: u32 = 200;
    events.drain(Duration::ZERO)?;
    let is_over = AtomicBool::new(false);
    let (states, time) = thread::scope(|scope| -> Result<(u64, f64), Failure> {
        let reader = scope.spawn(|| -> Result<(u64, f64), String> {
            let mut states = 0;
            while !is_over.load(Ordering::Acquire) {
                states += events.drain(Duration::from_secs(1))?.0;
            }
            states += events.drain(Duration::ZERO)?.0;
            let time = clock_gettime(ClockId::ThreadCPUTime);
            Ok((states, time.tv_sec as f64 * 1e9 + time.tv_nsec as f64))
        });
        let made = (0..SLICES).try_for_each(|number| slice(listener, 1 << 20 | number).map(drop));
        is_over.store(true, Ordering::Release);
        events.waker().wake();
        made?;
        Ok(reader.join().map_err(|_| "the reader ended")??)
    })?;
    let (lost, skipped) = events.lost();
    let expected = CHANGES * u64::from(SLICES * CONNECTIONS);
    let time = time / states as f64;
    println!(
        "reader: {time:.0} ns of CPU time an event (at most {MAX_READER}); {states} events of {expected}, {lost} lost, \
         {skipped} skipped"
    );
    Ok(time)
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers.get(numbers.len() / 2).copied().unwrap_or(f64::NAN)
}
