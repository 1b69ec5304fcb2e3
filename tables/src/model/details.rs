//! What is known of a socket besides what it is bound and connected to.

use std::num::{NonZeroU32, NonZeroU64};

use super::holder_unknown::HolderUnknown;

/// What the kernel tells of a socket beyond the columns of osquery's table.
///
/// Not every source tells all: `/proc/net` knows no peers and no control groups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Details {
    /// SOCK_STREAM (1), SOCK_DGRAM (2), SOCK_RAW (3), SOCK_SEQPACKET (5), SOCK_PACKET (10); 0 if it
    /// is not known.
    pub(crate) kind: u8,
    /// Who made it. None without an inode, since the kernel then says 0 whoever it was.
    pub(crate) uid: Option<u32>,
    /// The inode of the UNIX socket at the other end, once that has been accepted.
    pub(crate) peer: Option<NonZeroU32>,
    /// Bytes that wait to be read; of a listener, connections that wait to be accepted.
    pub(crate) receive_queue: Option<u32>,
    /// Bytes on their way; of a listener, how many connections may wait.
    pub(crate) send_queue: Option<u32>,
    /// The interface that it is bound to.
    pub(crate) interface: Option<Box<Interface>>,
    /// The inode of the control group (v2) in which it was made.
    pub(crate) cgroup: Option<NonZeroU64>,
    /// Whether the record can be forged: it is a line of a file that a UNIX path can imitate.
    pub(crate) may_be_forged: bool,
    /// When it was seen, if it has no holder.
    pub(crate) presence: Presence,
}

/// When a socket without a holder was seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Presence {
    /// At the beginning, and as far as known at the end of the scan.
    #[default]
    Lasting,
    /// At the end of the scan only.
    Opened,
    /// At the beginning of the scan only.
    Closed,
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Interface {
    /// Its number in its namespace.
    pub(crate) index: u32,
    /// None until the namespace was asked for it.
    pub(crate) name: Option<String>,
}

impl Interface {
    /// The one of that number; 0 is none.
    pub(crate) fn of_index(index: u32) -> Option<Box<Interface>> {
        (index != 0).then(|| Box::new(Interface { index, name: None }))
    }
}

/// What macOS alone tells of a socket.
///
/// Not part of [`Details`], so that there it costs Linux nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DarwinDetails {
    /// The handle of the UNIX socket at the other end.
    pub(crate) peer: Option<NonZeroU64>,
    /// The process that used it last (`so_last_pid`), 0 for the kernel. It may have closed the socket
    /// since, or ended, and its number be another's by now.
    pub(crate) last_pid: Option<i32>,
    /// Why no descriptor can be the socket's; None if one could.
    pub(crate) without_fd: Option<HolderUnknown>,
}
