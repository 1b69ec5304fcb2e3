//! The kernel's own lists of sockets on macOS: the values of `net.inet.{tcp,udp,raw}.pcblist_n`,
//! `net.local.{stream,dgram}.pcblist_n` and `net.systm.{kctl,kevt}.pcblist` (sysctl(3)).
//!
//! The formats are in `bsd/netinet/in_pcb.h`, `bsd/sys/{socketvar,unpcb,kern_control,kern_event}.h` and
//! `bsd/netinet/tcp_var.h` of XNU, what the kernel does with them in `bsd/netinet/in_pcblist.c`,
//! `bsd/kern/{uipc_usrreq,kern_control,kern_event}.c`. A value is a header, a group of records for each
//! socket, and the header again. A record begins with its length and its kind, and the next begins at the
//! next multiple of 8. Records may grow, and kinds may be added: that is why the length is there.
//!
//! No group has the holder of the socket, only the process that used it last.

mod group;
mod list;
mod pcb;
mod record;

use nom::bytes::complete::take;
use nom::combinator::map;
use nom::number::complete::{le_u32, le_u64};
use nom::{IResult, Parser};

use self::group::Group;
pub(crate) use self::list::PcbList;
pub(crate) use self::pcb::Pcb;
use self::record::{XSO_EVT, XSO_INPCB, XSO_KCB, XSO_UNPCB, record};
use super::xnu::Malformed;

/// A parsed list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listing {
    pub(crate) pcbs: Vec<Pcb>,
    /// The number of malformed groups.
    pub(crate) malformed: u64,
    pub(crate) end: End,
    /// The count in the header: about the number of sockets. Both lists of UNIX sockets have one common count.
    pub(crate) count: u64,
    /// The number of groups, including those that are left out.
    pub(crate) groups: u64,
}

/// The end of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The list is complete.
    Whole,
    /// The list is truncated: sockets are missing.
    Truncated,
}

impl PcbList {
    /// Reads a list; an error if it has no header.
    ///
    /// Incomplete groups are left out, and so are groups of sockets that were created while the list was written:
    /// these can be in the list twice.
    pub(crate) fn parse(self, value: &[u8]) -> Result<Listing, Malformed> {
        let (mut unread, header) = header(value).map_err(|_| Malformed)?;
        let (pcbs, count) = (Vec::new(), header.count);
        let mut listing = Listing { pcbs, malformed: 0, end: End::Truncated, count, groups: 0 };
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
        // An empty list has no second header.
        if header.count == 0 && listing.groups == 0 && unread.is_empty() {
            listing.end = End::Whole;
        }
        Ok(listing)
    }
}

impl Listing {
    fn take(&mut self, list: PcbList, header: &Header, group: Option<Group>) {
        let Some(group) = group else { return };
        match group.parse(list, header.generation) {
            Ok((_, Some(pcb))) => self.pcbs.push(pcb),
            // The socket was created in the meantime, or is being torn down.
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

/// The header with a 32-bit count.
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
    /// Whether the header is repeated here, at the end of the list. No record has the length of the short header,
    /// whose next word, the count, can look like any kind. If a later kernel has such a record, more bytes follow
    /// it. Other records have the length of the long header, but its next word is 0, and it is the rest of the
    /// list.
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

#[cfg(test)]
mod tests;
