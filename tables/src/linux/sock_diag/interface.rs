//! The name of a network interface (netdevice(7)).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// The name of the interface of that index, in the network namespace of the socket. The kernel takes any bytes
/// but `/`, `:`, NUL and blanks (`dev_valid_name` in net/core/dev.c), so it need not be UTF-8.
///
/// rustix has this call too, and returns an error for such a name.
#[allow(unsafe_code)]
pub(super) fn name_of(socket: BorrowedFd<'_>, index: u32) -> io::Result<Vec<u8>> {
    let mut request = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_ifindex: index.cast_signed() },
    };
    // SAFETY: the kernel reads and writes a `struct ifreq`, which `request` is, and keeps no pointer to it.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFNAME as _, &raw mut request) };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    // c_char is signed on x86_64, and unsigned on arm64.
    let bytes = request.ifr_name.iter().map(|&byte| u8::from_ne_bytes(byte.to_ne_bytes()));
    Ok(bytes.take_while(|&byte| byte != 0).collect())
}
