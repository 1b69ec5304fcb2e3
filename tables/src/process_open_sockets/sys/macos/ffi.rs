//! The system calls themselves.
//!
//! libproc answers 0 for an error, and for a list with nothing in it; only errno tells which.

#![allow(unsafe_code)]

use std::ffi::{CStr, c_int, c_void};
use std::io;
use std::mem::offset_of;
use std::ptr;

use super::calls::{Calls, EBADF, ENOENT, ENOMEM, ENOTSOCK, ESRCH};

pub(super) const CALLS: Calls = Calls { pids, fds, socket, value };

// The crate libc lacks these two.
const PROC_ALL_PIDS: u32 = 1;
const PROC_PIDFDSOCKETINFO: c_int = 3;

// What is known above this layer by number.
const _: () = {
    assert!(size_of::<libc::pid_t>() == 4);
    assert!(size_of::<libc::proc_fdinfo>() == 8);
    assert!(offset_of!(libc::proc_fdinfo, proc_fd) == 0);
    assert!(offset_of!(libc::proc_fdinfo, proc_fdtype) == 4);
    assert!(libc::PROX_FDTYPE_SOCKET == 2);
    assert!(libc::PROC_PIDLISTFDS == 1);
    assert!(libc::ENOENT == ENOENT);
    assert!(libc::ESRCH == ESRCH);
    assert!(libc::EBADF == EBADF);
    assert!(libc::ENOMEM == ENOMEM);
    assert!(libc::ENOTSOCK == ENOTSOCK);
    assert!(size_of::<libc::vinfo_stat>() == 136);
    assert!(libc::SOCK_MAXADDRLEN == 255);
};

/// Where a buffer is, or nowhere, and its size: a smaller one than it has if that is more than the call can
/// be told.
fn place(buffer: &mut [u8]) -> (*mut c_void, c_int) {
    let length = c_int::try_from(buffer.len()).unwrap_or(c_int::MAX);
    let start = if buffer.is_empty() { ptr::null_mut() } else { buffer.as_mut_ptr().cast() };
    (start, length)
}

/// What a call of libproc says.
fn answer(call: impl FnOnce() -> c_int) -> io::Result<usize> {
    // SAFETY: __error returns the place of this thread's errno, which is valid as long as the thread.
    unsafe { *libc::__error() = 0 };
    let written = call();
    let error = io::Error::last_os_error();
    match usize::try_from(written) {
        Ok(0) | Err(_) if error.raw_os_error() != Some(0) => Err(error),
        Ok(written) => Ok(written),
        Err(_) => Ok(0),
    }
}

fn pids(buffer: &mut [u8]) -> io::Result<usize> {
    let (start, length) = place(buffer);
    // SAFETY: the kernel writes no more than `length` bytes from `start` on, which are the buffer's and
    // borrowed for that; it is null only for a length of 0, which asks for the size.
    answer(|| unsafe { libc::proc_listpids(PROC_ALL_PIDS, 0, start, length) })
}

fn fds(pid: i32, buffer: &mut [u8]) -> io::Result<usize> {
    let (start, length) = place(buffer);
    // SAFETY: as in `pids`.
    answer(|| unsafe { libc::proc_pidinfo(pid, libc::PROC_PIDLISTFDS, 0, start, length) })
}

fn socket(pid: i32, fd: i32, buffer: &mut [u8]) -> io::Result<usize> {
    let (start, length) = place(buffer);
    // SAFETY: as in `pids`.
    answer(|| unsafe { libc::proc_pidfdinfo(pid, fd, PROC_PIDFDSOCKETINFO, start, length) })
}

fn value(name: &CStr, buffer: &mut [u8]) -> (usize, io::Result<()>) {
    let (start, _) = place(buffer);
    let mut length = buffer.len();
    // SAFETY: the name ends with a NUL; the kernel writes no more than `length` bytes from `start` on,
    // which are the buffer's, or none if it is null, and then what it wrote or would write into `length`;
    // there is no new value.
    let status =
        unsafe { libc::sysctlbyname(name.as_ptr(), start, &raw mut length, ptr::null_mut(), 0) };
    let result = if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
    (length, result)
}
