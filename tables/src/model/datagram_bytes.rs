//! Bytes of datagram sockets, while datagrams are counted.

use std::collections::HashMap;
use std::sync::Arc;

use super::family::Family;
use super::protocol::{SOCK_DGRAM, SOCK_PACKET, SOCK_RAW};
use super::tcp_event::Bytes;

/// The types (SOCK_*) and the families of the sockets whose datagrams are counted.
pub(crate) const COUNTED_TYPES: [u8; 3] = [SOCK_DGRAM, SOCK_RAW, SOCK_PACKET];
pub(crate) const COUNTED_FAMILIES: [Family; 3] = [Family::Inet, Family::Inet6, Family::Packet];

/// Counts the datagrams of the host.
pub(crate) trait DatagramCounter: Send + Sync {
    /// Whether they are counted now.
    fn is_counting(&self) -> bool;
    /// The bytes up to now; None if they are not counted, or cannot be read.
    fn bytes(&self) -> Option<DatagramBytes>;
}

/// The bytes of the sockets that were opened since counting began.
#[derive(Debug)]
pub(crate) struct DatagramBytes {
    /// By socket cookie: those of the sockets that were used, older ones included.
    pub(crate) counted: HashMap<u64, Bytes>,
    /// The cookies of the older sockets, sorted.
    pub(crate) opened_before: Arc<[u64]>,
    /// Whether a socket without entry has sent and received nothing.
    pub(crate) is_complete: bool,
}

impl DatagramBytes {
    /// These, and later ones: of a socket that both have, the later ones.
    pub(crate) fn then(mut self, later: DatagramBytes) -> DatagramBytes {
        self.counted.extend(later.counted);
        let is_complete = self.is_complete && later.is_complete;
        DatagramBytes { counted: self.counted, opened_before: later.opened_before, is_complete }
    }

    /// The bytes of the datagram socket with this cookie; None: unknown.
    pub(crate) fn of(&self, cookie: u64) -> Option<Bytes> {
        if self.opened_before.binary_search(&cookie).is_ok() {
            return None;
        }
        let unused = || self.is_complete.then(Bytes::default);
        self.counted.get(&cookie).copied().or_else(unused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(is_complete: bool) -> DatagramBytes {
        let counted = HashMap::from([(1, Bytes { sent: 5, received: 7 }), (3, Bytes::default())]);
        DatagramBytes { counted, opened_before: Arc::from([3, 4]), is_complete }
    }

    #[test]
    fn only_newer_sockets_have_bytes() {
        let bytes = bytes(true);
        let of = [1, 2, 3, 4].map(|cookie| bytes.of(cookie).map(|it| (it.sent, it.received)));
        assert_eq!(of, [Some((5, 7)), Some((0, 0)), None, None]);
    }

    #[test]
    fn a_socket_that_was_closed_keeps_its_bytes() {
        let sent = |sent| Bytes { sent, received: 0 };
        let read = |counted: &[(u64, u64)]| DatagramBytes {
            counted: counted.iter().map(|&(cookie, bytes)| (cookie, sent(bytes))).collect(),
            ..bytes(true)
        };
        let bytes = read(&[(1, 5), (2, 6)]).then(read(&[(2, 7)]));
        assert_eq!([1, 2].map(|cookie| bytes.of(cookie)), [Some(sent(5)), Some(sent(7))]);
    }

    #[test]
    fn an_unused_socket_is_unknown_if_some_have_no_entry() {
        assert_eq!([1, 2].map(|cookie| bytes(false).of(cookie).is_some()), [true, false]);
    }
}
