//! Lines of the files in `/proc/<pid>/net` that list sockets.
//!
//! Their formats are in the kernel's `net/ipv4/tcp_ipv4.c` (`tcp4_seq_show` and its neighbours),
//! `udp.c`, `raw.c`, `ping.c`, `net/ipv6/datagram.c`, `net/unix/af_unix.c` (`unix_seq_show`) and
//! `net/packet/af_packet.c`. The kernel prints a newline in a bound UNIX path as it is. So a process can forge
//! lines with such a path, and a forged line of the right form cannot be distinguished from a true one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nom::bytes::complete::{tag, take, take_till1};
use nom::character::complete::{hex_digit1, space0, space1, u64 as decimal};
use nom::combinator::{map_opt, rest};
use nom::sequence::{preceded, separated_pair, terminated};
use nom::{IResult, Parser};

use crate::model::protocol::IPPROTO_TCP;
use crate::model::socket_table::SocketTable;
use crate::model::{
    Binding, Details, Endpoint, ExtendedDetails, ExtendedFields, Family, Socket, TcpDetails,
    TcpState, socket_type,
};

/// A line without the format of its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

impl SocketTable {
    /// Whether this is the header line of the file.
    pub(crate) fn is_header(self, line: &[u8]) -> bool {
        let title: &[u8] = match self {
            SocketTable::Unix => b"Num ",
            SocketTable::Packet | SocketTable::Netlink => b"sk ",
            _ => b"sl ",
        };
        line.trim_ascii_start().starts_with(title)
    }

    /// Reads a line, without its newline. The namespace of the socket is not set. Of the extended details, a file
    /// has only the interface and the congestion window.
    pub(crate) fn parse(self, line: &[u8], extended: ExtendedFields) -> Result<Socket, Malformed> {
        let parsed = match (self.family(), self.protocol()) {
            (Family::Inet, Some(protocol)) => inet(line, protocol, extended, ipv4_address),
            (Family::Inet6, Some(protocol)) => inet(line, protocol, extended, ipv6_address),
            (Family::Unix, _) => unix(line),
            (Family::Packet, _) => packet(line),
            (Family::Netlink, _) => netlink(line),
            (Family::Inet | Family::Inet6 | Family::Vsock | Family::Ndrv | Family::System, _) => {
                return Err(Malformed);
            }
        };
        parsed.map(|(_, socket)| socket).map_err(|_| Malformed)
    }
}

/// `sl local:port remote:port st tx:rx tr:when retrnsmt uid timeout inode …`
fn inet(
    line: &[u8],
    protocol: u16,
    extended: ExtendedFields,
    address: fn(&[u8]) -> IResult<&[u8], IpAddr>,
) -> IResult<&[u8], Socket> {
    let (line, _) = (space0, decimal, tag(&b":"[..]), space1).parse(line)?;
    let (line, local) = terminated(endpoint(address), space1).parse(line)?;
    let (line, remote) = terminated(endpoint(address), space1).parse(line)?;
    let (line, state) = terminated(hex_u8, space1).parse(line)?;
    let (line, (send_queue, receive_queue)) =
        terminated(separated_pair(hex_u32, tag(&b":"[..]), hex_u32), space1).parse(line)?;
    let (line, _timer) =
        terminated((hex_digit1, tag(&b":"[..]), hex_digit1), space1).parse(line)?;
    let (line, _retransmits) = terminated(hex_u32, space1).parse(line)?;
    let (line, (uid, _timeout)) =
        (terminated(decimal, space1), terminated(decimal, space1)).parse(line)?;
    let (line, inode) = last_number(line)?;
    let state = (protocol == IPPROTO_TCP).then(|| TcpState::from(state));
    let has_window = state.is_some() && extended.contains(ExtendedFields::TCP);
    let window = has_window.then(|| congestion_window(line)).flatten();
    let details = Details {
        kind: socket_type(protocol),
        uid: owner(inode, uid),
        receive_queue: Some(receive_queue),
        // The limit of the accept queue is not in the line.
        send_queue: (state != Some(TcpState::Listen)).then_some(send_queue),
        extended: window.map(|it| ExtendedDetails::with_tcp(TcpDetails::with_window(it))),
        ..Details::default()
    };
    let binding = Binding::Inet { v6: local.address.is_ipv6(), protocol, local, remote, state };
    Ok((line, Socket { inode, net_namespace: None, binding, details }))
}

/// The rest of a line after the inode: ` references pointer rto ato quick|pingpong cwnd ssthresh`. Lines of TIME_WAIT
/// and SYN_RECV end after the pointer.
fn congestion_window(rest: &[u8]) -> Option<u32> {
    let mut fields = rest.split(u8::is_ascii_whitespace).filter(|field| !field.is_empty());
    str::from_utf8(fields.nth(5)?).ok()?.parse().ok()
}

/// `Num: RefCount Protocol Flags Type St Inode[ Path]`, the path being all the rest of the line.
fn unix(line: &[u8]) -> IResult<&[u8], Socket> {
    /// In the flags: the socket listens (`include/linux/net.h`).
    const SO_ACCEPTCON: u32 = 1 << 16;
    let (line, _pointer) = (take_till1(|byte| byte == b':'), tag(&b": "[..])).parse(line)?;
    let (line, _references) = terminated(hex_u32, tag(&b" "[..])).parse(line)?;
    let (line, _protocol) = tag(&b"00000000 "[..])(line)?;
    let (line, flags) = terminated(hex_u32, tag(&b" "[..])).parse(line)?;
    let (line, kind) = terminated(hex_u16, tag(&b" "[..])).parse(line)?;
    let (line, _state) = terminated(hex_u8, space1).parse(line)?;
    let (line, inode) = last_number(line)?;
    let (line, path) = match line {
        [] => (line, line),
        _ => preceded(tag(&b" "[..]), rest).parse(line)?,
    };
    let binding = Binding::Unix { path: path.into() };
    let kind = kind.try_into().unwrap_or_default();
    let listens = flags & SO_ACCEPTCON != 0;
    let details = Details { kind, listens, may_be_forged: true, ..Details::default() };
    Ok((line, Socket { inode, net_namespace: None, binding, details }))
}

/// `sk RefCnt Type Proto Iface R Rmem User Inode`
fn packet(line: &[u8]) -> IResult<&[u8], Socket> {
    let (line, _pointer) = terminated(take_till1(|byte| byte == b' '), space1).parse(line)?;
    let number = || terminated(decimal, space1);
    let (line, (_references, kind)) = (number(), number()).parse(line)?;
    let (line, protocol) = terminated(hex_u16, space1).parse(line)?;
    let (line, (interface, _running, receive_queue, uid)) =
        (number(), number(), number(), number()).parse(line)?;
    let (line, inode) = last_number(line)?;
    let details = Details {
        kind: kind.try_into().unwrap_or_default(),
        uid: owner(inode, uid),
        receive_queue: receive_queue.try_into().ok(),
        extended: interface.try_into().ok().and_then(ExtendedDetails::of_interface),
        ..Details::default()
    };
    let binding = Binding::Packet { protocol };
    Ok((line, Socket { inode, net_namespace: None, binding, details }))
}

/// `sk Eth Pid Groups Rmem Wmem Dump Locks Drops Inode`, the third being the socket's port.
fn netlink(line: &[u8]) -> IResult<&[u8], Socket> {
    let (line, _pointer) = terminated(take_till1(|byte| byte == b' '), space1).parse(line)?;
    let (line, protocol) =
        terminated(map_opt(decimal, |n| n.try_into().ok()), space1).parse(line)?;
    let (line, port) = terminated(map_opt(decimal, |n| n.try_into().ok()), space1).parse(line)?;
    let (line, _groups) = terminated(hex_digit1, space1).parse(line)?;
    let number = || terminated(decimal, space1);
    let (line, (receive_queue, send_queue)) = (number(), number()).parse(line)?;
    let skipped = || terminated(take_till1(|byte| byte == b' '), space1);
    let (line, _dump_locks_drops) = (skipped(), skipped(), skipped()).parse(line)?;
    let (line, inode) = last_number(line)?;
    let details = Details {
        receive_queue: receive_queue.try_into().ok(),
        send_queue: send_queue.try_into().ok(),
        ..Details::default()
    };
    let binding = Binding::Netlink { protocol, port, remote_port: 0 };
    Ok((line, Socket { inode, net_namespace: None, binding, details }))
}

/// The uid of a socket that has an owner.
fn owner(inode: u64, uid: u64) -> Option<u32> {
    uid.try_into().ok().filter(|_| inode != 0)
}

/// A decimal number that a space or the line's end follows: half a number is no number.
fn last_number(line: &[u8]) -> IResult<&[u8], u64> {
    let (after, digits) = take_till1(|byte| byte == b' ')(line)?;
    match decimal(digits)? {
        ([], number) => Ok((after, number)),
        (surplus, _) => {
            Err(nom::Err::Error(nom::error::make_error(surplus, nom::error::ErrorKind::Digit)))
        }
    }
}

fn endpoint(
    address: fn(&[u8]) -> IResult<&[u8], IpAddr>,
) -> impl FnMut(&[u8]) -> IResult<&[u8], Endpoint> {
    move |line| {
        let (line, (address, port)) =
            separated_pair(address, tag(&b":"[..]), hex_u16).parse(line)?;
        Ok((line, Endpoint { address, port }))
    }
}

/// An address: its bytes in memory, printed as a 32-bit number in the byte order of the machine.
fn ipv4_address(line: &[u8]) -> IResult<&[u8], IpAddr> {
    let (line, word) = hex_u32(line)?;
    Ok((line, Ipv4Addr::from(word.to_ne_bytes()).into()))
}

/// Four such words.
fn ipv6_address(line: &[u8]) -> IResult<&[u8], IpAddr> {
    let (line, (a, b, c, d)) = (hex_u32, hex_u32, hex_u32, hex_u32).parse(line)?;
    let mut octets = [0; 16];
    for (to, from) in octets.iter_mut().zip([a, b, c, d].into_iter().flat_map(u32::to_ne_bytes)) {
        *to = from;
    }
    Ok((line, Ipv6Addr::from(octets).into()))
}

fn hex_u32(line: &[u8]) -> IResult<&[u8], u32> {
    map_opt(take(8usize), hex).parse(line)
}

fn hex_u16(line: &[u8]) -> IResult<&[u8], u16> {
    map_opt(take(4usize), |digits| hex(digits)?.try_into().ok()).parse(line)
}

fn hex_u8(line: &[u8]) -> IResult<&[u8], u8> {
    map_opt(take(2usize), |digits| hex(digits)?.try_into().ok()).parse(line)
}

fn hex(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0, |number: u32, &byte| {
        Some(number.checked_mul(16)? | char::from(byte).to_digit(16)?)
    })
}

#[cfg(test)]
mod tests;
