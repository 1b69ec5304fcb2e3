//! Processes that the tests start: this test binary again, with a command in a variable.

use std::io::{BufRead, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::this_binary::{COMMAND, arguments};
use super::traffic_child;
use crate::model::{NetNamespace, TcpState};

/// Starts a process that runs a command:
///
/// - `connect ADDRESS`: connects, and exits at once;
/// - `wait ADDRESS`: the same after a byte on stdin;
/// - `send ADDRESS`: sends a datagram from a new UDP socket, and exits at once;
/// - `exchange COUNT ADDRESS…`: connects so often, to one address after the other, and exchanges bytes: see
///   [`exchange`];
/// - `traffic SEED`: sends and receives datagrams, and prints what it has counted ([`traffic_child`]);
/// - `inherit FD ADDRESS`: sends some datagrams to it on a socket that it inherits, and prints what it has counted;
/// - `observe NAMESPACE`: prints a line when it has begun, and after a byte on stdin checks that the connects in this network
///   namespace have no process;
/// - `collect NAME`: collects events until it is killed, with this name of the objects in the kernel; it prints a line
///   when it has begun.
pub(super) fn spawn(executable: &Path, command: &str) -> Child {
    spawn_with(Command::new(executable), command)
}

/// The same with a program that starts the binary of the tests.
pub(super) fn spawn_with(mut program: Command, command: &str) -> Child {
    arguments(&mut program, command).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
}

/// Not a test, but the process that a test starts.
#[test]
fn child() {
    let Ok(command) = std::env::var(COMMAND) else { return };
    let words: Vec<&str> = command.split(' ').collect();
    match words[..] {
        ["connect", address] => connect(address),
        ["send", address] => {
            UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"a", address).unwrap();
        }
        ["wait", address] => {
            std::io::stdin().read_exact(&mut [0]).unwrap();
            connect(address)
        }
        ["exchange", count, ref addresses @ ..] => {
            for index in 0..count.parse().unwrap() {
                exchange(addresses[index % addresses.len()].parse().unwrap(), index as u32);
            }
        }
        ["traffic", seed] => traffic_child::run(seed.parse().unwrap()),
        ["inherit", fd, to] => {
            traffic_child::use_inherited(fd.parse().unwrap(), to.parse().unwrap());
        }
        ["observe", namespace] => observe(namespace.parse().unwrap()),
        ["collect", name] => collect(name),
        _ => panic!("{command}"),
    }
    std::process::exit(0);
}

fn connect(address: &str) {
    let connected = TcpStream::connect(address);
    std::process::exit(if connected.is_ok() { 0 } else { 1 });
}

/// What a connection begins with: who connects, and how many bytes follow in each direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) pid: u32,
    pub(super) up: u32,
    pub(super) down: u32,
}

impl Header {
    pub(super) const SIZE: u64 = 12;

    fn to_bytes(self) -> [u8; 12] {
        let numbers = [self.pid, self.up, self.down].map(u32::to_le_bytes);
        numbers.concat().try_into().unwrap()
    }

    pub(super) fn read(stream: &mut TcpStream) -> Header {
        let mut number = || {
            let mut bytes = [0; 4];
            stream.read_exact(&mut bytes).unwrap();
            u32::from_le_bytes(bytes)
        };
        Header { pid: number(), up: number(), down: number() }
    }
}

/// Sends a header and so many bytes, receives so many, and closes. The server closes first for every third.
fn exchange(address: SocketAddr, index: u32) {
    let pid = std::process::id();
    let random = (pid.wrapping_mul(2_654_435_761) ^ index.wrapping_mul(40_503)) % 60_000;
    let header = Header { pid, up: random, down: random / 7 };
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(&header.to_bytes()).unwrap();
    stream.write_all(&vec![7; header.up as usize]).unwrap();
    let is_client_first = !index.is_multiple_of(3);
    if is_client_first {
        stream.shutdown(Shutdown::Write).unwrap();
    }
    let mut received = Vec::new();
    let mut part = stream.take(header.down.into());
    part.read_to_end(&mut received).unwrap();
    assert_eq!(received.len(), header.down as usize);
    let mut stream = part.into_inner();
    // The end of the server, so that unread data does not reset the connection.
    if !is_client_first {
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    }
}

/// Serves one connection of [`exchange`]; returns what it began with.
pub(super) fn serve(mut stream: TcpStream) -> Header {
    let header = Header::read(&mut stream);
    let mut up = (&mut stream).take(header.up.into());
    assert_eq!(std::io::copy(&mut up, &mut std::io::sink()).unwrap(), header.up.into());
    stream.write_all(&vec![9; header.down as usize]).unwrap();
    header
}

/// In a PID namespace below that of the processes that connect.
fn observe(namespace: u64) {
    let mut recorded = super::Recorded::start("observe").unwrap();
    println!("it has begun");
    std::io::stdin().read_exact(&mut [0]).unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let changes = recorded.wait_until(NetNamespace(namespace), |changes| {
        changes.iter().any(|change| change.new == TcpState::Listen)
    });
    drop(listener);
    let actors = |state| {
        let changes = changes.iter().filter(move |change| change.new == state);
        changes.map(|change| change.actor.map(|actor| actor.pid)).collect::<Vec<_>>()
    };
    assert_eq!(actors(TcpState::SynSent), [None, None]);
    assert_eq!(actors(TcpState::Listen), [None, Some(super::own_pid())]);
    assert_eq!(recorded.executables.len(), 1, "{:?}", recorded.executables);
}

fn collect(name: &str) {
    let mut names = [0; 16];
    names[..name.len()].copy_from_slice(name.as_bytes());
    let settings = super::settings_named(names);
    let source = super::super::EventSource::start_with(&super::proc_root(), &settings).unwrap();
    println!("it has begun");
    loop {
        source.drain(Duration::from_secs(1), &mut drop).unwrap();
    }
}

/// Reads lines until it has begun.
pub(super) fn wait_for_begin(child: &mut Child) {
    let stdout = child.stdout.as_mut().unwrap();
    let mut lines = std::io::BufReader::new(stdout).lines();
    assert!(lines.any(|line| line.unwrap().ends_with("it has begun")));
}
