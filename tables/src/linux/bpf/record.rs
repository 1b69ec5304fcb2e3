//! What the program writes of a socket, and what that says. Numbers are in the byte order of the machine,
//! unless the kernel keeps them in the network's.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::{NonZeroU32, NonZeroU64};

use crate::formats::linux::sock_diag::unix_name;
use crate::model::socket_table::{
    IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_MPTCP, IPPROTO_RAW, IPPROTO_SCTP, IPPROTO_TCP,
    IPPROTO_UDP, IPPROTO_UDPLITE, SocketTable,
};
use crate::model::{
    Binding, Details, Endpoint, Family, Interface, NetNamespace, SOCK_DGRAM, SOCK_RAW, SOCK_STREAM,
    Socket, TcpState,
};

// Offsets of what the program writes.
/// How many bytes follow, this number included.
pub(super) const SIZE: i16 = 0;
/// As the PID namespace has it that is asked for.
pub(super) const TGID: i16 = 4;
pub(super) const TID: i16 = 8;
pub(super) const FD: i16 = 12;
pub(super) const INODE: i16 = 16;
/// The task's table of descriptors, and that of its process's first task; 0 if it has ended.
pub(super) const FILES: i16 = 24;
pub(super) const LEADER_FILES: i16 = 32;
pub(super) const NET: i16 = 40;
pub(super) const UID: i16 = 44;
pub(super) const FAMILY: i16 = 48;
pub(super) const TYPE: i16 = 50;
pub(super) const PROTOCOL: i16 = 52;
pub(super) const STATE: i16 = 54;
/// 1 if it is in a hash table or list of its protocol.
pub(super) const LISTED: i16 = 55;
pub(super) const LOCAL_PORT: i16 = 56;
/// In network byte order; of a packet socket its ethertype.
pub(super) const REMOTE_PORT: i16 = 58;
pub(super) const INTERFACE: i16 = 60;
/// 16 bytes each; an IPv4 address in the first four.
pub(super) const LOCAL: i16 = 64;
pub(super) const REMOTE: i16 = 80;
pub(super) const CGROUP: i16 = 96;
/// TCP: sequence numbers, `rcv_nxt`, `copied_seq`, `write_seq`, `snd_una`. UNIX: the messages in the queue,
/// the bytes of it or of the first message, as they were found without a lock, `sk_wmem_alloc`. Others:
/// `sk_rmem_alloc`, for UDP `forward_deficit`, `sk_wmem_alloc`.
pub(super) const RECEIVED: i16 = 104;
pub(super) const READ: i16 = 108;
pub(super) const WRITTEN: i16 = 112;
pub(super) const ACKNOWLEDGED: i16 = 116;
pub(super) const BACKLOG: i16 = 120;
pub(super) const MOST_BACKLOG: i16 = 124;
/// The inode of the UNIX socket at the other end.
pub(super) const PEER: i16 = 128;
/// Of a UNIX socket's name, the two bytes of its family included; 0 if it has none.
pub(super) const NAME_LENGTH: i16 = 136;
/// In how deep a PID namespace the task is.
pub(super) const LEVEL: i16 = 140;
/// 1 if it tells what the family keeps beside `struct sock`: a packet socket's ethertype and interface; of a
/// UNIX stream, that READ is all that waits in its queue.
pub(super) const FAMILYS_OWN: i16 = 144;
pub(super) const RECORD_SIZE: i16 = 152;
/// `struct sockaddr_un`, to the next multiple of eight; behind the record of a UNIX socket.
pub(super) const NAME_SIZE: i16 = 112;

/// Of whom a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Held {
    /// The process.
    pub(super) pid: i32,
    pub(super) tid: i32,
    pub(super) fd: i32,
    pub(super) inode: u64,
    /// In how deep a PID namespace the process is; the first is 0.
    pub(super) level: u32,
    /// Its table of descriptors, as a number that only says whether two are one.
    pub(super) files: u64,
    pub(super) leader_files: u64,
}

/// What is known of the socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// All that its table would say, but for what waits in some UNIX sockets: a queue that is None.
    Whole { table: SocketTable, socket: Socket },
    /// It is in no table of the kernel.
    Unlisted,
    /// These tables have it, and say more than this does.
    InTables(&'static [SocketTable]),
}

/// Bytes of another form than the program writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a record of another form than the BPF program writes")
    }
}

impl std::error::Error for Malformed {}

/// A record: of a descriptor that holds a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record<'a>(&'a [u8]);

/// Takes the first record off, if it is there whole.
pub(super) fn next<'a>(bytes: &mut &'a [u8]) -> Result<Option<Record<'a>>, Malformed> {
    let Some(size) = bytes.first_chunk().map(|size| u32::from_ne_bytes(*size)) else {
        return Ok(None);
    };
    let size = usize::try_from(size).map_err(|_| Malformed)?;
    let (least, most) = (RECORD_SIZE.unsigned_abs(), (RECORD_SIZE + NAME_SIZE).unsigned_abs());
    if !(usize::from(least)..=usize::from(most)).contains(&size) {
        return Err(Malformed);
    }
    let Some((record, rest)) = bytes.split_at_checked(size) else { return Ok(None) };
    *bytes = rest;
    Ok(Some(Record(record)))
}

impl Record<'_> {
    /// The network namespace of the socket.
    pub(crate) fn net_namespace(&self) -> Result<NetNamespace, Malformed> {
        self.u32(NET).map(|number| NetNamespace(number.into())).ok_or(Malformed)
    }

    /// State, local and remote port of a TCP socket; None for other sockets. It costs less than all that is
    /// known.
    pub(crate) fn tcp(&self) -> Option<(TcpState, u16, u16)> {
        let family = self.u16(FAMILY)?;
        let is_inet = family == Family::Inet as u16 || family == Family::Inet6 as u16;
        let is_tcp = self.u16(PROTOCOL)? == IPPROTO_TCP && self.u16(TYPE)? == SOCK_STREAM.into();
        let [state] = self.bytes(STATE)?;
        let remote = u16::from_be_bytes(self.bytes(REMOTE_PORT)?);
        (is_inet && is_tcp).then_some((TcpState::from(state), self.u16(LOCAL_PORT)?, remote))
    }

    /// What is known of the socket.
    pub(crate) fn told(&self) -> Result<Told, Malformed> {
        self.tell().ok_or(Malformed)
    }

    pub(super) fn held(&self) -> Result<Held, Malformed> {
        self.holder().ok_or(Malformed)
    }

    fn bytes<const N: usize>(&self, offset: i16) -> Option<[u8; N]> {
        self.0.get(usize::try_from(offset).ok()?..)?.first_chunk().copied()
    }

    fn u16(&self, offset: i16) -> Option<u16> {
        self.bytes(offset).map(u16::from_ne_bytes)
    }

    fn u32(&self, offset: i16) -> Option<u32> {
        self.bytes(offset).map(u32::from_ne_bytes)
    }

    fn u64(&self, offset: i16) -> Option<u64> {
        self.bytes(offset).map(u64::from_ne_bytes)
    }

    fn holder(&self) -> Option<Held> {
        let number = |offset| self.u32(offset).map(u32::cast_signed);
        Some(Held {
            pid: number(TGID)?,
            tid: number(TID)?,
            fd: number(FD)?,
            inode: self.u64(INODE)?,
            level: self.u32(LEVEL)?,
            files: self.u64(FILES)?,
            leader_files: self.u64(LEADER_FILES)?,
        })
    }

    /// SOCK_*.
    fn kind(&self) -> Option<u8> {
        u8::try_from(self.u16(TYPE)?).ok()
    }

    fn tells_familys_own(&self) -> Option<bool> {
        Some(self.u32(FAMILYS_OWN)? != 0)
    }

    fn tell(&self) -> Option<Told> {
        /// The subflows of a connection are TCP sockets with its inode.
        const MPTCP: [SocketTable; 4] =
            [SocketTable::Tcp, SocketTable::Tcp6, SocketTable::Mptcp, SocketTable::Mptcp6];
        let [listed] = self.bytes(LISTED)?;
        let (family, protocol) = (self.u16(FAMILY)?, self.u16(PROTOCOL)?);
        let is = |known: Family| family == known as u16;
        let choose = |v4, v6| if is(Family::Inet) { v4 } else { v6 };
        let table = if is(Family::Inet) || is(Family::Inet6) {
            match protocol {
                _ if self.u16(TYPE)? == SOCK_RAW.into() => {
                    choose(SocketTable::Raw, SocketTable::Raw6)
                }
                IPPROTO_TCP => choose(SocketTable::Tcp, SocketTable::Tcp6),
                IPPROTO_UDP => choose(SocketTable::Udp, SocketTable::Udp6),
                IPPROTO_UDPLITE => choose(SocketTable::Udplite, SocketTable::Udplite6),
                IPPROTO_ICMP if is(Family::Inet) => SocketTable::Icmp,
                IPPROTO_ICMPV6 if is(Family::Inet6) => SocketTable::Icmp6,
                IPPROTO_MPTCP => return Some(Told::InTables(&MPTCP)),
                IPPROTO_SCTP => {
                    return Some(Told::InTables(&[SocketTable::Sctp, SocketTable::Sctp6]));
                }
                _ => return Some(Told::Unlisted),
            }
        } else if is(Family::Unix) {
            SocketTable::Unix
        } else if is(Family::Packet) && self.tells_familys_own()? {
            SocketTable::Packet
        } else if is(Family::Packet) {
            return Some(Told::InTables(&[SocketTable::Packet]));
        } else if is(Family::Netlink) {
            return Some(Told::InTables(&[SocketTable::Netlink]));
        } else if is(Family::Vsock) {
            return Some(Told::InTables(&[SocketTable::Vsock]));
        } else {
            return Some(Told::Unlisted);
        };
        if listed == 0 {
            return Some(Told::Unlisted);
        }
        let (binding, details) = match table {
            SocketTable::Unix => self.unix()?,
            SocketTable::Packet => self.packet()?,
            _ => self.inet(table)?,
        };
        let details = Details { uid: Some(self.u32(UID)?), kind: self.kind()?, ..details };
        let net_namespace = self.net_namespace().ok();
        let socket = Socket { inode: self.u64(INODE)?, net_namespace, binding, details };
        Some(Told::Whole { table, socket })
    }

    fn inet(&self, table: SocketTable) -> Option<(Binding, Details)> {
        let protocol = table.protocol()?;
        let address = |offset| -> Option<IpAddr> {
            let octets: [u8; 16] = self.bytes(offset)?;
            let [a, b, c, d, ..] = octets;
            Some(match table.family() {
                Family::Inet => Ipv4Addr::new(a, b, c, d).into(),
                _ => Ipv6Addr::from(octets).into(),
            })
        };
        let [state] = self.bytes(STATE)?;
        let state = TcpState::from(state);
        let local = Endpoint { address: address(LOCAL)?, port: self.u16(LOCAL_PORT)? };
        let remote_port = match protocol {
            IPPROTO_RAW => 0,
            _ => u16::from_be_bytes(self.bytes(REMOTE_PORT)?),
        };
        let remote = Endpoint { address: address(REMOTE)?, port: remote_port };
        let (received, read) = (self.u32(RECEIVED)?, self.u32(READ)?);
        let (receive_queue, send_queue) = match (protocol, state) {
            (IPPROTO_TCP, TcpState::Listen) => (self.u32(BACKLOG)?, self.u32(MOST_BACKLOG)?),
            (IPPROTO_TCP, _) => (
                // A FIN is counted as received and is never read.
                u32::try_from(received.wrapping_sub(read).cast_signed()).unwrap_or_default(),
                self.u32(WRITTEN)?.wrapping_sub(self.u32(ACKNOWLEDGED)?),
            ),
            (IPPROTO_UDP | IPPROTO_UDPLITE, _) => (received.wrapping_sub(read), self.in_flight()?),
            _ => (received, self.in_flight()?),
        };
        let state = (protocol == IPPROTO_TCP).then_some(state);
        let details = Details {
            receive_queue: Some(receive_queue),
            send_queue: Some(send_queue),
            interface: Interface::of_index(self.u32(INTERFACE)?),
            cgroup: NonZeroU64::new(self.u64(CGROUP)?),
            ..Details::default()
        };
        let v6 = table.family() == Family::Inet6;
        Some((Binding::Inet { v6, protocol, local, remote, state }, details))
    }

    fn packet(&self) -> Option<(Binding, Details)> {
        let protocol = u16::from_be_bytes(self.bytes(REMOTE_PORT)?);
        let details = Details {
            receive_queue: Some(self.u32(RECEIVED)?),
            send_queue: Some(self.in_flight()?),
            interface: Interface::of_index(self.u32(INTERFACE)?),
            ..Details::default()
        };
        Some((Binding::Packet { protocol }, details))
    }

    fn unix(&self) -> Option<(Binding, Details)> {
        let kind = self.kind()?;
        let length = usize::try_from(self.u32(NAME_LENGTH)?).ok()?;
        let name = self.0.get(usize::try_from(RECORD_SIZE).ok()?..)?.get(..length)?;
        let path = unix_name(name.get(2..).unwrap_or_default());
        let [state] = self.bytes(STATE)?;
        let messages = self.u32(RECEIVED)?;
        let (receive_queue, send_queue) = match TcpState::from(state) {
            TcpState::Listen => (Some(messages), self.u32(MOST_BACKLOG)?),
            _ if messages == 0 => (Some(0), self.in_flight()?),
            _ if kind == SOCK_DGRAM || (kind == SOCK_STREAM && self.tells_familys_own()?) => {
                (Some(self.u32(READ)?), self.in_flight()?)
            }
            _ => (None, self.in_flight()?),
        };
        let details = Details {
            // Whoever is at the other end may be gone while this is read.
            peer: u32::try_from(self.u64(PEER)?).ok().and_then(NonZeroU32::new),
            receive_queue,
            send_queue: Some(send_queue),
            ..Details::default()
        };
        Some((Binding::Unix { path }, details))
    }

    /// Bytes that were sent and not taken: the kernel counts one more as long as the socket lives
    /// (`sk_wmem_alloc_get` in `include/net/sock.h`).
    fn in_flight(&self) -> Option<u32> {
        self.u32(WRITTEN).map(|written| written.saturating_sub(1))
    }
}
