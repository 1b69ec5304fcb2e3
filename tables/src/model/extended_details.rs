//! Details that few sockets have or few queries use.

use std::num::NonZeroU64;

use bitflags::bitflags;

use super::tcp_details::TcpDetails;

bitflags! {
    /// The [`ExtendedDetails`] that a query uses.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub(crate) struct ExtendedFields: u8 {
        /// The socket cookie.
        const COOKIE = 1;
        /// Counters and estimates of TCP connections.
        const TCP = 2;
        /// The process at the other end of a UNIX socket.
        const PEER = 4;
        /// The file to which a UNIX socket is bound.
        const BOUND_FILE = 8;
    }
}

/// Details of a socket that few sockets have, or that few queries use. What a source does not report is None.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ExtendedDetails {
    /// The interface that the socket is bound to.
    pub(crate) interface: Option<Interface>,
    /// The socket cookie: the kernel's unique id of the socket.
    pub(crate) cookie: Option<NonZeroU64>,
    pub(crate) tcp: Option<TcpDetails>,
    /// The process that connected the peer of a UNIX socket or made it listen (SO_PEERCRED), if this process can see
    /// it,
    pub(crate) peer_pid: Option<i32>,
    /// and its user.
    pub(crate) peer_uid: Option<u32>,
    /// The file to which a UNIX socket is bound.
    pub(crate) bound_file: Option<FileId>,
}

/// A file, as stat(2) identifies it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileId {
    pub(crate) inode: u64,
    pub(crate) device: u64,
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Interface {
    /// The number of the interface in its namespace.
    pub(crate) index: u32,
    /// None until the name is read.
    pub(crate) name: Option<String>,
}

impl ExtendedDetails {
    /// The interface with this number and nothing else; None for 0.
    pub(crate) fn of_interface(index: u32) -> Option<Box<ExtendedDetails>> {
        let interface = (index != 0).then_some(Interface { index, name: None });
        interface.map(ExtendedDetails::with_interface)
    }

    pub(crate) fn with_interface(interface: Interface) -> Box<ExtendedDetails> {
        Box::new(ExtendedDetails { interface: Some(interface), ..ExtendedDetails::default() })
    }

    #[cfg_attr(
        not(target_os = "linux"),
        allow(dead_code, reason = "only /proc/net/tcp has no more")
    )]
    pub(crate) fn with_tcp(tcp: TcpDetails) -> Box<ExtendedDetails> {
        Box::new(ExtendedDetails { tcp: Some(tcp), ..ExtendedDetails::default() })
    }

    /// Takes from the details that BPF reports what is missing here; and the file, of which netlink reports only a
    /// part of the inode number; and the numbers of a TCP connection, of which `/proc/net/tcp` has only one.
    pub(crate) fn complete_from(&mut self, bpf: ExtendedDetails) {
        self.cookie = self.cookie.or(bpf.cookie);
        let own = self.tcp.take();
        self.tcp = match (own, bpf.tcp) {
            (Some(own), Some(bpf)) if own.has_only_window() => Some(bpf),
            (own, bpf) => own.or(bpf),
        };
        self.peer_pid = self.peer_pid.or(bpf.peer_pid);
        self.peer_uid = self.peer_uid.or(bpf.peer_uid);
        self.bound_file = bpf.bound_file.or(self.bound_file);
    }
}
