//! The system calls.

#![allow(unsafe_code)]

use std::ffi::{CStr, c_int, c_void};
use std::io;
use std::mem::{MaybeUninit, offset_of};
use std::ptr;

use super::calls::{Calls, EBADF, ENOENT, ENOMEM, ENOTSOCK, ESRCH};
use super::libproc;
use crate::formats::macos::proc_bsdinfo;

pub(crate) const CALLS: Calls = Calls { pids, fds, socket, value, uid, info, path, arguments };

// The crate libc lacks these two.
const PROC_ALL_PIDS: u32 = 1;
const PROC_PIDFDSOCKETINFO: c_int = 3;

// The layer above uses these numbers.
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
    assert!(size_of::<libc::proc_bsdinfo>() == proc_bsdinfo::LENGTH);
    assert!(offset_of!(libc::proc_bsdinfo, pbi_ppid) == 16);
    assert!(offset_of!(libc::proc_bsdinfo, pbi_uid) == 20);
    assert!(offset_of!(libc::proc_bsdinfo, pbi_ruid) == 28);
    assert!(offset_of!(libc::proc_bsdinfo, pbi_comm) == 48);
    assert!(offset_of!(libc::proc_bsdinfo, pbi_name) == 64);
    assert!(offset_of!(libc::proc_bsdinfo, pbi_start_tvsec) == 120);
    assert!(offset_of!(libc::proc_bsdinfo, pbi_start_tvusec) == 128);
};

/// Pointer and size of a buffer: null if it is empty; the size is limited to the range of the argument.
fn raw_parts(buffer: &mut [u8]) -> (*mut c_void, c_int) {
    let length = c_int::try_from(buffer.len()).unwrap_or(c_int::MAX);
    let start = if buffer.is_empty() { ptr::null_mut() } else { buffer.as_mut_ptr().cast() };
    (start, length)
}

/// The result of a call of libproc, from its return value and errno.
fn answer(call: impl FnOnce() -> c_int) -> io::Result<usize> {
    // SAFETY: __error returns the address of this thread's errno, which is valid as long as the thread.
    unsafe { *libc::__error() = 0 };
    let written = call();
    let errno = io::Error::last_os_error().raw_os_error().unwrap_or_default();
    libproc::written(written, errno)
}

fn pids(buffer: &mut [u8]) -> io::Result<usize> {
    let (start, length) = raw_parts(buffer);
    // SAFETY: the kernel writes at most `length` bytes from `start` on, which are those of the borrowed buffer.
    // It is null only for a length of 0, which requests the size.
    answer(|| unsafe { libc::proc_listpids(PROC_ALL_PIDS, 0, start, length) })
}

fn fds(pid: i32, buffer: &mut [u8]) -> io::Result<usize> {
    let (start, length) = raw_parts(buffer);
    // SAFETY: as in `pids`.
    answer(|| unsafe { libc::proc_pidinfo(pid, libc::PROC_PIDLISTFDS, 0, start, length) })
}

fn socket(pid: i32, fd: i32, buffer: &mut [u8]) -> io::Result<usize> {
    let (start, length) = raw_parts(buffer);
    // SAFETY: as in `pids`.
    answer(|| unsafe { libc::proc_pidfdinfo(pid, fd, PROC_PIDFDSOCKETINFO, start, length) })
}

fn value(name: &CStr, buffer: &mut [u8]) -> (usize, io::Result<()>) {
    let (start, _) = raw_parts(buffer);
    let mut length = buffer.len();
    // SAFETY: the name ends with a NUL; the kernel writes no more than `length` bytes from `start` on,
    // which are the buffer's, or none if it is null, and then what it wrote or would write into `length`;
    // there is no new value.
    let status =
        unsafe { libc::sysctlbyname(name.as_ptr(), start, &raw mut length, ptr::null_mut(), 0) };
    let result = if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
    (length, result)
}

fn info(pid: i32, buffer: &mut [u8]) -> io::Result<usize> {
    let (start, length) = raw_parts(buffer);
    // SAFETY: as in `pids`.
    answer(|| unsafe { libc::proc_pidinfo(pid, libc::PROC_PIDTBSDINFO, 0, start, length) })
}

fn path(pid: i32, buffer: &mut [u8]) -> io::Result<usize> {
    let (start, length) = raw_parts(buffer);
    let length = u32::try_from(length).unwrap_or_default();
    // SAFETY: as in `pids`.
    answer(|| unsafe { libc::proc_pidpath(pid, start, length) })
}

fn arguments(pid: i32, buffer: &mut [u8]) -> io::Result<usize> {
    let mut name = [libc::CTL_KERN, libc::KERN_PROCARGS2, pid];
    let (start, _) = raw_parts(buffer);
    let (mut length, no_value) = (buffer.len(), ptr::null_mut());
    // SAFETY: the name has 3 numbers; the kernel writes no more than `length` bytes from `start` on, which are the
    // buffer's, or none if it is null, and then what it wrote or would write into `length`; there is no new value.
    let status = unsafe { libc::sysctl(name.as_mut_ptr(), 3, start, &raw mut length, no_value, 0) };
    if status == 0 { Ok(length) } else { Err(io::Error::last_os_error()) }
}

fn uid(pid: i32) -> Option<u32> {
    let mut info = MaybeUninit::<libc::proc_bsdinfo>::zeroed();
    let size = c_int::try_from(size_of::<libc::proc_bsdinfo>()).ok()?;
    let start = info.as_mut_ptr().cast();
    // SAFETY: the kernel writes no more than `size` bytes from `start` on, which are those of `info`.
    let written = unsafe { libc::proc_pidinfo(pid, libc::PROC_PIDTBSDINFO, 0, start, size) };
    // SAFETY: every value of its bytes, which are zero or written by the kernel, is a valid number.
    (written == size).then(|| unsafe { info.assume_init() }.pbi_ruid)
}

/// These run on macOS only: they check that the kernel behaves as the layers above assume.
#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixDatagram;

    use super::*;
    use crate::formats::macos::socket_fdinfo;

    fn own_pid() -> i32 {
        i32::try_from(std::process::id()).unwrap()
    }

    fn error_of_socket(pid: i32, fd: i32, room: usize) -> Option<i32> {
        socket(pid, fd, &mut vec![0; room]).unwrap_err().raw_os_error()
    }

    const ROOM: usize = socket_fdinfo::LENGTH;
    /// More than any process has: `kern.maxfilesperproc` is far below.
    const NO_FD: i32 = 1 << 30;
    /// More than PID_MAX.
    const NO_PID: i32 = 1 << 30;

    #[test]
    fn a_process_has_the_uid_of_its_creator() {
        // SAFETY: the call takes nothing and always succeeds.
        assert_eq!(uid(own_pid()), Some(unsafe { libc::getuid() }));
        assert_eq!(uid(NO_PID), None);
    }

    #[test]
    fn this_process_has_its_path_arguments_and_parent() {
        let mut buffer = vec![0; 1 << 20];
        let length = path(own_pid(), &mut buffer).unwrap();
        let own = std::env::current_exe().unwrap().canonicalize().unwrap();
        assert_eq!(&buffer[..length], own.as_os_str().as_encoded_bytes());
        let length = arguments(own_pid(), &mut buffer).unwrap();
        let own: Vec<String> = std::env::args().collect();
        let shown = crate::formats::macos::procargs2::arguments(&buffer[..length]).unwrap();
        assert_eq!(String::from_utf8_lossy(shown), own.join("\0") + "\0");
        let length = info(own_pid(), &mut buffer).unwrap();
        let shown = proc_bsdinfo::parse(&buffer[..length]).unwrap();
        assert_eq!(u32::try_from(shown.parent).unwrap(), std::os::unix::process::parent_id());
    }

    #[test]
    fn a_process_that_is_not_there_is_esrch() {
        assert_eq!(fds(NO_PID, &mut [0; 800]).unwrap_err().raw_os_error(), Some(ESRCH));
        assert_eq!(error_of_socket(NO_PID, 0, ROOM), Some(ESRCH));
    }

    #[test]
    fn a_missing_descriptor_is_ebadf_and_a_file_is_enotsock() {
        assert_eq!(error_of_socket(own_pid(), NO_FD, ROOM), Some(EBADF));
        let file = File::open("/").unwrap();
        assert_eq!(error_of_socket(own_pid(), file.as_raw_fd(), ROOM), Some(ENOTSOCK));
    }

    #[test]
    fn a_record_has_its_length_and_a_small_buffer_is_enomem() {
        let (one, _other) = UnixDatagram::pair().unwrap();
        let fd = one.as_raw_fd();
        assert_eq!(error_of_socket(own_pid(), fd, ROOM - 1), Some(ENOMEM));
        assert_eq!(socket(own_pid(), fd, &mut [0; ROOM]).unwrap(), ROOM);
    }

    #[test]
    fn a_process_of_another_user_is_eperm() {
        const LAUNCHD: i32 = 1;
        let answered = fds(LAUNCHD, &mut [0; 80_000]);
        // SAFETY: it takes nothing and changes nothing.
        if unsafe { libc::geteuid() } == 0 {
            eprintln!("\nLEFT OUT: EPERM: root can read every process");
            assert!(answered.unwrap() > 0);
        } else {
            assert_eq!(answered.unwrap_err().raw_os_error(), Some(libc::EPERM));
        }
    }

    #[test]
    fn a_name_that_is_no_list_is_enoent() {
        let (_, result) = value(c"net.inet.tcp.no_such_list", &mut []);
        assert_eq!(result.unwrap_err().raw_os_error(), Some(ENOENT));
    }
}
