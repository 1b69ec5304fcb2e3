//! The table while more than a thousand sockets and processes start and end each second. It runs for five seconds,
//! or for `CHURN_SECONDS`.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use support::bpf;
use support::rows::rows_where;
use support::set_on_drop::SetOnDrop;
use support::sleeper::Sleeper;
use tables::process_open_sockets::ProcessOpenSockets;
use tables::{Options, Source};

const TEST: &str = "lasting_sockets_are_shown_with_their_holders_and_no_others";

/// The duration, if the machine is fast enough for the minimum of comparisons.
fn duration() -> Duration {
    let seconds = std::env::var("CHURN_SECONDS").map_or(5, |seconds| seconds.parse().unwrap());
    Duration::from_secs(seconds)
}

/// The minimum numbers, even on a slow machine.
const SOCKETS: u64 = 1000;
const PROCESSES: u64 = 10;
const ROWS: usize = 20;

/// The sockets that do not change: their inodes, with the holders of each.
struct Lasting {
    holders: BTreeMap<u64, BTreeSet<(u32, i32)>>,
    listener: u64,
    _sockets: Vec<OwnedFd>,
    sleepers: Vec<Sleeper>,
}

impl Lasting {
    fn new() -> Lasting {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        let (one, other) = UnixStream::pair().unwrap();
        let listening = rustix::fs::fstat(&listener).unwrap().st_ino;
        let mut sockets: Vec<OwnedFd> = vec![
            listener.try_clone().unwrap().into(),
            listener.into(),
            client.into(),
            server.into(),
            one.into(),
            other.into(),
            UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().into(),
            UnixDatagram::unbound().unwrap().into(),
        ];
        sockets.extend((0..200).map(|_| OwnedFd::from(UnixDatagram::unbound().unwrap())));
        let mut holders: BTreeMap<u64, BTreeSet<(u32, i32)>> = BTreeMap::new();
        let mut hold = |socket: &OwnedFd, pid, fd| {
            let inode = rustix::fs::fstat(socket.as_fd()).unwrap().st_ino;
            holders.entry(inode).or_default().insert((pid, fd));
        };
        for socket in &sockets {
            hold(socket, std::process::id(), socket.as_raw_fd());
        }
        let sleepers = [&sockets[0], &sockets[2], &sockets[6]].map(|socket| {
            let shared = socket.try_clone().unwrap();
            let sleeper = Sleeper::holding(shared);
            hold(socket, sleeper.pid(), 0);
            sleeper
        });
        Lasting { holders, listener: listening, _sockets: sockets, sleepers: sleepers.into() }
    }

    /// Whether that process runs as long as these sockets are open.
    fn is_of_lasting_process(&self, pid: i32) -> bool {
        let children = self.sleepers.iter().map(|sleeper| sleeper.pid());
        children.chain([std::process::id()]).any(|lasting| i32::try_from(lasting) == Ok(pid))
    }

    /// Whether /proc now has exactly these holders.
    fn matches_proc(&self) -> bool {
        let mut actual: BTreeMap<u64, BTreeSet<(u32, i32)>> = BTreeMap::new();
        let pids = self.sleepers.iter().map(|sleeper| sleeper.pid()).chain([std::process::id()]);
        for pid in pids {
            for entry in std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten() {
                let Ok(link) = std::fs::read_link(entry.path()) else { continue };
                let inode =
                    link.to_str().and_then(|link| link.strip_prefix("socket:[")?.strip_suffix(']'));
                let Some(inode) = inode.map(|inode| inode.parse().unwrap()) else { continue };
                if self.holders.contains_key(&inode) {
                    let fd = entry.file_name().to_str().unwrap().parse().unwrap();
                    actual.entry(inode).or_default().insert((pid, fd));
                }
            }
        }
        actual == self.holders
    }
}

/// Opens and closes sockets until the end of the test, and counts them.
fn churn(over: &AtomicBool, opened: &AtomicU64) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    while !over.load(Ordering::Relaxed) {
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let pair = UnixStream::pair().unwrap();
        let client = TcpStream::connect(address).unwrap();
        // With a linger time of 0, close(2) leaves no TIME_WAIT.
        socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
        let server = listener.accept().unwrap();
        let copy = udp.try_clone().unwrap();
        drop((udp, copy, pair, client, server));
        opened.fetch_add(5, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Starts processes that end at once, and stores their pids.
fn start_short_lived_processes(
    over: &AtomicBool,
    started: &Mutex<BTreeSet<i32>>,
    count: &AtomicU64,
) {
    while !over.load(Ordering::Relaxed) {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut child = Command::new("true").stdin(OwnedFd::from(socket)).spawn().unwrap();
        started.lock().unwrap().insert(i32::try_from(child.id()).unwrap());
        assert!(child.wait().unwrap().success());
        count.fetch_add(1, Ordering::Relaxed);
        // The pause keeps pids from being reused: otherwise the list would soon have every pid.
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Checks the rows of lasting sockets in an answer, and returns their number.
///
/// Between fork and exec, a child of this process holds copies of all its descriptors, and the table shows them
/// correctly. The pids of such rows go to `copies`: the test compares them with the started processes at the end.
fn check(
    lasting: &Lasting,
    rows: &[String],
    copies: &mut BTreeMap<i32, String>,
    is_selected: impl Fn(u64, u32) -> bool,
) -> usize {
    let mut shown: BTreeMap<u64, BTreeSet<(u32, i32)>> = BTreeMap::new();
    let mut checked = BTreeSet::new();
    for row in rows {
        let cells: Vec<&str> = row.split('|').collect();
        let (pid, fd): (i32, i32) = (cells[0].parse().unwrap(), cells[1].parse().unwrap());
        let inode: u64 = cells[2].parse().unwrap();
        // A UNIX socket name of another process can imitate lines of a file.
        let is_own = lasting.is_of_lasting_process(pid) || lasting.holders.contains_key(&inode);
        // Such a name can add a line about a UNIX socket of this test, with another path.
        let path = cells[9].to_owned();
        assert!(!is_own || checked.insert((inode, pid, fd, path)), "twice: {row}");
        let Some(holders) = lasting.holders.get(&inode) else { continue };
        assert_ne!(pid, -1, "held, and shown as unheld: {row}");
        if lasting.is_of_lasting_process(pid) {
            shown.entry(inode).or_default().insert((pid.cast_unsigned(), fd));
        } else {
            assert!(holders.contains(&(std::process::id(), fd)), "a wrong descriptor: {row}");
            copies.insert(pid, row.clone());
        }
    }
    let mut compared = 0;
    for (inode, holders) in &lasting.holders {
        let expected: BTreeSet<_> =
            holders.iter().filter(|(pid, _)| is_selected(*inode, *pid)).copied().collect();
        let actual = shown.remove(inode).unwrap_or_default();
        assert_eq!(actual, expected, "holders of socket {inode}");
        compared += expected.len();
    }
    compared
}

#[test]
fn lasting_sockets_are_shown_with_their_holders_and_no_others() {
    let lasting = Lasting::new();
    // A child may not have closed its copies yet shortly after execve(2).
    let end = Instant::now() + Duration::from_secs(60);
    while !lasting.matches_proc() {
        assert!(Instant::now() < end, "the holders in /proc are not the expected ones");
    }
    let over = AtomicBool::new(false);
    let (opened, started, pids) = (AtomicU64::new(0), AtomicU64::new(0), Mutex::default());
    let mut copies = BTreeMap::new();
    let (mut compared, mut answers) = ([0; 4], 0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| churn(&over, &opened));
        }
        scope.spawn(|| start_short_lived_processes(&over, &pids, &started));
        let _set_over = SetOnDrop(&over);
        let tables = [Source::Auto, Source::Bpf, Source::Netlink, Source::Procfs].map(|source| {
            // Source::Auto runs without BPF.
            let bpf_from_files = (source == Source::Bpf).then_some(0);
            ProcessOpenSockets::new(Options { source, bpf_from_files, ..Options::default() })
        });
        let own_pid = std::process::id();
        let child = lasting.sleepers[0].pid();
        let mut check_queries = |table: &ProcessOpenSockets| {
            let all = rows_where(table, &[]);
            compared[0] += check(&lasting, &all, &mut copies, |_, _| true);
            for pid in [own_pid, child] {
                let of_one = rows_where(table, &[("pid", &pid.to_string())]);
                compared[1] += check(&lasting, &of_one, &mut copies, |_, holder| holder == pid);
            }
            let of_listener = |inode, _| inode == lasting.listener;
            let listening = rows_where(table, &[("state", "LISTEN")]);
            compared[2] += check(&lasting, &listening, &mut copies, of_listener);
            let socket = rows_where(table, &[("socket", &lasting.listener.to_string())]);
            compared[3] += check(&lasting, &socket, &mut copies, of_listener);
            answers += 5;
            compared.iter().all(|&count| count > ROWS)
        };
        let begun = Instant::now();
        let (least, most) = (duration(), duration() + Duration::from_secs(300));
        bpf::with_bpf(TEST, || {
            loop {
                let mut is_enough = opened.load(Ordering::Relaxed) > SOCKETS
                    && started.load(Ordering::Relaxed) > PROCESSES;
                for table in &tables {
                    is_enough &= check_queries(table);
                }
                if begun.elapsed() > most || (is_enough && begun.elapsed() > least) {
                    break;
                }
            }
        });
    });
    assert!(lasting.matches_proc());
    let pids = pids.into_inner().unwrap();
    let wrong: Vec<_> = copies.iter().filter(|(pid, _)| !pids.contains(pid)).collect();
    assert!(wrong.is_empty(), "shown with processes that this test did not start: {wrong:#?}");
    let copies = copies.len();
    let (opened, started) = (opened.into_inner(), started.into_inner());
    println!(
        "{opened} sockets opened, {started} processes started; {answers} answers, {compared:?} rows compared, {copies} children shown before execve"
    );
    assert!(opened > SOCKETS && started > PROCESSES, "{opened} {started}");
    assert!(compared.iter().all(|&count| count > ROWS), "{compared:?}");
}
