//! A socket of a list, and whether a process can hold it.

use std::num::NonZeroU64;

use crate::model::{Binding, DarwinDetails, HolderUnknown, Socket, TcpState};

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
            None | Some(HolderUnknown::SynRecv | HolderUnknown::AcceptQueue) => true,
            Some(HolderUnknown::Orphan) => match self.socket.binding {
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
