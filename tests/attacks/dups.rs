//! A dup flood: one socket with hundreds of thousands of descriptors.

use std::collections::BTreeMap;
use std::io::Read;
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketType};

use super::attacker::{Attacker, bind_when_free, park, report_ready, start_children};
use super::scan::{Row, SCANS, answer, sources, table};
use super::tally::{PidPromise, Sighting, Tally};
use super::{Attack, Test, runner};
use crate::support::process::command;
use tables::Options;
use tables::process_open_sockets::ProcessOpenSockets;

pub(super) const ATTACKS: &[Attack] = &[("dup-flood", dup_flood)];

pub(super) const TESTS: &[Test] = &[
    ("dup_flood_is_100_rows_a_process_and_hides_no_socket", is_100_rows_a_process),
    ("dup_flood_states_the_number_of_descriptors", states_the_number_of_descriptors),
    ("dup_flood_has_all_its_rows_with_all_descriptors", has_all_rows),
    ("dup_flood_is_answered_in_bounded_time_and_memory", is_answered_in_bounds),
];

/// The number of descriptors of the socket in each process; the limit of open files may be lower.
const DUPS: u64 = 19_900;
/// The number of processes with these descriptors.
const PROCESSES: u32 = 30;
/// The number of processes where 20 scans read all descriptors.
const FEW_PROCESSES: u32 = 5;
/// The highest number of rows of a socket in one process.
const ROWS: usize = 100;
/// The limit of memory for a full scan, in bytes.
const MEMORY: u64 = 100 << 20;
/// The limit of time for a full scan.
const TIME: Duration = Duration::from_secs(40);

/// The flood: the inode of the socket, the number of its descriptors in each process, and the processes.
struct Flood {
    attacker: Attacker,
    inode: String,
    descriptors: u64,
    lowest: i64,
    pids: Vec<i64>,
}

impl Flood {
    fn start(processes: u32) -> Flood {
        let attacker = Attacker::start("dup-flood", &[&processes.to_string()]);
        let [inode, descriptors, lowest, pids @ ..] = attacker.reported() else { panic!() };
        let pids: Vec<i64> = pids.iter().map(|pid| pid.parse().unwrap()).collect();
        assert_eq!(pids.len(), processes as usize);
        let last = std::fs::read_dir(format!("/proc/{}/fd", pids[pids.len() - 1])).unwrap();
        let descriptors = descriptors.parse().unwrap();
        assert!(last.count() as u64 >= descriptors && descriptors > 10 * ROWS as u64);
        let (inode, lowest) = (inode.clone(), lowest.parse().unwrap());
        Flood { attacker, inode, descriptors, lowest, pids }
    }

    /// The expected descriptors of each process.
    fn expected(&self, pids: &[i64]) -> BTreeMap<i64, Vec<i64>> {
        let lowest: Vec<i64> = (self.lowest..).take(ROWS).collect();
        pids.iter().map(|pid| (*pid, lowest.clone())).collect()
    }

    /// The descriptors of the socket that the rows show, by process.
    fn shown(&self, rows: &[Row]) -> BTreeMap<i64, Vec<i64>> {
        let mut shown: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
        for row in rows.iter().filter(|row| row.has(&[("socket", &self.inode)])) {
            shown.entry(row.number("pid")).or_default().push(row.number("fd"));
        }
        shown.values_mut().for_each(|fds| fds.sort_unstable());
        shown
    }
}

/// A short text about descriptors that differ from the expected ones.
fn difference(
    query: &str,
    shown: &BTreeMap<i64, Vec<i64>>,
    expected: &BTreeMap<i64, Vec<i64>>,
) -> Option<String> {
    let summary = |of: &BTreeMap<i64, Vec<i64>>| {
        let rows: usize = of.values().map(Vec::len).sum();
        format!("{rows} rows of {} processes", of.len())
    };
    let differs = shown != expected;
    differs.then(|| format!("{query}: {}, not {}", summary(shown), summary(expected)))
}

fn is_100_rows_a_process() {
    let own: Vec<UnixDatagram> = (0..50).map(|_| UnixDatagram::unbound().unwrap()).collect();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut descriptors: Vec<i32> = own.iter().map(AsRawFd::as_raw_fd).collect();
    descriptors.push(tcp.as_raw_fd());
    let mut wrong = Vec::new();
    let mut tally = Tally::default();
    for source in sources("dup_flood_is_100_rows_a_process_and_hides_no_socket") {
        let processes = if runner::is_long() { PROCESSES } else { FEW_PROCESSES };
        let mut flood = Flood::start(processes);
        let table = table(source.1);
        let mut count = |tally: &mut Tally, query: &str, rows: &[Row], pids: &[i64]| {
            let (shown, expected) = (flood.shown(rows), flood.expected(pids));
            let sighting = Sighting { socket: !shown.is_empty(), pid: shown == expected };
            tally.add(&format!("dup flood, {query}"), source, PidPromise::Always, sighting);
            wrong.extend(difference(&format!("{}, {query}", source.0), &shown, &expected));
        };
        let me = std::process::id().to_string();
        let pid = flood.pids[3];
        for _ in 0..SCANS {
            let full = answer(&table, &[]);
            count(&mut tally, "SELECT *", &full, &flood.pids);
            let own_rows = full.iter().filter(|row| row.has(&[("pid", &me)]));
            let own_fds: Vec<i64> = own_rows.map(|row| row.number("fd")).collect();
            let all = descriptors.iter().all(|fd| own_fds.contains(&i64::from(*fd)));
            tally.add("other sockets, SELECT *", source, PidPromise::Always, Sighting::whole(all));
            count(&mut tally, "pid = X", &answer(&table, &[("pid", &pid.to_string())]), &[pid]);
        }
        // The table limits the descriptors before constraints select rows.
        let above = flood.lowest + i64::try_from(ROWS).unwrap();
        let above = [("pid", &*pid.to_string()), ("fd", &*above.to_string())];
        let of_fd = flood.shown(&answer(&table, &above));
        wrong.extend(difference(&format!("{}, fd = Y", source.0), &of_fd, &BTreeMap::new()));
        assert!(flood.attacker.is_running(), "the attack has ended");
    }
    tally.check();
    drop((own, tcp));
    assert_eq!(wrong, [""; 0]);
}

fn states_the_number_of_descriptors() {
    let mut wrong = Vec::new();
    for (name, source) in sources("dup_flood_states_the_number_of_descriptors") {
        let flood = Flood::start(PROCESSES);
        let rows = answer(&table(source), &[("pid", &flood.pids[7].to_string())]);
        let mut of_flood: Vec<i64> = rows
            .iter()
            .filter(|row| row.has(&[("socket", &flood.inode)]))
            .map(|row| row.number("descriptors"))
            .collect();
        of_flood.dedup();
        let expected = [i64::try_from(flood.descriptors).unwrap()];
        let differs = of_flood != expected;
        wrong.extend(differs.then(|| format!("{name}: {of_flood:?}, not {expected:?}")));
    }
    assert_eq!(wrong, [""; 0]);
}

fn has_all_rows() {
    let flood = Flood::start(PROCESSES);
    for (_, source) in sources("dup_flood_has_all_its_rows_with_all_descriptors") {
        let table = ProcessOpenSockets::new(Options {
            source,
            descriptors_per_socket: None,
            ..Options::default()
        });
        let rows = answer(&table, &[("pid", &flood.pids[7].to_string())]);
        let shown = flood.shown(&rows).remove(&flood.pids[7]).unwrap_or_default();
        assert_eq!(shown.len() as u64, flood.descriptors);
        assert!(shown.is_sorted() && shown[0] == flood.lowest);
    }
}

fn is_answered_in_bounds() {
    let mut wrong = Vec::new();
    for (name, _) in sources("dup_flood_is_answered_in_bounded_time_and_memory") {
        let _flood = Flood::start(PROCESSES);
        let start = Instant::now();
        let memory = peak_memory_of_query(name);
        let time = start.elapsed();
        println!("{name}: {} MB, {:.1} s", memory >> 20, time.as_secs_f64());
        wrong.extend((memory > MEMORY).then(|| format!("{name}: {memory} bytes")));
        wrong.extend((time > TIME).then(|| format!("{name}: {time:?}")));
    }
    assert_eq!(wrong, [""; 0]);
}

/// The peak memory of `SELECT *`, in bytes: the last that the kernel reports before the end of the output. What wait4(2)
/// reports is at least the peak of the process that started it.
fn peak_memory_of_query(source: &str) -> u64 {
    let select = "SELECT * FROM process_open_sockets";
    let mut child = command()
        .args(["query", &format!("--source={source}"), select])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let status = format!("/proc/{}/status", child.id());
    let (mut output, mut peak) = (child.stdout.take().unwrap(), 0);
    let mut part = vec![0; 1 << 20];
    while output.read(&mut part).unwrap() > 0 {
        let status = std::fs::read_to_string(&status).unwrap();
        // A process that has ended has none.
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
        peak = kilobytes.map_or(peak, |number| number.parse().unwrap());
    }
    assert!(child.wait().unwrap().success());
    peak << 10
}

/// Duplicates a socket with a long name up to the limit, and forks.
fn dup_flood(arguments: &[String]) -> ! {
    let processes: u32 = arguments[0].parse().unwrap();
    let socket = net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
    let name = [b'f'; 107];
    let address = SocketAddrUnix::new_abstract_name(&name).unwrap();
    bind_when_free(|| net::bind(&socket, &address));
    net::listen(&socket, 1).unwrap();
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    // Some descriptors are for the pipes.
    let dups = limit.map_or(DUPS, |limit| DUPS.min(limit - 50));
    // From here the descriptors of the socket are contiguous.
    let first = rustix::io::fcntl_dupfd_cloexec(&socket, 40).unwrap();
    let (inode, lowest) = (rustix::fs::fstat(&first).unwrap().st_ino, first.as_raw_fd());
    drop(socket);
    for _ in 1..dups {
        std::mem::forget(rustix::io::fcntl_dupfd_cloexec(&first, lowest).unwrap());
    }
    let mut pids = start_children(processes - 1, |_| {});
    pids.push(i32::try_from(std::process::id()).unwrap());
    let pids: Vec<String> = pids.iter().map(i32::to_string).collect();
    report_ready(&format!("{inode} {dups} {lowest} {}", pids.join(" ")));
    park()
}
