//! Processes and their descriptors (libproc: `bsd/sys/proc_info.h` of XNU).

use std::io;

use super::calls::Calls;
use crate::process_open_sockets::parse::socket_fdinfo;

/// PROX_FDTYPE_SOCKET.
const SOCKET: u32 = 2;
/// The kernel's own process. It has no descriptors, and may not be asked for them.
const KERNEL: i32 = 0;

/// All processes but the kernel.
pub(super) fn pids(calls: &Calls) -> io::Result<Vec<i32>> {
    let bytes = whole(calls.pids)?;
    let (numbers, _) = bytes.as_chunks();
    let mut pids: Vec<i32> = numbers.iter().map(|&number| i32::from_ne_bytes(number)).collect();
    pids.retain(|&pid| pid > KERNEL);
    pids.sort_unstable();
    pids.dedup();
    Ok(pids)
}

/// The descriptors of a process that are sockets.
pub(super) fn sockets(calls: &Calls, pid: i32) -> io::Result<Vec<i32>> {
    let bytes = whole(|buffer| (calls.fds)(pid, buffer))?;
    let (entries, _) = bytes.as_chunks::<8>();
    let entry = |&[a, b, c, d, kind @ ..]: &[u8; 8]| {
        (i32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes(kind))
    };
    let sockets = entries.iter().map(entry).filter(|&(_, kind)| kind == SOCKET);
    Ok(sockets.map(|(fd, _)| fd).collect())
}

/// What the kernel says of a socket; a newer one may say more.
pub(super) fn socket_fdinfo(calls: &Calls, pid: i32, fd: i32) -> io::Result<Vec<u8>> {
    let mut answer = vec![0; socket_fdinfo::LENGTH];
    let written = (calls.socket)(pid, fd, &mut answer)?;
    answer.truncate(written);
    Ok(answer)
}

/// A list whole, though the kernel cuts it without a word where the buffer ends, and though it grows
/// between the question for its size and the question for itself: one that fills the buffer is asked for
/// again, with more room.
fn whole(ask: impl Fn(&mut [u8]) -> io::Result<usize>) -> io::Result<Vec<u8>> {
    /// Each doubles the room.
    const ATTEMPTS: usize = 10;
    let mut room = ask(&mut [])?;
    if room == 0 {
        return Ok(Vec::new());
    }
    for _ in 0..ATTEMPTS {
        let mut buffer = vec![0; room];
        let written = ask(&mut buffer)?;
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

    use super::*;

    #[test]
    fn a_list_that_grows_after_its_size_was_asked_is_asked_for_again() {
        let length = Cell::new(8);
        let list = whole(|buffer| {
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
    fn a_list_that_fills_every_buffer_is_an_error_and_not_a_cut_list() {
        let list = whole(|buffer| Ok(buffer.len().max(1)));
        assert_eq!(list.unwrap_err().to_string(), "the list grows too fast");
    }

    #[test]
    fn an_empty_list_is_no_error() {
        assert_eq!(whole(|_| Ok(0)).unwrap(), []);
    }
}
