//! The records of the BPF program that visits the file descriptors of all tasks (`linux/bpf/program.rs`): one
//! for each descriptor that refers to a socket.
//!
//! [`record_members`] is the only description of these bytes: the program writes them, and [`Record`] reads them. Numbers are
//! in the byte order of the machine, unless documented otherwise.

pub(crate) mod record_members;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::{NonZeroU32, NonZeroU64};

use self::record_members::{
    EXTENDED_RECORD_SIZE, EXTENDED_UNIX_RECORD_SIZE, EXTENSION_SIZE, Extension as ExtensionRecord,
    NAME_SIZE, RECORD_SIZE, SocketRecord, UNIX_RECORD_SIZE, extension, field,
};
use crate::formats::linux::device;
use crate::formats::linux::record_layout::{Field, Value};
use crate::formats::linux::sock_diag::unix_name;
use crate::formats::linux::tcp_info::{self, Chrono, TcpInfo};
use crate::model::socket_table::{
    IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_MPTCP, IPPROTO_RAW, IPPROTO_SCTP, IPPROTO_TCP,
    IPPROTO_UDP, IPPROTO_UDPLITE, SocketTable,
};
use crate::model::{
    Binding, CongestionAlgorithm, Details, Endpoint, ExtendedDetails, Family, FileId, NetNamespace,
    SOCK_DGRAM, SOCK_RAW, SOCK_STREAM, Socket, TcpDetails, TcpState,
};

/// Why the bytes are not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RecordError {
    /// No record has this size.
    Size(u32),
    /// No socket has this type.
    SocketType(u16),
    /// The name of a UNIX socket is longer than its record.
    NameLength(u32),
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the BPF program wrote a malformed record: ")?;
        match self {
            RecordError::Size(size) => write!(f, "no record has a size of {size} bytes"),
            RecordError::SocketType(number) => write!(f, "its socket type is {number}"),
            RecordError::NameLength(length) => {
                write!(f, "its UNIX name has {length} bytes, not {NAME_SIZE} at most")
            }
        }
    }
}

impl std::error::Error for RecordError {}

/// A descriptor that refers to a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Descriptor {
    /// The process.
    pub(crate) pid: i32,
    pub(crate) tid: i32,
    pub(crate) fd: i32,
    pub(crate) inode: u64,
    /// The depth of the process's PID namespace; the first one has 0.
    pub(crate) level: u32,
    /// The file descriptor table. The number only shows whether two tables are the same.
    pub(crate) files: u64,
    /// The table of the process's first task; 0 if that task has ended.
    pub(crate) leader_files: u64,
}

/// The description of a socket in a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Description {
    /// Everything that the socket table shows, except the receive queue of some UNIX sockets: it is None.
    Complete { table: SocketTable, socket: Socket },
    /// The socket is in no table of the kernel.
    Unlisted,
    /// These tables list the socket, and show more than the record.
    InTables(&'static [SocketTable]),
}

/// A record of a descriptor that refers to a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record<'a> {
    socket: &'a [u8; RECORD_SIZE],
    /// None unless the extended program wrote the record.
    extension: Option<&'a [u8; EXTENSION_SIZE]>,
    /// Empty unless it is a [`record_members::UnixSocketRecord`].
    name: &'a [u8],
}

impl<'a> Record<'a> {
    /// Splits the first record off the bytes; None if it is incomplete.
    pub(crate) fn take(bytes: &mut &'a [u8]) -> Result<Option<Record<'a>>, RecordError> {
        let Some(size) = u32::from_bytes(bytes) else { return Ok(None) };
        let (is_extended, name_size) = match usize::try_from(size) {
            Ok(RECORD_SIZE) => (false, 0),
            Ok(UNIX_RECORD_SIZE) => (false, NAME_SIZE),
            Ok(EXTENDED_RECORD_SIZE) => (true, 0),
            Ok(EXTENDED_UNIX_RECORD_SIZE) => (true, NAME_SIZE),
            _ => return Err(RecordError::Size(size)),
        };
        let Some((socket, mut rest)) = bytes.split_first_chunk() else { return Ok(None) };
        let mut extension = None;
        if is_extended {
            let Some((first, after)) = rest.split_first_chunk() else { return Ok(None) };
            (extension, rest) = (Some(first), after);
        }
        let Some((name, rest)) = rest.split_at_checked(name_size) else { return Ok(None) };
        *bytes = rest;
        Ok(Some(Record { socket, extension, name }))
    }

    #[inline]
    fn get<T: Value>(&self, field: Field<SocketRecord, T>) -> T {
        // A field lies within the record.
        self.socket.get(field.offset..).and_then(T::from_bytes).unwrap_or_default()
    }

    /// The time from boot to the start of the process in nanoseconds (`start_boottime` of its first thread).
    pub(crate) fn start_boottime(&self) -> Option<NonZeroU64> {
        NonZeroU64::new(self.get(field!(start_boottime)))
    }

    /// The network namespace of the socket.
    pub(crate) fn net_namespace(&self) -> NetNamespace {
        NetNamespace(self.get(field!(net)).into())
    }

    pub(crate) fn descriptor(&self) -> Descriptor {
        Descriptor {
            pid: self.get(field!(tgid)).cast_signed(),
            tid: self.get(field!(tid)).cast_signed(),
            fd: self.get(field!(fd)).cast_signed(),
            inode: self.get(field!(inode)),
            level: self.get(field!(level)),
            files: self.get(field!(files)),
            leader_files: self.get(field!(leader_files)),
        }
    }

    /// State, local and remote port of a TCP socket; None for other sockets. It costs less than
    /// [`Record::describe`].
    pub(crate) fn tcp(&self) -> Option<(TcpState, u16, u16)> {
        let is_inet = self.is(Family::Inet) || self.is(Family::Inet6);
        let is_tcp = self.get(field!(protocol)) == IPPROTO_TCP
            && self.get(field!(kind)) == SOCK_STREAM.into();
        (is_inet && is_tcp)
            .then(|| (self.state(), self.get(field!(local_port)), self.remote_port()))
    }

    /// Describes the socket.
    pub(crate) fn describe(&self) -> Result<Description, RecordError> {
        let table = match self.table() {
            Ok(table) if self.get(field!(is_listed)) != 0 => table,
            Ok(_) | Err([]) => return Ok(Description::Unlisted),
            Err(tables) => return Ok(Description::InTables(tables)),
        };
        let kind = self.get(field!(kind));
        let kind = u8::try_from(kind).map_err(|_| RecordError::SocketType(kind))?;
        let (binding, details) = match (table, table.protocol()) {
            (SocketTable::Unix, _) => self.unix(kind)?,
            (SocketTable::Packet, _) | (_, None) => self.packet(),
            (_, Some(protocol)) => self.inet(table.family(), protocol),
        };
        let mut details = Details { uid: Some(self.get(field!(uid))), kind, ..details };
        if let Some(extended) = self.extended_details() {
            details.extended.get_or_insert_default().complete_from(extended);
        }
        let (inode, net_namespace) = (self.get(field!(inode)), Some(self.net_namespace()));
        let socket = Socket { inode, net_namespace, binding, details };
        Ok(Description::Complete { table, socket })
    }

    /// The details that only the extended program writes; None if another one wrote the record.
    pub(crate) fn extended_details(&self) -> Option<ExtendedDetails> {
        let extension = Extension(self.extension?);
        let cookie = NonZeroU64::new(extension.get(extension!(cookie)));
        let mut details = ExtendedDetails { cookie, ..ExtendedDetails::default() };
        if extension.get(extension!(has_tcp)) != 0 {
            details.tcp = Some(extension.tcp(self.state()));
        }
        if extension.get(extension!(has_peer)) != 0 {
            let pid = extension.get(extension!(peer_pid)).cast_signed();
            details.peer_pid = (pid != 0).then_some(pid);
            details.peer_uid = Some(extension.get(extension!(peer_uid)));
        }
        if extension.get(extension!(has_file)) != 0 {
            let inode = extension.get(extension!(file_inode));
            let device = device::as_stat_returns(extension.get(extension!(file_device)));
            details.bound_file = Some(FileId { inode, device });
        }
        Some(details)
    }

    /// The table whose fields the record has; otherwise the tables that list the socket, if any.
    fn table(&self) -> Result<SocketTable, &'static [SocketTable]> {
        /// The subflows of a connection are TCP sockets with its inode.
        const MPTCP: &[SocketTable] =
            &[SocketTable::Tcp, SocketTable::Tcp6, SocketTable::Mptcp, SocketTable::Mptcp6];
        const SCTP: &[SocketTable] = &[SocketTable::Sctp, SocketTable::Sctp6];
        let is_v4 = self.is(Family::Inet);
        let choose = |v4, v6| Ok(if is_v4 { v4 } else { v6 });
        if is_v4 || self.is(Family::Inet6) {
            return match self.get(field!(protocol)) {
                _ if self.get(field!(kind)) == SOCK_RAW.into() => {
                    choose(SocketTable::Raw, SocketTable::Raw6)
                }
                IPPROTO_TCP => choose(SocketTable::Tcp, SocketTable::Tcp6),
                IPPROTO_UDP => choose(SocketTable::Udp, SocketTable::Udp6),
                IPPROTO_UDPLITE => choose(SocketTable::Udplite, SocketTable::Udplite6),
                IPPROTO_ICMP if is_v4 => Ok(SocketTable::Icmp),
                IPPROTO_ICMPV6 if !is_v4 => Ok(SocketTable::Icmp6),
                IPPROTO_MPTCP => Err(MPTCP),
                IPPROTO_SCTP => Err(SCTP),
                _ => Err(&[]),
            };
        }
        if self.is(Family::Unix) {
            Ok(SocketTable::Unix)
        } else if self.is(Family::Packet) && self.has_family_fields() {
            Ok(SocketTable::Packet)
        } else if self.is(Family::Packet) {
            Err(&[SocketTable::Packet])
        } else if self.is(Family::Netlink) {
            Err(&[SocketTable::Netlink])
        } else if self.is(Family::Vsock) {
            Err(&[SocketTable::Vsock])
        } else {
            Err(&[])
        }
    }

    pub(crate) fn is_unix(&self) -> bool {
        self.is(Family::Unix)
    }

    fn is(&self, family: Family) -> bool {
        self.get(field!(family)) == family as u16
    }

    fn has_family_fields(&self) -> bool {
        self.get(field!(has_family_fields)) != 0
    }

    /// Other families use the numbers of TCP's states.
    fn state(&self) -> TcpState {
        TcpState::from(self.get(field!(state)))
    }

    fn remote_port(&self) -> u16 {
        u16::from_be(self.get(field!(remote_port)))
    }

    fn inet(&self, family: Family, protocol: u16) -> (Binding, Details) {
        let address = |octets: [u8; 16]| -> IpAddr {
            match (family, octets) {
                (Family::Inet, [a, b, c, d, ..]) => Ipv4Addr::new(a, b, c, d).into(),
                _ => Ipv6Addr::from(octets).into(),
            }
        };
        let (local, remote) = (address(self.get(field!(local))), address(self.get(field!(remote))));
        let local = Endpoint { address: local, port: self.get(field!(local_port)) };
        let remote_port = if protocol == IPPROTO_RAW { 0 } else { self.remote_port() };
        let remote = Endpoint { address: remote, port: remote_port };
        let state = self.state();
        let (receive_queue, send_queue) = self.inet_queues(protocol, state);
        let state = (protocol == IPPROTO_TCP).then_some(state);
        let details = Details {
            receive_queue: Some(receive_queue),
            send_queue: Some(send_queue),
            extended: ExtendedDetails::of_interface(self.get(field!(interface))),
            cgroup: NonZeroU64::new(self.get(field!(cgroup))),
            ..Details::default()
        };
        let v6 = family == Family::Inet6;
        (Binding::Inet { v6, protocol, local, remote, state }, details)
    }

    /// Receive queue and send queue; for a TCP listener, the accept queue and its limit.
    fn inet_queues(&self, protocol: u16, state: TcpState) -> (u32, u32) {
        let (received, read) = (self.get(field!(received)), self.get(field!(read)));
        match (protocol, state) {
            (IPPROTO_TCP, TcpState::Listen) => {
                (self.get(field!(backlog)), self.get(field!(max_backlog)))
            }
            (IPPROTO_TCP, _) => (
                // A FIN is counted as received and is never read.
                u32::try_from(received.wrapping_sub(read).cast_signed()).unwrap_or_default(),
                self.get(field!(written)).wrapping_sub(self.get(field!(acknowledged))),
            ),
            (IPPROTO_UDP | IPPROTO_UDPLITE, _) => (received.wrapping_sub(read), self.unsent()),
            _ => (received, self.unsent()),
        }
    }

    fn packet(&self) -> (Binding, Details) {
        let details = Details {
            receive_queue: Some(self.get(field!(received))),
            send_queue: Some(self.unsent()),
            extended: ExtendedDetails::of_interface(self.get(field!(interface))),
            ..Details::default()
        };
        (Binding::Packet { protocol: self.remote_port() }, details)
    }

    fn unix(&self, kind: u8) -> Result<(Binding, Details), RecordError> {
        let length = self.get(field!(name_length));
        let name = usize::try_from(length).ok().and_then(|length| self.name.get(..length));
        let name = name.ok_or(RecordError::NameLength(length))?;
        // Its first two bytes are the family.
        let path = unix_name(name.get(2..).unwrap_or_default());
        let messages = self.get(field!(received));
        let (receive_queue, send_queue) = match self.state() {
            TcpState::Listen => (Some(messages), self.get(field!(max_backlog))),
            _ if messages == 0 => (Some(0), self.unsent()),
            _ if kind == SOCK_DGRAM || (kind == SOCK_STREAM && self.has_family_fields()) => {
                (Some(self.get(field!(read))), self.unsent())
            }
            _ => (None, self.unsent()),
        };
        let details = Details {
            // The socket at the other end can be closed while the program reads it.
            peer: u32::try_from(self.get(field!(peer))).ok().and_then(NonZeroU32::new),
            listens: self.state() == TcpState::Listen,
            receive_queue,
            send_queue: Some(send_queue),
            ..Details::default()
        };
        Ok((Binding::Unix { path }, details))
    }

    /// Bytes in the send queue: `sk_wmem_alloc` counts one more as long as the socket lives
    /// (`sk_wmem_alloc_get` in `include/net/sock.h`).
    fn unsent(&self) -> u32 {
        self.get(field!(written)).saturating_sub(1)
    }
}

/// The extension of a record.
#[derive(Clone, Copy)]
struct Extension<'a>(&'a [u8; EXTENSION_SIZE]);

impl Extension<'_> {
    #[inline]
    fn get<T: Value>(self, field: Field<ExtensionRecord, T>) -> T {
        // A field lies within the extension, which follows the socket.
        let bytes = field.offset.checked_sub(RECORD_SIZE).and_then(|offset| self.0.get(offset..));
        bytes.and_then(T::from_bytes).unwrap_or_default()
    }

    /// The same numbers as `struct tcp_info` has of the socket.
    fn tcp(self, state: TcpState) -> TcpDetails {
        let ticks_per_second = self.get(extension!(ticks_per_second));
        // The kernel compares the lower half, too.
        let since = |begin: u32| (self.get(extension!(ticks)) as u32).wrapping_sub(begin);
        let milliseconds = |begin| tcp_info::milliseconds(since(begin), ticks_per_second);
        let send_mss = self.get(extension!(send_mss));
        let chrono = Chrono {
            ended: [
                self.get(extension!(chrono_busy)),
                self.get(extension!(chrono_receive_window)),
                self.get(extension!(chrono_send_buffer)),
            ],
            running: self.get(extension!(running_chrono)),
            running_for: since(self.get(extension!(chrono_start))),
        };
        let info = TcpInfo {
            send_mss: Some(send_mss),
            lost: Some(self.get(extension!(lost))),
            last_sent_ms: milliseconds(self.get(extension!(last_sent))),
            last_received_ms: milliseconds(self.get(extension!(last_received))),
            rtt_us: Some(self.get(extension!(rtt)) >> 3),
            rtt_variance_us: Some(self.get(extension!(rtt_variance)) >> 2),
            congestion_window: Some(self.get(extension!(congestion_window))),
            retransmits: Some(self.get(extension!(retransmits))),
            bytes_received: Some(self.get(extension!(bytes_received))),
            min_rtt_us: Some(self.get(extension!(min_rtt_us))),
            delivery_rate: Some(tcp_info::delivery_rate(
                self.get(extension!(delivered)),
                send_mss,
                self.get(extension!(delivered_in_us)),
            )),
            busy_time_us: chrono.busy_time_us(ticks_per_second),
            bytes_sent: Some(self.get(extension!(bytes_sent))),
            bytes_retransmitted: Some(self.get(extension!(bytes_retransmitted))),
        };
        let algorithm = CongestionAlgorithm::new(&self.get(extension!(congestion_algorithm)));
        info.details(state, algorithm)
    }
}

#[cfg(test)]
mod tests;
