//! Where records of sockets come from.

/// Who tells what sockets there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// BPF, unless [`Options::bpf_from_files`](crate::Options::bpf_from_files) says otherwise; netlink; and `/proc/net` where there is
    /// none of these.
    Auto,
    /// `/proc/net` alone (proc_pid_net(5)).
    Procfs,
    /// Netlink alone (sock_diag(7)), which does not know ping sockets, nor, on most kernels, all other
    /// protocols.
    Netlink,
    /// The same as `Auto`, with BPF however few files are open; where it cannot be had, that is a warning.
    Bpf,
}
