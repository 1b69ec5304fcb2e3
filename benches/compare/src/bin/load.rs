//! Holds established TCP connections over the loopback interface, for others to look at.
//!
//! Prints `ready small=PID idle=PID,PID,…` once all are open, and ends with its children when its
//! standard input does, or when it is killed. Nothing is left in TIME_WAIT.

use std::error::Error;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::net::sockopt::set_socket_linger;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const USAGE: &str = "usage: load SOCKETS PROCESSES [IDLE_PROCESSES]

Opens SOCKETS established TCP sockets in so many PROCESSES, or more if one may not have so many
descriptors; three sockets in a process of their own (small); and so many processes without sockets.
Both ends of a connection count.";

/// Below the number of ports that the kernel gives out for one address.
const CONNECTIONS_AN_ADDRESS: usize = 20_000;
/// Descriptors that a process needs besides its sockets.
const OTHER_DESCRIPTORS: usize = 64;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let numbers: Vec<usize> = arguments.iter().filter_map(|text| text.parse().ok()).collect();
    match (arguments.first().map(String::as_str), &numbers[..]) {
        (Some("hold"), &[connections, listeners, number]) => hold(connections, listeners, number),
        (_, &[sockets, processes]) if processes > 0 => lead(sockets, processes, 0),
        (_, &[sockets, processes, idle]) if processes > 0 => lead(sockets, processes, idle),
        _ => Err(USAGE.into()),
    }
}

/// Starts the others and waits for the end.
fn lead(sockets: usize, processes: usize, idle: usize) -> Result<(), Box<dyn Error>> {
    let connections = sockets / 2;
    let processes = processes.max(sockets.div_ceil(most_sockets()?));
    eprintln!("{sockets} sockets in {processes} processes");
    let mut children = Vec::new();
    for number in 0..processes {
        let share = connections / processes + usize::from(number < connections % processes);
        children.push(start(share, 0, number)?);
    }
    let small = start(1, 1, processes)?;
    let idle = (0..idle).map(|_| start(0, 0, 0)).collect::<Result<Vec<_>, _>>()?;
    let pids: Vec<String> = idle.iter().map(|child| child.id().to_string()).collect();
    println!("ready small={} idle={}", small.id(), pids.join(","));
    let mut nothing = [0; 1];
    while std::io::stdin().read(&mut nothing)? > 0 {}
    for mut child in children.into_iter().chain(idle).chain([small]) {
        drop(child.stdin.take());
        child.wait()?;
    }
    Ok(())
}

/// Starts this program as a holder, which ends when we do: its standard input is a pipe from here.
fn start(connections: usize, listeners: usize, number: usize) -> Result<Child, Box<dyn Error>> {
    let numbers = [connections, listeners, number].map(|number| number.to_string());
    let mut child = Command::new(std::env::current_exe()?)
        .arg("hold")
        .args(numbers)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().ok_or("no pipe")?).read_line(&mut line)?;
    if line != "ready\n" {
        return Err(format!("a holder of {connections} connections did not get ready").into());
    }
    Ok(child)
}

/// Opens that many connections; keeps that many of the listeners.
fn hold(connections: usize, listeners: usize, number: usize) -> Result<(), Box<dyn Error>> {
    // As many descriptors as the hard limit allows.
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    let mut held = Vec::new();
    let mut kept = Vec::new();
    for part in 0..connections.div_ceil(CONNECTIONS_AN_ADDRESS) {
        let address = Ipv4Addr::new(127, 77, u8::try_from(number)?, u8::try_from(part + 1)?);
        let listener = TcpListener::bind((address, 9000))?;
        let share = CONNECTIONS_AN_ADDRESS.min(connections - part * CONNECTIONS_AN_ADDRESS);
        for _ in 0..share {
            let client = TcpStream::connect((address, 9000))?;
            let (server, _) = listener.accept()?;
            for end in [client, server] {
                // Closed by a reset, it leaves no TIME_WAIT.
                set_socket_linger(&end, Some(Duration::ZERO))?;
                held.push(end);
            }
        }
        kept.push(listener);
    }
    kept.truncate(listeners);
    println!("ready");
    std::io::stdout().flush()?;
    let mut nothing = [0; 1];
    while std::io::stdin().read(&mut nothing)? > 0 {}
    Ok(())
}

/// How many sockets a process may hold.
fn most_sockets() -> Result<usize, Box<dyn Error>> {
    let Some(maximum) = getrlimit(Resource::Nofile).maximum else { return Ok(usize::MAX) };
    let most = usize::try_from(maximum)?.saturating_sub(OTHER_DESCRIPTORS);
    if most < 2 {
        return Err("too few descriptors: raise the hard limit (ulimit -Hn)".into());
    }
    Ok(most)
}
