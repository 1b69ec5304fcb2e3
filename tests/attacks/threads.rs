//! A thread with a descriptor table of its own, in which a listener is.

use std::net::TcpListener;

use super::attacker::{Attacker, bind_when_free, park, report_ready, unshare};
use super::scan::{BPF, answer, has_bpf, sources, table};
use super::{Attack, Test};
use crate::support::left_out::say_left_out;
use crate::support::process::command;

pub(super) const ATTACKS: &[Attack] = &[("thread", thread)];

pub(super) const TESTS: &[Test] = &[
    ("thread_with_own_descriptors_is_a_holder_with_bpf", is_a_holder_with_bpf),
    ("thread_with_own_descriptors_is_a_holder_with_threads_on", is_a_holder_with_threads_on),
];

const PORT: &str = "4400";

/// The attacker, and its thread.
fn start() -> (Attacker, String) {
    let attacker = Attacker::start("thread", &[]);
    let [inode, tid, fd] = attacker.facts() else { panic!() };
    let link = |task: &str| {
        let link = std::fs::read_link(format!("/proc/{}/task/{task}/fd/{fd}", attacker.pid()));
        link.is_ok_and(|link| link.to_str() == Some(&format!("socket:[{inode}]")))
    };
    let of_process = link(&attacker.pid().to_string());
    assert!(link(tid) && !of_process, "the attack is none");
    let expected = format!("{}|{fd}|{inode}|{tid}", attacker.pid());
    (attacker, expected)
}

/// Whether BPF alone answers a lookup: it does from Linux 6.7 on.
fn is_linux_6_7_or_later() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).map(|number| number.trim().parse().unwrap_or(0));
    (numbers.next().unwrap(), numbers.next().unwrap()) >= (6, 7)
}

fn is_a_holder_with_bpf() {
    let test = "thread_with_own_descriptors_is_a_holder_with_bpf";
    if !is_linux_6_7_or_later() {
        return say_left_out(test, "needs Linux 6.7: before it, --threads=auto is off");
    }
    if !has_bpf(test) {
        return;
    }
    let (attacker, expected) = start();
    let table = table(BPF.1);
    let pid = attacker.pid().to_string();
    for equals in [&[][..], &[("local_port", PORT)], &[("pid", &*pid)]] {
        let rows = answer(&table, equals);
        let rows = rows.iter().filter(|row| row.has(&[("local_port", PORT)]));
        let shown: Vec<String> = rows
            .map(|row| ["pid", "fd", "socket", "tid"].map(|column| row.cell(column)).join("|"))
            .collect();
        assert_eq!(shown, [&*expected], "under {equals:?}");
    }
}

fn is_a_holder_with_threads_on() {
    let (attacker, expected) = start();
    let columns = "SELECT pid, fd, socket, tid FROM process_open_sockets";
    let queries = [
        format!("{columns} WHERE +local_port = {PORT}"),
        format!("{columns} WHERE local_port = {PORT}"),
        format!("{columns} WHERE pid = {} AND +local_port = {PORT}", attacker.pid()),
    ];
    for (name, _) in sources("thread_with_own_descriptors_is_a_holder_with_threads_on") {
        for query in &queries {
            let flags = ["query", &format!("--source={name}"), "--threads=on", "--list"];
            let out = command().args(flags).args(["--header=false", query]).output().unwrap();
            let errors = String::from_utf8_lossy(&out.stderr);
            assert_eq!(
                String::from_utf8_lossy(&out.stdout),
                format!("{expected}\n"),
                "{name}: {query}: {errors}"
            );
        }
    }
}

/// Its thread copies the descriptors for itself and listens.
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
