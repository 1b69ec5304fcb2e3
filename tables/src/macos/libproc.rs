//! Processes and their descriptors (libproc: `bsd/sys/proc_info.h` of XNU).

use std::ffi::c_int;
use std::io;

use super::calls::{Calls, ENOMEM, is};
use crate::formats::macos::socket_fdinfo;

/// PROX_FDTYPE_SOCKET.
const SOCKET: u32 = 2;
/// The process of the kernel. It has no descriptors, and a request for them fails.
const KERNEL: i32 = 0;

/// All processes but the kernel.
pub(crate) fn pids(calls: &Calls) -> io::Result<Vec<i32>> {
    let bytes = read_list(calls.pids)?;
    let (numbers, _) = bytes.as_chunks();
    let mut pids: Vec<i32> = numbers.iter().map(|&number| i32::from_ne_bytes(number)).collect();
    pids.retain(|&pid| pid > KERNEL);
    pids.sort_unstable();
    pids.dedup();
    Ok(pids)
}

/// The descriptors of a process that are sockets.
pub(crate) fn sockets(calls: &Calls, pid: i32) -> io::Result<Vec<i32>> {
    let bytes = read_list(|buffer| (calls.fds)(pid, buffer))?;
    let (entries, _) = bytes.as_chunks::<8>();
    let entry = |&[a, b, c, d, kind @ ..]: &[u8; 8]| {
        (i32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes(kind))
    };
    let sockets = entries.iter().map(entry).filter(|&(_, kind)| kind == SOCKET);
    Ok(sockets.map(|(fd, _)| fd).collect())
}

/// Reads the record of a socket. The kernel does not write a part of it (ENOMEM), so a larger buffer is used if a
/// newer kernel has a longer record. Its beginning has the same layout.
pub(crate) fn socket_fdinfo(calls: &Calls, pid: i32, fd: i32) -> io::Result<Vec<u8>> {
    /// Each doubles the room.
    const ATTEMPTS: usize = 4;
    let mut room = socket_fdinfo::LENGTH;
    for _ in 1..ATTEMPTS {
        match socket_fdinfo_in(room, calls, pid, fd) {
            Err(error) if is(&error, ENOMEM) => room *= 2,
            answer => return answer,
        }
    }
    socket_fdinfo_in(room, calls, pid, fd)
}

fn socket_fdinfo_in(room: usize, calls: &Calls, pid: i32, fd: i32) -> io::Result<Vec<u8>> {
    let mut answer = vec![0; room];
    let written = (calls.socket)(pid, fd, &mut answer)?;
    answer.truncate(written);
    Ok(answer)
}

/// Converts the return value of libproc: it is 0 for an error and for an empty list. Only errno distinguishes the
/// two, if it was 0 before the call.
pub(crate) fn written(written: c_int, errno: c_int) -> io::Result<usize> {
    match usize::try_from(written) {
        Ok(written) if written > 0 => Ok(written),
        _ if errno != 0 => Err(io::Error::from_raw_os_error(errno)),
        Ok(nothing) => Ok(nothing),
        Err(_) => Err(io::Error::other(format!("libproc returned {written}"))),
    }
}

/// Reads a complete list. The kernel silently truncates a list at the end of the buffer, and the list can grow
/// after its size was read. So a list that fills the buffer is read again, with a larger buffer.
fn read_list(call: impl Fn(&mut [u8]) -> io::Result<usize>) -> io::Result<Vec<u8>> {
    /// Each doubles the room.
    const ATTEMPTS: usize = 10;
    let mut room = call(&mut [])?;
    if room == 0 {
        return Ok(Vec::new());
    }
    for _ in 0..ATTEMPTS {
        let mut buffer = vec![0; room];
        let written = call(&mut buffer)?;
        if written < room {
            buffer.truncate(written);
            return Ok(buffer);
        }
        room = room.saturating_mul(2);
    }
    Err(io::Error::other("the list grows too fast"))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::super::calls::{EBADF, ENOENT, ENOTSOCK, ESRCH};
    use super::*;

    #[test]
    fn zero_is_an_error_if_errno_is_set_and_else_an_empty_list() {
        assert_eq!(written(792, 0).unwrap(), 792);
        // errno has no meaning after a success.
        assert_eq!(written(8, ENOENT).unwrap(), 8);
        assert_eq!(written(0, 0).unwrap(), 0);
        const EPERM: c_int = 1;
        for errno in [EPERM, ESRCH, EBADF, ENOMEM, ENOTSOCK] {
            for answer in [0, -1] {
                assert_eq!(written(answer, errno).unwrap_err().raw_os_error(), Some(errno));
            }
        }
        assert_eq!(written(-1, 0).unwrap_err().to_string(), "libproc returned -1");
    }

    /// The result with a kernel whose record of a socket has this length.
    fn fdinfo_of_length<const LENGTH: usize>() -> io::Result<Vec<u8>> {
        let socket = |_pid, _fd, buffer: &mut [u8]| {
            let Some(answer) = buffer.get_mut(..LENGTH) else {
                return Err(io::Error::from_raw_os_error(ENOMEM));
            };
            answer.fill(7);
            Ok(LENGTH)
        };
        let value = |_: &std::ffi::CStr, _: &mut [u8]| (0, Ok(()));
        let calls = Calls {
            pids: |_| Ok(0),
            fds: |_, _| Ok(0),
            socket,
            value,
            uid: |_| None,
            info: |_, _| Ok(0),
            path: |_, _| Ok(0),
            arguments: |_, _| Ok(0),
        };
        socket_fdinfo(&calls, 1, 3)
    }

    #[test]
    fn a_longer_record_of_a_socket_is_read_with_a_larger_buffer() {
        assert_eq!(fdinfo_of_length::<792>().unwrap(), [7; 792]);
        assert_eq!(fdinfo_of_length::<800>().unwrap(), [7; 800]);
        assert_eq!(fdinfo_of_length::<6336>().unwrap(), [7; 6336]);
        assert_eq!(fdinfo_of_length::<6337>().unwrap_err().raw_os_error(), Some(ENOMEM));
    }

    #[test]
    fn a_list_that_grows_after_its_size_was_read_is_read_again() {
        let length = Cell::new(8);
        let list = read_list(|buffer| {
            let held = length.get();
            if buffer.is_empty() {
                return Ok(held);
            }
            if held < 40 {
                length.set(held + 16);
            }
            buffer.fill(7);
            Ok(buffer.len().min(length.get()))
        });
        assert_eq!(list.unwrap(), vec![7; 40]);
    }

    #[test]
    fn a_list_that_fills_every_buffer_is_an_error() {
        let list = read_list(|buffer| Ok(buffer.len().max(1)));
        assert_eq!(list.unwrap_err().to_string(), "the list grows too fast");
    }

    #[test]
    fn an_empty_list_is_no_error() {
        assert_eq!(read_list(|_| Ok(0)).unwrap(), []);
    }
}
