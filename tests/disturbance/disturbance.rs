//! A busy host for the live tests: short-lived processes and sockets, TIME_WAIT on random ports, hostile UNIX
//! names, two busy cores.
//!
//! ```sh
//! cargo run --example disturbance -- SECONDS
//! ```
//!
//! It prints `disturbing` when all threads run. It ends after that time, when its standard input is closed, or
//! on SIGTERM or SIGINT, and removes its files. `.ci/disturbed` runs the tests beside it.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::VecDeque;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Read};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, bind, listen, socket};

/// The argument with which the program starts its short-lived processes.
const SHORT_LIVED: &str = "--short-lived-process";
/// The number of busy threads: that of the cores of a small test machine.
const BUSY_THREADS: usize = 2;
/// The pause between two connections. A TIME_WAIT lasts for a minute, so there are about 2,000.
const BETWEEN_CONNECTIONS: Duration = Duration::from_millis(30);
const BETWEEN_PROCESSES: Duration = Duration::from_millis(40);
const BETWEEN_NAMES: Duration = Duration::from_millis(5);
/// UNIX sockets that are open at a time.
const OPEN_NAMES: usize = 100;

static STOP: AtomicBool = AtomicBool::new(false);

fn main() -> ExitCode {
    let argument = std::env::args().nth(1).unwrap_or_default();
    if argument == SHORT_LIVED {
        return run_short_lived_process().map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS);
    }
    let Ok(seconds @ 1..) = argument.parse::<u64>() else {
        eprintln!("usage: disturbance SECONDS");
        return ExitCode::from(2);
    };
    let dir = tempfile::tempdir().unwrap();
    let signalled = on_signals().unwrap();
    thread::scope(|scope| {
        for _ in 0..BUSY_THREADS {
            scope.spawn(spin);
        }
        scope.spawn(|| repeat(BETWEEN_CONNECTIONS, leave_time_wait));
        scope.spawn(|| repeat(BETWEEN_PROCESSES, start_short_lived_process));
        scope.spawn(|| open_hostile_names(dir.path()));
        println!("disturbing");
        wait_for_the_end(Duration::from_secs(seconds), &signalled);
        STOP.store(true, Ordering::Relaxed);
    });
    ExitCode::SUCCESS
}

/// Readable after SIGTERM or SIGINT.
fn on_signals() -> io::Result<UnixStream> {
    let (signalled, signal) = UnixStream::pair()?;
    for number in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        signal_hook::low_level::pipe::register(number, signal.try_clone()?)?;
    }
    Ok(signalled)
}

/// Returns after that time, at the end of standard input, or at a signal.
fn wait_for_the_end(time: Duration, signalled: &UnixStream) {
    let end = Instant::now() + time;
    let stdin = io::stdin();
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let mut ready = [PollFd::new(&stdin, PollFlags::IN), PollFd::new(signalled, PollFlags::IN)];
        match poll(&mut ready, left.try_into().ok().as_ref()) {
            Ok(0) => return,
            Ok(_) if !ready[1].revents().is_empty() => return,
            Ok(_) if !matches!(stdin.lock().read(&mut [0; 100]), Ok(1..)) => return,
            Ok(_) | Err(_) => {}
        }
    }
}

fn spin() {
    while !STOP.load(Ordering::Relaxed) {
        std::hint::spin_loop();
    }
}

/// A step may fail: a random port may be in use, and tests also use ports and processes.
fn repeat(pause: Duration, step: impl Fn() -> io::Result<()>) {
    while !STOP.load(Ordering::Relaxed) {
        let _ = step();
        thread::sleep(pause);
    }
}

fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// An address of 127.0.0.0/8 and an unprivileged port.
fn random_place() -> (Ipv4Addr, u16) {
    let [a, b, c, port @ ..] = random().to_ne_bytes();
    let port = u16::from_ne_bytes([port[0], port[1]]);
    (Ipv4Addr::new(127, a, b, c), port.max(1024))
}

/// Both ends are bound to random ports; the end that closes first keeps TIME_WAIT. UDP on the same ports.
fn leave_time_wait() -> io::Result<()> {
    let listener = TcpListener::bind(random_place())?;
    let _udp = UdpSocket::bind(listener.local_addr()?)?;
    let client = TcpStream::connect(listener.local_addr()?)?;
    let (server, _) = listener.accept()?;
    let (first, second) =
        if random().is_multiple_of(2) { (client, server) } else { (server, client) };
    first.shutdown(Shutdown::Both)?;
    drop(first);
    drop(second);
    Ok(())
}

/// A process that inherits a socket, opens others, and ends at once.
fn start_short_lived_process() -> io::Result<()> {
    let (inherited, _other) = UnixStream::pair()?;
    let mut child = Command::new(std::env::current_exe()?)
        .arg(SHORT_LIVED)
        .stdin(Stdio::from(OwnedFd::from(inherited)))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    child.wait().map(drop)
}

fn run_short_lived_process() -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    udp.connect(listener.local_addr()?)?;
    let _client = TcpStream::connect(listener.local_addr()?)?;
    let _pair = UnixStream::pair()?;
    Ok(())
}

/// A UNIX socket with a hostile name, and the file of that name if there is one.
struct HostileName {
    _socket: OwnedFd,
    path: Option<PathBuf>,
}

impl Drop for HostileName {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            let _ = std::fs::remove_file(path);
        }
    }
}

impl HostileName {
    fn open(dir: &Path) -> io::Result<HostileName> {
        let kind =
            [SocketType::STREAM, SocketType::DGRAM, SocketType::SEQPACKET][random() as usize % 3];
        let socket = socket(AddressFamily::UNIX, kind, None)?;
        let inode = rustix::fs::fstat(&socket)?.st_ino;
        let name = hostile_name(inode);
        let path = (random().is_multiple_of(2)).then(|| dir.join(format!("{inode}{name}")));
        let address = match &path {
            Some(path) => SocketAddrUnix::new(path),
            None => abstract_address(&format!("{inode}{name}")),
        };
        bind(socket.as_fd(), &address?)?;
        if kind != SocketType::DGRAM {
            listen(&socket, 1)?;
        }
        Ok(HostileName { _socket: socket, path })
    }
}

#[cfg(target_os = "linux")]
fn abstract_address(name: &str) -> rustix::io::Result<SocketAddrUnix> {
    SocketAddrUnix::new_abstract_name(name.as_bytes())
}

#[cfg(not(target_os = "linux"))]
fn abstract_address(_: &str) -> rustix::io::Result<SocketAddrUnix> {
    Err(rustix::io::Errno::OPNOTSUPP)
}

/// A name with a newline that imitates a line of `/proc/net/unix` about a socket that exists or may exist soon.
fn hostile_name(inode: u64) -> String {
    let other = inode + random() % 500 - 250.min(inode);
    let state = ["0001 01", "0002 01", "0001 03"][random() as usize % 3];
    let line = "0000000000000000: 00000002 00000000 00010000";
    match random() % 5 {
        0 => format!("\n{line} {state} {other} f"),
        1 => format!("\n{line} {state} {other:>5}\n"),
        2 => "\n\n\t\r\u{1b}[2J\u{7f}\u{1}".to_owned(),
        3 => "\n   0: 0100007F:01BB 00000000:0000 0A".to_owned(),
        _ => " blank @ and \u{202e} \\n \n".to_owned(),
    }
}

/// Opens sockets with one name after the other, and closes the oldest.
fn open_hostile_names(dir: &Path) {
    let mut open = VecDeque::new();
    while !STOP.load(Ordering::Relaxed) {
        if let Ok(name) = HostileName::open(dir) {
            open.push_back(name);
        }
        if open.len() > OPEN_NAMES {
            open.pop_front();
        }
        thread::sleep(BETWEEN_NAMES);
    }
}
