//! A listener in the private descriptor table of a thread.

use std::net::TcpListener;

use super::attacker::{Attacker, bind_when_free, park, report_ready, unshare};
use super::scan::{BPF, NETLINK, NamedQuery, NamedSource, PROCFS, SCANS, answer, has_bpf, sources};
use super::tally::{PidPromise, Sighting, Tally};
use super::{Attack, Test};
use crate::support::left_out::report_left_out;
use tables::process_open_sockets::ProcessOpenSockets;
use tables::{Options, Threads};

pub(super) const ATTACKS: &[Attack] = &[("thread", thread)];

pub(super) const TESTS: &[Test] = &[
    ("thread_with_own_descriptors_is_a_holder_with_bpf", is_a_holder_with_bpf),
    ("thread_with_own_descriptors_is_a_holder_with_threads_on", is_a_holder_with_threads_on),
    ("thread_with_own_descriptors_hides_no_socket_without_bpf", hides_no_socket_without_bpf),
];

const PORT: &str = "4400";

/// Starts the attacker; returns it with the expected row.
fn start() -> (Attacker, String) {
    let attacker = Attacker::start("thread", &[]);
    let [inode, tid, fd] = attacker.reported() else { panic!() };
    let link = |task: &str| {
        let link = std::fs::read_link(format!("/proc/{}/task/{task}/fd/{fd}", attacker.pid()));
        link.is_ok_and(|link| link.to_str() == Some(&format!("socket:[{inode}]")))
    };
    let of_process = link(&attacker.pid().to_string());
    assert!(link(tid) && !of_process, "the attack does not work");
    let expected = format!("{}|{fd}|{inode}|{tid}", attacker.pid());
    (attacker, expected)
}

/// From Linux 6.7 on, BPF alone answers a lookup.
fn is_linux_6_7_or_later() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).map(|number| number.trim().parse().unwrap_or(0));
    (numbers.next().unwrap(), numbers.next().unwrap()) >= (6, 7)
}

/// Runs each query 20 times with these sources and that option `threads`.
fn count(sources: &[NamedSource], threads: Threads, pid: PidPromise) {
    let (attacker, expected) = start();
    let attacker_pid = attacker.pid().to_string();
    let mut queries: Vec<NamedQuery> =
        vec![("SELECT *", &[]), ("local_port = X", &[("local_port", PORT)])];
    let of_pid = [("pid", &*attacker_pid)];
    // A table without the thread has no such socket in the process.
    queries.extend((pid != PidPromise::Never).then_some(("pid = X", &of_pid[..])));
    let mut tally = Tally::default();
    for &source in sources {
        let options = Options { source: source.1, threads, ..Options::default() };
        let table = ProcessOpenSockets::new(options);
        for &(query, equals) in (0..SCANS).flat_map(|_| &queries) {
            let rows = answer(&table, equals);
            let rows = rows.iter().filter(|row| row.has(&[("local_port", PORT)]));
            let shown: Vec<String> = rows
                .map(|row| ["pid", "fd", "socket", "tid"].map(|column| row.cell(column)).join("|"))
                .collect();
            let sighting = Sighting { socket: !shown.is_empty(), pid: shown == [&*expected] };
            tally.add(&format!("listener of a thread, {query}"), source, pid, sighting);
        }
    }
    tally.check();
}

fn is_a_holder_with_bpf() {
    let test = "thread_with_own_descriptors_is_a_holder_with_bpf";
    if !is_linux_6_7_or_later() {
        return report_left_out(test, "needs Linux 6.7: before it, --threads=auto is off");
    }
    if has_bpf(test) {
        count(&[BPF], Threads::Auto, PidPromise::Always);
    }
}

fn is_a_holder_with_threads_on() {
    let test = "thread_with_own_descriptors_is_a_holder_with_threads_on";
    count(&sources(test), Threads::On, PidPromise::Always);
}

fn hides_no_socket_without_bpf() {
    count(&[NETLINK, PROCFS], Threads::Auto, PidPromise::Never);
}

/// A thread copies the descriptor table and listens.
fn thread(_: &[String]) -> ! {
    use std::os::fd::AsRawFd;
    std::thread::spawn(|| {
        unshare(libc::CLONE_FILES);
        let listener = bind_when_free(|| TcpListener::bind(format!("127.0.0.1:{PORT}")));
        let inode = rustix::fs::fstat(&listener).unwrap().st_ino;
        let tid = rustix::thread::gettid().as_raw_nonzero();
        report_ready(&format!("{inode} {tid} {}", listener.as_raw_fd()));
        park()
    });
    park()
}
