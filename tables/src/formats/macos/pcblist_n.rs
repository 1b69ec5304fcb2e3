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

mod group;

use std::ffi::CStr;
use std::num::NonZeroU64;

use nom::bytes::complete::take;
use nom::combinator::{map, rest, verify};
use nom::number::complete::{le_u32, le_u64};
use nom::{IResult, Parser};

use self::group::Group;
use super::xnu::{Malformed, SYSPROTO_CONTROL, SYSPROTO_EVENT};
use crate::model::protocol::{IPPROTO_TCP, IPPROTO_UDP};
use crate::model::{Binding, DarwinDetails, Families, Family, OwnerUnknown, Socket, TcpState};

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
    /// How many sockets the header counts: about as many as there are. The lists of UNIX sockets have one
    /// count of the sockets of both.
    pub(crate) count: u64,
    /// How many groups stand there, with those that are left out.
    pub(crate) groups: u64,
}

/// How a list ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// As it should.
    Whole,
    /// Somewhere: sockets are missing.
    Cut,
}

/// A socket of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pcb {
    pub(crate) socket: Socket,
    pub(crate) details: DarwinDetails,
    /// Different for every socket of a list since boot, even where the handle comes again; None for those of
    /// user space and of AF_SYSTEM.
    pub(crate) generation: Option<NonZeroU64>,
    /// The handle of the protocol's part of the socket, which can be a peer's peer.
    pub(crate) pcb: u64,
    /// That of the UNIX socket at the other end, or 0.
    pub(crate) peer_pcb: u64,
}

impl Pcb {
    /// Whether a descriptor can be its, or can become it: a connection is accepted some time, and between the
    /// queue and its descriptor it looks like an orphan.
    pub(crate) fn may_be_held(&self) -> bool {
        let may = match self.details.without_fd {
            None | Some(OwnerUnknown::SynRecv | OwnerUnknown::AcceptQueue) => true,
            Some(OwnerUnknown::Orphan) => match self.socket.binding {
                Binding::Inet { state: Some(state), .. } => {
                    matches!(state, TcpState::Established | TcpState::CloseWait)
                }
                _ => true,
            },
            Some(_) => false,
        };
        may && self.socket.inode != 0
    }
}

/// The kinds of the record with which a socket begins.
const XSO_INPCB: u32 = 0x10;
const XSO_KCB: u32 = 0x80;
const XSO_EVT: u32 = 0x100;
const XSO_UNPCB: u32 = 0x200;

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
        let (pcbs, count) = (Vec::new(), header.count);
        let mut listing = Listing { pcbs, malformed: 0, end: End::Cut, count, groups: 0 };
        let mut group: Option<Group> = None;
        loop {
            if header.is_repeated(unread) {
                listing.end = End::Whole;
                break;
            }
            let Ok((next, record)) = record(unread) else { break };
            unread = next;
            if matches!(record.kind, XSO_INPCB | XSO_UNPCB | XSO_KCB | XSO_EVT) {
                listing.groups += 1;
                listing.take(self, &header, group.replace(Group::new(record)));
            } else if let Some(group) = &mut group {
                group.add(record);
            }
        }
        if listing.end == End::Whole || group.as_ref().is_some_and(|group| group.has_last(self)) {
            listing.take(self, &header, group);
        }
        // There is no second header after no socket.
        if header.count == 0 && listing.groups == 0 && unread.is_empty() {
            listing.end = End::Whole;
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

    /// Whether the headers of both count the sockets of both, as those of UNIX sockets do.
    pub(crate) fn shares_count_with(self, other: PcbList) -> bool {
        self == other || (self.families(), other.families()) == (Families::UNIX, Families::UNIX)
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
    /// count and can be any kind's; should one come to have it, there is more after it. Others have that of
    /// the long one, whose next word is 0: it is all that is left.
    fn is_repeated(&self, unread: &[u8]) -> bool {
        let words: IResult<&[u8], (u32, u32)> = (le_u32, le_u32).parse(unread);
        let Ok((_, (length, next))) = words else { return false };
        usize::try_from(length) == Ok(self.length)
            && match length {
                SHORT_HEADER => {
                    unread.get(self.length..).is_some_and(|rest| rest.iter().all(|&byte| byte == 0))
                }
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

#[cfg(test)]
mod tests;
