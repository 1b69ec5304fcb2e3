//! Rotating listeners: there is a listening socket at every moment, and each socket is short-lived.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

use super::attacker::{Attacker, NOBODY, exit_now, is_over, report_ready};
use super::scan::{BPF, NETLINK, NamedSource, PROCFS, Row, SCANS, answer, has_bpf, table};
use super::tally::{PidPromise, Sighting, Tally};
use super::{Attack, Test, many_sockets, runner};

pub(super) const ATTACKS: &[Attack] =
    &[("rotate-tcp", rotate_tcp), ("rotate-udp", rotate_udp), ("rotate-unix", rotate_unix)];

pub(super) const TESTS: &[Test] = &[
    ("rotating_listeners_are_in_every_answer_with_bpf", with_bpf),
    ("rotating_listeners_are_in_every_answer_with_netlink", || are_in_every_answer(NETLINK)),
    ("rotating_listeners_are_in_every_answer_with_procfs", || are_in_every_answer(PROCFS)),
];

fn with_bpf() {
    if has_bpf("rotating_listeners_are_in_every_answer_with_bpf") {
        are_in_every_answer(BPF);
    }
}

/// The address of a listener.
enum Endpoint {
    Tcp(u16),
    Udp(u16),
    Unix(String),
}

/// An attacker that replaces its listener periodically.
pub(super) struct Rotation {
    endpoint: Endpoint,
    attacker: Attacker,
    name: String,
}

impl Rotation {
    fn start(endpoint: Endpoint, period: u64) -> Rotation {
        let (attack, kind, address) = match &endpoint {
            Endpoint::Tcp(port) => ("rotate-tcp", "TCP", port.to_string()),
            Endpoint::Udp(port) => ("rotate-udp", "UDP", port.to_string()),
            Endpoint::Unix(path) => ("rotate-unix", "UNIX", path.clone()),
        };
        let attacker = Attacker::start(attack, &[&address, &period.to_string()]);
        Rotation { endpoint, attacker, name: format!("{kind} every {period} ms") }
    }

    /// TCP, UDP and UNIX listeners, replaced every 1 ms and every 20 ms.
    pub(super) fn start_all(directory: &Path) -> Vec<Rotation> {
        let path = |name| Endpoint::Unix(directory.join(name).to_str().unwrap().to_owned());
        vec![
            Rotation::start(Endpoint::Tcp(4001), 1),
            Rotation::start(Endpoint::Tcp(4020), 20),
            Rotation::start(Endpoint::Udp(4001), 1),
            Rotation::start(Endpoint::Udp(4020), 20),
            Rotation::start(path("1"), 1),
            Rotation::start(path("20"), 20),
        ]
    }

    fn has_port(&self) -> bool {
        !matches!(self.endpoint, Endpoint::Unix(_))
    }

    /// Whether the rows have the endpoint, and the attacker as its holder.
    fn sighting(&self, rows: &[Row]) -> Sighting {
        let pid = self.attacker.pid();
        match &self.endpoint {
            Endpoint::Tcp(port) => {
                Sighting::of(rows, &[("protocol", "6"), ("local_port", &port.to_string())], pid)
            }
            Endpoint::Udp(port) => {
                Sighting::of(rows, &[("protocol", "17"), ("local_port", &port.to_string())], pid)
            }
            Endpoint::Unix(path) => Sighting::of(rows, &[("family", "1"), ("path", path)], pid),
        }
    }

    /// Whether a socket listens at the endpoint now.
    fn is_listening(&self) -> bool {
        match &self.endpoint {
            // With SO_REUSEADDR, bind(2) fails only if another socket listens.
            Endpoint::Tcp(port) => is_in_use(*port, Type::STREAM, true),
            Endpoint::Udp(port) => is_in_use(*port, Type::DGRAM, false),
            Endpoint::Unix(path) => UnixStream::connect(path).is_ok(),
        }
    }

    /// Checks that the attack works: a socket listens at the port in each of a thousand checks. At a path, connects fail
    /// between unlink(2) and listen(2), although the previous socket still listens: only those that succeed count.
    #[track_caller]
    fn check(&mut self) {
        let start = Instant::now();
        let mut listening = 0;
        while listening < 1000 && start.elapsed() < CHECK_LIMIT && self.attacker.is_running() {
            if self.is_listening() {
                listening += 1;
            } else if self.has_port() {
                break;
            }
        }
        let (is_running, elapsed) = (self.attacker.is_running(), start.elapsed());
        assert!(
            is_running && listening == 1000,
            "{}: listens {listening} times in {elapsed:?}, runs: {is_running}",
            self.name
        );
    }
}

/// The longest time of a check that the attack works.
const CHECK_LIMIT: Duration = Duration::from_secs(20);

fn is_in_use(port: u16, kind: Type, reuse: bool) -> bool {
    let socket = Socket::new(Domain::IPV4, kind, None).unwrap();
    socket.set_reuse_address(reuse).unwrap();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let error = socket.bind(&address.into()).err();
    error.is_some_and(|error| error.kind() == std::io::ErrorKind::AddrInUse)
}

/// A directory in which an attacker may create sockets.
pub(super) fn attackers_directory() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(directory.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    directory
}

fn are_in_every_answer(source: NamedSource) {
    let directory = attackers_directory();
    let scans = if runner::is_long() { 20 * SCANS } else { SCANS };
    let mut tally = Tally::default();
    // An attacker ends before all scans are done.
    for _ in 0..scans / SCANS_OF_A_ROUND {
        scan_a_round(source, directory.path(), &mut tally);
    }
    tally.check();
}

/// The number of scans that end before an attacker does, on a busy machine as well.
const SCANS_OF_A_ROUND: usize = 5;

fn scan_a_round(source: NamedSource, directory: &Path, tally: &mut Tally) {
    let _others = many_sockets::start(10);
    let mut rotations = Rotation::start_all(directory);
    rotations.iter_mut().for_each(Rotation::check);
    let table = table(source.1);
    for _ in 0..SCANS_OF_A_ROUND {
        let mut count = |query: &str, rotation: &Rotation, rows: &[Row]| {
            let name = format!("{}, {query}", rotation.name);
            tally.add(&name, source, PidPromise::WithBpf, rotation.sighting(rows));
        };
        let rows = answer(&table, &[]);
        rotations.iter().for_each(|rotation| count("SELECT *", rotation, &rows));
        let rows = answer(&table, &[("local_port", "4001"), ("local_port", "4020")]);
        let with_port = rotations.iter().filter(|rotation| rotation.has_port());
        with_port.for_each(|rotation| count("local_port = X", rotation, &rows));
        // Without BPF, a lookup by pid may miss these sockets, and takes time.
        if source == BPF {
            let pids: Vec<String> =
                rotations.iter().map(|rotation| rotation.attacker.pid().to_string()).collect();
            let rows = answer(&table, &pids.iter().map(|pid| ("pid", &**pid)).collect::<Vec<_>>());
            rotations.iter().for_each(|rotation| count("pid = X", rotation, &rows));
        }
    }
    rotations.iter_mut().for_each(Rotation::check);
}

/// Replaces the value of `open` every `period` milliseconds: the new socket is open before the old one is closed.
fn rotate<T>(period: &str, open: impl Fn() -> T) -> ! {
    let period = Duration::from_millis(period.parse().unwrap());
    let mut current = open();
    report_ready("");
    while !is_over() {
        std::thread::sleep(period);
        let next = open();
        drop(std::mem::replace(&mut current, next));
    }
    exit_now()
}

fn reusable(port: &str, kind: Type) -> Socket {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port.parse().unwrap()));
    let socket = Socket::new(Domain::IPV4, kind, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.set_reuse_port(true).unwrap();
    socket.bind(&address.into()).unwrap();
    socket
}

fn rotate_tcp(arguments: &[String]) -> ! {
    rotate(&arguments[1], || {
        let socket = reusable(&arguments[0], Type::STREAM);
        socket.listen(128).unwrap();
        socket
    })
}

fn rotate_udp(arguments: &[String]) -> ! {
    rotate(&arguments[1], || reusable(&arguments[0], Type::DGRAM))
}

fn rotate_unix(arguments: &[String]) -> ! {
    rotate(&arguments[1], || {
        let _ = std::fs::remove_file(&arguments[0]);
        UnixListener::bind(&arguments[0]).unwrap()
    })
}
