//! What a scan collected.

use std::collections::HashMap;
use std::num::NonZeroU64;

use super::details::{DarwinDetails, Presence};
use super::holder_unknown::HolderUnknown;
use super::holders::Holders;
use super::net_namespace::NetNamespace;
use super::omission::{OmissionKind, Omissions};
use super::socket::Socket;
use super::uids::Uids;
use super::work::Work;

/// What was collected for one query.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    pub(crate) sockets: Vec<Socket>,
    pub(crate) holders: Holders,
    pub(crate) omissions: Omissions,
    /// What the collector decided before it read anything.
    pub(crate) plan: String,
    pub(crate) work: Work,
    /// What is to be logged besides omissions.
    pub(crate) messages: Vec<(log::Level, String)>,
    /// The network namespace of the host's first process, if it is asked for.
    pub(crate) host: Option<NetNamespace>,
    /// The paths of the sockets' control groups by inode, if they are asked for.
    pub(crate) cgroups: HashMap<NonZeroU64, Box<[u8]>>,
    /// Of each socket, in their order; none on Linux.
    pub(crate) darwin: Vec<DarwinDetails>,
    pub(crate) uids: Uids,
}

impl Snapshot {
    /// Why nobody in the snapshot holds this socket of it, which has this place there.
    pub(crate) fn holder_unknown(&self, index: u32, socket: &Socket) -> HolderUnknown {
        match socket.details.presence {
            Presence::Lasting => {}
            Presence::Opened => return HolderUnknown::OpenedDuringScan,
            Presence::Closed => return HolderUnknown::ClosedDuringScan,
        }
        let hidden = [
            OmissionKind::Fds,
            OmissionKind::Blocked,
            OmissionKind::Deadline,
            OmissionKind::Descriptors,
            OmissionKind::Hidepid,
            OmissionKind::PidNamespace,
        ];
        let not_all_seen = hidden.into_iter().any(|kind| self.omissions.has(kind));
        let with_file =
            if not_all_seen { HolderUnknown::Unreadable } else { HolderUnknown::NoProcess };
        match usize::try_from(index).ok().and_then(|index| self.darwin.get(index)) {
            Some(darwin) => darwin.without_fd.unwrap_or(with_file),
            None => socket.is_without_file().unwrap_or(with_file),
        }
    }
}
