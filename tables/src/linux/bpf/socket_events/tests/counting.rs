//! Counted datagrams.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::UdpSocket;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Stdio};

use rustix::net::sockopt::socket_cookie;

use super::child::spawn;
use super::this_binary::own_executable;
use super::*;
use crate::deadline::Deadline;
use crate::linux::clock::Clocks;
use crate::model::DatagramSlots;
use crate::model::tcp_event::{Bytes, DatagramCounts, Messages, SlotUse};

/// Runs the body in a network namespace while datagrams are counted, on kernels with the tracepoints.
fn record_counts(test: &'static str, body: impl Fn(NetNamespace, &mut Recorded) + Send + 'static) {
    if Layout::of_running_kernel().counting.is_none() {
        return report_skip(test, "the kernel is older than 6.3");
    }
    record_in_own_netns(test, move |namespace, recorded| {
        recorded.source.begin_counting(&proc_root());
        assert_eq!(recorded.source.counting.reason(), None);
        body(namespace, recorded);
    });
}

/// What the slots have counted, by the cookies of sockets and the pids that the records name.
fn counts(recorded: &mut Recorded) -> HashMap<(u64, i32), DatagramCounts> {
    let used = recorded.source.counting().unwrap().used();
    recorded.drain(Duration::ZERO);
    let mut sums: HashMap<(u64, i32), DatagramCounts> = HashMap::new();
    for slot in used {
        let Some(first) = first_datagram(recorded, slot.slot) else { continue };
        assert_eq!(first.socket.key.cookie(), Some(slot.cookie));
        let sum = sums.entry((slot.cookie, first.actor.map_or(-1, |actor| actor.pid))).or_default();
        sum.bytes.sent += slot.counts.bytes.sent;
        sum.bytes.received += slot.counts.bytes.received;
        sum.messages.sent += slot.counts.messages.sent;
        sum.messages.received += slot.counts.messages.received;
    }
    sums
}

/// The record of the process that took the slot last.
fn first_datagram(recorded: &Recorded, slot: SlotUse) -> Option<&FirstDatagram> {
    recorded.first_sends.iter().rfind(|first| first.slot == Some(slot))
}

/// Two bound sockets.
fn sockets() -> [UdpSocket; 2] {
    ["127.0.0.1:0"; 2].map(|address| UdpSocket::bind(address).unwrap())
}

fn cookie(socket: &impl AsFd) -> u64 {
    socket_cookie(socket).unwrap()
}

#[test]
fn sent_and_received_datagrams_are_counted() {
    record_counts("sent_and_received_datagrams_are_counted", |_, recorded| {
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        for size in [0, 1, 9000] {
            sender.send_to(&vec![7; size], receiver.local_addr().unwrap()).unwrap();
            receiver.peek_from(&mut [0; 10_000]).unwrap();
            receiver.recv_from(&mut [0; 10_000]).unwrap();
        }
        // Neither sent nor received.
        receiver.set_nonblocking(true).unwrap();
        receiver.recv_from(&mut [0; 1]).unwrap_err();
        sender.send_to(&[0; 70_000], receiver.local_addr().unwrap()).unwrap_err();
        let counts = counts(recorded);
        let sent = DatagramCounts {
            bytes: Bytes { sent: 9001, received: 0 },
            messages: Messages { sent: 3, received: 0 },
        };
        let received = DatagramCounts {
            bytes: Bytes { sent: 0, received: 9001 },
            messages: Messages { sent: 0, received: 3 },
        };
        assert_eq!(counts.get(&(cookie(&sender), own_pid())), Some(&sent), "{counts:?}");
        assert_eq!(counts.get(&(cookie(&receiver), own_pid())), Some(&received), "{counts:?}");
    });
}

/// Also the state of kernels without the tracepoints.
#[test]
fn nothing_is_counted_without_the_program_for_first_sends() {
    let test = "nothing_is_counted_without_the_program_for_first_sends";
    // The kernel refuses the space.
    let names = Names { send: *b"first sends\0\0\0\0\0", ..Settings::default().names };
    let settings = Settings { names, datagrams: EventDatagrams::ExactEnd, ..Settings::default() };
    let Some(mut source) = start(test, &settings) else { return };
    let reason = source.datagrams.as_ref().unwrap_err().clone();
    let expected = [
        (SEND, Err(reason.clone())),
        (RECEIVE, Err(reason)),
        (RELEASE, Err("datagrams are not counted".to_owned())),
    ];
    assert_eq!(source.programs()[1..4], expected);
    assert!(source.counting_loader().is_none());
}

#[test]
fn only_sockets_that_are_newer_than_the_counting_have_bytes() {
    let test = "only_sockets_that_are_newer_than_the_counting_have_bytes";
    if Layout::of_running_kernel().counting.is_none() {
        return report_skip(test, "the kernel is older than 6.3");
    }
    record_in_own_netns(test, |_, recorded| {
        let [old, older] = sockets();
        older.send_to(&[7; 50], old.local_addr().unwrap()).unwrap();
        recorded.source.begin_counting(&proc_root());
        let [new, unused] = sockets();
        for _ in 0..2 {
            new.send_to(&[7; 50], old.local_addr().unwrap()).unwrap();
            old.send_to(&[7; 3], new.local_addr().unwrap()).unwrap();
        }
        new.recv(&mut [0; 100]).unwrap();
        let bytes = recorded.source.counted_sockets().unwrap().bytes().unwrap().unwrap();
        let of = |socket| bytes.of(cookie(socket)).map(|bytes| (bytes.sent, bytes.received));
        let of = [&old, &older, &new, &unused].map(of);
        assert_eq!(of, [None, None, Some((100, 3)), Some((0, 0))]);
    });
}

/// When that process last used the socket, as the slots say.
fn last_use(recorded: &mut Recorded, socket: &impl AsFd, pid: i32) -> u64 {
    let cookie = cookie(socket);
    let times = |recorded: &Recorded| {
        let is_of_process = |slot: SlotUse| {
            let actor = first_datagram(recorded, slot).and_then(|first| first.actor);
            actor.is_some_and(|actor| actor.pid == pid)
        };
        let used = recorded.source.counting().unwrap().used().into_iter();
        let of_both = used.filter(|slot| slot.cookie == cookie && is_of_process(slot.slot));
        of_both.map(|slot| slot.last_ns).collect()
    };
    recorded.wait(times, |times| !times.is_empty())[0]
}

#[test]
fn a_list_of_sockets_is_whole_or_an_error() {
    record_counts("a_list_of_sockets_is_whole_or_an_error", |_, recorded| {
        let [sender, receiver] = sockets();
        sender.send_to(&[7], receiver.local_addr().unwrap()).unwrap();
        let of = HashSet::from([cookie(&sender), u64::MAX]);
        let counted = recorded.source.counted_sockets().unwrap();
        assert_eq!(counted.live(&of).unwrap(), HashSet::from([cookie(&sender)]));
        let late = counted.live_before(&of, Deadline::after(Duration::ZERO));
        assert!(matches!(late, Err(PassError::Read(Errno::TIME))), "{late:?}");
    });
}

#[test]
fn the_last_use_of_a_busy_socket_stays_current() {
    record_counts("the_last_use_of_a_busy_socket_stays_current", |_, recorded| {
        let [sender, receiver] = sockets();
        let send = || {
            sender.send_to(&[7], receiver.local_addr().unwrap()).unwrap();
        };
        for _ in 0..64 {
            let before = Clocks::now().boot_ns;
            send();
            assert!(last_use(recorded, &sender, own_pid()) >= before);
        }
        // Longer than some ticks; the last datagram is sent after this time.
        const LONG_NS: u64 = 200_000_000;
        let begin = Clocks::now().boot_ns;
        loop {
            let before = Clocks::now().boot_ns;
            send();
            if before > begin + LONG_NS {
                break;
            }
        }
        let last = last_use(recorded, &sender, own_pid());
        assert!(last > begin + LONG_NS / 2, "{last} of {begin}");
    });
}

/// The tick in the storage of the socket is not that of the other process.
#[test]
fn the_last_use_by_a_process_with_an_inherited_socket_is_exact() {
    record_counts("the_last_use_by_a_process_with_an_inherited_socket_is_exact", |_, recorded| {
        let [sender, receiver] = sockets();
        sender.connect(receiver.local_addr().unwrap()).unwrap();
        let send = || sender.send(&[7]).unwrap();
        send();
        // Each line that it reads makes a datagram, and more than those with exact times before.
        let mut child = Command::new("sh")
            .args(["-c", "for number in $(seq 200); do echo; done; while read line; do echo; done"])
            .stdin(Stdio::piped())
            .stdout(OwnedFd::from(sender.try_clone().unwrap()))
            .spawn()
            .unwrap();
        receiver.set_read_timeout(Some(MAX_WAIT)).unwrap();
        let receive = || receiver.recv(&mut [0; 10]).unwrap();
        for _ in 0..201 {
            receive();
        }
        for _ in 0..10 {
            send();
            receive();
            let before = Clocks::now().boot_ns;
            writeln!(child.stdin.as_mut().unwrap()).unwrap();
            receive();
            let last = last_use(recorded, &sender, child.id() as i32);
            assert!(last >= before, "{last}, but the last datagram was sent after {before}");
        }
        drop(child.stdin.take());
        assert!(child.wait().unwrap().success());
    });
}

/// Processes in other network namespaces, too, that exit at once: each prints what it has sent and received.
#[test]
fn the_datagrams_of_short_processes_are_counted_exactly() {
    record_counts("the_datagrams_of_short_processes_are_counted_exactly", |_, recorded| {
        let processes: u64 =
            std::env::var("EVENTS_PROCESSES").map_or(90, |number| number.parse().unwrap());
        let namespaces: Vec<_> = (0..3).map(|first| run_traffic(first, processes)).collect();
        while !namespaces.iter().all(|thread| thread.is_finished()) {
            recorded.drain(Duration::from_millis(10));
        }
        let truths: Vec<(u64, i32, DatagramCounts)> =
            namespaces.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        let counts = counts(recorded);
        let mut wrong = Vec::new();
        for (cookie, pid, truth) in &truths {
            let counted = counts.get(&(*cookie, *pid)).copied().unwrap_or_default();
            let first = recorded.first_sends.iter().find(|first| {
                first.socket.key.cookie() == Some(*cookie)
                    && first.actor.is_some_and(|actor| actor.pid == *pid)
            });
            let path = first.and_then(|first| recorded.path(&first.actor?));
            let own = own_executable();
            let has_path = path.is_some_and(|it| it.path == own.as_os_str().as_encoded_bytes());
            // A socket that was never used is not there.
            if counted != *truth || (*truth != DatagramCounts::default() && !has_path) {
                wrong.push((cookie, pid, truth, counted, has_path));
            }
        }
        assert!(truths.len() as u64 > processes, "{}", truths.len());
        let losses = recorded.source.losses();
        assert!(wrong.is_empty(), "{} of {}: {wrong:#?}, {losses:?}", wrong.len(), truths.len());
        eprintln!("{} pairs of a socket and a process", truths.len());
    });
}

/// Runs every third process in a network namespace; returns what they print.
fn run_traffic(first: u64, processes: u64) -> thread::JoinHandle<Vec<(u64, i32, DatagramCounts)>> {
    thread::spawn(move || {
        let truths = in_own_netns("run_traffic", move |_| {
            std::fs::write("/proc/sys/net/ipv4/ping_group_range", "0 0").unwrap();
            let seeds = (0..processes).filter(|seed| seed % 3 == first);
            seeds.flat_map(|seed| traffic(seed / 3)).collect()
        });
        truths.unwrap()
    })
}

fn traffic(seed: u64) -> Vec<(u64, i32, DatagramCounts)> {
    let mut child = spawn(&own_executable(), &format!("traffic {seed}"));
    let mut output = String::new();
    child.stdout.as_mut().unwrap().read_to_string(&mut output).unwrap();
    assert!(child.wait().unwrap().success(), "{seed}: {output}");
    let lines = output.lines().filter_map(|line| line.split_once("truth "));
    lines
        .map(|(_, line)| {
            let numbers: Vec<u64> = line.split(' ').map(|number| number.parse().unwrap()).collect();
            let [cookie, pid, sent, received, messages_sent, messages_received] = numbers[..]
            else {
                panic!("{line}")
            };
            let counts = DatagramCounts {
                bytes: Bytes { sent, received },
                messages: Messages { sent: messages_sent, received: messages_received },
            };
            (cookie, pid as i32, counts)
        })
        .collect()
}
