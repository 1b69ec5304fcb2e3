//! Address families.

/// The address families of the table. The numbers are those of Linux (`include/linux/socket.h`), also on macOS.
/// Families that only macOS has keep its numbers (`bsd/sys/socket.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub(crate) enum Family {
    Unix = 1,
    Inet = 2,
    Inet6 = 10,
    Netlink = 16,
    Packet = 17,
    Ndrv = 27,
    System = 32,
    Vsock = 40,
}

impl Family {
    pub(crate) fn of_inet(v6: bool) -> Family {
        if v6 { Family::Inet6 } else { Family::Inet }
    }
}
