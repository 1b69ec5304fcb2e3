//! Changes of the states of TCP sockets, as the kernel reports them.

use std::fmt;

use super::endpoint::Endpoint;
use super::net_namespace::NetNamespace;
use super::tcp_state::TcpState;

/// A socket's unique number while events are collected.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum SocketKey {
    /// The socket cookie, which the kernel never uses again.
    Cookie(u64),
    /// Before Linux 5.12, and for MPTCP, whose accepted sockets have the cookie of the listener: the address of the
    /// kernel's structure. It is secret and never shown.
    Address(u64),
}

impl SocketKey {
    /// The socket cookie, if the kernel reports it.
    pub(crate) fn cookie(self) -> Option<u64> {
        match self {
            SocketKey::Cookie(cookie) => Some(cookie),
            SocketKey::Address(_) => None,
        }
    }
}

impl fmt::Debug for SocketKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SocketKey::Cookie(cookie) => write!(f, "Cookie({cookie})"),
            SocketKey::Address(_) => write!(f, "Address(_)"),
        }
    }
}

/// A record of the kernel's programs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum EventRecord {
    State(StateChange),
    Datagram(FirstDatagram),
    DatagramEnd(DatagramEnd),
    Executable(Executable),
}

/// A UDP, raw, ping or packet socket when a program sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct DatagramSocket {
    pub(crate) key: SocketKey,
    pub(crate) inode: u64,
    pub(crate) net_namespace: NetNamespace,
    /// AF_INET, AF_INET6 or AF_PACKET.
    pub(crate) family: u16,
    /// SOCK_*.
    pub(crate) kind: u16,
    /// IPPROTO_*.
    pub(crate) protocol: u16,
    /// A raw socket has no port, and a packet socket no address.
    pub(crate) local: Endpoint,
    /// Of a send as the process wrote it for this call, otherwise that of connect(2). Unspecified if neither is known.
    pub(crate) remote: Endpoint,
    /// `sk_uid`.
    pub(crate) owner_uid: u32,
}

/// A datagram of a socket: the first that the socket sends, or the first of a process since its datagrams on the socket are
/// counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct FirstDatagram {
    /// CLOCK_BOOTTIME.
    pub(crate) boot_ns: u64,
    pub(crate) socket: DatagramSocket,
    /// Why the datagram was not sent, positive; 0: it was sent.
    pub(crate) errno: i32,
    /// The process that sends or receives. None: it is outside the PID namespace.
    pub(crate) actor: Option<Actor>,
    /// Whether it is the first that the socket sends.
    pub(crate) is_first_send: bool,
    /// Whether it was received; otherwise it was sent.
    pub(crate) is_received: bool,
    /// Where the datagrams of the process on the socket are counted from now on.
    pub(crate) slot: Option<SlotUse>,
}

/// The end of a UDP, raw or ping socket that was used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct DatagramEnd {
    /// CLOCK_BOOTTIME.
    pub(crate) boot_ns: u64,
    pub(crate) socket: DatagramSocket,
    /// The process that closes it. None: it is outside the PID namespace.
    pub(crate) actor: Option<Actor>,
    /// What all processes have sent and received on it since counting began.
    pub(crate) bytes: Bytes,
}

/// A use of a slot, from the time that a program takes it until the reader takes it back.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Debug)]
pub(crate) struct SlotUse {
    pub(crate) number: u32,
    /// How often the slot was taken back before.
    pub(crate) generation: u32,
}

/// What a slot has counted of the datagrams of a process on a socket.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct DatagramCounts {
    pub(crate) bytes: Bytes,
    pub(crate) messages: Messages,
}

/// Datagrams, each as the program sent or received it.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Messages {
    pub(crate) sent: u64,
    pub(crate) received: u64,
}

/// A slot that counts.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct UsedSlot {
    pub(crate) slot: SlotUse,
    /// The socket cookie.
    pub(crate) cookie: u64,
    pub(crate) counts: DatagramCounts,
    /// CLOCK_BOOTTIME of the last datagram, or about a tick of the kernel before.
    pub(crate) last_ns: u64,
}

/// A change of a TCP socket's state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct StateChange {
    /// CLOCK_BOOTTIME.
    pub(crate) boot_ns: u64,
    pub(crate) socket: SocketKey,
    /// 0: no file refers to the socket (orphaned, or not accepted yet).
    pub(crate) inode: u64,
    pub(crate) net_namespace: NetNamespace,
    /// AF_INET or AF_INET6.
    pub(crate) family: u16,
    /// SOCK_*.
    pub(crate) kind: u16,
    /// IPPROTO_*.
    pub(crate) protocol: u16,
    pub(crate) old: TcpState,
    pub(crate) new: TcpState,
    /// At SYN_SENT the port is 0 unless the process has bound the socket.
    pub(crate) local: Endpoint,
    pub(crate) remote: Endpoint,
    /// `sk_err`, positive; 0: none.
    pub(crate) errno: i32,
    /// `sk_uid`.
    pub(crate) owner_uid: u32,
    /// When the connection is closed. None: it is not closed, or the program could not read it.
    pub(crate) counts: Option<TcpCounts>,
    /// None: the state changed in a softirq, where no process is known, or to ESTABLISHED.
    pub(crate) actor: Option<Actor>,
}

#[cfg(test)]
impl StateChange {
    pub(crate) fn bytes(&self) -> Option<Bytes> {
        self.counts.map(|counts| counts.bytes)
    }
}

impl Actor {
    /// The descriptor, if it is known.
    pub(crate) fn known_fd(&self) -> Option<i32> {
        (self.fd >= 0).then_some(self.fd)
    }

    /// Whether it is a thread of the kernel, such as the worker that closes MPTCP sockets later. Extensions in other PID
    /// namespaces see none of them.
    pub(crate) fn is_kernel_thread(&self) -> bool {
        /// `kthreadd`
        const PARENT_OF_ALL: i32 = 2;
        self.executable == 0 && self.parent == PARENT_OF_ALL
    }
}

/// Payload: of TCP without retransmissions, SYN and FIN; of datagrams as the system calls return it.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Bytes {
    pub(crate) sent: u64,
    pub(crate) received: u64,
}

/// Of a TCP connection, at its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct TcpCounts {
    pub(crate) bytes: Bytes,
    pub(crate) retransmitted: u64,
    /// Round-trip times in microseconds: the last one, smoothed, and the least. None: none was measured.
    pub(crate) rtt_us: Option<u32>,
    pub(crate) min_rtt_us: Option<u32>,
}

/// The task that holds the socket lock at the change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Actor {
    pub(crate) pid: i32,
    pub(crate) tid: i32,
    /// The pid of the parent process.
    pub(crate) parent: i32,
    /// In the first user namespace.
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// `start_boottime` of the thread group leader.
    pub(crate) start_ns: u64,
    /// The key of an [`Executable`]. 0: a kernel thread, or a process that is exiting.
    pub(crate) executable: u64,
    /// The cgroup id. 0: unknown.
    pub(crate) cgroup: u64,
    /// The name of the thread, with NUL at the end.
    pub(crate) comm: [u8; 16],
    /// The descriptor that connect(2) or listen(2) names. -1: unknown.
    pub(crate) fd: i32,
}

/// The executable of a process. It is reported before the first event of the process.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Executable {
    pub(crate) pid: i32,
    pub(crate) start_ns: u64,
    /// With pid and start, the key. It is an address of the kernel: secret, never shown.
    pub(crate) executable: u64,
    /// As `/proc/<pid>/exe` shows it, without ` (deleted)`. It can contain any byte but NUL.
    pub(crate) path: Vec<u8>,
    pub(crate) is_deleted: bool,
    /// The beginning of the path is missing: it is too long. Such a path does not start with a slash.
    pub(crate) is_truncated: bool,
}

/// A socket that was open when the collection began, with a process that holds it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct OpenSocket {
    pub(crate) socket: SocketKey,
    pub(crate) pid: i32,
    pub(crate) fd: i32,
    pub(crate) inode: u64,
    /// `start_boottime` of the thread group leader.
    pub(crate) start_ns: u64,
    pub(crate) state: TcpState,
    /// AF_INET or AF_INET6.
    pub(crate) family: u16,
    /// IPPROTO_*.
    pub(crate) protocol: u16,
    pub(crate) net_namespace: NetNamespace,
    pub(crate) local: Endpoint,
    pub(crate) remote: Endpoint,
}

/// Exact numbers of what was lost since the start.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Losses {
    /// State changes for which the ring buffer had no room.
    pub(crate) ring_events: u64,
    /// Executables for which the ring buffer had no room. A later event of the process reports its executable.
    pub(crate) ring_executables: u64,
    /// Records of datagrams for which the ring buffer had no room.
    pub(crate) ring_datagrams: u64,
    /// Datagrams that were not counted, since no slot was free, and their bytes.
    pub(crate) uncounted_messages: u64,
    pub(crate) uncounted_bytes: u64,
    /// Runs of the programs that the kernel skipped (`recursion_misses`): at most that many events.
    pub(crate) skipped: u64,
    /// Those of the program for changes of states.
    pub(crate) skipped_states: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_the_kernel_is_never_printed() {
        let printed = format!("{:?} {:?}", SocketKey::Cookie(7), SocketKey::Address(0xffff_8881));
        assert_eq!(printed, "Cookie(7) Address(_)");
        assert_eq!(SocketKey::Address(1).cookie(), None);
    }
}
