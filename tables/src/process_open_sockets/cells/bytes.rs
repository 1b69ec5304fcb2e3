//! The bytes that sockets have sent and received: the kernel counts those of TCP, the collection of events those of datagrams.

use super::tcp::{self, wide};
use crate::Value;
use crate::model::tcp_event::Bytes;
use crate::model::{COUNTED_FAMILIES, COUNTED_TYPES, Family};
use crate::process_open_sockets::row::{RowOf, RowParts};

pub(in super::super) fn sent(parts: RowParts<'_>) -> Value<'_> {
    wide(match tcp::of(parts.socket) {
        Some(tcp) => tcp.bytes_sent,
        None => of_datagrams(parts).map(|bytes| bytes.sent),
    })
}

pub(in super::super) fn received(parts: RowParts<'_>) -> Value<'_> {
    wide(match tcp::of(parts.socket) {
        Some(tcp) => tcp.bytes_received,
        None => {
            // A packet socket can receive in mapped memory, which is not counted.
            let is_packet = parts.socket.family() == Some(Family::Packet as u8);
            let received = of_datagrams(parts).map(|bytes| bytes.received);
            received.filter(|&bytes| bytes != 0 || !is_packet)
        }
    })
}

/// The bytes of a UDP, raw, ping or packet socket, if they are counted. Of unheld sockets it is unknown whether they are
/// older than the counting; those of the kernel are not counted.
fn of_datagrams(parts: RowParts<'_>) -> Option<Bytes> {
    if matches!(parts.row.of, RowOf::Unheld(_)) {
        return None;
    }
    let bytes = parts.snapshot.datagram_bytes.as_ref()?;
    let socket = parts.socket;
    let is_counted = COUNTED_TYPES.contains(&socket.details.kind)
        && COUNTED_FAMILIES.into_iter().any(|family| socket.family() == Some(family as u8));
    let cookie = socket.details.extended.as_deref()?.cookie?;
    if is_counted { bytes.of(cookie.get()) } else { None }
}
