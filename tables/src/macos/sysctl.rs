//! Values of sysctl(3): the kernel's lists of sockets.

use std::ffi::CStr;
use std::io;

use super::calls::{Calls, ENOENT, ENOMEM, is};

/// Reads a list; None if this version of macOS does not have it.
///
/// The kernel adds an eighth to the size that it returns, or nothing for some lists. If the list does not fit, it
/// writes a part. If it never fits, this returns the part, which lacks the end.
pub(crate) fn value(calls: &Calls, name: &CStr) -> io::Result<Option<Vec<u8>>> {
    const ATTEMPTS: usize = 5;
    /// More than the header, the end and a few sockets.
    const SLACK: usize = 4096;
    let mut least = 0;
    let mut buffer = Vec::new();
    for _ in 0..ATTEMPTS {
        let room = match (calls.value)(name, &mut []) {
            (length, Ok(())) => length.saturating_add(length / 4).saturating_add(SLACK).max(least),
            (_, Err(error)) if is(&error, ENOENT) => return Ok(None),
            (_, Err(error)) => return Err(error),
        };
        buffer.clear();
        buffer.resize(room, 0);
        let (written, result) = (calls.value)(name, &mut buffer);
        buffer.truncate(written);
        match result {
            Err(error) if is(&error, ENOMEM) => least = room.saturating_mul(2),
            Err(error) => return Err(error),
            Ok(()) => break,
        }
    }
    Ok(Some(buffer))
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    /// The results of the kernel in order: the number of bytes written and the error. And the sizes of the
    /// buffers.
    type Script = (Vec<(usize, Option<i32>)>, Vec<usize>);

    thread_local! {
        static SCRIPT: RefCell<Script> = RefCell::default();
    }

    fn answer(_name: &CStr, buffer: &mut [u8]) -> (usize, io::Result<()>) {
        SCRIPT.with_borrow_mut(|(answers, rooms)| {
            rooms.push(buffer.len());
            let (written, error) = answers.remove(0);
            buffer.iter_mut().take(written).for_each(|byte| *byte = 7);
            (written, error.map_or(Ok(()), |number| Err(io::Error::from_raw_os_error(number))))
        })
    }

    fn read(answers: &[(usize, Option<i32>)]) -> (io::Result<Option<Vec<u8>>>, Vec<usize>) {
        SCRIPT.set((answers.to_vec(), Vec::new()));
        let nothing = |_: &mut [u8]| Ok(0);
        let calls = Calls {
            pids: nothing,
            fds: |_, _| Ok(0),
            socket: |_, _, _| Ok(0),
            value: answer,
            uid: |_| None,
            info: |_, _| Ok(0),
            path: |_, _| Ok(0),
            arguments: |_, _| Ok(0),
        };
        let read = value(&calls, c"net.inet.tcp.pcblist_n");
        (read, SCRIPT.take().1)
    }

    #[test]
    fn a_value_has_the_length_of_the_written_bytes() {
        let (value, rooms) = read(&[(1000, None), (640, None)]);
        assert_eq!(value.unwrap(), Some(vec![7; 640]));
        assert_eq!(rooms, [0, 1000 + 250 + 4096]);
    }

    #[test]
    fn a_value_that_does_not_fit_is_read_again_with_twice_the_size() {
        let cut = (648, Some(ENOMEM));
        let (value, rooms) = read(&[(0, None), cut, (0, None), cut, (90_000, None), (664, None)]);
        assert_eq!(value.unwrap(), Some(vec![7; 664]));
        assert_eq!(rooms, [0, 4096, 0, 8192, 0, 90_000 + 22_500 + 4096]);
    }

    #[test]
    fn a_value_that_never_fits_is_truncated() {
        let answers = [(1, None), (648, Some(ENOMEM))].repeat(5);
        assert_eq!(read(&answers).0.unwrap(), Some(vec![7; 648]));
    }

    #[test]
    fn a_list_with_an_unknown_name_is_none() {
        assert_eq!(read(&[(0, Some(ENOENT))]).0.unwrap(), None);
    }

    #[test]
    fn other_errors_of_either_call_are_returned() {
        const EPERM: i32 = 1;
        for answers in [&[(0, Some(EPERM))][..], &[(9, None), (0, Some(EPERM))]] {
            assert_eq!(read(answers).0.unwrap_err().raw_os_error(), Some(EPERM));
        }
    }
}
