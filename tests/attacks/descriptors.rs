//! A descriptor flood: hundreds of thousands of descriptors that are no sockets, beside a listener or an unheld
//! socket. A scan without BPF reads all of them to find the holder of an unheld socket.

use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use tables::process_open_sockets::ProcessOpenSockets;

use super::attacker::{Attacker, bind_when_free, park, report_ready, start_children};
use super::scan::{BPF, NETLINK, NamedQuery, SCANS, answer, generate, has_bpf, sources, table};
use super::tally::{PidPromise, Sighting, Tally};
use super::{Attack, Test, runner};

pub(super) const ATTACKS: &[Attack] = &[("descriptor-flood", descriptor_flood)];

pub(super) const TESTS: &[Test] = &[
    ("descriptor_flood_hides_no_listener", descriptor_flood_hides_no_listener),
    ("descriptor_flood_is_not_walked_with_bpf", descriptor_flood_is_not_walked_with_bpf),
];

/// The port of a listener that the last process of the flood holds.
const PORT: &str = "4700";

/// The number of processes. The limit of a process is 1,024 to 1,048,576 descriptors.
const PROCESSES: u32 = 30;
/// The number of processes where 20 scans read all descriptors.
const FEW_PROCESSES: u32 = 8;
const OF_A_PROCESS: u64 = 10_000;
/// The number of measurements of the processor time; the least one counts.
const TIMES: usize = 4;

fn start(processes: u32) -> Attacker {
    Attacker::start("descriptor-flood", &[&processes.to_string()])
}

fn descriptor_flood_hides_no_listener() {
    let mut tally = Tally::default();
    for source in sources("descriptor_flood_hides_no_listener") {
        let processes = if runner::is_long() { PROCESSES } else { FEW_PROCESSES };
        let mut attacker = start(processes);
        let pid: i64 = attacker.reported()[1].parse().unwrap();
        let of_pid = [("pid", &*pid.to_string())];
        let mut queries: Vec<NamedQuery> = vec![("SELECT *", &[]), ("pid = X", &of_pid)];
        if runner::is_long() {
            queries.push(("local_port = X", &[("local_port", PORT)]));
        }
        let table = table(source.1);
        for &(query, equals) in (0..SCANS).flat_map(|_| &queries) {
            let rows = answer(&table, equals);
            let sighting = Sighting::of(&rows, &[("protocol", "6"), ("local_port", PORT)], pid);
            tally.add(&format!("descriptor flood, {query}"), source, PidPromise::Always, sighting);
        }
        assert!(attacker.is_running(), "the attack has ended");
    }
    tally.check();
}

/// Checks that an unheld socket adds less than a quarter of the processor time of a walk over /proc to a full scan: BPF
/// reads all descriptors once in both cases, and a walk would read each of them again.
fn descriptor_flood_is_not_walked_with_bpf() {
    if !has_bpf("descriptor_flood_is_not_walked_with_bpf") {
        return;
    }
    let attacker = start(PROCESSES);
    let descriptors: u64 = attacker.reported()[0].parse().unwrap();
    let time_of = |table: &ProcessOpenSockets| {
        let least = (0..TIMES).map(|_| {
            let start = processor_time();
            drop(generate(table, &[]));
            processor_time() - start
        });
        least.min().unwrap()
    };
    let by_walk = table(NETLINK.1);
    let table = table(BPF.1);
    let all_held = time_of(&table);
    let (receiver, sender) = UnixDatagram::pair().unwrap();
    let in_flight = UnixDatagram::unbound().unwrap();
    let inode = rustix::fs::fstat(&in_flight).unwrap().st_ino.to_string();
    send_descriptor(&sender, in_flight.into()).unwrap();
    let rows = answer(&table, &[("socket", &inode)]);
    assert!(rows.len() == 1 && rows[0].cell("pid") == "-1", "not unheld: {rows:?}");
    let (one_unheld, walk) = (time_of(&table), time_of(&by_walk));
    let times = format!("{all_held:?}, with an unheld socket {one_unheld:?}, a walk {walk:?}");
    println!("{descriptors} descriptors: {times}");
    assert!(one_unheld < all_held + walk / 4, "{times}");
    drop(receiver);
}

/// The processor time of this process.
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.cast_unsigned(), u32::try_from(time.tv_nsec).unwrap())
}

/// Sends a descriptor: no process holds its socket until it is received.
pub(super) fn send_descriptor(
    socket: &UnixDatagram,
    descriptor: OwnedFd,
) -> rustix::io::Result<()> {
    let descriptors = [descriptor.as_fd()];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
    sendmsg(socket, &[std::io::IoSlice::new(b"x")], &mut control, SendFlags::empty())?;
    Ok(())
}

/// Processes with many descriptors of /dev/null.
fn descriptor_flood(arguments: &[String]) -> ! {
    let processes: u32 = arguments[0].parse().unwrap();
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    let count = limit.map_or(OF_A_PROCESS, |limit| OF_A_PROCESS.min(limit - 100));
    let null = std::fs::File::open("/dev/null").unwrap();
    for _ in 0..count {
        std::mem::forget(null.try_clone().unwrap());
    }
    let last = start_children(processes - 1, |number| {
        if number == processes - 2 {
            let address = format!("127.0.0.1:{PORT}");
            std::mem::forget(bind_when_free(|| TcpListener::bind(&address)));
        }
    });
    report_ready(&format!("{} {}", count * u64::from(processes), last[last.len() - 1]));
    park()
}
