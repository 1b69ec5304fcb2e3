//! The system calls, as plain functions: tests replace them.

use std::ffi::CStr;
use std::io;

/// The system calls.
///
/// Each function fills a buffer and returns the number of bytes. With an empty buffer it returns the size of the
/// value, or a little more. An error of the system is an error here, however the call reports it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Calls {
    /// `proc_listpids` of all processes: pids of 4 bytes. Pids that do not fit are left out.
    pub(crate) pids: fn(&mut [u8]) -> io::Result<usize>,
    /// `proc_pidinfo` with PROC_PIDLISTFDS: the descriptors of a process, as `struct proc_fdinfo`. Entries that do
    /// not fit are left out.
    pub(crate) fds: fn(i32, &mut [u8]) -> io::Result<usize>,
    /// `proc_pidfdinfo` with PROC_PIDFDSOCKETINFO: the socket of a descriptor.
    pub(crate) socket: fn(i32, i32, &mut [u8]) -> io::Result<usize>,
    /// `sysctlbyname`: the value with this name. The bytes written before an error count too.
    pub(crate) value: fn(&CStr, &mut [u8]) -> (usize, io::Result<()>),
    /// `proc_pidinfo` with PROC_PIDTBSDINFO: the real uid of a process, if it still exists.
    pub(crate) uid: fn(i32) -> Option<u32>,
    /// `proc_pidinfo` with PROC_PIDTBSDINFO: `struct proc_bsdinfo` of a process.
    pub(crate) info: fn(i32, &mut [u8]) -> io::Result<usize>,
    /// `proc_pidpath`: the path of the executable of a process, without a NUL at its end.
    pub(crate) path: fn(i32, &mut [u8]) -> io::Result<usize>,
    /// `sysctl` with KERN_PROCARGS2: the arguments of a process.
    pub(crate) arguments: fn(i32, &mut [u8]) -> io::Result<usize>,
}

/// Error numbers of macOS (`bsd/sys/errno.h`): other systems lack some.
pub(crate) const ENOENT: i32 = 2;
pub(crate) const ESRCH: i32 = 3;
pub(crate) const EBADF: i32 = 9;
pub(crate) const ENOMEM: i32 = 12;
pub(crate) const ENOTSOCK: i32 = 38;

/// Whether an error is this one.
pub(crate) fn is(error: &io::Error, number: i32) -> bool {
    error.raw_os_error() == Some(number)
}

/// Whether the object no longer exists: the process ended or is a zombie, or the descriptor was closed and
/// perhaps reused.
pub(crate) fn is_gone(error: &io::Error) -> bool {
    [ESRCH, EBADF, ENOTSOCK].iter().any(|&number| is(error, number))
}
