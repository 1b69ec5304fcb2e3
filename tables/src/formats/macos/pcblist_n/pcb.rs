//! A socket of a list, and whether a process can hold it.

use std::num::NonZeroU64;

use crate::model::{Binding, DarwinDetails, HolderUnknown, Socket, TcpState};

/// A socket of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pcb {
    pub(crate) socket: Socket,
    pub(crate) details: DarwinDetails,
    /// Unique for every socket of a list since boot, even if the handle is reused; None for sockets of user space and
    /// of AF_SYSTEM.
    pub(crate) generation: Option<NonZeroU64>,
    /// The handle of the protocol control block, by which UNIX sockets name their peer.
    pub(crate) pcb: u64,
    /// The handle of the peer's protocol control block, for UNIX sockets; 0 if there is none.
    pub(crate) peer_pcb: u64,
}

impl Pcb {
    /// Whether a descriptor can refer to the socket, now or later: a connection in the accept queue can be accepted,
    /// and between the queue and its descriptor it looks orphaned.
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
