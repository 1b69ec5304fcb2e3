//! The lists that the kernel has.

use std::ffi::CStr;

use super::super::xnu::{SYSPROTO_CONTROL, SYSPROTO_EVENT};
use crate::model::protocol::{IPPROTO_TCP, IPPROTO_UDP};
use crate::model::{Families, Family};

/// A list that the kernel has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum PcbList {
    Tcp,
    Udp,
    /// Raw sockets, and the datagram sockets of ICMP and ICMPv6.
    Raw,
    /// Since macOS 13.
    LocalStream,
    /// Since macOS 13.
    LocalDgram,
    Kctl,
    Kevt,
}

impl PcbList {
    pub(crate) const ALL: [PcbList; 7] = [
        PcbList::Tcp,
        PcbList::Udp,
        PcbList::Raw,
        PcbList::LocalStream,
        PcbList::LocalDgram,
        PcbList::Kctl,
        PcbList::Kevt,
    ];

    /// Its name for sysctlbyname(3).
    pub(crate) fn name(self) -> &'static CStr {
        match self {
            PcbList::Tcp => c"net.inet.tcp.pcblist_n",
            PcbList::Udp => c"net.inet.udp.pcblist_n",
            PcbList::Raw => c"net.inet.raw.pcblist_n",
            PcbList::LocalStream => c"net.local.stream.pcblist_n",
            PcbList::LocalDgram => c"net.local.dgram.pcblist_n",
            PcbList::Kctl => c"net.systm.kctl.pcblist",
            PcbList::Kevt => c"net.systm.kevt.pcblist",
        }
    }

    /// The families that the user selects to see its sockets.
    pub(crate) fn families(self) -> Families {
        match self {
            PcbList::Tcp | PcbList::Udp | PcbList::Raw => Families::INET,
            PcbList::LocalStream | PcbList::LocalDgram => Families::UNIX,
            PcbList::Kctl | PcbList::Kevt => Families::SYSTEM,
        }
    }

    /// Whether the headers of both count the sockets of both, as those of UNIX sockets do.
    pub(crate) fn shares_count_with(self, other: PcbList) -> bool {
        self == other || (self.families(), other.families()) == (Families::UNIX, Families::UNIX)
    }

    /// The families that its sockets can have.
    pub(crate) fn family(self) -> &'static [Family] {
        match self {
            PcbList::Tcp | PcbList::Udp | PcbList::Raw => &[Family::Inet, Family::Inet6],
            PcbList::LocalStream | PcbList::LocalDgram => &[Family::Unix],
            PcbList::Kctl | PcbList::Kevt => &[Family::System],
        }
    }

    /// The protocol of all its sockets; None where each has its own.
    pub(crate) fn only_protocol(self) -> Option<u16> {
        (self != PcbList::Raw).then(|| self.protocol())
    }

    /// The protocol of a socket whose record has none.
    pub(super) fn protocol(self) -> u16 {
        match self {
            PcbList::Tcp => IPPROTO_TCP,
            PcbList::Udp => IPPROTO_UDP,
            PcbList::Raw | PcbList::LocalStream | PcbList::LocalDgram => 0,
            PcbList::Kctl => SYSPROTO_CONTROL,
            PcbList::Kevt => SYSPROTO_EVENT,
        }
    }
}
