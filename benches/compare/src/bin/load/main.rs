//! Holds sockets on the loopback interface for measurements.
//!
//! Prints `ready <number of sockets>` once all are open, and ends when its standard input does, when
//! it is killed, or after `--seconds`; its children, which hold the sockets, end with it. Connections
//! are closed by a reset, so that none is left in TIME_WAIT.

mod hold;

use std::error::Error;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

use hold::{CONNECTIONS_AN_ADDRESS, OTHER_DESCRIPTORS, Share};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const USAGE: &str = "\
usage: load --sockets N [--processes P] [--holders even|one] [--unix N] [--udp N] [--listeners N]
            [--idle-processes M] [--list] [--seconds S]

  --sockets N         established TCP sockets; both ends of a connection count
  --unix N            connected UNIX sockets; both ends of a pair count
  --udp N             bound UDP sockets
  --listeners N       listening TCP sockets, all in the first process
  --processes P       spread over so many processes (1)
  --holders one       the first process holds nine tenths of them; even (the default): all the same
  --idle-processes M  so many more processes with three sockets each: both ends of a TCP connection,
                      and a bound UDP socket; and one that is neither bound nor connected, which no
                      table lists and which does not count
  --list              before it is ready: a line `holder PID` or `idle PID` for each process
  --seconds S         end after so many seconds (3600)

Connections and pairs have two ends: an odd number is rounded up.";

type Outcome<T> = Result<T, Box<dyn Error>>;

/// The command line.
#[derive(Default)]
struct Request {
    tcp_pairs: usize,
    unix_pairs: usize,
    udp: usize,
    listeners: usize,
    processes: usize,
    idle_processes: usize,
    one_holds_most: bool,
    list: bool,
    seconds: u64,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match arguments.split_first() {
        Some((first, share)) if first == "hold" => hold::hold(share),
        Some((first, _)) if first == "--help" => {
            println!("{USAGE}");
            Ok(())
        }
        _ => Request::read(&arguments).and_then(|request| request.lead()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("load: {error}");
            ExitCode::FAILURE
        }
    }
}

impl Request {
    fn read(arguments: &[String]) -> Outcome<Request> {
        let mut request = Request { processes: 1, seconds: 3600, ..Request::default() };
        let mut arguments = arguments.iter();
        while let Some(flag) = arguments.next() {
            if flag == "--list" {
                request.list = true;
                continue;
            }
            let value = arguments.next().ok_or_else(|| format!("{flag} needs a value\n{USAGE}"))?;
            let number =
                || value.parse::<usize>().map_err(|_| format!("{flag} {value}: no number"));
            match flag.as_str() {
                "--sockets" => request.tcp_pairs = number()?.div_ceil(2),
                "--unix" => request.unix_pairs = number()?.div_ceil(2),
                "--udp" => request.udp = number()?,
                "--listeners" => request.listeners = number()?,
                "--processes" => request.processes = number()?.max(1),
                "--idle-processes" => request.idle_processes = number()?,
                "--seconds" => request.seconds = u64::try_from(number()?)?,
                "--holders" => request.one_holds_most = holders(value)?,
                _ => return Err(format!("{flag} is no flag\n{USAGE}").into()),
            }
        }
        Ok(request)
    }

    /// Returns the share of each process: the holders first, then the idle ones.
    fn shares(&self) -> Vec<Share> {
        let share = |whole: usize, index: usize| {
            let others = if self.one_holds_most { whole / 10 } else { whole };
            match (self.one_holds_most && self.processes > 1, index) {
                (true, 0) => whole - others,
                (true, _) => part(others, self.processes - 1, index - 1),
                (false, _) => part(whole, self.processes, index),
            }
        };
        let holders = (0..self.processes).map(|index| Share {
            tcp_pairs: share(self.tcp_pairs, index),
            unix_pairs: share(self.unix_pairs, index),
            udp: share(self.udp, index),
            listeners: if index == 0 { self.listeners } else { 0 },
            unlisted: 0,
            first_address: 0,
        });
        let idle = Share { tcp_pairs: 1, udp: 1, unlisted: 1, ..Share::default() };
        let mut next_address = 0;
        let mut shares: Vec<Share> =
            holders.chain((0..self.idle_processes).map(|_| idle)).collect();
        for share in &mut shares {
            share.first_address = next_address;
            next_address += share.tcp_pairs.div_ceil(CONNECTIONS_AN_ADDRESS);
        }
        shares
    }

    /// Starts the children, reports when all sockets are open, and waits for the end.
    fn lead(&self) -> Outcome<()> {
        let shares = self.shares();
        raise_limit(2 * shares.len() + OTHER_DESCRIPTORS)
            .map_err(|missing| format!("{} processes: {missing}", shares.len()))?;
        let sockets: usize = shares.iter().map(Share::sockets).sum();
        let largest = shares.iter().map(Share::sockets).max().unwrap_or_default();
        check_limit(largest + OTHER_DESCRIPTORS).map_err(|missing| {
            format!(
                "{largest} sockets in one process: {missing}, or spread them over more --processes"
            )
        })?;

        let mut children = shares.iter().map(start).collect::<Outcome<Vec<Child>>>()?;
        let mut out = std::io::stdout().lock();
        for (index, child) in children.iter_mut().enumerate() {
            let mut line = String::new();
            let stdout = child.stdout.take().ok_or("a child has no standard output")?;
            BufReader::new(stdout).read_line(&mut line)?;
            if line != "open\n" {
                return Err("a child could not open its sockets; why stands above".into());
            }
            if self.list {
                let kind = if index < self.processes { "holder" } else { "idle" };
                writeln!(out, "{kind} {}", child.id())?;
            }
        }
        writeln!(out, "ready {sockets}")?;
        out.flush()?;

        let (send, ended) = channel();
        std::thread::spawn(move || {
            wait_for_end_of_input();
            let _ = send.send(());
        });
        // End when standard input or the time ends.
        let _ = ended.recv_timeout(Duration::from_secs(self.seconds));
        // All at once, then each.
        children.iter_mut().for_each(|child| drop(child.stdin.take()));
        for mut child in children {
            child.wait()?;
        }
        Ok(())
    }
}

fn holders(value: &str) -> Outcome<bool> {
    match value {
        "one" => Ok(true),
        "even" => Ok(false),
        _ => Err(format!("--holders {value}: 'one' or 'even'").into()),
    }
}

/// The size of one of so many parts of a whole.
fn part(whole: usize, parts: usize, index: usize) -> usize {
    whole / parts + usize::from(index < whole % parts)
}

/// Starts this program as a holder. Its standard input is a pipe to which this process does
/// not write: the child ends when this process ends, even if it is killed.
fn start(share: &Share) -> Outcome<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("hold").args(share.to_arguments());
    Ok(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?)
}

/// Returns at the end of standard input.
fn wait_for_end_of_input() {
    let mut bytes = [0; 64];
    while matches!(std::io::stdin().read(&mut bytes), Ok(1..)) {}
}

/// Raises RLIMIT_NOFILE to the hard limit, which must be that high.
fn raise_limit(needed: usize) -> Outcome<()> {
    check_limit(needed)?;
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    Ok(setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?)
}

fn check_limit(needed: usize) -> Outcome<()> {
    match getrlimit(Resource::Nofile).maximum {
        Some(maximum) if usize::try_from(maximum)? < needed => Err(format!(
            "needs an RLIMIT_NOFILE of {needed}, and the hard limit is {maximum}: \
             raise it (ulimit -n, LimitNOFILE, limits.conf)"
        )
        .into()),
        _ => Ok(()),
    }
}
