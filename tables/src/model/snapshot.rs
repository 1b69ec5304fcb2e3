//! The result of a scan.

use std::collections::HashMap;
use std::num::NonZeroU64;

use super::container::Container;
use super::datagram_bytes::DatagramBytes;
use super::details::{DarwinDetails, Presence};
use super::holder_unknown::HolderUnknown;
use super::holders::Holders;
use super::net_namespace::{NetNamespace, NetNamespaceNames};
use super::omission::{OmissionKind, Omissions};
use super::process::Processes;
use super::socket::Socket;
use super::uids::Uids;
use super::work::Work;

/// The sockets and holders of one query.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    pub(crate) sockets: Vec<Socket>,
    pub(crate) holders: Holders,
    pub(crate) omissions: Omissions,
    /// The plan of the scan, as text.
    pub(crate) plan: String,
    pub(crate) work: Work,
    /// Messages to log besides omissions.
    #[cfg(target_os = "linux")]
    pub(crate) messages: Vec<(log::Level, String)>,
    /// The network namespace of the host's first process, if the query reads it.
    pub(crate) host: Option<NetNamespace>,
    /// The names of network namespaces, if the query reads them.
    pub(crate) net_namespace_names: NetNamespaceNames,
    /// The paths of the sockets' control groups by inode, if the query reads them.
    pub(crate) cgroups: HashMap<NonZeroU64, Box<[u8]>>,
    /// The containers that these paths name, by inode, if the query reads them.
    pub(crate) containers: HashMap<NonZeroU64, Container>,
    /// The processes that hold the sockets, as far as the query reads them.
    pub(crate) processes: Processes,
    /// When the processes that hold sockets started, in clock ticks, if the query reads more of them.
    #[cfg(target_os = "linux")]
    pub(crate) start_times: HashMap<i32, u64>,
    /// One for each socket, in the same order; empty on Linux.
    pub(crate) darwin: Vec<DarwinDetails>,
    /// The bytes of datagram sockets, if the query reads them and they are counted.
    pub(crate) datagram_bytes: Option<DatagramBytes>,
    pub(crate) uids: Uids,
}

impl Snapshot {
    /// Why the snapshot has no holder of this socket, which has this index.
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
            None => socket.why_without_file().unwrap_or(with_file),
        }
    }
}
