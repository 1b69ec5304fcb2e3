//! Messages of NETLINK_SOCK_DIAG (sock_diag(7), netlink(7)): the kernel's lists of sockets.
//!
//! The formats are in `include/uapi/linux/{netlink,sock_diag,inet_diag,unix_diag,packet_diag}.h`,
//! what the kernel does with them in `net/ipv4/inet_diag.c` and its neighbours, `net/unix/diag.c` and
//! `net/packet/diag.c`. Numbers are in the byte order of the machine, but for addresses and ports.
//!
//! The resulting sockets are the same as those of `/proc/net`, so that the source does not matter; `answer.rs`
//! documents the differences of the formats. There is no dump of ping sockets.
//!
//! The parser does not use nom, as `proc_net` does: the messages have no grammar, only fields at fixed offsets,
//! and a dump can have 100,000 of them.

mod answer;
mod request;
#[cfg(test)]
mod tests;

pub(crate) use answer::{Listed, unix_name};
pub(crate) use request::{Request, States};

/// The bytes are truncated, or do not have the format of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

/// A message of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Message<'a> {
    /// A socket, for [`Request::parse`].
    Socket(&'a [u8]),
    /// The end of the answer: 0, or an error number.
    End(i32),
    /// The kernel had to drop a part of the answer.
    Overrun,
}

/// The messages in a datagram from the kernel that answer one request.
pub(crate) struct Messages<'a> {
    rest: &'a [u8],
    sequence: u32,
    interrupted: bool,
}

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLMSG_OVERRUN: u16 = 4;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_DUMP_INTR: u16 = 0x10;
/// `struct nlmsghdr`.
const MESSAGE_HEADER: usize = 16;
/// `struct nlattr`.
const ATTRIBUTE_HEADER: usize = 4;

impl<'a> Messages<'a> {
    /// Skips messages with another sequence number.
    pub(crate) fn new(datagram: &'a [u8], sequence: u32) -> Self {
        Messages { rest: datagram, sequence, interrupted: false }
    }

    /// Whether a message so far has NLM_F_DUMP_INTR: the table changed during the dump.
    pub(crate) fn interrupted(&self) -> bool {
        self.interrupted
    }

    fn read(&mut self) -> Result<Option<Message<'a>>, Malformed> {
        while !self.rest.is_empty() {
            let mut header = self.rest;
            let length = u32::from_ne_bytes(take(&mut header)?);
            let kind = u16::from_ne_bytes(take(&mut header)?);
            let flags = u16::from_ne_bytes(take(&mut header)?);
            let sequence = u32::from_ne_bytes(take(&mut header)?);
            let length = usize::try_from(length).map_err(|_| Malformed)?;
            let payload = take_record(&mut self.rest, length, MESSAGE_HEADER)?;
            if sequence != self.sequence {
                continue;
            }
            self.interrupted |= flags & NLM_F_DUMP_INTR != 0;
            match kind {
                SOCK_DIAG_BY_FAMILY => return Ok(Some(Message::Socket(payload))),
                NLMSG_ERROR => return Ok(Some(Message::End(errno(payload)?))),
                // Kernels before 2.6.19 give no number here.
                NLMSG_DONE if payload.is_empty() => return Ok(Some(Message::End(0))),
                NLMSG_DONE => return Ok(Some(Message::End(errno(payload)?))),
                NLMSG_OVERRUN => return Ok(Some(Message::Overrun)),
                _ => {}
            }
        }
        Ok(None)
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Result<Message<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        let message = self.read();
        if message.is_err() {
            self.rest = &[];
        }
        message.transpose()
    }
}

/// The error that a message begins with, as a number that is not negative.
fn errno(mut payload: &[u8]) -> Result<i32, Malformed> {
    let errno = i32::from_ne_bytes(take(&mut payload)?);
    errno.checked_neg().filter(|&errno| errno >= 0).ok_or(Malformed)
}

/// The attributes that follow a message's fixed part: types and values.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = Result<(u16, &[u8]), Malformed>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let attribute = take_attribute(&mut bytes);
        if attribute.is_err() {
            bytes = &[];
        }
        Some(attribute)
    })
}

fn take_attribute<'a>(bytes: &mut &'a [u8]) -> Result<(u16, &'a [u8]), Malformed> {
    /// Two bits of the type are flags.
    const NLA_TYPE_MASK: u16 = 0x3fff;
    let mut header = *bytes;
    let length = u16::from_ne_bytes(take(&mut header)?);
    let kind = u16::from_ne_bytes(take(&mut header)?);
    let value = take_record(bytes, length.into(), ATTRIBUTE_HEADER)?;
    Ok((kind & NLA_TYPE_MASK, value))
}

/// Splits a record of this length off the front, and returns its content after the header. Records begin at
/// multiples of four bytes; the padding of the last one can be missing.
fn take_record<'a>(
    bytes: &mut &'a [u8],
    length: usize,
    header: usize,
) -> Result<&'a [u8], Malformed> {
    let content = bytes.get(header..length).ok_or(Malformed)?;
    *bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Ok(content)
}

/// Splits N bytes off the front.
fn take<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], Malformed> {
    crate::formats::take(bytes).ok_or(Malformed)
}
