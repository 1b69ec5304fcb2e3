//! The records of one socket.

use std::num::NonZeroU64;

use nom::bytes::complete::take;
use nom::combinator::map;
use nom::number::complete::{be_u16, be_u128, le_i16, le_i32, le_u32, le_u64, u8};
use nom::{IResult, Parser};

use super::super::xnu::{
    AF_INET, AF_INET6, InPcb, SO_ACCEPTCONN, events, name, queues, tcp_state, unix_path,
};
use super::list::PcbList;
use super::pcb::Pcb;
use super::record::{Record, XSO_INPCB, XSO_KCB, XSO_UNPCB};
use crate::model::{
    Binding, DarwinDetails, Details, HolderUnknown, Socket, TcpDetails, TcpState, socket_type,
};

const XSO_SOCKET: u32 = 0x1;
const XSO_RCVBUF: u32 = 0x2;
const XSO_SNDBUF: u32 = 0x4;
const XSO_STATS: u32 = 0x8;
const XSO_TCPCB: u32 = 0x20;

/// In `so_state`: no descriptor refers to the socket, or not yet.
const SS_NOFDREF: u16 = 0x0001;
const SS_INCOMP: u16 = 0x0800;
const SS_COMP: u16 = 0x1000;
/// In `so_flags`.
const SOF_MP_SUBFLOW: u32 = 0x0100_0000;
/// In `so_flags1`.
const SOF1_IN_KERNEL_SOCKET: u32 = 0x0010_0000;

/// A socket's records.
#[derive(Debug)]
pub(crate) struct Group<'a> {
    pcb: Record<'a>,
    /// The records after it, by kind.
    socket: Option<&'a [u8]>,
    received: Option<&'a [u8]>,
    sent: Option<&'a [u8]>,
    statistics: Option<&'a [u8]>,
    tcpcb: Option<&'a [u8]>,
}

pub(crate) type Parsed<'a, T> = Result<(&'a [u8], T), nom::Err<nom::error::Error<&'a [u8]>>>;

impl<'a> Group<'a> {
    pub(crate) fn new(pcb: Record<'a>) -> Self {
        Group { pcb, socket: None, received: None, sent: None, statistics: None, tcpcb: None }
    }

    pub(crate) fn add(&mut self, Record { kind, fields }: Record<'a>) {
        let slot = match kind {
            XSO_SOCKET => &mut self.socket,
            XSO_RCVBUF => &mut self.received,
            XSO_SNDBUF => &mut self.sent,
            XSO_STATS => &mut self.statistics,
            XSO_TCPCB => &mut self.tcpcb,
            // A record of a newer kernel, or, with kind 0, of a closed socket.
            _ => return,
        };
        // A second record belongs to another socket, whose first record has an unknown kind.
        slot.get_or_insert(fields);
    }

    /// Whether the group has the last record of a group in this list.
    pub(crate) fn has_last(&self, list: PcbList) -> bool {
        let last = if list == PcbList::Tcp { self.tcpcb } else { self.statistics };
        last.is_some()
    }

    /// The socket; None if the group is left out.
    pub(crate) fn parse(self, list: PcbList, newest: u64) -> Parsed<'a, Option<Pcb>> {
        let (_, socket) = match self.socket {
            Some(fields) => xsocket_n(fields)?,
            None => (&[][..], XSocket::default()),
        };
        let (_, bound) = self.bound(list, &socket)?;
        let Some(Bound { pcb, binding, state }) = bound else { return Ok((&[], None)) };
        if pcb.generation > newest {
            return Ok((&[], None));
        }
        let is_socket = socket.handle != 0;
        let is_of_user_space = self.pcb.kind == XSO_INPCB && !is_socket && pcb.generation == 0;
        let darwin = DarwinDetails {
            peer: None,
            last_pid: (is_socket || socket.last_pid != 0).then_some(socket.last_pid),
            without_fd: socket.without_fd(is_of_user_space, state),
        };
        let mut details = self.details(list, &socket, &binding);
        if let Some(tcp) = self.tcpcb.zip(state).and_then(|(fields, state)| tcp(fields, state)) {
            details.extended.get_or_insert_default().tcp = Some(tcp);
        }
        let inode = socket.handle;
        let pcb = Pcb {
            socket: Socket { inode, net_namespace: None, binding, details },
            details: darwin,
            generation: NonZeroU64::new(pcb.generation),
            pcb: pcb.handle,
            peer_pcb: pcb.peer,
        };
        Ok((&[], Some(pcb)))
    }

    /// The fields of the protocol's record; None for a socket that is being torn down.
    fn bound(&self, list: PcbList, socket: &XSocket) -> Parsed<'a, Option<Bound>> {
        let protocol = match u16::try_from(socket.protocol) {
            Ok(0) | Err(_) => list.protocol(),
            Ok(protocol) => protocol,
        };
        let system = |(handle, control)| Bound {
            pcb: PcbIdentity { handle, ..PcbIdentity::default() },
            binding: Binding::System { protocol, control },
            state: None,
        };
        let bound = match self.pcb.kind {
            XSO_INPCB => {
                let (_, (pcb, ends, raw_protocol)) = xinpcb_n(self.pcb.fields)?;
                // The record of the socket has the number of the kernel's entry for the protocol
                // (`struct protosw`): 0 for raw sockets whose protocol has no entry.
                let is_unknown = list == PcbList::Raw && protocol == 0;
                let protocol = if is_unknown { raw_protocol.into() } else { protocol };
                let state = match self.tcpcb {
                    Some(fields) => Some(xtcpcb_n(fields)?.1),
                    None => None,
                };
                let Some(by_address) = ends.family() else { return Ok((&[], None)) };
                let family = match socket.family {
                    family @ (AF_INET | AF_INET6) => family,
                    _ => by_address,
                };
                Bound { pcb, binding: ends.binding(family, protocol, state), state }
            }
            XSO_UNPCB => {
                let (_, (pcb, path)) = xunpcb_n(self.pcb.fields)?;
                Bound { pcb, binding: Binding::Unix { path }, state: None }
            }
            XSO_KCB => system(xkctlpcb(self.pcb.fields)?.1),
            _ => system(xkevtpcb(self.pcb.fields)?.1),
        };
        Ok((&[], Some(bound)))
    }

    /// The fields of all sockets.
    fn details(&self, list: PcbList, socket: &XSocket, binding: &Binding) -> Details {
        let bytes = |fields: Option<&'a [u8]>| Some(xsockbuf_n(fields?).ok()?.1);
        let bytes = (bytes(self.received), bytes(self.sent));
        let (receive_queue, send_queue) = queues(socket.options, socket.queue, bytes);
        let kind = match (u8::try_from(socket.kind), binding) {
            (Ok(kind @ 1..), _) => kind,
            (_, Binding::Inet { protocol, .. }) if list != PcbList::Raw => socket_type(*protocol),
            _ => 0,
        };
        let is_socket = socket.handle != 0;
        let uid = is_socket.then_some(socket.uid);
        let listens = socket.options & SO_ACCEPTCONN != 0;
        Details { kind, uid, receive_queue, send_queue, listens, ..Details::default() }
    }
}

/// A socket's identity, addresses and TCP state.
struct Bound {
    pcb: PcbIdentity,
    binding: Binding,
    state: Option<TcpState>,
}

/// The fields of the records of all protocols.
#[derive(Default)]
struct PcbIdentity {
    handle: u64,
    /// 0 if there is none.
    generation: u64,
    peer: u64,
}

/// `struct xinpcb_n`: also the protocol that a raw socket was created with. The fields after the addresses are
/// ignored.
fn xinpcb_n(fields: &[u8]) -> IResult<&[u8], (PcbIdentity, InPcb, u8)> {
    let (fields, (handle, remote_port, local_port)) = (le_u64, be_u16, be_u16).parse(fields)?;
    let (fields, (_ppcb, generation)) = (le_u64, le_u64).parse(fields)?;
    let (fields, (_flags, _flow, vflag, _ttl)) = (le_i32, le_u32, u8, u8).parse(fields)?;
    let (fields, (raw_protocol, _padding)) = (u8, u8).parse(fields)?;
    let (fields, (remote, local)) = (be_u128, be_u128).parse(fields)?;
    let identity = PcbIdentity { handle, generation, peer: 0 };
    let ends = InPcb { remote_port, local_port, vflag, remote, local };
    Ok((fields, (identity, ends, raw_protocol)))
}

/// `struct xunpcb_n`; the path of the peer is ignored.
fn xunpcb_n(fields: &[u8]) -> IResult<&[u8], (PcbIdentity, Box<[u8]>)> {
    const ADDRESS: usize = 256;
    let (fields, (handle, _vnode, _inode, peer)) =
        (le_u64, le_u64, le_u64, le_u64).parse(fields)?;
    let (fields, (_refs, _link, _cc, _mbcnt, _flags)) =
        (le_u64, le_u64, le_i32, le_i32, le_i32).parse(fields)?;
    let (fields, (generation, address)) = (le_u64, take(ADDRESS)).parse(fields)?;
    Ok((fields, (PcbIdentity { handle, generation, peer }, unix_path(address))))
}

/// `struct xkctlpcb`: its handle, and the name of the control.
fn xkctlpcb(fields: &[u8]) -> IResult<&[u8], (u64, Box<str>)> {
    const MAX_KCTL_NAME: usize = 96;
    let (fields, (handle, _unit, _id, _control)) =
        (le_u64, le_u32, le_u32, le_u64).parse(fields)?;
    let (fields, control) = take(MAX_KCTL_NAME).parse(fields)?;
    Ok((fields, (handle, name(control).into())))
}

/// `struct xkevtpcb`: its handle, and the filter of events.
fn xkevtpcb(fields: &[u8]) -> IResult<&[u8], (u64, Box<str>)> {
    let (fields, (handle, vendor)) = (le_u64, le_u32).parse(fields)?;
    let (fields, (class, subclass)) = (le_u32, le_u32).parse(fields)?;
    Ok((fields, (handle, events(vendor, class, subclass))))
}

/// `struct xsocket_n`.
#[derive(Debug, Default)]
struct XSocket {
    handle: u64,
    kind: i16,
    options: u32,
    state: u16,
    protocol: i32,
    family: i32,
    /// `so_qlen`, `so_incqlen`, `so_qlimit`.
    queue: [i16; 3],
    uid: u32,
    last_pid: i32,
    /// `so_flags` and `so_flags1`, since macOS 13.
    flags: Option<(u32, u32)>,
}

fn xsocket_n(fields: &[u8]) -> IResult<&[u8], XSocket> {
    let (fields, (handle, kind, _padding)) = (le_u64, le_i16, take(2_usize)).parse(fields)?;
    let (fields, (options, _linger, state)) = (le_u32, le_i16, le_i16).parse(fields)?;
    let (fields, (_pcb, protocol, family)) = (le_u64, le_i32, le_i32).parse(fields)?;
    let (fields, (qlen, incqlen, qlimit)) = (le_i16, le_i16, le_i16).parse(fields)?;
    let (fields, (_timeo, _error, _padding)) = (le_i16, le_i16, take(2_usize)).parse(fields)?;
    let (fields, (_pgid, _oobmark, uid)) = (le_i32, le_u32, le_u32).parse(fields)?;
    let (fields, (last_pid, _effective_pid)) = (le_i32, le_i32).parse(fields)?;
    let later: IResult<&[u8], _> = (le_u64, le_u32, le_u32).parse(fields);
    let (fields, flags) = match later {
        Ok((fields, (_generation, flags, flags1))) => (fields, Some((flags, flags1))),
        Err(_) => (fields, None),
    };
    let socket = XSocket {
        handle,
        kind,
        options,
        state: state.cast_unsigned(),
        protocol,
        family,
        queue: [qlen, incqlen, qlimit],
        uid,
        last_pid,
        flags,
    };
    Ok((fields, socket))
}

impl XSocket {
    /// Why no descriptor can refer to the socket; None if one can.
    fn without_fd(&self, is_of_user_space: bool, tcp: Option<TcpState>) -> Option<HolderUnknown> {
        let has = |bits| self.state & bits != 0;
        let is_of_kernel = match self.flags {
            Some((_, flags1)) => flags1 & SOF1_IN_KERNEL_SOCKET != 0,
            None => self.last_pid == 0,
        };
        let is_subflow = self.flags.is_some_and(|(flags, _)| flags & SOF_MP_SUBFLOW != 0);
        if is_of_user_space {
            Some(HolderUnknown::UserSpace)
        } else if has(SS_INCOMP) && tcp == Some(TcpState::SynRecv) {
            Some(HolderUnknown::SynRecv)
        } else if has(SS_INCOMP | SS_COMP) {
            Some(HolderUnknown::AcceptQueue)
        } else if is_subflow {
            Some(HolderUnknown::Subflow)
        } else if self.handle != 0 && is_of_kernel {
            Some(HolderUnknown::Kernel)
        } else if self.handle == 0 || has(SS_NOFDREF) {
            let is_over = tcp == Some(TcpState::TimeWait);
            Some(if is_over { HolderUnknown::TimeWait } else { HolderUnknown::Orphan })
        } else {
            None
        }
    }
}

/// `struct xsockbuf_n`: the number of queued bytes.
fn xsockbuf_n(fields: &[u8]) -> IResult<&[u8], u32> {
    le_u32.parse(fields)
}

/// `struct xtcpcb_n`: the connection's state.
fn xtcpcb_n(fields: &[u8]) -> IResult<&[u8], TcpState> {
    let (fields, (_segq, _dupacks)) = (le_u64, le_i32).parse(fields)?;
    let (fields, _timers) = take(16_usize).parse(fields)?;
    map(le_i32, tcp_state).parse(fields)
}

/// The numbers of a connection; None if the record has none of them.
fn tcp(fields: &[u8], state: TcpState) -> Option<TcpDetails> {
    /// The length and kind of a record come before its fields.
    const HEAD: usize = 8;
    let number = |offset: usize| {
        let bytes = fields.get(offset.checked_sub(HEAD)?..)?.first_chunk()?;
        Some(u32::from_le_bytes(*bytes)).filter(|&number| number != 0)
    };
    // A time in milliseconds with this many bits after the binary point (`tcp_var.h`).
    let microseconds = |offset, bits: u32| {
        let scaled = u64::from(number(offset)?) * 1000;
        u32::try_from(scaled >> bits).ok()
    };
    let rtt_us = microseconds(136, 5);
    let tcp = TcpDetails {
        rtt_us,
        rtt_variance_us: microseconds(140, 4).filter(|_| rtt_us.is_some()),
        congestion_window: number(100),
        send_mss: number(132),
        ..TcpDetails::default()
    };
    let is_begun = !matches!(state, TcpState::Listen | TcpState::TimeWait | TcpState::Closed);
    (is_begun && tcp != TcpDetails::default()).then_some(tcp)
}

#[cfg(test)]
mod tests;
