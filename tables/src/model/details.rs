//! Details of a socket.

use std::num::{NonZeroU32, NonZeroU64};

use super::extended_details::{ExtendedDetails, Interface};
use super::holder_unknown::HolderUnknown;

/// Details of a socket beyond the columns of osquery's table.
///
/// Not every source reports all: `/proc/net` has no peers and no control groups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Details {
    /// SOCK_STREAM (1), SOCK_DGRAM (2), SOCK_RAW (3), SOCK_SEQPACKET (5), SOCK_PACKET (10); 0 if it is unknown.
    pub(crate) kind: u8,
    /// The owner: the uid of the creator. None without an inode, since the kernel then reports 0.
    pub(crate) uid: Option<u32>,
    /// The inode of the peer of a UNIX socket, after the connection is accepted.
    pub(crate) peer: Option<NonZeroU32>,
    /// Bytes in the receive queue; for a listener, connections in the accept queue.
    pub(crate) receive_queue: Option<u32>,
    /// Bytes in the send queue; for a listener, the limit of the accept queue.
    pub(crate) send_queue: Option<u32>,
    /// The inode of the control group (v2) in which the socket was created.
    pub(crate) cgroup: Option<NonZeroU64>,
    /// Whether the socket listens, where no state shows it: a UNIX socket, and any socket on macOS.
    pub(crate) listens: bool,
    /// Whether the record is spoofable: a line of a file that a UNIX path can imitate.
    pub(crate) may_be_forged: bool,
    /// The reads that showed the socket, if it has no holder.
    pub(crate) presence: Presence,
    /// None if the socket has none of them.
    pub(crate) extended: Option<Box<ExtendedDetails>>,
}

impl Details {
    /// The interface that the socket is bound to.
    pub(crate) fn interface(&self) -> Option<&Interface> {
        self.extended.as_deref()?.interface.as_ref()
    }

    #[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "only Linux reads names later"))]
    pub(crate) fn interface_mut(&mut self) -> Option<&mut Interface> {
        self.extended.as_deref_mut()?.interface.as_mut()
    }
}

/// The reads of a scan that showed a socket without a holder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Presence {
    /// The first read, and the second read if there was one.
    #[default]
    Lasting,
    /// Only the second read.
    #[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "macOS adds no socket later"))]
    Opened,
    /// Only the first read.
    Closed,
}

/// Details that only macOS reports.
///
/// They are separate from [`Details`], so that they cost nothing on Linux.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DarwinDetails {
    /// The handle of the peer of a UNIX socket.
    pub(crate) peer: Option<NonZeroU64>,
    /// The process that used the socket last (`so_last_pid`), 0 for the kernel. It can have closed the socket or
    /// ended since, and another process can have its pid.
    pub(crate) last_pid: Option<i32>,
    /// Why no descriptor can refer to the socket; None if one can.
    pub(crate) without_fd: Option<HolderUnknown>,
}
