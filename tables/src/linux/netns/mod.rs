//! Which network namespaces there are, and ways to each (network_namespaces(7)).
//!
//! The link `/proc/<pid>/ns/net` names a namespace, but reading it needs ptrace rights
//! (PTRACE_MODE_READ_FSCREDS) that even root may lack. The files in `/proc/<pid>/net` need none, and
//! their inode numbers belong to one namespace. So these identify a namespace, and its number comes from
//! any member whose link is readable.
//!
//! A thread can move to another namespace than its process. And a namespace lives without any process
//! where its nsfs file is mounted, as `ip netns add` and container engines do: it is found in the mounts of
//! every mount namespace, and read from a thread that enters it. A namespace that only a descriptor or a
//! socket keeps alive is not found.
//!
//! A namespace is held open until the scan ends, so that it keeps its number when all its processes end.
//! Users can create any number of namespaces. Those beyond a limit are handed to a [`Visit`] at once,
//! while they are open, and closed again.

mod handle;
mod key;
mod namespace;
mod namespaces;
mod session;

#[cfg(test)]
pub(crate) use self::handle::in_net_namespace;
pub(crate) use self::key::NetnsKey;
pub(crate) use self::namespace::Namespace;
pub(crate) use self::namespaces::{Namespaces, Visit};
pub(crate) use self::session::{OwnSockets, Selection, Sessions, SocketSource};
