//! Records byte by byte, whose tables of descriptors they are, and the program in the kernel that runs.

use std::net::{Ipv4Addr, TcpListener};
use std::num::NonZeroU64;
use std::os::fd::AsRawFd;

use super::super::quiet::{say_left_out, say_without_bpf};
use super::record::{Malformed, NAME_SIZE, RECORD_SIZE, next};
use super::*;
use crate::model::socket_table::SocketTable;
use crate::model::{Binding, Details, Endpoint, NetNamespace, Socket, TcpState};

/// A record as the program writes it, field after field.
#[derive(Clone)]
struct Written {
    tgid: u32,
    tid: u32,
    fd: u32,
    inode: u64,
    files: u64,
    leader_files: u64,
    net: u32,
    uid: u32,
    family: u16,
    kind: u16,
    protocol: u16,
    state: u8,
    listed: u8,
    local_port: u16,
    remote_port: [u8; 2],
    interface: u32,
    local: [u8; 16],
    remote: [u8; 16],
    cgroup: u64,
    counters: [u32; 6],
    peer: u64,
    name: Option<Vec<u8>>,
    level: u32,
    familys_own: u32,
}

impl Written {
    /// A connection of process 7 from 192.0.2.1:1111 to 198.51.100.2:443.
    fn tcp() -> Written {
        let address = |octets: [u8; 4]| {
            let mut address = [0; 16];
            address[..4].copy_from_slice(&octets);
            address
        };
        Written {
            tgid: 7,
            tid: 7,
            fd: 3,
            inode: 99,
            files: 0xffff_8880_0000_1000,
            leader_files: 0xffff_8880_0000_1000,
            net: 4_026_531_840,
            uid: 1000,
            family: 2,
            kind: 1,
            protocol: 6,
            state: 1,
            listed: 1,
            local_port: 1111,
            remote_port: [1, 0xbb],
            interface: 0,
            local: address([192, 0, 2, 1]),
            remote: address([198, 51, 100, 2]),
            cgroup: 12,
            // rcv_nxt and copied_seq on both sides of the end of the numbers, write_seq, snd_una, backlog
            // and the most of it.
            counters: [5, u32::MAX - 4, 120, 100, 0, 0],
            peer: 0,
            name: None,
            level: 0,
            familys_own: 0,
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let size = RECORD_SIZE + self.name.as_ref().map_or(0, |_| NAME_SIZE);
        bytes.extend(u32::from(size.unsigned_abs()).to_ne_bytes());
        for number in [self.tgid, self.tid, self.fd] {
            bytes.extend(number.to_ne_bytes());
        }
        for number in [self.inode, self.files, self.leader_files] {
            bytes.extend(number.to_ne_bytes());
        }
        for number in [self.net, self.uid] {
            bytes.extend(number.to_ne_bytes());
        }
        for number in [self.family, self.kind, self.protocol] {
            bytes.extend(number.to_ne_bytes());
        }
        bytes.extend([self.state, self.listed]);
        bytes.extend(self.local_port.to_ne_bytes());
        bytes.extend(self.remote_port);
        bytes.extend(self.interface.to_ne_bytes());
        bytes.extend(self.local);
        bytes.extend(self.remote);
        bytes.extend(self.cgroup.to_ne_bytes());
        for number in self.counters {
            bytes.extend(number.to_ne_bytes());
        }
        bytes.extend(self.peer.to_ne_bytes());
        let name = self.name.as_deref().unwrap_or_default();
        bytes.extend((name.len() as u32).to_ne_bytes());
        bytes.extend(self.level.to_ne_bytes());
        bytes.extend(self.familys_own.to_ne_bytes());
        bytes.extend([0; 4]);
        assert_eq!(bytes.len(), usize::from(RECORD_SIZE.unsigned_abs()));
        bytes.extend(name);
        bytes.resize(usize::from(size.unsigned_abs()), 0);
        bytes
    }

    fn told(&self) -> Told {
        next(&mut &*self.bytes()).unwrap().unwrap().told().unwrap()
    }

    fn details(&self) -> Details {
        match self.told() {
            Told::Whole { socket, .. } => socket.details,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_record_of_a_connection_tells_its_row() {
    let end = |address: [u8; 4], port| Endpoint { address: Ipv4Addr::from(address).into(), port };
    let socket = Socket {
        inode: 99,
        net_namespace: Some(NetNamespace(4_026_531_840)),
        binding: Binding::Inet {
            v6: false,
            protocol: 6,
            local: end([192, 0, 2, 1], 1111),
            remote: end([198, 51, 100, 2], 443),
            state: Some(TcpState::Established),
        },
        details: Details {
            kind: 1,
            uid: Some(1000),
            receive_queue: Some(10),
            send_queue: Some(20),
            cgroup: NonZeroU64::new(12),
            ..Details::default()
        },
    };
    let table = SocketTable::Tcp;
    assert_eq!(Written::tcp().told(), Told::Whole { table, socket });
}

#[test]
fn state_and_ports_of_tcp_are_those_of_the_whole_record() {
    let bytes = Written::tcp().bytes();
    let record = next(&mut &bytes[..]).unwrap().unwrap();
    assert_eq!(record.tcp(), Some((TcpState::Established, 1111, 443)));
    for other in [
        Written { protocol: 17, kind: 2, ..Written::tcp() },
        Written { family: 1, ..Written::tcp() },
        Written { kind: 3, ..Written::tcp() },
    ] {
        let bytes = other.bytes();
        assert_eq!(next(&mut &bytes[..]).unwrap().unwrap().tcp(), None);
    }
}

#[test]
fn queues_are_counted_as_the_kernel_does_for_each_protocol() {
    let queues = |record: Written| {
        let details = record.details();
        (details.receive_queue, details.send_queue)
    };
    let counters = [50, 20, 101, 1, 3, 128];
    let tcp = Written { counters, ..Written::tcp() };
    assert_eq!(queues(tcp.clone()), (Some(30), Some(100)));
    // The other end has closed: its FIN counts, and nobody reads it.
    assert_eq!(queues(Written { counters: [9, 10, 0, 0, 0, 0], ..tcp.clone() }).0, Some(0));
    assert_eq!(queues(Written { state: 10, ..tcp.clone() }), (Some(3), Some(128)));
    // What waits, less what a reader has taken and not given back; what was sent, and one more.
    for protocol in [17, 136] {
        let udp = Written { protocol, kind: 2, state: 7, ..tcp.clone() };
        assert_eq!(queues(udp), (Some(30), Some(100)), "{protocol}");
    }
    let raw = Written { protocol: 89, kind: 3, state: 7, ..tcp.clone() };
    assert_eq!(queues(raw), (Some(50), Some(100)));
    let unix = Written { family: 1, protocol: 0, name: Some(vec![]), ..tcp };
    assert_eq!(queues(Written { state: 10, ..unix.clone() }), (Some(50), Some(128)));
    assert_eq!(queues(Written { kind: 2, ..unix.clone() }), (Some(20), Some(100)));
    assert_eq!(queues(Written { kind: 1, ..unix.clone() }), (None, Some(100)));
    assert_eq!(queues(Written { kind: 1, familys_own: 1, ..unix.clone() }), (Some(20), Some(100)));
    assert_eq!(queues(Written { kind: 5, ..unix.clone() }), (None, Some(100)));
    let empty = Written { counters: [0, 7, 1, 0, 0, 0], ..unix };
    assert_eq!(queues(empty), (Some(0), Some(0)));
}

#[test]
fn a_unix_record_tells_path_and_peer() {
    let unix = |name: &[u8]| {
        let name = Some([&1_u16.to_ne_bytes()[..], name].concat());
        let record = Written { family: 1, protocol: 0, state: 7, peer: 55, name, ..Written::tcp() };
        match record.told() {
            Told::Whole { table: SocketTable::Unix, socket, .. } => {
                assert_eq!(socket.details.peer.map(u32::from), Some(55));
                let Binding::Unix { path } = socket.binding else { panic!("{socket:?}") };
                path
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(&*unix(b"/run/a\0"), b"/run/a");
    assert_eq!(&*unix(b"\0abstract\0x"), b"@abstract@x");
    assert_eq!(&*unix(&[b'a'; 108]), [b'a'; 108]);
    let unnamed = Written { family: 1, name: Some(vec![]), ..Written::tcp() };
    assert!(
        matches!(unnamed.told(), Told::Whole { socket: Socket { binding: Binding::Unix { path }, .. }, .. } if path.is_empty())
    );
}

#[test]
fn each_kind_of_socket_is_told_unlisted_or_left_to_its_table() {
    let kind = |family, kind, protocol| Written { family, kind, protocol, ..Written::tcp() };
    let table = |record: Written| match record.told() {
        Told::Whole { table, .. } => Some(table),
        _ => None,
    };
    for (record, expected) in [
        (kind(2, 1, 6), SocketTable::Tcp),
        (kind(10, 1, 6), SocketTable::Tcp6),
        (kind(2, 2, 17), SocketTable::Udp),
        (kind(10, 2, 17), SocketTable::Udp6),
        (kind(2, 2, 136), SocketTable::Udplite),
        (kind(10, 2, 136), SocketTable::Udplite6),
        (kind(2, 3, 6), SocketTable::Raw),
        (kind(10, 3, 58), SocketTable::Raw6),
        (kind(2, 2, 1), SocketTable::Icmp),
        (kind(10, 2, 58), SocketTable::Icmp6),
        (Written { familys_own: 1, ..kind(17, 3, 3) }, SocketTable::Packet),
    ] {
        let unlisted = Written { listed: 0, ..record.clone() };
        assert_eq!(table(record), Some(expected));
        assert_eq!(unlisted.told(), Told::Unlisted, "{expected:?}");
    }
    const MPTCP: &[SocketTable] =
        &[SocketTable::Tcp, SocketTable::Tcp6, SocketTable::Mptcp, SocketTable::Mptcp6];
    for (record, tables) in [
        (kind(16, 3, 0), &[SocketTable::Netlink][..]),
        (kind(40, 1, 0), &[SocketTable::Vsock]),
        (kind(2, 1, 262), MPTCP),
        (kind(10, 1, 262), MPTCP),
        (kind(2, 1, 132), &[SocketTable::Sctp, SocketTable::Sctp6]),
        // Its structure is not known.
        (kind(17, 3, 3), &[SocketTable::Packet]),
    ] {
        assert_eq!(record.told(), Told::InTables(tables));
    }
    // AF_ALG, and DCCP.
    for record in [kind(38, 5, 0), kind(2, 6, 33)] {
        assert_eq!(record.told(), Told::Unlisted);
    }
}

#[test]
fn a_record_that_is_cut_is_waited_for_and_another_size_is_refused() {
    let whole = Written { family: 1, name: Some(vec![1, 0, b'/']), ..Written::tcp() }.bytes();
    for length in 0..whole.len() {
        let mut bytes = &whole[..length];
        assert_eq!(next(&mut bytes), Ok(None), "{length}");
        assert_eq!(bytes.len(), length);
    }
    for size in [0, 1, RECORD_SIZE - 1, RECORD_SIZE + NAME_SIZE + 1, -1] {
        let mut bytes = whole.clone();
        bytes[..4].copy_from_slice(&i32::from(size).to_ne_bytes());
        assert_eq!(next(&mut &*bytes), Err(Malformed), "{size}");
    }
    let mut two = &*[whole, Written::tcp().bytes()].concat();
    assert!(next(&mut two).unwrap().is_some() && next(&mut two).unwrap().is_some());
    assert_eq!(next(&mut two), Ok(None));
}

#[test]
fn a_name_that_claims_to_be_longer_than_its_record_is_refused() {
    let mut bytes = Written { family: 1, name: Some(vec![]), ..Written::tcp() }.bytes();
    bytes[136..140].copy_from_slice(&113_u32.to_ne_bytes());
    assert_eq!(next(&mut &*bytes).unwrap().unwrap().told(), Err(Malformed));
}

/// Whose each descriptor is, seen one after the other: pid, thread, its table, that of the first thread.
fn owners(threads: bool, seen: &[(i32, i32, u64, u64)]) -> Vec<Option<(i32, Option<i32>)>> {
    let mut tables = Tables::default();
    let owner = |&(pid, tid, files, leader_files): &(i32, i32, u64, u64)| {
        let held = Held { pid, tid, fd: 3, inode: 9, level: 0, files, leader_files };
        tables.owner(&held, threads).map(|owner| (owner.pid, owner.tid))
    };
    seen.iter().map(owner).collect()
}

#[test]
fn a_table_of_a_threads_own_counts_once_and_only_if_asked_for() {
    let seen = [(7, 7, 1, 1), (7, 8, 2, 1), (7, 9, 2, 1), (7, 10, 3, 1)];
    assert_eq!(owners(false, &seen), [Some((7, None)), None, None, None]);
    assert_eq!(owners(true, &[(7, 7, 1, 1), (7, 8, 1, 1)]), [Some((7, None)); 2]);
    let each = [Some((7, None)), Some((7, Some(8))), None, Some((7, Some(10)))];
    assert_eq!(owners(true, &seen), each);
}

#[test]
fn where_the_first_thread_has_ended_the_first_table_is_the_processs() {
    let seen = [(7, 8, 2, 0), (7, 9, 2, 0), (7, 10, 3, 0), (6, 11, 4, 0)];
    let each = [Some((7, None)), Some((7, None)), None, Some((6, None))];
    assert_eq!(owners(false, &seen), each);
    let each = [Some((7, None)), Some((7, None)), Some((7, Some(10))), Some((6, None))];
    assert_eq!(owners(true, &seen), each);
}

#[test]
fn a_first_thread_that_ends_meanwhile_leaves_its_table_the_processs() {
    let seen = [(7, 7, 1, 1), (7, 8, 2, 0), (7, 9, 1, 0)];
    let each = [Some((7, None)), Some((7, Some(8))), Some((7, None))];
    assert_eq!(owners(true, &seen), each);
    assert_eq!(owners(false, &seen), [Some((7, None)), None, Some((7, None))]);
}

#[test]
fn the_kernel_runs_the_program_for_all_processes_or_for_one() {
    let test = "the_kernel_runs_the_program_for_all_processes_or_for_one";
    let files = match layout().and_then(|layout| TaskFiles::load(&layout, 0, log::Level::Info)) {
        Ok(files) => files,
        Err(error) => return say_without_bpf(test, &error),
    };
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let version: Vec<u32> = release.split('.').take(2).map(|part| part.parse().unwrap()).collect();
    assert!(files.reads_all_threads() || version < vec![6, 7], "{release}");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (me, port) = (std::process::id().cast_signed(), listener.local_addr().unwrap().port());
    let inode = rustix::fs::fstat(&listener).unwrap().st_ino;
    let is_ours = |record: Record| {
        matches!(record.told().unwrap(), Told::Whole { table: SocketTable::Tcp, socket, .. } if socket.inode == inode
            && socket.state() == "LISTEN" && socket.local_port() == i32::from(port))
    };
    let mut all = Vec::new();
    let found = files.run(None, false, Deadline::NEVER, |owner, record| {
        if is_ours(record) {
            all.push(owner);
        }
        Ok(())
    });
    found.unwrap();
    let owner = Holder { inode, pid: me, fd: listener.as_raw_fd(), tid: None };
    assert_eq!(all, [owner]);
    let (mut ours, mut others) = (Vec::new(), 0);
    let one = files.run(Some(me), false, Deadline::NEVER, |owner, record| {
        if is_ours(record) {
            ours.push(owner);
        }
        others += i32::from(owner.pid != me);
        Ok(())
    });
    if one.as_ref().is_err_and(|error| error.raw_os_error() == Some(libc::E2BIG)) {
        say_left_out(test, "for one: the kernel is older than 6.1");
        return;
    }
    one.unwrap();
    // Before Linux 6.7 another thread may tell it as well, which counts once in the end.
    ours.dedup();
    assert_eq!((ours, others), (vec![owner], 0));
    let mut nobodys = 0;
    let nobody = files.run(Some(i32::MAX), false, Deadline::NEVER, |_, _| {
        nobodys += 1;
        Ok(())
    });
    let told = nobody.map_err(|error| error.kind());
    // Nobody, or somebody whose first thread holds nothing.
    let expected = if files.reads_all_threads() { Ok(()) } else { Err(io::ErrorKind::Unsupported) };
    assert_eq!((told, nobodys), (expected, 0));
}
