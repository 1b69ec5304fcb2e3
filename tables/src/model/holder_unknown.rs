//! Why a socket has no holder.

/// Why no process is known that holds a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HolderUnknown {
    /// The connection is over; the kernel only keeps its addresses.
    TimeWait,
    /// The handshake is not over.
    SynRecv,
    /// A listener has not accepted the connection yet.
    AcceptQueue,
    /// Its last descriptor was closed before the connection was over.
    Orphan,
    /// The kernel made it for itself.
    Kernel,
    /// A part of an MPTCP connection, which is a socket of its own.
    Subflow,
    /// The process's own network stack has it, and not the kernel's.
    UserSpace,
    /// It has a file, but not every process could be looked into.
    Unreadable,
    /// No process has it: it is the kernel's, or on its way from one process to another.
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
