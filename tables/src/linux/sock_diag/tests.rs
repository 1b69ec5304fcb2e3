//! Against the running kernel, in a network namespace where nothing else happens: each test runs
//! itself once more, in a child process that has a namespace of its own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::ffi::OsStr;
use std::fs::File;
use std::net::TcpListener;
use std::ops::RangeInclusive;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::time::Instant;

use super::super::netns::Namespaces;
use super::super::netns::in_net_namespace;
use super::super::proc_net::{self, SocketFile};
use super::super::proc_root::ProcRoot;
use super::super::quiet::{in_quiet_namespace, listed_sockets, open_many_kinds, report_skip};
use super::*;
use crate::formats::linux::sock_diag::States;
use crate::model::omission::Omissions;
use crate::model::report::Report;
use crate::model::socket_table::SocketTable;
use crate::model::{ExtendedFields, TcpState};

fn dumped(request: &Request) -> (Vec<Socket>, Dump) {
    let mut sockets = Vec::new();
    let dump = SockDiag::open().unwrap().dump(request, |socket| {
        sockets.push(socket);
        ReadControl::Kept
    });
    (sockets, dump.unwrap())
}

/// The inodes of UNIX sockets, as our reader of `/proc/net/unix` hands them over.
fn listed() -> HashSet<u64> {
    let root = ProcRoot::open("/proc".as_ref()).unwrap();
    let mut namespaces = Namespaces::default();
    let own = std::process::id().try_into().unwrap();
    namespaces.add_processes(
        &root,
        [own].into_iter(),
        Deadline::NEVER,
        &mut Report::default(),
        &mut |_, _| {},
    );
    let namespace = namespaces.iter().next().unwrap();
    let mut inodes = HashSet::new();
    let unix = SocketTable::Unix;
    proc_net::for_each_socket(
        &root,
        namespace,
        SocketFile { table: unix, path: "net/unix", extended: ExtendedFields::empty() },
        Deadline::NEVER,
        &mut Omissions::default(),
        |socket| {
            inodes.insert(socket.inode);
            ReadControl::Kept
        },
    );
    inodes
}

fn columns(sockets: Vec<Socket>) -> Vec<String> {
    let columns = sockets.iter().map(|socket| format!("{} {:?}", socket.inode, socket.binding));
    let mut columns: Vec<String> = columns.collect();
    columns.sort();
    columns
}

#[test]
fn a_dump_works_after_one_that_is_unsupported() {
    in_quiet_namespace(module_path!(), "a_dump_works_after_one_that_is_unsupported", || {
        let raw = Request::of(SocketTable::Raw).unwrap();
        let mut diag = SockDiag::open().unwrap();
        match diag.dump(&raw, |_| ReadControl::Kept).unwrap() {
            Dump::Unsupported => {}
            dump => eprintln!("this kernel lists raw sockets: {dump:?}"),
        }
        let _listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut sockets = 0;
        let tcp = Request::of(SocketTable::Tcp).unwrap();
        let dump = diag.dump(&tcp, |_| {
            sockets += 1;
            ReadControl::Dropped
        });
        assert_eq!((dump.unwrap(), sockets), (Dump::Complete, 1));
    });
}

fn port_ranges() -> Vec<RangeInclusive<u16>> {
    let ports: Vec<u16> = dumped(&Request::of(SocketTable::Tcp).unwrap())
        .0
        .iter()
        .flat_map(|socket| [socket.local().unwrap().port, socket.remote().unwrap().port])
        .collect();
    let (some, other) = (ports[ports.len() / 2], ports[ports.len() - 1]);
    vec![
        0..=u16::MAX,
        0..=0,
        u16::MAX..=u16::MAX,
        1..=u16::MAX,
        0..=some,
        some..=u16::MAX,
        some..=some,
        some.min(other)..=some.max(other),
        RangeInclusive::new(some.saturating_add(1), some),
        RangeInclusive::new(u16::MAX, 0),
        RangeInclusive::new(1, 0),
        32768..=60999,
    ]
}

#[test]
fn an_interface_name_that_is_not_utf_8_is_shown() {
    in_quiet_namespace(module_path!(), "an_interface_name_that_is_not_utf_8_is_shown", || {
        let diag = SockDiag::open().unwrap();
        assert_eq!(diag.interface_name(1).as_deref(), Some("lo"));
        let name = OsStr::from_bytes(b"l\xffo");
        for change in [&["down".as_ref()][..], &["name".as_ref(), name]] {
            let mut ip = Command::new("ip");
            let changed = ip.args(["link", "set", "dev", "lo"]).args(change).status();
            assert!(changed.unwrap().success(), "ip, of iproute2, changes the loopback interface");
        }
        assert_eq!(diag.interface_name(1).as_deref(), Some("l\u{fffd}o"));
        assert_eq!(diag.interface_name(4711), None);
    });
}

#[test]
fn the_kernel_takes_the_ports_that_are_in_the_ranges() {
    in_quiet_namespace(module_path!(), "the_kernel_takes_the_ports_that_are_in_the_ranges", || {
        let _held = open_many_kinds();
        let mut compared = 0;
        for file in [SocketTable::Tcp, SocketTable::Tcp6, SocketTable::Udp, SocketTable::Udp6] {
            let all = Request::of(file).unwrap();
            for local in port_ranges() {
                for remote in port_ranges() {
                    let narrowed = all
                        .clone()
                        .with_local_ports(local.clone())
                        .with_remote_ports(remote.clone());
                    let (taken, dump) = dumped(&narrowed);
                    assert_eq!(dump, Dump::Complete);
                    let (mut expected, _) = dumped(&all);
                    expected.retain(|socket| {
                        local.contains(&socket.local().unwrap().port)
                            && remote.contains(&socket.remote().unwrap().port)
                    });
                    compared += expected.len();
                    let expected = columns(expected);
                    assert_eq!(columns(taken), expected, "{local:?} {remote:?}");
                    if let Some(halves) = narrowed.halves() {
                        let taken = halves.iter().flat_map(|half| dumped(half).0).collect();
                        assert_eq!(columns(taken), expected, "{local:?} {remote:?} in halves");
                    }
                }
            }
        }
        assert!(compared > 500, "{compared}");
    });
}

#[test]
fn the_kernel_selects_the_requested_states() {
    in_quiet_namespace(module_path!(), "the_kernel_selects_the_requested_states", || {
        let _held = open_many_kinds();
        for file in [SocketTable::Tcp, SocketTable::Tcp6, SocketTable::Udp] {
            let all = Request::of(file).unwrap();
            let mut seen = 0;
            for number in 1..=11 {
                let state = TcpState::from(number);
                let (taken, _) =
                    dumped(&all.clone().in_states(States::admitting(|other| other == state)));
                let (mut expected, _) = dumped(&all);
                if file != SocketTable::Udp {
                    expected.retain(|socket| socket.state() == state.name());
                }
                seen += expected.len();
                assert_eq!(columns(taken), columns(expected), "{state:?}");
            }
            assert!(seen > 10, "{seen}");
        }
    });
}

#[test]
fn sockets_of_several_datagrams_come_once() {
    in_quiet_namespace(module_path!(), "sockets_of_several_datagrams_come_once", || {
        let _held: Vec<UnixDatagram> = (0..800).map(|_| UnixDatagram::unbound().unwrap()).collect();
        let request = Request::of(SocketTable::Unix).unwrap();
        let (sockets, dump) = dumped(&request);
        let inodes: HashSet<u64> = sockets.iter().map(|socket| socket.inode).collect();
        assert_eq!((dump, sockets.len(), inodes.len()), (Dump::Complete, 800, 800));
    });
}

#[test]
fn lasting_sockets_come_once_while_others_open_and_close() {
    let test = "lasting_sockets_come_once_while_others_open_and_close";
    in_quiet_namespace(module_path!(), test, || {
        let held: Vec<UnixDatagram> = (0..3000).map(|_| UnixDatagram::unbound().unwrap()).collect();
        let request = Request::of(SocketTable::Unix).unwrap();
        let done = std::sync::atomic::AtomicBool::new(false);
        let ordering = std::sync::atomic::Ordering::Relaxed;
        let (mut hidden, mut unprinted) = (0, 0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(ordering) {
                    let _passing: Vec<_> = (0..200).map(|_| UnixDatagram::unbound()).collect();
                }
            });
            let mut diag = SockDiag::open().unwrap();
            for control in [ReadControl::Kept, ReadControl::Dropped].repeat(15) {
                let (mut inodes, mut count) = (HashSet::new(), 0);
                let dump = diag.dump(&request, |socket| {
                    count += 1;
                    inodes.insert(socket.inode);
                    control
                });
                assert_eq!(dump.unwrap(), Dump::Complete);
                if control == ReadControl::Kept {
                    assert_eq!(count, inodes.len());
                }
                let missing = |inodes: &HashSet<u64>| {
                    let inode = |socket: &UnixDatagram| rustix::fs::fstat(socket).unwrap().st_ino;
                    held.iter().filter(|socket| !inodes.contains(&inode(socket))).count()
                };
                hidden += missing(&inodes);
                unprinted += missing(&listed());
            }
            done.store(true, ordering);
        });
        assert_eq!((hidden, unprinted), (0, 0), "of 90000 sockets");
    });
}

#[test]
fn a_dump_that_was_stopped_or_failed_does_not_spoil_the_next() {
    in_quiet_namespace(
        module_path!(),
        "a_dump_that_was_stopped_or_failed_does_not_spoil_the_next",
        || {
            let _held: Vec<UnixDatagram> =
                (0..800).map(|_| UnixDatagram::unbound().unwrap()).collect();
            let request = Request::of(SocketTable::Unix).unwrap();
            let mut diag = SockDiag::open().unwrap();
            for enough in [1, 5, 799, 800] {
                let mut passed = 0;
                let dump = diag.dump(&request, |_| {
                    passed += 1;
                    if passed == enough { ReadControl::Stop } else { ReadControl::Kept }
                });
                assert_eq!((dump.unwrap(), passed), (Dump::Stopped, enough));
            }
            let mut passed = 0;
            let dump = diag.dump(&request, |_| {
                passed += 1;
                ReadControl::Dropped
            });
            assert_eq!((dump.unwrap(), passed), (Dump::Complete, 800));
        },
    );
}

#[test]
fn another_namespace_is_dumped_without_moving_the_caller() {
    let child = Command::new("unshare")
        .args(["--net", "sh", "-c", "ip link set lo up && echo up && exec sleep 60"])
        .stdout(Stdio::piped())
        .spawn();
    let (mut child, up) = match child {
        Ok(mut child) => {
            let mut up = [0; 2];
            let read = std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut up);
            (child, read)
        }
        Err(_) => {
            return report_skip(
                "another_namespace_is_dumped_without_moving_the_caller",
                "needs unshare (util-linux)",
            );
        }
    };
    if up.is_err() {
        child.wait().unwrap();
        return report_skip(
            "another_namespace_is_dumped_without_moving_the_caller",
            "needs root: a network namespace needs CAP_SYS_ADMIN",
        );
    }
    let namespace = File::open(format!("/proc/{}/ns/net", child.id())).unwrap();
    let before = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
    let result = in_net_namespace(namespace.as_fd(), || {
        (SockDiag::open().unwrap(), TcpListener::bind("127.0.0.1:0").unwrap())
    });
    let (mut diag, listener) = result.unwrap();
    // Used from this namespace, it dumps the other one.
    let port = listener.local_addr().unwrap().port();
    let mut ports = Vec::new();
    let dump = diag.dump(&Request::of(SocketTable::Tcp).unwrap(), |socket| {
        ports.push(socket.local().unwrap().port);
        ReadControl::Kept
    });
    assert_eq!((dump.unwrap(), ports), (Dump::Complete, vec![port]));
    assert_eq!(std::fs::read_link("/proc/thread-self/ns/net").unwrap(), before);
    let no_namespace = File::open("/proc/self/status").unwrap();
    let error = in_net_namespace(no_namespace.as_fd(), || ()).unwrap_err();
    assert_eq!(error, Errno::INVAL);
    child.kill().unwrap();
    child.wait().unwrap();
}

/// `cargo test --release -p process_open_sockets-tables measure -- --ignored --nocapture`, on a host
/// with many TCP sockets.
#[test]
#[ignore = "prints how long a dump of this host's TCP sockets takes, and promises nothing"]
fn measure() {
    let request = Request::of(SocketTable::Tcp).unwrap();
    let mut diag = SockDiag::open().unwrap();
    let mut report = |what: &str, count: &mut dyn FnMut(&mut SockDiag) -> usize| {
        let times = (0..5).map(|_| {
            let start = Instant::now();
            (count(&mut diag), start.elapsed())
        });
        let (sockets, best) = times.min_by_key(|(_, time)| *time).unwrap();
        let each = best.as_nanos() / sockets.max(1) as u128;
        eprintln!("{what}: {sockets} sockets in {best:?}, {each} ns each");
    };
    report("received only", &mut |diag| {
        let mut messages = 0;
        diag.send_request(&request).unwrap();
        diag.receive(Deadline::NEVER, |_| {
            messages += 1;
            Ok(ControlFlow::Continue(()))
        })
        .unwrap();
        messages
    });
    for control in [ReadControl::Dropped, ReadControl::Kept] {
        report(&format!("dumped, {control:?}"), &mut |diag| {
            let mut sockets = Vec::new();
            let mut count = 0;
            diag.dump(&request, |socket| {
                count += 1;
                if control == ReadControl::Kept {
                    sockets.push(socket);
                }
                control
            })
            .unwrap();
            count
        });
    }
    report("one state in which nothing is", &mut |diag| {
        let states = States::admitting(|state| state == TcpState::Closing);
        diag.dump(&request.clone().in_states(states), |_| ReadControl::Dropped).unwrap();
        0
    });
    report("/proc/net/tcp, parsed", &mut |_| listed_sockets(SocketTable::Tcp).len());
    report("/proc/net/tcp, read", &mut |_| {
        let text = std::fs::read("/proc/thread-self/net/tcp").unwrap();
        text.iter().filter(|&&byte| byte == b'\n').count() - 1
    });
}
