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

/// An attacker, and in how many answers it was seen.
pub(super) struct Rotation {
    name: String,
    endpoint: Endpoint,
    attacker: Attacker,
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

impl Rotation {
    fn start(endpoint: Endpoint, period: u64) -> Rotation {
        let (attack, kind, place) = match &endpoint {
            Endpoint::Tcp(port) => ("rotate-tcp", "TCP", port.to_string()),
            Endpoint::Udp(port) => ("rotate-udp", "UDP", port.to_string()),
            Endpoint::Unix(path) => ("rotate-unix", "UNIX", path.clone()),
        };
        let attacker = Attacker::start(attack, &[&place, &period.to_string()]);
        let name = format!("{kind} every {period} ms");
        let (full, full_with_pid, by_port, by_port_with_pid, by_pid) = (0, 0, 0, 0, 0);
        Rotation {
            name,
            endpoint,
            attacker,
            full,
            full_with_pid,
            by_port,
            by_port_with_pid,
            by_pid,
        }
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

    fn has_port(&self) -> bool {
        !matches!(self.endpoint, Endpoint::Unix(_))
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
        (!shown.is_empty(), shown.iter().any(|row| row.cell("pid") == pid))
    }

    /// Counts an answer to each query.
    fn count(&mut self, full: &[Row], by_port: &[Row], by_pid: &[Row]) {
        let (is_shown, has_pid) = self.find(full);
        self.full += usize::from(is_shown);
        self.full_with_pid += usize::from(has_pid);
        let (is_shown, has_pid) = self.find(by_port);
        self.by_port += usize::from(is_shown);
        self.by_port_with_pid += usize::from(has_pid);
        self.by_pid += usize::from(self.find(by_pid).0);
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
        let least = if self.has_port() { 1000 } else { 800 };
        assert!(self.attacker.is_running() && listening >= least, "{}: {listening}", self.name);
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

fn are_in_every_answer(source: NamedSource) {
    let rounds = if runner::is_long() { 20 } else { 1 };
    (0..rounds).for_each(|_| are_in_twenty_answers(source));
}

fn are_in_twenty_answers((name, source): NamedSource) {
    let directory = attackers_directory();
    let _crowd = crowd::start(10);
    let mut rotations = Rotation::start_all(directory.path());
    rotations.iter_mut().for_each(Rotation::check);
    let table = table(source);
    for _ in 0..SCANS {
        let full = answer(&table, &[]);
        let by_port =
            [answer(&table, &[("local_port", "4001")]), answer(&table, &[("local_port", "4020")])];
        let by_port = by_port.into_iter().flatten().collect::<Vec<_>>();
        let pids: Vec<String> =
            rotations.iter().map(|rotation| rotation.attacker.pid().to_string()).collect();
        let by_pid = pids.iter().map(|pid| ("pid", &**pid)).collect::<Vec<_>>();
        let by_pid = answer(&table, &by_pid);
        rotations.iter_mut().for_each(|rotation| rotation.count(&full, &by_port, &by_pid));
    }
    rotations.iter_mut().for_each(Rotation::check);
    for Rotation { name: attack, full, full_with_pid, by_port, by_port_with_pid, by_pid, .. } in
        &rotations
    {
        println!(
            "{name}, {attack}: of {SCANS} answers to SELECT * {full} with the endpoint, \
             {full_with_pid} with the pid; to local_port = X {by_port} and {by_port_with_pid}; \
             to pid = X {by_pid}"
        );
    }
    let needs_pid = source == BPF.1;
    let is_missed = |rotation: &&Rotation| {
        let has_port = rotation.has_port();
        rotation.full < SCANS
            || has_port && rotation.by_port < SCANS
            || needs_pid
                && (rotation.full_with_pid < SCANS
                    || has_port && rotation.by_port_with_pid < SCANS
                    || rotation.by_pid < SCANS)
    };
    let missed: Vec<&str> =
        rotations.iter().filter(is_missed).map(|rotation| &*rotation.name).collect();
    assert_eq!(missed, [""; 0], "listeners that were not in every answer");
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
