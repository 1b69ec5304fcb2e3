//! The system calls, as plain functions: in a test others stand in their place.

use std::ffi::CStr;
use std::io;

/// What is asked of the kernel.
///
/// Each function fills a buffer and returns how many bytes of it; an empty buffer asks how many bytes there
/// are, or a few more. How an error of the system comes back is their affair: here it is an error.
#[derive(Clone, Copy)]
pub(crate) struct Calls {
    /// `proc_listpids` of all processes: their numbers, of 4 bytes. What does not fit is left out.
    pub(crate) pids: fn(&mut [u8]) -> io::Result<usize>,
    /// `proc_pidinfo` with PROC_PIDLISTFDS: a process's descriptors, as `struct proc_fdinfo`. What does not
    /// fit is left out.
    pub(crate) fds: fn(i32, &mut [u8]) -> io::Result<usize>,
    /// `proc_pidfdinfo` with PROC_PIDFDSOCKETINFO: what a descriptor of a process is.
    pub(crate) socket: fn(i32, i32, &mut [u8]) -> io::Result<usize>,
    /// `sysctlbyname`: the value of that name. What was written before an error counts too.
    pub(crate) value: fn(&CStr, &mut [u8]) -> (usize, io::Result<()>),
    /// `proc_pidinfo` with PROC_PIDTBSDINFO: the real uid of a process, if it still exists.
    pub(crate) uid: fn(i32) -> Option<u32>,
}

/// Numbers of errors as macOS has them, some of which other systems have not (`bsd/sys/errno.h`).
pub(crate) const ENOENT: i32 = 2;
pub(crate) const ESRCH: i32 = 3;
pub(crate) const EBADF: i32 = 9;
pub(crate) const ENOMEM: i32 = 12;
pub(crate) const ENOTSOCK: i32 = 38;

/// Whether an error is this one.
pub(crate) fn is(error: &io::Error, number: i32) -> bool {
    error.raw_os_error() == Some(number)
}

/// Whether what was asked for is gone: the process ended, or is a zombie, or the descriptor was closed, and
/// perhaps opened anew as something else.
pub(crate) fn is_gone(error: &io::Error) -> bool {
    [ESRCH, EBADF, ENOTSOCK].iter().any(|&number| is(error, number))
}
