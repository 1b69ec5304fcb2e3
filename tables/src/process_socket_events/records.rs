//! Records as the kernel reports them, for tests.

use std::net::IpAddr;

use crate::model::tcp_event::{
    Actor, Bytes, DatagramSocket, EventRecord, Executable, FirstDatagram, OpenSocket, SocketKey,
    StateChange, TcpCounts,
};
use crate::model::{Endpoint, NetNamespace, TcpState};

pub(super) const SECOND: u64 = 1_000_000_000;

pub(super) fn end(address: &str, port: u16) -> Endpoint {
    Endpoint { address: address.parse().unwrap(), port }
}

/// A process that connects, listens or closes.
pub(super) fn actor(pid: i32, uid: u32) -> Actor {
    let mut comm = [0; 16];
    comm[..4].copy_from_slice(b"test");
    Actor {
        pid,
        tid: pid,
        parent: 1,
        uid,
        gid: uid,
        start_ns: 1,
        executable: 100,
        cgroup: 0,
        comm,
        fd: 3,
    }
}

pub(super) fn executable(pid: i32, path: &str) -> EventRecord {
    let path = path.into();
    EventRecord::Executable(Executable {
        pid,
        start_ns: 1,
        executable: 100,
        path,
        is_deleted: false,
        is_truncated: false,
    })
}

/// A change of a socket, at a time in nanoseconds.
pub(super) fn change(cookie: u64, old: TcpState, new: TcpState, boot_ns: u64) -> StateChange {
    StateChange {
        boot_ns,
        socket: SocketKey::Cookie(cookie),
        inode: 1_000 + cookie,
        net_namespace: NetNamespace(4_026_531_840),
        family: 2,
        kind: 1,
        protocol: 6,
        old,
        new,
        local: end("127.0.0.1", 40_000),
        remote: end("127.0.0.1", 80),
        errno: 0,
        owner_uid: 1000,
        counts: Some(TcpCounts {
            bytes: Bytes { sent: 10, received: 20 },
            retransmitted: 5,
            rtt_us: Some(30),
            min_rtt_us: Some(7),
        }),
        actor: None,
    }
}

pub(super) fn by(actor: Actor, change: StateChange) -> StateChange {
    StateChange { actor: Some(actor), ..change }
}

/// The first send of a UDP socket, of a process, at a time in nanoseconds.
pub(super) fn first_send(cookie: u64, of: Actor, boot_ns: u64) -> FirstDatagram {
    FirstDatagram {
        boot_ns,
        socket: datagram_socket(cookie, of),
        errno: 0,
        actor: Some(of),
        is_first_send: true,
        is_received: false,
        slot: None,
    }
}

/// A UDP socket that a process has made.
pub(super) fn datagram_socket(cookie: u64, of: Actor) -> DatagramSocket {
    DatagramSocket {
        key: SocketKey::Cookie(cookie),
        inode: 1_000 + cookie,
        net_namespace: NetNamespace(4_026_531_840),
        family: 2,
        kind: 2,
        protocol: 17,
        local: end("0.0.0.0", 50_000),
        remote: end("192.0.2.53", 53),
        owner_uid: of.uid,
    }
}

/// An open socket of a process, local port 80 or to port 80.
pub(super) fn open(cookie: u64, pid: i32, state: TcpState) -> OpenSocket {
    let (local, remote) = match state {
        TcpState::Listen => (end("0.0.0.0", 80), end("0.0.0.0", 0)),
        _ => (end("127.0.0.1", 40_000), end("127.0.0.1", 80)),
    };
    OpenSocket {
        socket: SocketKey::Cookie(cookie),
        pid,
        fd: 5,
        inode: 1_000 + cookie,
        start_ns: 1,
        state,
        protocol: 6,
        family: if matches!(local.address, IpAddr::V4(_)) { 2 } else { 10 },
        net_namespace: NetNamespace(4_026_531_840),
        local,
        remote,
    }
}

/// All records of a connection that a process opens and closes within a millisecond.
pub(super) fn connection(cookie: u64, of: Actor, at: u64) -> Vec<EventRecord> {
    use TcpState::{Closed, Established, FinWait1, FinWait2, SynSent};
    let begin = by(of, change(cookie, Closed, SynSent, at));
    let begin = StateChange { local: end("0.0.0.0", 0), ..begin };
    [
        begin,
        change(cookie, SynSent, Established, at + 100_000),
        by(Actor { fd: -1, ..of }, change(cookie, Established, FinWait1, at + 900_000)),
        StateChange { inode: 0, ..change(cookie, FinWait2, Closed, at + 1_000_000) },
    ]
    .map(EventRecord::State)
    .into()
}
