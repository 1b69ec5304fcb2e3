//! Kinds of sockets.

use bitflags::bitflags;

bitflags! {
    /// Kinds of sockets that a user can select.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Families: u16 {
        /// AF_UNIX.
        const UNIX = 1;
        /// AF_INET and AF_INET6: TCP, UDP, UDP-Lite, raw and ping sockets.
        const INET = 1 << 1;
        /// AF_PACKET.
        const PACKET = 1 << 2;
        /// AF_NETLINK.
        const NETLINK = 1 << 3;
        /// AF_VSOCK.
        const VSOCK = 1 << 4;
        /// The connections of MPTCP. Their subflows are TCP sockets.
        const MPTCP = 1 << 5;
        /// SCTP.
        const SCTP = 1 << 6;
        /// Held sockets that no table of the kernel lists: of other families, or neither bound nor connected; and
        /// bound-inactive TCP sockets.
        const UNLISTED = 1 << 7;
        /// AF_SYSTEM, of macOS: kernel controls and kernel events.
        const SYSTEM = 1 << 8;
        /// PF_NDRV, of macOS: frames of an interface.
        const NDRV = 1 << 9;
    }
}

impl Default for Families {
    /// The families of osquery's own table.
    fn default() -> Self {
        Families::UNIX | Families::INET | Families::PACKET
    }
}

impl Families {
    /// The names of single families in a list, and those of several.
    pub(crate) const NAMES: &[&str] = &[
        "unix", "inet", "packet", "netlink", "vsock", "mptcp", "sctp", "unlisted", "system",
        "ndrv", "default", "all",
    ];

    /// The families with this name.
    pub(crate) fn of_name(name: &str) -> Option<Families> {
        match name {
            "default" => Some(Families::default()),
            "all" => Some(Families::all()),
            _ => Families::NAMES.contains(&name).then(|| {
                Families::from_name(&name.to_ascii_uppercase()).unwrap_or(Families::empty())
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_is_of_some_family() {
        for name in Families::NAMES {
            assert!(Families::of_name(name).is_some_and(|families| !families.is_empty()), "{name}");
        }
        assert_eq!(Families::of_name("UNIX"), None);
    }
}
