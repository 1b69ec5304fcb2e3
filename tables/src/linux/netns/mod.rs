//! The network namespaces of the host, with handles of each (network_namespaces(7)).
//!
//! The link `/proc/<pid>/ns/net` names a namespace, but to read it ptrace rights are required
//! (PTRACE_MODE_READ_FSCREDS) that even root can lack. The files in `/proc/<pid>/net` require none, and their
//! inode numbers belong to one namespace. So these numbers identify a namespace. Its own number is read from
//! the link of any process in it.
//!
//! A thread can move to another namespace than its process. A namespace without processes exists as long as
//! its nsfs file is mounted: `ip netns add` and container engines mount it. Such a namespace is found in the
//! mounts of every mount namespace, and a thread enters it to read it. A namespace that exists only through a
//! descriptor or a socket is not found.
//!
//! A namespace is kept open until the scan ends, so that it keeps its number when all its processes end.
//! Users can create any number of namespaces. Beyond a limit, a [`Visit`] reads a namespace at once, and it is
//! closed again.

mod handle;
mod key;
mod names;
mod namespace;
mod namespaces;
mod session;

#[cfg(test)]
pub(crate) use self::handle::in_net_namespace;
pub(crate) use self::key::NetnsKey;
pub(crate) use self::names::net_namespace_names;
pub(crate) use self::namespace::Namespace;
pub(crate) use self::namespaces::{Namespaces, Visit};
pub(crate) use self::session::{OwnSockets, Selection, Sessions, SocketSource};
