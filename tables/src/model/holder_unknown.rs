//! Reasons why a socket has no holder.

/// The reason why no holder of a socket is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HolderUnknown {
    /// The connection is closed; the kernel only keeps its addresses.
    TimeWait,
    /// The handshake is not over.
    SynRecv,
    /// A listener has not accepted the connection yet.
    AcceptQueue,
    /// Its last descriptor was closed before the connection was over.
    Orphan,
    /// The kernel made it for itself.
    Kernel,
    /// It is a subflow of an MPTCP connection, which has its own socket.
    Subflow,
    /// It belongs to the network stack of a process, not to that of the kernel.
    UserSpace,
    /// It has a file, but not every process could be read.
    Unreadable,
    /// No process holds it: it belongs to the kernel, or is in flight between processes (SCM_RIGHTS).
    NoProcess,
    /// It was closed during the scan, before its holder was read.
    ClosedDuringScan,
    /// It was opened during the scan, after its holder was read.
    OpenedDuringScan,
}

impl HolderUnknown {
    pub(crate) fn name(self) -> &'static str {
        match self {
            HolderUnknown::TimeWait => "time_wait",
            HolderUnknown::SynRecv => "syn_recv",
            HolderUnknown::AcceptQueue => "accept_queue",
            HolderUnknown::Orphan => "orphan",
            HolderUnknown::Kernel => "kernel",
            HolderUnknown::Subflow => "subflow",
            HolderUnknown::UserSpace => "user_space",
            HolderUnknown::Unreadable => "unreadable",
            HolderUnknown::NoProcess => "no_process",
            HolderUnknown::ClosedDuringScan => "closed_during_scan",
            HolderUnknown::OpenedDuringScan => "opened_during_scan",
        }
    }
}
