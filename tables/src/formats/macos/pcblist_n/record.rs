//! Records: each begins with its length and its kind.

use nom::bytes::complete::take;
use nom::combinator::{rest, verify};
use nom::number::complete::le_u32;
use nom::{IResult, Parser};

/// The kinds of the record with which a socket begins.
pub(super) const XSO_INPCB: u32 = 0x10;
pub(super) const XSO_KCB: u32 = 0x80;
pub(super) const XSO_EVT: u32 = 0x100;
pub(super) const XSO_UNPCB: u32 = 0x200;

/// A record without its length and kind.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record<'a> {
    pub(super) kind: u32,
    pub(super) fields: &'a [u8],
}

pub(super) fn record(unread: &[u8]) -> IResult<&[u8], Record<'_>> {
    const HEAD: u32 = 8;
    let (_, length) = verify(le_u32, |&length| length >= HEAD).parse(unread)?;
    let (padded, record) = take(length).parse(unread)?;
    let padding = record.len().next_multiple_of(8) - record.len();
    let (unread, _) = take(padding.min(padded.len())).parse(padded)?;
    let (_, (_length, kind, fields)) = (le_u32, le_u32, rest).parse(record)?;
    Ok((unread, Record { kind, fields }))
}
