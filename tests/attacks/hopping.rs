//! A listener that passes from process to process without pause.

use std::net::TcpListener;
use std::os::unix::net::UnixDatagram;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use super::attacker::{
    Attacker, bind_when_free, exit_now, fork, is_over, park, report_ready, wait_until,
};
use super::descriptors::send_descriptor;
use super::scan::{NamedQuery, SCANS, answer, sources, table};
use super::tally::{PidPromise, Sighting, Tally};
use super::{Attack, Test, runner};

pub(super) const ATTACKS: &[Attack] =
    &[("pid-hopping", pid_hopping), ("descriptor-passing", descriptor_passing)];

pub(super) const TESTS: &[Test] = &[
    ("pid_hopping_hides_no_socket_and_no_holder_from_bpf", pid_hopping_hides_nothing),
    ("descriptor_passing_does_not_hide_the_socket", descriptor_passing_hides_no_socket),
];

const PORT: &str = "4601";
const QUERIES: [NamedQuery; 2] = [("SELECT *", &[]), ("local_port = X", &[("local_port", PORT)])];

/// Runs each query 20 or 400 times with each source. Each round has a new attacker, since an attacker ends after
/// a minute.
fn count(test: &str, attack: &str, pid: PidPromise) {
    let scans = if runner::is_long() { 20 * SCANS } else { SCANS };
    let mut tally = Tally::default();
    for source in sources(test) {
        for _ in 0..scans {
            let _attacker = start(attack);
            for (query, equals) in QUERIES {
                let rows = answer(&table(source.1), equals);
                let cells = [("protocol", "6"), ("local_port", PORT)];
                let sighting = Sighting::of_any_holder(&rows, &cells);
                tally.add(&format!("{attack}, {query}"), source, pid, sighting);
            }
        }
    }
    tally.check();
}

/// Starts the attacker, and waits until its first process has passed the socket on.
fn start(attack: &str) -> Attacker {
    let attacker = Attacker::start(attack, &[]);
    if let [first] = attacker.reported() {
        let has_ended = || std::fs::read_link(format!("/proc/{first}/fd/0")).is_err();
        wait_until("the first process ends", has_ended);
    }
    attacker
}

fn pid_hopping_hides_nothing() {
    let test = "pid_hopping_hides_no_socket_and_no_holder_from_bpf";
    count(test, "pid-hopping", PidPromise::WithBpf);
}

fn descriptor_passing_hides_no_socket() {
    count("descriptor_passing_does_not_hide_the_socket", "descriptor-passing", PidPromise::Never);
}

/// A chain of processes: each passes the listener to its child by fork(2), and ends.
fn pid_hopping(_: &[String]) -> ! {
    let start = std::time::Instant::now();
    let listener = bind_when_free(|| TcpListener::bind(format!("127.0.0.1:{PORT}")));
    // The first process closes the listener and stays: the test waits until it ends.
    if fork() > 0 {
        drop(listener);
        park();
    }
    std::mem::forget(listener);
    report_ready(&std::process::id().to_string());
    while !is_over() && start.elapsed().as_secs() < 60 {
        if fork() > 0 {
            exit_now();
        }
    }
    exit_now()
}

/// Two processes that send a listener to each other: it is in flight most of the time.
fn descriptor_passing(arguments: &[String]) -> ! {
    let (one, other) = UnixDatagram::pair().unwrap();
    let port = arguments.first().map_or(PORT, |port| port);
    let address = format!("127.0.0.1:{port}");
    let listener = bind_when_free(|| TcpListener::bind(&address));
    send_descriptor(&one, listener.into()).unwrap();
    let (socket, peer) = if fork() == 0 { (other, one) } else { (one, other) };
    drop(peer);
    socket.set_read_timeout(Some(std::time::Duration::from_millis(100))).unwrap();
    report_ready("");
    while !is_over() {
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        let bytes = &mut [std::io::IoSliceMut::new(&mut byte)];
        if recvmsg(&socket, bytes, &mut control, RecvFlags::empty()).is_err() {
            continue;
        }
        for message in control.drain() {
            let RecvAncillaryMessage::ScmRights(descriptors) = message else { continue };
            for descriptor in descriptors {
                if send_descriptor(&socket, descriptor).is_err() {
                    // The peer has ended.
                    exit_now();
                }
            }
        }
    }
    exit_now()
}
