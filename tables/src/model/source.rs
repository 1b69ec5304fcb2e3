//! Sources of the socket list.

/// The source of the socket list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// BPF, if [`Options::bpf_from_files`](crate::Options::bpf_from_files) allows it; then netlink, and `/proc/net`
    /// for tables without a dump.
    Auto,
    /// `/proc/net` alone (proc_pid_net(5)).
    Procfs,
    /// Netlink alone (sock_diag(7)): it has no dump of ping sockets, and on most kernels none of some other
    /// protocols.
    Netlink,
    /// The same as `Auto`, but BPF is used with any number of open files, and a failure of BPF is a warning.
    Bpf,
}
