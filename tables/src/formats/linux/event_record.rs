//! The records of the BPF programs for socket events (`linux/bpf/socket_events`): changes of a socket's state and
//! executables of processes from the ring buffer, and open sockets from the iterator.
//!
//! [`members`] is the only description of these bytes: the programs write them, and this module reads them.

pub(crate) mod members;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use self::members::{
    DATAGRAM, DATAGRAM_END, DATAGRAM_SIZE, DatagramRecord, EXECUTABLE, EXECUTABLE_SIZE,
    ExecutableRecord, LIVE_SOCKET_SIZE, LiveSocketRecord, NAMES_SIZE, OPEN_SOCKET_SIZE,
    OpenSocketRecord, STATE, STATE_SIZE, StateRecord, field,
};
use crate::formats::linux::record_layout::{Field, Value};
use crate::model::socket_table::{IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_MPTCP};
use crate::model::tcp_event::{
    Actor, Bytes, DatagramEnd, DatagramSocket, EventRecord, Executable, FirstDatagram, OpenSocket,
    SlotUse, SocketKey, StateChange, TcpCounts,
};
use crate::model::{Endpoint, Family, NetNamespace, SOCK_DGRAM, SOCK_RAW, TcpState};

/// Why the bytes are not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EventRecordError {
    /// There is no such record; None if the bytes are too few for this number.
    Record(Option<u32>),
    /// The record has another size.
    Size { expected: usize, size: usize },
    /// The programs report IPv4 and IPv6, and packet sockets.
    Family(u16),
    /// The names of a path are longer than their room, or the last one does not end.
    Names { used: u64 },
}

impl fmt::Display for EventRecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the BPF program wrote a malformed record: ")?;
        match self {
            EventRecordError::Record(None) => write!(f, "it has less than 4 bytes"),
            EventRecordError::Record(Some(number)) => write!(f, "its kind is {number}"),
            EventRecordError::Size { expected, size } => {
                write!(f, "its size is {size}, not {expected}")
            }
            EventRecordError::Family(family) => write!(f, "its address family is {family}"),
            EventRecordError::Names { used } => {
                write!(
                    f,
                    "the names of a path have {used} bytes, not {NAMES_SIZE} at most with NUL at the end"
                )
            }
        }
    }
}

impl std::error::Error for EventRecordError {}

/// What the decoder has to know about the kernel that wrote the records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Decoder {
    /// Whether sockets are identified by their cookies, not by addresses.
    pub(crate) has_cookies: bool,
    /// The numbers of system calls whose first argument is the descriptor of the socket.
    pub(crate) calls_with_descriptor: &'static [u32],
}

impl Decoder {
    /// Decodes a record of the ring buffer.
    pub(crate) fn decode(&self, bytes: &[u8]) -> Result<EventRecord, EventRecordError> {
        match u32::from_bytes(bytes) {
            Some(STATE) => self.state(Record::new(bytes)?).map(EventRecord::State),
            Some(DATAGRAM) => self.datagram(Record::new(bytes)?).map(EventRecord::Datagram),
            Some(DATAGRAM_END) => {
                self.datagram_end(Record::new(bytes)?).map(EventRecord::DatagramEnd)
            }
            Some(EXECUTABLE) => executable(Record::new(bytes)?).map(EventRecord::Executable),
            other => Err(EventRecordError::Record(other)),
        }
    }

    fn state(
        &self,
        record: Record<'_, StateRecord, STATE_SIZE>,
    ) -> Result<StateChange, EventRecordError> {
        let family = record.get(field!(StateRecord.family));
        let ports = Ports {
            local: match record.get(field!(StateRecord.num)) {
                0 => u16::from_be(record.get(field!(StateRecord.sport))),
                num => num,
            },
            remote: u16::from_be(record.get(field!(StateRecord.dport))),
        };
        let addresses =
            [record.get(field!(StateRecord.local)), record.get(field!(StateRecord.remote))];
        let (local, remote) = endpoints(family, addresses, ports)?;
        let number = record.get(field!(StateRecord.socket));
        let protocol = record.get(field!(StateRecord.protocol));
        let has = |field| record.get(field) != 0;
        Ok(StateChange {
            boot_ns: record.get(field!(StateRecord.boot_ns)),
            socket: socket_key(number, protocol, self.has_cookies),
            inode: record.get(field!(StateRecord.inode)),
            net_namespace: NetNamespace(record.get(field!(StateRecord.net)).into()),
            family,
            kind: record.get(field!(StateRecord.kind)),
            protocol,
            old: TcpState::from(record.get(field!(StateRecord.old))),
            new: TcpState::from(record.get(field!(StateRecord.new))),
            local,
            remote,
            errno: record.get(field!(StateRecord.error)).cast_signed(),
            owner_uid: record.get(field!(StateRecord.owner_uid)),
            counts: has(field!(StateRecord.has_tcp)).then(|| tcp_counts(&record)),
            actor: self.known_actor(&record),
        })
    }

    fn datagram(
        &self,
        record: Record<'_, DatagramRecord, DATAGRAM_SIZE>,
    ) -> Result<FirstDatagram, EventRecordError> {
        let Some(state) = record.bytes.first_chunk() else {
            return Err(EventRecordError::Record(None));
        };
        let state = Record::<StateRecord, STATE_SIZE>::of(state);
        let mut socket = self.datagram_socket(&state)?;
        let length = record.get(field!(DatagramRecord.peer_length));
        if let Some(named) = peer(record.get(field!(DatagramRecord.peer)), length, socket.family) {
            socket.remote = Endpoint { port: remote_port(&socket, named.port), ..named };
        }
        let result = record.get(field!(DatagramRecord.result)).cast_signed();
        Ok(FirstDatagram {
            boot_ns: state.get(field!(StateRecord.boot_ns)),
            socket,
            errno: result.min(0).saturating_neg(),
            actor: self.known_actor(&state),
            is_first_send: record.get(field!(DatagramRecord.is_first_send)) != 0,
            is_received: record.get(field!(DatagramRecord.is_received)) != 0,
            slot: Some(SlotUse {
                number: record.get(field!(DatagramRecord.slot)),
                generation: record.get(field!(DatagramRecord.generation)),
            })
            .filter(|slot| slot.number != 0),
        })
    }

    fn datagram_end(
        &self,
        record: Record<'_, StateRecord, STATE_SIZE>,
    ) -> Result<DatagramEnd, EventRecordError> {
        Ok(DatagramEnd {
            boot_ns: record.get(field!(StateRecord.boot_ns)),
            socket: self.datagram_socket(&record)?,
            actor: self.known_actor(&record),
            bytes: Bytes {
                sent: record.get(field!(StateRecord.bytes_sent)),
                received: record.get(field!(StateRecord.bytes_received)),
            },
        })
    }

    fn datagram_socket(
        &self,
        record: &Record<'_, StateRecord, STATE_SIZE>,
    ) -> Result<DatagramSocket, EventRecordError> {
        let family = record.get(field!(StateRecord.family));
        let kind = record.get(field!(StateRecord.kind));
        let protocol = record.get(field!(StateRecord.protocol));
        let (local, remote) = if family == Family::Packet as u16 {
            (NOWHERE, NOWHERE)
        } else {
            let ports = Ports {
                // Of a raw socket it is the protocol.
                local: if kind == SOCK_RAW.into() {
                    0
                } else {
                    record.get(field!(StateRecord.num))
                },
                remote: u16::from_be(record.get(field!(StateRecord.dport))),
            };
            let addresses =
                [record.get(field!(StateRecord.local)), record.get(field!(StateRecord.remote))];
            endpoints(family, addresses, ports)?
        };
        let number = record.get(field!(StateRecord.socket));
        let socket = DatagramSocket {
            key: socket_key(number, protocol, self.has_cookies),
            inode: record.get(field!(StateRecord.inode)),
            net_namespace: NetNamespace(record.get(field!(StateRecord.net)).into()),
            family,
            kind,
            protocol,
            local,
            remote,
            owner_uid: record.get(field!(StateRecord.owner_uid)),
        };
        let port = remote_port(&socket, remote.port);
        Ok(DatagramSocket { remote: Endpoint { port, ..remote }, ..socket })
    }

    fn known_actor(&self, record: &Record<'_, StateRecord, STATE_SIZE>) -> Option<Actor> {
        (record.get(field!(StateRecord.has_actor)) != 0).then(|| self.actor(record))
    }

    fn actor(&self, record: &Record<'_, StateRecord, STATE_SIZE>) -> Actor {
        let call = record.get(field!(StateRecord.call));
        let argument = record.get(field!(StateRecord.argument));
        let fd = self.calls_with_descriptor.contains(&call).then_some(argument);
        Actor {
            pid: record.get(field!(StateRecord.tgid)).cast_signed(),
            tid: record.get(field!(StateRecord.tid)).cast_signed(),
            parent: record.get(field!(StateRecord.parent)).cast_signed(),
            uid: record.get(field!(StateRecord.uid)),
            gid: record.get(field!(StateRecord.gid)),
            start_ns: record.get(field!(StateRecord.start_ns)),
            executable: record.get(field!(StateRecord.executable)),
            cgroup: record.get(field!(StateRecord.cgroup)),
            comm: record.get(field!(StateRecord.comm)),
            // The kernel reads an int from the lower half.
            fd: fd.map_or(-1, |argument| argument as u32 as i32),
        }
    }
}

/// The port of the peer: sockets of other protocols have none.
fn remote_port(socket: &DatagramSocket, port: u16) -> u16 {
    let has_ports = socket.kind == SOCK_DGRAM.into()
        && ![IPPROTO_ICMP, IPPROTO_ICMPV6].contains(&socket.protocol);
    if has_ports { port } else { 0 }
}

/// `bytes_received` counts the FIN of the peer, which sets SOCK_DONE.
fn tcp_counts(record: &Record<'_, StateRecord, STATE_SIZE>) -> TcpCounts {
    const SOCK_DONE: u32 = 1;
    let fin = record.get(field!(StateRecord.flags)) >> SOCK_DONE & 1;
    let sent = record.get(field!(StateRecord.bytes_sent));
    let retransmitted = record.get(field!(StateRecord.bytes_retrans));
    let [rtt, min_rtt] = [field!(StateRecord.srtt), field!(StateRecord.min_rtt)];
    TcpCounts {
        bytes: Bytes {
            sent: sent.saturating_sub(retransmitted),
            received: record.get(field!(StateRecord.bytes_received)).saturating_sub(fin),
        },
        retransmitted,
        rtt_us: Some(record.get(rtt) >> 3).filter(|rtt| *rtt != 0),
        min_rtt_us: Some(record.get(min_rtt)).filter(|rtt| *rtt != u32::MAX && *rtt != 0),
    }
}

fn executable(
    record: Record<'_, ExecutableRecord, EXECUTABLE_SIZE>,
) -> Result<Executable, EventRecordError> {
    const NAMES: usize = EXECUTABLE_SIZE - NAMES_SIZE;
    let used = record.get(field!(ExecutableRecord.used));
    let names = usize::try_from(used).ok().and_then(|used| record.bytes.get(NAMES..)?.get(..used));
    let names = names.ok_or(EventRecordError::Names { used })?;
    let is_truncated = record.get(field!(ExecutableRecord.is_complete)) == 0;
    Ok(Executable {
        pid: record.get(field!(ExecutableRecord.tgid)).cast_signed(),
        start_ns: record.get(field!(ExecutableRecord.start_ns)),
        executable: record.get(field!(ExecutableRecord.executable)),
        path: path(names, is_truncated).ok_or(EventRecordError::Names { used })?,
        is_deleted: record.get(field!(ExecutableRecord.is_deleted)) != 0,
        is_truncated,
    })
}

/// The path with these names, the last one first; None if it does not end with NUL.
fn path(names: &[u8], is_truncated: bool) -> Option<Vec<u8>> {
    let mut path = Vec::with_capacity(names.len() + 1);
    if !is_truncated && names.is_empty() {
        path.push(b'/');
    }
    if let Some((last, names)) = names.split_last() {
        if *last != 0 {
            return None;
        }
        for name in names.rsplit(|&byte| byte == 0) {
            if !is_truncated || !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name);
        }
    }
    Some(path)
}

/// The peer that a process names for a socket of this family; None if it names none.
fn peer(bytes: [u8; 32], length: u32, family: u16) -> Option<Endpoint> {
    /// The kernel refuses shorter addresses: `struct sockaddr_in`, and `SIN6_LEN_RFC2133`.
    const LEAST: u32 = 16;
    const LEAST_INET6: u32 = 24;
    const INET: u16 = Family::Inet as u16;
    const INET6: u16 = Family::Inet6 as u16;
    const UNSPECIFIED: u16 = 0;
    let [f0, f1, p0, p1, a, b, c, d, in6 @ ..] = bytes;
    let port = u16::from_be_bytes([p0, p1]);
    let ipv4 = Ipv4Addr::new(a, b, c, d);
    if length < LEAST {
        return None;
    }
    let address = match (family, u16::from_ne_bytes([f0, f1])) {
        (INET, INET) => ipv4.into(),
        // The kernel takes it as an IPv4 address. Without an address, none is named.
        (INET, UNSPECIFIED) if (port, ipv4) != (0, Ipv4Addr::UNSPECIFIED) => ipv4.into(),
        (INET6, INET) => ipv4.to_ipv6_mapped().into(),
        (INET6, INET6) if length >= LEAST_INET6 => IpAddr::from(*in6.first_chunk::<16>()?),
        _ => return None,
    };
    Some(Endpoint { address, port })
}

/// The end of a socket that has no address.
const NOWHERE: Endpoint = Endpoint { address: IpAddr::V4(Ipv4Addr::UNSPECIFIED), port: 0 };

/// Splits the first record of an open socket off the bytes, with the depth of the PID namespace of its task; None if
/// it is incomplete.
pub(crate) fn take_open_socket(
    bytes: &mut &[u8],
) -> Result<Option<(OpenSocket, u32)>, EventRecordError> {
    let Some((record, rest)) = bytes.split_first_chunk() else { return Ok(None) };
    *bytes = rest;
    let record = Record::<OpenSocketRecord, OPEN_SOCKET_SIZE>::of(record);
    let family = record.get(field!(OpenSocketRecord.family));
    let ports = Ports {
        local: record.get(field!(OpenSocketRecord.num)),
        remote: u16::from_be(record.get(field!(OpenSocketRecord.dport))),
    };
    let addresses =
        [record.get(field!(OpenSocketRecord.local)), record.get(field!(OpenSocketRecord.remote))];
    let (local, remote) = endpoints(family, addresses, ports)?;
    let protocol = record.get(field!(OpenSocketRecord.protocol));
    let open = OpenSocket {
        socket: socket_key(record.get(field!(OpenSocketRecord.socket)), protocol, true),
        pid: record.get(field!(OpenSocketRecord.tgid)).cast_signed(),
        fd: record.get(field!(OpenSocketRecord.fd)).cast_signed(),
        inode: record.get(field!(OpenSocketRecord.inode)),
        start_ns: record.get(field!(OpenSocketRecord.start_ns)),
        state: TcpState::from(record.get(field!(OpenSocketRecord.state))),
        family,
        protocol,
        net_namespace: NetNamespace(record.get(field!(OpenSocketRecord.net)).into()),
        local,
        remote,
    };
    Ok(Some((open, record.get(field!(OpenSocketRecord.level)))))
}

/// Splits the first record of a socket with storage off the bytes: its cookie, and its bytes; None if it is incomplete.
pub(crate) fn take_live_socket(bytes: &mut &[u8]) -> Option<(u64, Bytes)> {
    let (record, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    let record = Record::<LiveSocketRecord, LIVE_SOCKET_SIZE>::of(record);
    let sent = record.get(field!(LiveSocketRecord.bytes_sent));
    let received = record.get(field!(LiveSocketRecord.bytes_received));
    Some((record.get(field!(LiveSocketRecord.cookie)), Bytes { sent, received }))
}

/// The programs write the address of an MPTCP socket, whose cookie is not unique.
fn socket_key(number: u64, protocol: u16, has_cookies: bool) -> SocketKey {
    if has_cookies && protocol != IPPROTO_MPTCP {
        SocketKey::Cookie(number)
    } else {
        SocketKey::Address(number)
    }
}

struct Ports {
    local: u16,
    remote: u16,
}

fn endpoints(
    family: u16,
    addresses: [[u8; 16]; 2],
    ports: Ports,
) -> Result<(Endpoint, Endpoint), EventRecordError> {
    let address = |octets: [u8; 16]| -> Result<IpAddr, EventRecordError> {
        if family == Family::Inet6 as u16 {
            return Ok(Ipv6Addr::from(octets).into());
        }
        match octets {
            [a, b, c, d, ..] if family == Family::Inet as u16 => {
                Ok(Ipv4Addr::new(a, b, c, d).into())
            }
            _ => Err(EventRecordError::Family(family)),
        }
    };
    let [local, remote] = addresses;
    Ok((
        Endpoint { address: address(local)?, port: ports.local },
        Endpoint { address: address(remote)?, port: ports.remote },
    ))
}

/// The bytes of a record R, which has the size N.
struct Record<'a, R, const N: usize> {
    bytes: &'a [u8; N],
    of: std::marker::PhantomData<R>,
}

impl<'a, R, const N: usize> Record<'a, R, N> {
    fn of(bytes: &'a [u8; N]) -> Record<'a, R, N> {
        Record { bytes, of: std::marker::PhantomData }
    }

    fn new(bytes: &'a [u8]) -> Result<Record<'a, R, N>, EventRecordError> {
        let size = bytes.len();
        let bytes = bytes.try_into().map_err(|_| EventRecordError::Size { expected: N, size })?;
        Ok(Record::of(bytes))
    }

    #[inline]
    fn get<T: Value>(&self, field: Field<R, T>) -> T {
        // A field lies within the record.
        self.bytes.get(field.offset..).and_then(T::from_bytes).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
