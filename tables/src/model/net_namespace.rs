//! Network namespaces.

/// The network namespace of a socket: the number in the link text `net:[4026531840]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct NetNamespace(pub(crate) u64);
