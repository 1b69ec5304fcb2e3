//! The kernel's own lists of sockets on macOS: the values of `net.inet.{tcp,udp,raw}.pcblist_n`,
//! `net.local.{stream,dgram}.pcblist_n` and `net.systm.{kctl,kevt}.pcblist` (sysctl(3)).
//!
//! The formats are in `bsd/netinet/in_pcb.h`, `bsd/sys/{socketvar,unpcb,kern_control,kern_event}.h` and
//! `bsd/netinet/tcp_var.h` of XNU, what the kernel does with them in `bsd/netinet/in_pcblist.c`,
//! `bsd/kern/{uipc_usrreq,kern_control,kern_event}.c`. A value is a header, a group of records for each
//! socket, and the header again. A record begins with its length and its kind, and the next begins at the
//! next multiple of 8. Records may grow, and kinds may be added: that is why the length is there.
//!
//! No group says which process holds the socket, only which used it last.

use std::ffi::CStr;
use std::num::NonZeroU64;

use nom::bytes::complete::take;
use nom::combinator::{map, rest, verify};
use nom::number::complete::{be_u16, be_u128, le_i16, le_i32, le_u32, le_u64, u8};
use nom::{IResult, Parser};

use super::super::Families;
use super::super::model::{
    Binding, DarwinDetails, Details, Family, OwnerUnknown, Socket, TcpState, socket_type,
};
use super::super::socket_table::{IPPROTO_TCP, IPPROTO_UDP};
use super::xnu::{
    AF_INET, AF_INET6, InPcb, Malformed, SYSPROTO_CONTROL, SYSPROTO_EVENT, events, name, queues,
    tcp_state, unix_path,
};

/// A list that the kernel has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum PcbList {
    Tcp,
    Udp,
    /// Raw sockets, and the datagram sockets of ICMP and ICMPv6.
    Raw,
    /// Since macOS 13.
    LocalStream,
    /// Since macOS 13.
    LocalDgram,
    Kctl,
    Kevt,
}

/// What a list says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listing {
    pub(crate) pcbs: Vec<Pcb>,
    /// Groups of a form that is not known.
    pub(crate) malformed: u64,
    pub(crate) end: End,
}

/// How a list ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// As it should.
    Whole,
    /// Somewhere: sockets are missing.
    Cut,
    /// As it should, after no socket at all, and its header counts some. So macOS 27 hides other users'
    /// sockets. The lists of UNIX sockets have one count, so one of them can be empty and end so.
    Withheld {
        /// How many the header counts.
        count: u64,
    },
}

/// A socket of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pcb {
    pub(crate) socket: Socket,
    pub(crate) details: DarwinDetails,
    /// Different for every socket of a protocol since boot, even where the handle comes again; None for
    /// those of no protocol of IP, and of user space.
    pub(crate) generation: Option<NonZeroU64>,
    /// The handle of the protocol's part of the socket, which can be a peer's peer.
    pub(crate) pcb: u64,
    /// That of the UNIX socket at the other end, or 0.
    pub(crate) peer_pcb: u64,
}

const XSO_SOCKET: u32 = 0x1;
const XSO_RCVBUF: u32 = 0x2;
const XSO_SNDBUF: u32 = 0x4;
const XSO_STATS: u32 = 0x8;
const XSO_INPCB: u32 = 0x10;
const XSO_TCPCB: u32 = 0x20;
const XSO_KCB: u32 = 0x80;
const XSO_EVT: u32 = 0x100;
const XSO_UNPCB: u32 = 0x200;

/// In `so_state`: no descriptor, or none yet.
const SS_NOFDREF: u16 = 0x0001;
const SS_INCOMP: u16 = 0x0800;
const SS_COMP: u16 = 0x1000;
/// In `so_flags`.
const SOF_MP_SUBFLOW: u32 = 0x0100_0000;
/// In `so_flags1`.
const SOF1_IN_KERNEL_SOCKET: u32 = 0x0010_0000;

impl PcbList {
    pub(crate) const ALL: [PcbList; 7] = [
        PcbList::Tcp,
        PcbList::Udp,
        PcbList::Raw,
        PcbList::LocalStream,
        PcbList::LocalDgram,
        PcbList::Kctl,
        PcbList::Kevt,
    ];

    /// Its name for sysctlbyname(3).
    pub(crate) fn name(self) -> &'static CStr {
        match self {
            PcbList::Tcp => c"net.inet.tcp.pcblist_n",
            PcbList::Udp => c"net.inet.udp.pcblist_n",
            PcbList::Raw => c"net.inet.raw.pcblist_n",
            PcbList::LocalStream => c"net.local.stream.pcblist_n",
            PcbList::LocalDgram => c"net.local.dgram.pcblist_n",
            PcbList::Kctl => c"net.systm.kctl.pcblist",
            PcbList::Kevt => c"net.systm.kevt.pcblist",
        }
    }

    /// Reads a value; malformed is one that does not begin as a list does.
    ///
    /// What is not complete is left out, and what came into the list while it was written: its socket may
    /// stand there twice.
    pub(crate) fn parse(self, value: &[u8]) -> Result<Listing, Malformed> {
        let (mut unread, header) = header(value).map_err(|_| Malformed)?;
        let mut listing = Listing { pcbs: Vec::new(), malformed: 0, end: End::Cut };
        let mut group: Option<Group> = None;
        let mut seen_any = false;
        loop {
            if header.is_repeated(unread) {
                listing.end = End::Whole;
                break;
            }
            let Ok((next, record)) = record(unread) else { break };
            unread = next;
            if matches!(record.kind, XSO_INPCB | XSO_UNPCB | XSO_KCB | XSO_EVT) {
                seen_any = true;
                listing.take(self, &header, group.replace(Group::new(record)));
            } else if let Some(group) = &mut group {
                group.add(record);
            }
        }
        if listing.end == End::Whole || group.as_ref().is_some_and(|group| group.has_last(self)) {
            listing.take(self, &header, group);
        }
        match header.count {
            // There is no second header after no socket.
            0 if !seen_any && unread.is_empty() => listing.end = End::Whole,
            count if count > 0 && !seen_any && listing.end == End::Whole => {
                listing.end = End::Withheld { count };
            }
            _ => {}
        }
        Ok(listing)
    }

    /// What a user has to choose to see its sockets.
    pub(crate) fn families(self) -> Families {
        match self {
            PcbList::Tcp | PcbList::Udp | PcbList::Raw => Families::INET,
            PcbList::LocalStream | PcbList::LocalDgram => Families::UNIX,
            PcbList::Kctl | PcbList::Kevt => Families::SYSTEM,
        }
    }

    /// The families that its sockets can have.
    pub(crate) fn family(self) -> &'static [Family] {
        match self {
            PcbList::Tcp | PcbList::Udp | PcbList::Raw => &[Family::Inet, Family::Inet6],
            PcbList::LocalStream | PcbList::LocalDgram => &[Family::Unix],
            PcbList::Kctl | PcbList::Kevt => &[Family::System],
        }
    }

    /// The protocol of all its sockets; None where each has its own.
    pub(crate) fn only_protocol(self) -> Option<u16> {
        (self != PcbList::Raw).then(|| self.protocol())
    }

    /// The protocol of a socket that says nothing of it.
    fn protocol(self) -> u16 {
        match self {
            PcbList::Tcp => IPPROTO_TCP,
            PcbList::Udp => IPPROTO_UDP,
            PcbList::Raw | PcbList::LocalStream | PcbList::LocalDgram => 0,
            PcbList::Kctl => SYSPROTO_CONTROL,
            PcbList::Kevt => SYSPROTO_EVENT,
        }
    }
}

impl Listing {
    fn take(&mut self, list: PcbList, header: &Header, group: Option<Group>) {
        let Some(group) = group else { return };
        match group.parse(list, header.generation) {
            Ok((_, Some(pcb))) => self.pcbs.push(pcb),
            // It came meanwhile, or is being torn down.
            Ok((_, None)) => {}
            Err(_) => self.malformed += 1,
        }
    }
}

/// `struct xinpgen`, `xunpgen` or `xsystmgen`.
struct Header {
    length: usize,
    count: u64,
    generation: u64,
}

/// The one with a count of 32 bits.
const SHORT_HEADER: u32 = 24;

fn header(value: &[u8]) -> IResult<&[u8], Header> {
    let (_, length) = le_u32.parse(value)?;
    let (unread, header) = take(length).parse(value)?;
    let (fields, _length) = le_u32.parse(header)?;
    let (fields, count) = match length {
        SHORT_HEADER => map(le_u32, u64::from).parse(fields)?,
        _ => (take(4_usize), le_u64).map(|(_padding, count)| count).parse(fields)?,
    };
    let (_, (generation, _sockets)) = (le_u64, le_u64).parse(fields)?;
    Ok((unread, Header { length: header.len(), count, generation }))
}

impl Header {
    /// Whether it stands there again. No record has the length of the short one, whose next word is its
    /// count and can be any kind's. Others have that of the long one, whose next word is 0: it is all
    /// that is left.
    fn is_repeated(&self, unread: &[u8]) -> bool {
        let words: IResult<&[u8], (u32, u32)> = (le_u32, le_u32).parse(unread);
        let Ok((_, (length, next))) = words else { return false };
        usize::try_from(length) == Ok(self.length)
            && match length {
                SHORT_HEADER => unread.len() >= self.length,
                _ => unread.len() == self.length && next == 0,
            }
    }
}

/// A record without its length and kind.
#[derive(Clone, Copy, Debug)]
struct Record<'a> {
    kind: u32,
    fields: &'a [u8],
}

fn record(unread: &[u8]) -> IResult<&[u8], Record<'_>> {
    const HEAD: u32 = 8;
    let (_, length) = verify(le_u32, |&length| length >= HEAD).parse(unread)?;
    let (padded, record) = take(length).parse(unread)?;
    let padding = record.len().next_multiple_of(8) - record.len();
    let (unread, _) = take(padding.min(padded.len())).parse(padded)?;
    let (_, (_length, kind, fields)) = (le_u32, le_u32, rest).parse(record)?;
    Ok((unread, Record { kind, fields }))
}

/// The records of one socket.
#[derive(Debug)]
struct Group<'a> {
    pcb: Record<'a>,
    /// The records after it, by kind.
    socket: Option<&'a [u8]>,
    received: Option<&'a [u8]>,
    sent: Option<&'a [u8]>,
    statistics: Option<&'a [u8]>,
    tcpcb: Option<&'a [u8]>,
}

type Parsed<'a, T> = Result<(&'a [u8], T), nom::Err<nom::error::Error<&'a [u8]>>>;

impl<'a> Group<'a> {
    fn new(pcb: Record<'a>) -> Self {
        Group { pcb, socket: None, received: None, sent: None, statistics: None, tcpcb: None }
    }

    fn add(&mut self, Record { kind, fields }: Record<'a>) {
        let place = match kind {
            XSO_SOCKET => &mut self.socket,
            XSO_RCVBUF => &mut self.received,
            XSO_SNDBUF => &mut self.sent,
            XSO_STATS => &mut self.statistics,
            XSO_TCPCB => &mut self.tcpcb,
            // One of a kernel that is newer than this, or, with kind 0, of a socket that is gone.
            _ => return,
        };
        // A second one is of another socket, whose first record was of a kind that is not known.
        place.get_or_insert(fields);
    }

    /// Whether the record is there that comes last in such a list.
    fn has_last(&self, list: PcbList) -> bool {
        let last = if list == PcbList::Tcp { self.tcpcb } else { self.statistics };
        last.is_some()
    }

    /// None if it does not count.
    fn parse(self, list: PcbList, newest: u64) -> Parsed<'a, Option<Pcb>> {
        let (_, socket) = match self.socket {
            Some(fields) => xsocket_n(fields)?,
            None => (&[][..], XSocket::default()),
        };
        let protocol = match u16::try_from(socket.protocol) {
            Ok(0) | Err(_) => list.protocol(),
            Ok(protocol) => protocol,
        };
        let mut pcb = PcbIdentity::default();
        let mut state = None;
        let binding = match self.pcb.kind {
            XSO_INPCB => {
                let (_, (identity, ends)) = xinpcb_n(self.pcb.fields)?;
                pcb = identity;
                if let Some(tcpcb) = self.tcpcb {
                    state = Some(xtcpcb_n(tcpcb)?.1);
                }
                // None of a socket that is being torn down.
                let Some(by_address) = ends.family() else { return Ok((&[], None)) };
                let family = match socket.family {
                    known @ (AF_INET | AF_INET6) => known,
                    _ => by_address,
                };
                ends.binding(family, protocol, state)
            }
            XSO_UNPCB => {
                let (_, (identity, path)) = xunpcb_n(self.pcb.fields)?;
                pcb = identity;
                Binding::Unix { path }
            }
            XSO_KCB => {
                let (_, (handle, control)) = xkctlpcb(self.pcb.fields)?;
                pcb.handle = handle;
                Binding::System { protocol, control }
            }
            _ => {
                let (_, (handle, control)) = xkevtpcb(self.pcb.fields)?;
                pcb.handle = handle;
                Binding::System { protocol, control }
            }
        };
        if pcb.generation > newest {
            return Ok((&[], None));
        }
        let bytes = |fields: Option<&'a [u8]>| Some(xsockbuf_n(fields?).ok()?.1);
        let bytes = (bytes(self.received), bytes(self.sent));
        let (receive_queue, send_queue) = queues(socket.options, socket.queue, bytes);
        let is_socket = socket.handle != 0;
        let kind = match u8::try_from(socket.kind) {
            Ok(0) | Err(_) => match binding {
                Binding::Inet { .. } if list != PcbList::Raw => socket_type(protocol),
                _ => 0,
            },
            Ok(kind) => kind,
        };
        let details = Details {
            kind,
            uid: is_socket.then_some(socket.uid),
            receive_queue,
            send_queue,
            ..Details::default()
        };
        let darwin = DarwinDetails {
            peer: None,
            last_pid: (is_socket || socket.last_pid != 0).then_some(socket.last_pid),
            without_fd: socket.without_fd(state, pcb.generation),
        };
        let inode = socket.handle;
        let pcb = Pcb {
            socket: Socket { inode, net_namespace: None, binding, details },
            details: darwin,
            // That of a UNIX socket is of another count, and nothing else tells it.
            generation: NonZeroU64::new(pcb.generation).filter(|_| self.pcb.kind == XSO_INPCB),
            pcb: pcb.handle,
            peer_pcb: pcb.peer,
        };
        Ok((&[], Some(pcb)))
    }
}

/// What the records of all protocols have.
#[derive(Default)]
struct PcbIdentity {
    handle: u64,
    /// 0 where there is none.
    generation: u64,
    peer: u64,
}

/// `struct xinpcb_n`; what comes after the addresses is left.
fn xinpcb_n(fields: &[u8]) -> IResult<&[u8], (PcbIdentity, InPcb)> {
    let (fields, (handle, remote_port, local_port)) = (le_u64, be_u16, be_u16).parse(fields)?;
    let (fields, (_ppcb, generation)) = (le_u64, le_u64).parse(fields)?;
    let (fields, (_flags, _flow, vflag, _ttl)) = (le_i32, le_u32, u8, u8).parse(fields)?;
    let (fields, (_protocol, _padding)) = (u8, u8).parse(fields)?;
    let (fields, (remote, local)) = (be_u128, be_u128).parse(fields)?;
    let identity = PcbIdentity { handle, generation, peer: 0 };
    Ok((fields, (identity, InPcb { remote_port, local_port, vflag, remote, local })))
}

/// `struct xunpcb_n`; the path of the other end is left.
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

/// `struct xkevtpcb`: its handle, and which events.
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
    /// Why no descriptor can be its; None if one could.
    fn without_fd(&self, tcp: Option<TcpState>, generation: u64) -> Option<OwnerUnknown> {
        let has = |bits| self.state & bits != 0;
        let is_of_kernel = match self.flags {
            Some((_, flags1)) => flags1 & SOF1_IN_KERNEL_SOCKET != 0,
            None => self.last_pid == 0,
        };
        let is_subflow = self.flags.is_some_and(|(flags, _)| flags & SOF_MP_SUBFLOW != 0);
        if self.handle == 0 && generation == 0 {
            Some(OwnerUnknown::UserSpace)
        } else if has(SS_INCOMP) && tcp == Some(TcpState::SynRecv) {
            Some(OwnerUnknown::SynRecv)
        } else if has(SS_INCOMP | SS_COMP) {
            Some(OwnerUnknown::AcceptQueue)
        } else if is_subflow {
            Some(OwnerUnknown::Subflow)
        } else if self.handle != 0 && is_of_kernel {
            Some(OwnerUnknown::Kernel)
        } else if self.handle == 0 || has(SS_NOFDREF) {
            let is_over = tcp == Some(TcpState::TimeWait);
            Some(if is_over { OwnerUnknown::TimeWait } else { OwnerUnknown::Orphan })
        } else {
            None
        }
    }
}

/// `struct xsockbuf_n`: the bytes that wait in it.
fn xsockbuf_n(fields: &[u8]) -> IResult<&[u8], u32> {
    le_u32.parse(fields)
}

/// `struct xtcpcb_n`: the connection's state.
fn xtcpcb_n(fields: &[u8]) -> IResult<&[u8], TcpState> {
    let (fields, (_segq, _dupacks)) = (le_u64, le_i32).parse(fields)?;
    let (fields, _timers) = take(16_usize).parse(fields)?;
    map(le_i32, tcp_state).parse(fields)
}

#[cfg(test)]
mod tests;
