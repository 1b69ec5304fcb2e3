//! Dumps of NETLINK_SOCK_DIAG (sock_diag(7)): the sockets of one network namespace.
//!
//! The namespace is that of the thread that opened the netlink socket; any thread can use it afterwards. A
//! dump needs no privilege, and shows the sockets of all users.
//!
//! The kernel sends one datagram at a time. A socket that is opened or closed in between can hide another
//! socket, or show it twice (see [`SharedChains`]). No kernel so far marks such a dump (NLM_F_DUMP_INTR). This
//! module drops duplicates, and requests sockets again that can have been hidden.
//!
//! [`SharedChains`]: crate::model::socket_table::SharedChains
//!
//! If the kernel has no dump of the protocol, it tries to load a module such as `tcp_diag`, and otherwise
//! returns ENOENT.

mod interface;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::fmt;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::fs::fstat;
use rustix::io::{Errno, retry_on_intr};
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::sockopt::{
    Timeout, set_socket_recv_buffer_size, set_socket_recv_buffer_size_force, set_socket_timeout,
};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::dump_retry::DumpRetry;
use crate::deadline::Deadline;
use crate::formats::linux::sock_diag::{Listed, Malformed, Message, Messages, Request};
use crate::model::Socket;

/// A netlink socket for one network namespace.
pub(crate) struct SockDiag {
    socket: OwnedFd,
    /// Room for a datagram: the kernel sends at most 32 KiB.
    buffer: Box<[u8]>,
    /// The size of the receive buffer in the kernel.
    kernel_buffer: usize,
    /// The sequence number of the last request.
    sequence: u32,
    /// Whether a part of its answer is still to be received.
    unfinished: bool,
}

/// The result of passing a socket to the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadControl {
    /// The socket was kept: it must not be passed again.
    Kept,
    /// The socket was dropped: it may be passed again, which saves memory here.
    Dropped,
    /// No further socket is needed.
    Stop,
}

/// The end of a dump.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dump {
    /// All sockets were passed to the caller.
    Complete,
    /// The caller stopped the dump.
    Stopped,
    /// Every attempt was interrupted or lost a part. The sockets of all attempts were passed to the caller; others may
    /// be missing.
    Incomplete,
    /// The kernel has no such dump. No socket was passed to the caller.
    Unsupported,
}

/// Why a dump failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DumpError {
    /// The kernel returned an error, or no datagram before the timeout.
    Netlink(Errno),
    /// A message does not have the format of the request.
    Malformed,
    /// A datagram is larger than any that the kernel sends.
    TooLarge { length: usize },
}

impl From<Errno> for DumpError {
    fn from(errno: Errno) -> DumpError {
        DumpError::Netlink(errno)
    }
}

impl From<Malformed> for DumpError {
    fn from(_: Malformed) -> DumpError {
        DumpError::Malformed
    }
}

impl fmt::Display for DumpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DumpError::Netlink(errno) => write!(f, "{errno}"),
            DumpError::Malformed => write!(f, "netlink: malformed answer of the kernel"),
            DumpError::TooLarge { length } => {
                write!(f, "netlink: a datagram has {length} bytes, the buffer {BUFFER}")
            }
        }
    }
}

impl std::error::Error for DumpError {}

/// The end of an answer.
enum End {
    /// The answer ended with this error, or with 0. `is_incomplete`: a part of it was lost.
    Ended {
        errno: i32,
        is_incomplete: bool,
        /// The number of datagrams with sockets.
        parts: usize,
    },
    Stopped,
}

/// Error numbers are below this (`MAX_ERRNO` in `include/linux/err.h`).
const ERRNO_LIMIT: i32 = 4096;
const BUFFER: usize = 64 * 1024;
const KERNEL_BUFFER: usize = 1024 * 1024;
const LARGEST_KERNEL_BUFFER: usize = 16 * 1024 * 1024;
/// The timeout of one datagram. If few of many sockets pass the conditions of the request, the kernel visits
/// all of them for a datagram: about 10 ms for 100,000.
const RECEIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// The timeout after a part of the answer was lost.
const LOST_PART_TIMEOUT: Duration = Duration::from_millis(200);

impl SockDiag {
    /// Opens a netlink socket in the network namespace of the calling thread.
    pub(crate) fn open() -> rustix::io::Result<SockDiag> {
        let socket = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            Some(netlink::SOCK_DIAG),
        )?;
        set_socket_timeout(&socket, Timeout::Recv, Some(RECEIVE_TIMEOUT))?;
        // From here on only the kernel can send to the socket.
        rustix::net::connect(&socket, &SocketAddrNetlink::new(0, 0))?;
        let mut diag = SockDiag {
            socket,
            buffer: vec![0; BUFFER].into(),
            kernel_buffer: 0,
            sequence: 0,
            unfinished: false,
        };
        diag.enlarge_kernel_buffer(KERNEL_BUFFER);
        Ok(diag)
    }

    /// Passes every requested socket to `each`, once unless it was dropped.
    ///
    /// An interrupted dump is requested again, a few times. Sockets that can have been hidden are requested
    /// again until two consecutive attempts show the same. Kept sockets are identified by their cookies, so
    /// the caller gets the sockets of all attempts, each with its first record.
    ///
    /// After an error, or if the caller stops, the rest of the answer is still to come, and the next dump has
    /// to receive it first. A new socket is cheaper.
    #[cfg(any(test, feature = "bench"))]
    pub(crate) fn dump(
        &mut self,
        request: &Request,
        each: impl FnMut(Socket) -> ReadControl,
    ) -> Result<Dump, DumpError> {
        self.dump_more(request, Deadline::NEVER, &mut HashSet::new(), each)
    }

    /// The same without the sockets with the cookies `seen`: those that were kept of an earlier answer.
    pub(crate) fn dump_more(
        &mut self,
        request: &Request,
        deadline: Deadline<'_>,
        seen: &mut HashSet<u64>,
        mut each: impl FnMut(Socket) -> ReadControl,
    ) -> Result<Dump, DumpError> {
        let repeated = request.repeated();
        let mut current = request;
        let mut is_complete = false;
        let mut retry = DumpRetry::new(deadline);
        while retry.next_attempt() {
            let is_compared = repeated.as_ref() == Some(current);
            self.send_request(current)?;
            let end = self.receive(deadline, |message| {
                let listed = current.parse(message)?;
                let is_new = !seen.contains(&listed.cookie);
                if is_compared {
                    seen.insert(listed.cookie);
                    retry.add(listed.cookie);
                }
                Ok(if is_new { pass_socket(listed, seen, &mut each) } else { CONTINUE })
            })?;
            match end {
                End::Stopped => return Ok(Dump::Stopped),
                End::Ended { errno: 0, is_incomplete, parts } => {
                    is_complete |= !is_incomplete;
                    if is_incomplete {
                        continue;
                    }
                    // A socket can be hidden between two datagrams.
                    let hides = parts > 1 && !(is_compared && retry.end_attempt());
                    match &repeated {
                        Some(repeated) if hides => current = repeated,
                        _ => break,
                    }
                }
                End::Ended { errno: ERRNO_LIMIT.., .. } => return Err(DumpError::Malformed),
                End::Ended { errno, .. } => match Errno::from_raw_os_error(errno) {
                    Errno::NOENT | Errno::OPNOTSUPP | Errno::PROTONOSUPPORT => {
                        return Ok(Dump::Unsupported);
                    }
                    errno => return Err(errno.into()),
                },
            }
        }
        Ok(if is_complete { Dump::Complete } else { Dump::Incomplete })
    }

    /// The inode of the netlink socket; 0 if it cannot be read.
    pub(crate) fn inode(&self) -> u64 {
        fstat(&self.socket).map_or(0, |stat| stat.st_ino)
    }

    /// The current name of an interface of the namespace, with U+FFFD for bytes that are not UTF-8.
    pub(crate) fn interface_name(&self, index: u32) -> Option<String> {
        let name = interface::name_of(self.socket.as_fd(), index).ok()?;
        Some(String::from_utf8_lossy(&name).into_owned())
    }

    /// Sends a request after the last one is answered: the kernel rejects a second one at a time.
    fn send_request(&mut self, request: &Request) -> Result<(), DumpError> {
        if self.unfinished {
            self.receive(Deadline::after(RECEIVE_TIMEOUT), |_| Ok(CONTINUE))?;
        }
        self.sequence = self.sequence.wrapping_add(1);
        let message = request.to_bytes(self.sequence);
        self.unfinished = true;
        retry_on_intr(|| rustix::net::send(&self.socket, &message, SendFlags::empty()))?;
        Ok(())
    }

    /// Hands the sockets of an answer to `each`, until `each` breaks or the answer ends.
    fn receive(
        &mut self,
        deadline: Deadline<'_>,
        mut each: impl FnMut(&[u8]) -> Result<ControlFlow<()>, DumpError>,
    ) -> Result<End, DumpError> {
        let (mut is_incomplete, mut parts) = (false, 0);
        loop {
            if deadline.has_passed() {
                return Err(Errno::TIMEDOUT.into());
            }
            let length = match receive_datagram(&self.socket, &mut self.buffer) {
                Ok(Some(length)) => length,
                Ok(None) => continue,
                Err(Errno::NOBUFS) if self.kernel_buffer < LARGEST_KERNEL_BUFFER => {
                    self.enlarge_kernel_buffer(self.kernel_buffer.saturating_mul(2));
                    // The end of the answer may be lost.
                    set_socket_timeout(&self.socket, Timeout::Recv, Some(LOST_PART_TIMEOUT))?;
                    is_incomplete = true;
                    continue;
                }
                Err(Errno::AGAIN) if is_incomplete => return Err(Errno::NOBUFS.into()),
                Err(Errno::AGAIN) => return Err(Errno::TIMEDOUT.into()),
                Err(errno) => return Err(errno.into()),
            };
            let datagram = self.buffer.get(..length).ok_or(DumpError::TooLarge { length })?;
            let mut messages = Messages::new(datagram, self.sequence);
            let (mut stopped, mut has_sockets) = (false, false);
            while let Some(message) = messages.next() {
                match message? {
                    Message::Socket(_) if stopped => {}
                    Message::Socket(message) => {
                        has_sockets = true;
                        stopped = each(message)?.is_break();
                    }
                    Message::Overrun => is_incomplete = true,
                    Message::End(errno) => {
                        self.unfinished = false;
                        is_incomplete |= messages.interrupted();
                        parts += usize::from(has_sockets);
                        let end = End::Ended { errno, is_incomplete, parts };
                        return Ok(if stopped { End::Stopped } else { end });
                    }
                }
            }
            parts += usize::from(has_sockets);
            if stopped {
                return Ok(End::Stopped);
            }
            is_incomplete |= messages.interrupted();
        }
    }

    /// Enlarges the receive buffer, beyond the limit of the system if this process has CAP_NET_ADMIN.
    fn enlarge_kernel_buffer(&mut self, size: usize) {
        let forced = set_socket_recv_buffer_size_force(&self.socket, size);
        // A small buffer is safe: the kernel reports that a part of an answer was lost.
        let _ = forced.or_else(|_| set_socket_recv_buffer_size(&self.socket, size));
        self.kernel_buffer = size;
    }
}

const CONTINUE: ControlFlow<()> = ControlFlow::Continue(());

/// Passes a socket, and the connections in its accept queue, to `each`.
fn pass_socket(
    listed: Listed,
    kept: &mut HashSet<u64>,
    each: &mut impl FnMut(Socket) -> ReadControl,
) -> ControlFlow<()> {
    let waiting = listed.waiting();
    let mut pass_socket = |socket| match each(socket) {
        ReadControl::Kept => {
            kept.insert(listed.cookie);
            CONTINUE
        }
        ReadControl::Dropped => CONTINUE,
        ReadControl::Stop => ControlFlow::Break(()),
    };
    pass_socket(listed.socket)?;
    waiting.into_iter().flatten().try_for_each(pass_socket)
}

/// The length of the next datagram, which can exceed the buffer; None if the kernel is not the sender.
fn receive_datagram(socket: &OwnedFd, buffer: &mut [u8]) -> rustix::io::Result<Option<usize>> {
    let (_, length, sender) =
        retry_on_intr(|| rustix::net::recvfrom(socket, &mut *buffer, RecvFlags::TRUNC))?;
    let sender = sender.and_then(|sender| SocketAddrNetlink::try_from(sender).ok());
    Ok(sender.is_some_and(|sender| sender.pid() == 0).then_some(length))
}
