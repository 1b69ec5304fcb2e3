//! Details that few sockets have or few queries use.

use std::num::NonZeroU64;

use bitflags::bitflags;

bitflags! {
    /// The [`ExtendedDetails`] that a query uses, and other data that only the extended BPF program writes.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub(crate) struct ExtendedFields: u8 {
        /// The socket cookie.
        const COOKIE = 1;
        /// When the process that holds a descriptor started.
        const PROCESS_START = 2;
    }
}

/// Details of a socket that few sockets have, or that few queries use. What a source does not report is None.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ExtendedDetails {
    /// The interface that the socket is bound to.
    pub(crate) interface: Option<Interface>,
    /// The socket cookie: the kernel's unique id of the socket.
    pub(crate) cookie: Option<NonZeroU64>,
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

    /// Takes from `other` what is missing here.
    pub(crate) fn complete_from(&mut self, other: &ExtendedDetails) {
        self.cookie = self.cookie.or(other.cookie);
    }
}
