//! The record of a socket descriptor in macOS: `struct socket_fdinfo` in `bsd/sys/proc_info.h` of XNU, the result of
//! PROC_PIDFDSOCKETINFO (libproc).
//!
//! The C layout is the same on both processors. `bsd/kern/socket_info.c` fills the record.

use std::num::NonZeroU64;

use nom::bytes::complete::take;
use nom::number::complete::{be_u16, be_u128, le_i16, le_i32, le_u32, le_u64, u8};
use nom::{IResult, Parser};

use super::xnu::{
    AF_INET, AF_INET6, AF_NDRV, AF_SYSTEM, AF_UNIX, AF_VSOCK, InPcb, Malformed, SO_ACCEPTCONN,
    SYSPROTO_CONTROL, SYSPROTO_EVENT, events, family_shown, name, queues, tcp_state, unix_path,
};
use crate::model::{
    Binding, DarwinDetails, Details, ExtendedDetails, Interface, Socket, TcpState, VsockAddress,
};

/// The length of a record.
pub(crate) const LENGTH: usize = 792;

/// A socket that a descriptor holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) socket: Socket,
    pub(crate) details: DarwinDetails,
    /// The handle of the protocol's part of the socket; 0 without one.
    pub(crate) pcb: u64,
    /// As in a list: see `Pcb`. None for UNIX sockets, too.
    pub(crate) generation: Option<NonZeroU64>,
}

/// `soi_kind`.
const SOCKINFO_IN: i32 = 1;
const SOCKINFO_TCP: i32 = 2;
const SOCKINFO_UN: i32 = 3;
const SOCKINFO_NDRV: i32 = 4;
const SOCKINFO_KERN_EVENT: i32 = 5;
const SOCKINFO_KERN_CTL: i32 = 6;
const SOCKINFO_VSOCK: i32 = 7;

/// Reads a record.
pub(crate) fn parse(answer: &[u8]) -> Result<Held, Malformed> {
    socket_fdinfo(answer).map(|(_, held)| held).map_err(|_| Malformed)
}

fn socket_fdinfo(answer: &[u8]) -> IResult<&[u8], Held> {
    /// `struct proc_fileinfo` and `struct vinfo_stat`, which the kernel does not fill for a socket.
    const BEFORE: usize = 24 + 136;
    let (fields, _) = take(BEFORE).parse(answer)?;
    let (fields, (handle, pcb, kind, protocol)) = (le_u64, le_u64, le_i32, le_i32).parse(fields)?;
    let (fields, (family, options, _linger)) = (le_i32, le_i16, le_i16).parse(fields)?;
    let (fields, (_state, qlen, incqlen, qlimit)) =
        (le_i16, le_i16, le_i16, le_i16).parse(fields)?;
    let (fields, (_timeo, _error, _oobmark)) = (le_i16, le_i16, le_u32).parse(fields)?;
    let (fields, (received, sent)) = (sockbuf_info, sockbuf_info).parse(fields)?;
    let (fields, (soi_kind, _rfu)) = (le_i32, le_u32).parse(fields)?;
    let protocol = u16::try_from(protocol).unwrap_or_default();
    let mut details = DarwinDetails::default();
    let mut interface = None;
    let mut generation = 0;
    let binding = match (soi_kind, family) {
        (SOCKINFO_IN, _) => {
            let (_, (number, ends)) = in_sockinfo(fields)?;
            generation = number;
            ends.binding(family, protocol, None)
        }
        (SOCKINFO_TCP, _) => {
            let (_, (number, ends, state)) = tcp_sockinfo(fields)?;
            generation = number;
            ends.binding(family, protocol, Some(state))
        }
        (SOCKINFO_UN, _) => {
            let (_, (peer, path)) = un_sockinfo(fields)?;
            details.peer = NonZeroU64::new(peer);
            Binding::Unix { path }
        }
        (SOCKINFO_NDRV, _) => {
            interface = ndrv_info(fields)?.1;
            Binding::Ndrv { protocol }
        }
        (SOCKINFO_KERN_EVENT, _) => {
            let (_, (vendor, class, subclass)) = (le_u32, le_u32, le_u32).parse(fields)?;
            Binding::System { protocol, control: events(vendor, class, subclass) }
        }
        (SOCKINFO_KERN_CTL, _) => Binding::System { protocol, control: kern_ctl_info(fields)?.1 },
        (SOCKINFO_VSOCK, _) => vsock_sockinfo(fields)?.1,
        // Without a protocol control block: shut down, or just created. The addresses are zero.
        (_, AF_INET | AF_INET6) => {
            let ends = InPcb { remote_port: 0, local_port: 0, vflag: 0, remote: 0, local: 0 };
            ends.binding(family, protocol, None)
        }
        (_, AF_UNIX) => Binding::Unix { path: Box::default() },
        (_, AF_NDRV) => Binding::Ndrv { protocol },
        (_, AF_SYSTEM) if matches!(protocol, SYSPROTO_EVENT | SYSPROTO_CONTROL) => {
            Binding::System { protocol, control: Box::default() }
        }
        (_, AF_VSOCK) => {
            let nowhere = VsockAddress { cid: 0, port: 0 };
            Binding::Vsock { local: nowhere, remote: nowhere, state: None }
        }
        (_, other) => Binding::Unlisted { family: family_shown(other), protocol: Some(protocol) },
    };
    let options = u32::from(options.cast_unsigned());
    let (receive_queue, send_queue) =
        queues(options, [qlen, incqlen, qlimit], (Some(received), Some(sent)));
    let kind = u8::try_from(kind).unwrap_or_default();
    let listens = options & SO_ACCEPTCONN != 0;
    let extended = interface.map(ExtendedDetails::with_interface);
    let details_of_all =
        Details { kind, receive_queue, send_queue, extended, listens, ..Details::default() };
    let socket = Socket { inode: handle, net_namespace: None, binding, details: details_of_all };
    Ok((&[], Held { socket, details, pcb, generation: NonZeroU64::new(generation) }))
}

/// `struct sockbuf_info`: the number of queued bytes.
fn sockbuf_info(fields: &[u8]) -> IResult<&[u8], u32> {
    let (fields, (waiting, _others)) = (le_u32, take(20_usize)).parse(fields)?;
    Ok((fields, waiting))
}

/// `struct in_sockinfo`: the generation and the ends. A port is an int whose first two bytes are the port.
fn in_sockinfo(fields: &[u8]) -> IResult<&[u8], (u64, InPcb)> {
    let (fields, (remote_port, _)) = (be_u16, take(2_usize)).parse(fields)?;
    let (fields, (local_port, _)) = (be_u16, take(2_usize)).parse(fields)?;
    let (fields, (generation, _flags, _flow)) = (le_u64, le_u32, le_u32).parse(fields)?;
    let (fields, (vflag, _ttl, _padding, _rfu)) = (u8, u8, take(2_usize), le_u32).parse(fields)?;
    let (fields, (remote, local)) = (be_u128, be_u128).parse(fields)?;
    // `insi_v4` and `insi_v6`, 16 bytes with what C leaves between their members.
    let (fields, _) = take(16_usize).parse(fields)?;
    Ok((fields, (generation, InPcb { remote_port, local_port, vflag, remote, local })))
}

/// `struct tcp_sockinfo`.
fn tcp_sockinfo(fields: &[u8]) -> IResult<&[u8], (u64, InPcb, TcpState)> {
    let (fields, ((generation, ends), state)) = (in_sockinfo, le_i32).parse(fields)?;
    Ok((fields, (generation, ends, tcp_state(state))))
}

/// `struct un_sockinfo`: the peer's handle, and the path.
fn un_sockinfo(fields: &[u8]) -> IResult<&[u8], (u64, Box<[u8]>)> {
    /// SOCK_MAXADDRLEN.
    const ADDRESS: usize = 255;
    let (fields, (peer, _peer_pcb, address)) = (le_u64, le_u64, take(ADDRESS)).parse(fields)?;
    Ok((fields, (peer, unix_path(address))))
}

/// `struct ndrv_info`: the interface, whose name and number stand apart.
fn ndrv_info(fields: &[u8]) -> IResult<&[u8], Option<Interface>> {
    const IF_NAMESIZE: usize = 16;
    let (fields, (_family, unit, base)) = (le_u32, le_u32, take(IF_NAMESIZE)).parse(fields)?;
    let base = name(base);
    let interface =
        (!base.is_empty()).then(|| Interface { index: 0, name: Some(format!("{base}{unit}")) });
    Ok((fields, interface))
}

/// `struct kern_ctl_info`: the control's name.
fn kern_ctl_info(fields: &[u8]) -> IResult<&[u8], Box<str>> {
    /// The control's number, flags, sizes of buffers, and the socket's own number.
    const BEFORE: usize = 24;
    const MAX_KCTL_NAME: usize = 96;
    let (fields, (_, control)) = (take(BEFORE), take(MAX_KCTL_NAME)).parse(fields)?;
    Ok((fields, name(control).into()))
}

/// `struct vsock_sockinfo`.
fn vsock_sockinfo(fields: &[u8]) -> IResult<&[u8], Binding> {
    let (fields, (cid, port)) = (le_u32, le_u32).parse(fields)?;
    let local = VsockAddress { cid, port };
    let (fields, (cid, port)) = (le_u32, le_u32).parse(fields)?;
    let remote = VsockAddress { cid, port };
    Ok((fields, Binding::Vsock { local, remote, state: None }))
}

#[cfg(test)]
mod tests;
