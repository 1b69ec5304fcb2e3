//! Passes of an iterator over the file descriptors of all tasks (`kernel/bpf/task_iter.c`).

use std::os::fd::BorrowedFd;

use rustix::fs::fstat;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use super::calls;
use super::error::{LoadError, PassError};
use crate::deadline::Deadline;

/// Runs the iterator to its end or to the deadline. `take` splits the first record off the bytes and uses it; it
/// returns whether the record was complete.
pub(super) fn read_records<E>(
    link: BorrowedFd<'_>,
    deadline: Deadline<'_>,
    mut take: impl FnMut(&mut &[u8]) -> Result<bool, E>,
) -> Result<(), PassError>
where
    PassError: From<E>,
{
    let file = calls::iterator(link)?;
    // The kernel fills half of it at a time.
    let mut buffer = vec![0; 64 * 1024];
    let mut filled = 0;
    while !deadline.has_passed() {
        let room = buffer.get_mut(filled..).unwrap_or_default();
        match rustix::io::read(&file, room) {
            Ok(0) => return Ok(()),
            Ok(length) => filled += length,
            // The kernel has visited a million files without a record.
            Err(Errno::AGAIN | Errno::INTR) => continue,
            Err(errno) => return Err(PassError::Read(errno)),
        }
        let mut rest = buffer.get(..filled).unwrap_or_default();
        while take(&mut rest)? {}
        let left = rest.len();
        buffer.copy_within(filled - left..filled, 0);
        filled = left;
    }
    Ok(())
}

/// The depth of the PID namespace of this process. `pass` calls its argument with the inode of each socket, and the
/// depth of the PID namespace of the process that holds it. It has to visit sockets of this kind.
pub(super) fn own_level(
    (family, kind): (AddressFamily, SocketType),
    pass: impl FnOnce(&mut dyn FnMut(u64, u32)) -> Result<(), PassError>,
) -> Result<u32, LoadError> {
    let own = socket_with(family, kind, SocketFlags::CLOEXEC, None);
    let inode = own.and_then(|own| Ok((fstat(&own)?.st_ino, own)));
    let (own_inode, _own) = inode.map_err(LoadError::OwnSocket)?;
    let mut own_level = None;
    let ended = pass(&mut |inode, level| {
        if inode == own_inode {
            own_level = Some(level);
        }
    });
    ended.map_err(LoadError::OwnLevel)?;
    own_level.ok_or(LoadError::OwnSocketMissed)
}
