//! Sockets of a dump, converted to those of `/proc/net`. The two formats differ:
//!
//! - A connected raw socket has a remote port in a dump: here 0.
//! - A UNIX name in a dump has all bytes: here a path ends before its NUL, and each NUL of an abstract name is
//!   an `@`.
//! - The file of a bound UNIX socket has only the lower 32 bits of its inode number in a dump.
//! - Connections in the accept queue of a UNIX listener are not dumped, only counted: see [`Listed::waiting`].
//! - Both show TCP_NEW_SYN_RECV, an internal state of the kernel, as TCP_SYN_RECV.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::{NonZeroU32, NonZeroU64};

use super::request::{
    AF_INET, AF_INET6, AF_NETLINK, AF_PACKET, AF_UNIX, AF_VSOCK, DiagTable, INET_DIAG_CONG,
    INET_DIAG_INFO, Request,
};
use super::{Malformed, attributes, take};
use crate::formats::linux::device;
use crate::formats::linux::tcp_info::TcpInfo;
use crate::model::protocol::{IPPROTO_MPTCP, IPPROTO_RAW, IPPROTO_SCTP, IPPROTO_TCP};
use crate::model::{
    Binding, CongestionAlgorithm, Details, Endpoint, ExtendedDetails, ExtendedFields, FileId,
    SctpState, Socket, TcpState, VsockAddress, socket_type,
};

/// A socket as a dump lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) socket: Socket,
    /// The socket cookie, or a number as unique. It stays the same when a connection gets another `struct sock`:
    /// after its handshake, and in TIME_WAIT.
    pub(crate) cookie: u64,
    /// The number of connections in the accept queue of a UNIX listener.
    waiting: u32,
}

const LISTEN: u8 = 10;

fn with_cookie(listed: Listed) -> (Listed, u64) {
    let cookie = listed.cookie;
    (listed, cookie)
}

impl Request {
    /// Reads a message of the answer to this request. The namespace of the socket is not set.
    pub(crate) fn parse(&self, message: &[u8]) -> Result<Listed, Malformed> {
        let (mut listed, cookie) = match self.table {
            DiagTable::Inet { v6, protocol } => inet(message, v6, protocol, self.has_tcp_info())?,
            DiagTable::Unix => with_cookie(unix(message)?),
            DiagTable::Packet => with_cookie(packet(message)?),
            DiagTable::Netlink => with_cookie(netlink(message)?),
            DiagTable::Vsock => with_cookie(vsock(message)?),
        };
        if !self.extended.is_empty() {
            self.extend(&mut listed.socket.details, cookie);
        }
        Ok(listed)
    }

    /// Adds the extended details that were requested.
    fn extend(&self, details: &mut Details, cookie: u64) {
        if self.extended.contains(ExtendedFields::COOKIE) {
            details.extended.get_or_insert_default().cookie = NonZeroU64::new(cookie);
        }
    }
}

impl Listed {
    /// The connections in the accept queue of a UNIX listener; None if there are none. They have no inode, and
    /// `/proc/net/unix` shows them with the path of the listener.
    #[inline]
    pub(crate) fn waiting(&self) -> Option<impl Iterator<Item = Socket> + use<>> {
        if self.waiting == 0 {
            return None;
        }
        let one = Socket {
            inode: 0,
            net_namespace: self.socket.net_namespace,
            binding: self.socket.binding.clone(),
            details: Details { kind: self.socket.details.kind, ..Details::default() },
        };
        Some(std::iter::repeat_n(one, usize::try_from(self.waiting).unwrap_or(usize::MAX)))
    }
}

/// `struct inet_diag_msg` and attributes. Returns the cookie of the socket, too.
fn inet(
    message: &[u8],
    v6: bool,
    protocol: u16,
    has_tcp_info: bool,
) -> Result<(Listed, u64), Malformed> {
    /// Only SCTP associations have it (`inet_sctp_diag_fill`).
    const INET_DIAG_PEERS: u16 = 13;
    const INET_DIAG_CGROUP_ID: u16 = 21;
    let (fixed, rest) = message.split_first_chunk::<72>().ok_or(Malformed)?;
    let fields: &mut &[u8] = &mut &fixed[..];
    let [family, state, _timer, _retransmits] = take(fields)?;
    if family != if v6 { AF_INET6 } else { AF_INET } {
        return Err(Malformed);
    }
    let local_port = u16::from_be_bytes(take(fields)?);
    let remote_port = u16::from_be_bytes(take(fields)?);
    let local_address = address(take(fields)?, v6);
    let remote_address = address(take(fields)?, v6);
    let interface = u32::from_ne_bytes(take(fields)?);
    let cookie = u64::from_ne_bytes(take(fields)?);
    let mut identity = cookie;
    let _expires: [u8; 4] = take(fields)?;
    let receive_queue = u32::from_ne_bytes(take(fields)?);
    let send_queue = u32::from_ne_bytes(take(fields)?);
    let uid = u32::from_ne_bytes(take(fields)?);
    let inode = u32::from_ne_bytes(take(fields)?);
    let has_states = matches!(protocol, IPPROTO_TCP | IPPROTO_MPTCP);
    let local = Endpoint { address: local_address, port: local_port };
    let remote_port = if protocol == IPPROTO_RAW { 0 } else { remote_port };
    let remote = Endpoint { address: remote_address, port: remote_port };
    let mut is_association = false;
    let (mut tcp_info, mut algorithm) = (None, None);
    let mut details = Details {
        kind: socket_type(protocol),
        uid: (inode != 0).then_some(uid),
        receive_queue: Some(receive_queue),
        send_queue: Some(send_queue),
        extended: ExtendedDetails::of_interface(interface),
        ..Details::default()
    };
    for attribute in attributes(rest) {
        let (attribute, mut value) = attribute?;
        match attribute {
            INET_DIAG_CGROUP_ID => {
                details.cgroup = NonZeroU64::new(u64::from_ne_bytes(take(&mut value)?));
            }
            INET_DIAG_PEERS => is_association = true,
            INET_DIAG_INFO if has_tcp_info => tcp_info = Some(TcpInfo::parse(value)),
            INET_DIAG_CONG if has_tcp_info => algorithm = CongestionAlgorithm::new(value),
            _ => {}
        }
    }
    if let Some(info) = tcp_info {
        let tcp = info.details(TcpState::from(state), algorithm);
        details.extended.get_or_insert_default().tcp = Some(tcp);
    }
    let binding = if protocol != IPPROTO_SCTP {
        let state = has_states.then(|| TcpState::from(state));
        Binding::Inet { v6, protocol, local, remote, state }
    } else if is_association {
        // All associations of an endpoint have its cookie.
        let association = (cookie, local, remote);
        identity = BuildHasherDefault::<DefaultHasher>::new().hash_one(association);
        Binding::Sctp { local, remote, state: SctpState::Association(state) }
    } else {
        Binding::Sctp { local, remote, state: SctpState::Endpoint(TcpState::from(state)) }
    };
    let socket = Socket { inode: inode.into(), net_namespace: None, binding, details };
    Ok((Listed { socket, cookie: identity, waiting: 0 }, cookie))
}

/// An IPv4 address is in the first four bytes.
fn address(octets: [u8; 16], v6: bool) -> IpAddr {
    let [a, b, c, d, ..] = octets;
    if v6 { Ipv6Addr::from(octets).into() } else { Ipv4Addr::new(a, b, c, d).into() }
}

/// `struct unix_diag_msg` and attributes.
fn unix(mut message: &[u8]) -> Result<Listed, Malformed> {
    const UNIX_DIAG_NAME: u16 = 0;
    const UNIX_DIAG_VFS: u16 = 1;
    const UNIX_DIAG_PEER: u16 = 2;
    const UNIX_DIAG_RQLEN: u16 = 4;
    const UNIX_DIAG_UID: u16 = 7;
    let [family, kind, state, _] = take(&mut message)?;
    if family != AF_UNIX {
        return Err(Malformed);
    }
    let inode = u32::from_ne_bytes(take(&mut message)?);
    let cookie = u64::from_ne_bytes(take(&mut message)?);
    let mut path = Box::default();
    let listens = state == LISTEN;
    let mut details = Details { kind, listens, ..Details::default() };
    for attribute in attributes(message) {
        let (attribute, mut value) = attribute?;
        match attribute {
            UNIX_DIAG_NAME => path = unix_name(value),
            UNIX_DIAG_VFS => {
                let inode = u32::from_ne_bytes(take(&mut value)?).into();
                let device = device::as_stat_returns(u32::from_ne_bytes(take(&mut value)?));
                let file = Some(FileId { inode, device });
                details.extended.get_or_insert_default().bound_file = file;
            }
            UNIX_DIAG_PEER => {
                details.peer = NonZeroU32::new(u32::from_ne_bytes(take(&mut value)?));
            }
            UNIX_DIAG_RQLEN => {
                details.receive_queue = Some(u32::from_ne_bytes(take(&mut value)?));
                details.send_queue = Some(u32::from_ne_bytes(take(&mut value)?));
            }
            UNIX_DIAG_UID => details.uid = Some(u32::from_ne_bytes(take(&mut value)?)),
            _ => {}
        }
    }
    let waiting = details.receive_queue.filter(|_| listens).unwrap_or_default();
    let binding = Binding::Unix { path };
    let socket = Socket { inode: inode.into(), net_namespace: None, binding, details };
    Ok(Listed { socket, cookie, waiting })
}

/// A name as `/proc/net/unix` prints it.
pub(crate) fn unix_name(bytes: &[u8]) -> Box<[u8]> {
    match bytes {
        [0, ..] => bytes.iter().map(|&byte| if byte == 0 { b'@' } else { byte }).collect(),
        _ => bytes.split(|&byte| byte == 0).next().unwrap_or_default().into(),
    }
}

/// `struct packet_diag_msg` and attributes.
fn packet(mut message: &[u8]) -> Result<Listed, Malformed> {
    const PACKET_DIAG_INFO: u16 = 0;
    const PACKET_DIAG_MEMINFO: u16 = 6;
    const PACKET_DIAG_UID: u16 = 5;
    let [family, kind] = take(&mut message)?;
    if family != AF_PACKET {
        return Err(Malformed);
    }
    let protocol = u16::from_ne_bytes(take(&mut message)?);
    let inode = u32::from_ne_bytes(take(&mut message)?);
    let cookie = u64::from_ne_bytes(take(&mut message)?);
    let mut details = Details { kind, ..Details::default() };
    for attribute in attributes(message) {
        let (attribute, mut value) = attribute?;
        match attribute {
            // `struct packet_diag_info` begins with it.
            PACKET_DIAG_INFO => {
                details.extended =
                    ExtendedDetails::of_interface(u32::from_ne_bytes(take(&mut value)?));
            }
            PACKET_DIAG_UID => details.uid = Some(u32::from_ne_bytes(take(&mut value)?)),
            PACKET_DIAG_MEMINFO => {
                (details.receive_queue, details.send_queue) = memory(value)?;
            }
            _ => {}
        }
    }
    let binding = Binding::Packet { protocol };
    let socket = Socket { inode: inode.into(), net_namespace: None, binding, details };
    Ok(Listed { socket, cookie, waiting: 0 })
}

/// Receive queue and send queue: the first and the third number of an attribute (`SK_MEMINFO_*` in
/// `sock_diag.h`).
fn memory(mut value: &[u8]) -> Result<(Option<u32>, Option<u32>), Malformed> {
    let received = u32::from_ne_bytes(take(&mut value)?);
    let _limit: [u8; 4] = take(&mut value)?;
    let to_send = u32::from_ne_bytes(take(&mut value)?);
    Ok((Some(received), Some(to_send)))
}

/// `struct netlink_diag_msg` and attributes.
fn netlink(mut message: &[u8]) -> Result<Listed, Malformed> {
    const NETLINK_DIAG_MEMINFO: u16 = 0;
    let [family, kind, protocol, _state] = take(&mut message)?;
    if family != AF_NETLINK {
        return Err(Malformed);
    }
    let port = u32::from_ne_bytes(take(&mut message)?);
    let remote_port = u32::from_ne_bytes(take(&mut message)?);
    let _remote_group: [u8; 4] = take(&mut message)?;
    let inode = u32::from_ne_bytes(take(&mut message)?);
    let cookie = u64::from_ne_bytes(take(&mut message)?);
    let mut details = Details { kind, ..Details::default() };
    for attribute in attributes(message) {
        if let (NETLINK_DIAG_MEMINFO, value) = attribute? {
            (details.receive_queue, details.send_queue) = memory(value)?;
        }
    }
    let binding = Binding::Netlink { protocol, port, remote_port };
    let socket = Socket { inode: inode.into(), net_namespace: None, binding, details };
    Ok(Listed { socket, cookie, waiting: 0 })
}

/// `struct vsock_diag_msg`.
fn vsock(mut message: &[u8]) -> Result<Listed, Malformed> {
    let [family, kind, state, _shutdown] = take(&mut message)?;
    if family != AF_VSOCK {
        return Err(Malformed);
    }
    let mut number = || Ok(u32::from_ne_bytes(take(&mut message)?));
    let local = VsockAddress { cid: number()?, port: number()? };
    let remote = VsockAddress { cid: number()?, port: number()? };
    let inode = number()?;
    let cookie = u64::from_ne_bytes(take(&mut message)?);
    let binding = Binding::Vsock { local, remote, state: Some(TcpState::from(state)) };
    let details = Details { kind, ..Details::default() };
    let socket = Socket { inode: inode.into(), net_namespace: None, binding, details };
    Ok(Listed { socket, cookie, waiting: 0 })
}
