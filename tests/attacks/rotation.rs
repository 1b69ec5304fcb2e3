//! Rotating listeners: at every moment a socket listens, and no socket lives long.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

use super::attacker::{Attacker, NOBODY, is_over, leave, report_ready};
use super::scan::{BPF, NETLINK, NamedSource, PROCFS, Row, SCANS, answer, has_bpf, table};
use super::{Attack, Test, crowd, runner};
use tables::process_open_sockets::Source;

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

/// What is listened on.
enum Endpoint {
    Tcp(u16),
    Udp(u16),
    Unix(String),
}

/// In how many answers a listener was.
#[derive(Default)]
struct Counts {
    name: String,
    has_port: bool,
    /// Answers to `SELECT *` with the endpoint.
    full: usize,
    /// Those with the attacker's pid in the endpoint's row.
    full_with_pid: usize,
    /// Answers to `local_port = X` with the endpoint.
    by_port: usize,
    by_port_with_pid: usize,
    /// Answers to `pid = X` with the endpoint.
    by_pid: usize,
}

impl Counts {
    fn add(&mut self, other: &Counts) {
        self.name.clone_from(&other.name);
        self.has_port = other.has_port;
        self.full += other.full;
        self.full_with_pid += other.full_with_pid;
        self.by_port += other.by_port;
        self.by_port_with_pid += other.by_port_with_pid;
        self.by_pid += other.by_pid;
    }

    fn describe(&self, scans: usize, by_pid_is_asked: bool) -> String {
        let Counts { name, full, full_with_pid, by_port, by_port_with_pid, by_pid, .. } = self;
        let mut text = format!(
            "{name}: of {scans} answers to SELECT * {full} with the endpoint, {full_with_pid} with \
             the pid"
        );
        if self.has_port {
            text += &format!("; to local_port = X {by_port} and {by_port_with_pid}");
        }
        if by_pid_is_asked {
            text += &format!("; to pid = X {by_pid}");
        }
        text
    }

    /// Whether an answer was without the endpoint, or without the pid if that has to be there.
    fn is_missed(&self, scans: usize, needs_pid: bool) -> bool {
        let mut counts = vec![self.full];
        counts.extend(self.has_port.then_some(self.by_port));
        if needs_pid {
            counts.extend([self.full_with_pid, self.by_pid]);
            counts.extend(self.has_port.then_some(self.by_port_with_pid));
        }
        counts.iter().any(|count| *count < scans)
    }
}

/// An attacker that replaces its listener again and again.
pub(super) struct Rotation {
    endpoint: Endpoint,
    attacker: Attacker,
    counts: Counts,
}

impl Rotation {
    fn start(endpoint: Endpoint, period: u64) -> Rotation {
        let (attack, kind, place) = match &endpoint {
            Endpoint::Tcp(port) => ("rotate-tcp", "TCP", port.to_string()),
            Endpoint::Udp(port) => ("rotate-udp", "UDP", port.to_string()),
            Endpoint::Unix(path) => ("rotate-unix", "UNIX", path.clone()),
        };
        let attacker = Attacker::start(attack, &[&place, &period.to_string()]);
        let has_port = !matches!(endpoint, Endpoint::Unix(_));
        let name = format!("{kind} every {period} ms");
        let counts = Counts { name, has_port, ..Counts::default() };
        Rotation { endpoint, attacker, counts }
    }

    /// TCP, UDP and UNIX, each replaced every 1 ms and every 20 ms.
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

    /// Whether the rows have the endpoint, and whether with the attacker's pid.
    fn find(&self, rows: &[Row]) -> (bool, bool) {
        let is_shown = |row: &&Row| match &self.endpoint {
            Endpoint::Tcp(port) => row.has(&[("protocol", "6"), ("local_port", &port.to_string())]),
            Endpoint::Udp(port) => {
                row.has(&[("protocol", "17"), ("local_port", &port.to_string())])
            }
            Endpoint::Unix(path) => row.has(&[("family", "1"), ("path", path)]),
        };
        let shown: Vec<&Row> = rows.iter().filter(is_shown).collect();
        let pid = self.attacker.pid().to_string();
        (!shown.is_empty(), shown.iter().any(|row| row.has(&[("pid", &pid)])))
    }

    /// Counts an answer to each query.
    fn count(&mut self, full: &[Row], by_port: &[Row], by_pid: &[Row]) {
        let [full, by_port, by_pid] = [full, by_port, by_pid].map(|rows| self.find(rows));
        self.counts.full += usize::from(full.0);
        self.counts.full_with_pid += usize::from(full.1);
        self.counts.by_port += usize::from(by_port.0);
        self.counts.by_port_with_pid += usize::from(by_port.1);
        self.counts.by_pid += usize::from(by_pid.1);
    }

    /// Whether something listens now.
    fn is_listening(&self) -> bool {
        match &self.endpoint {
            // Only a socket that listens is in the way of one with SO_REUSEADDR.
            Endpoint::Tcp(port) => is_in_use(*port, Type::STREAM, true),
            Endpoint::Udp(port) => is_in_use(*port, Type::DGRAM, false),
            Endpoint::Unix(path) => UnixStream::connect(path).is_ok(),
        }
    }

    /// The attack is one: something listens at each of a thousand moments. A path is away between
    /// unlink(2) and listen(2), while the socket that had it before still listens.
    #[track_caller]
    fn check(&mut self) {
        let listening = (0..1000).filter(|_| self.is_listening()).count();
        let least = if self.counts.has_port { 1000 } else { 500 };
        assert!(
            self.attacker.is_running() && listening >= least,
            "{}: {listening}",
            self.counts.name
        );
    }
}

fn is_in_use(port: u16, kind: Type, reuse: bool) -> bool {
    let socket = Socket::new(Domain::IPV4, kind, None).unwrap();
    socket.set_reuse_address(reuse).unwrap();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let error = socket.bind(&address.into()).err();
    error.is_some_and(|error| error.kind() == std::io::ErrorKind::AddrInUse)
}

/// A directory in which an attacker may bind.
pub(super) fn attackers_directory() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(directory.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    directory
}

fn are_in_every_answer((name, source): NamedSource) {
    let directory = attackers_directory();
    let scans = if runner::is_long() { 20 * SCANS } else { SCANS };
    let mut counts: Vec<Counts> = Vec::new();
    // An attacker does not live long enough for all of them.
    for _ in 0..scans / SCANS_OF_A_ROUND {
        let round = scan_a_round(source, directory.path());
        counts.resize_with(round.len(), Counts::default);
        counts.iter_mut().zip(&round).for_each(|(sum, rotation)| sum.add(rotation));
    }
    for counts in &counts {
        println!("{name}, {}", counts.describe(scans, source == BPF.1 || runner::is_long()));
    }
    let is_missed = |counts: &&Counts| counts.is_missed(scans, source == BPF.1);
    let missed: Vec<&str> = counts.iter().filter(is_missed).map(|it| &*it.name).collect();
    assert_eq!(missed, [""; 0], "listeners that were not in every answer");
}

/// So many scans take less time than an attacker lives, on a busy machine as well.
const SCANS_OF_A_ROUND: usize = 5;

fn scan_a_round(source: Source, directory: &Path) -> Vec<Counts> {
    let _crowd = crowd::start(10);
    let mut rotations = Rotation::start_all(directory);
    rotations.iter_mut().for_each(Rotation::check);
    let table = table(source);
    for _ in 0..SCANS_OF_A_ROUND {
        let full = answer(&table, &[]);
        let by_port = answer(&table, &[("local_port", "4001"), ("local_port", "4020")]);
        let by_pid = if source == BPF.1 || runner::is_long() {
            let pids: Vec<String> =
                rotations.iter().map(|rotation| rotation.attacker.pid().to_string()).collect();
            answer(&table, &pids.iter().map(|pid| ("pid", &**pid)).collect::<Vec<_>>())
        } else {
            // Without BPF the holder is not promised, and the lookup takes time.
            Vec::new()
        };
        rotations.iter_mut().for_each(|rotation| rotation.count(&full, &by_port, &by_pid));
    }
    rotations.iter_mut().for_each(Rotation::check);
    rotations.into_iter().map(|rotation| rotation.counts).collect()
}

/// Replaces what `open` returns every so many milliseconds: the new one is there before the old one
/// goes.
fn rotate<T>(period: &str, open: impl Fn() -> T) -> ! {
    let period = Duration::from_millis(period.parse().unwrap());
    let mut current = open();
    report_ready("");
    while !is_over() {
        std::thread::sleep(period);
        let next = open();
        drop(std::mem::replace(&mut current, next));
    }
    leave()
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
