//! The sockets of a namespace, from the files in `/proc/<pid>/net`.
//!
//! The kernel prints a file page by page. A socket that is opened or closed in between can hide another one,
//! or show it twice: see [`SharedChains`]. So a file of more than a page is read again, until two reads show
//! the same sockets. If only listeners can be hidden, the further reads end after the listeners, which are
//! printed first.

use std::collections::HashSet;
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, BufRead, BufReader, Seek};
use std::ops::ControlFlow;

use rustix::io::Errno;

use super::dump_retry::DumpRetry;
use super::netns::Namespace;
use super::proc_root::ProcRoot;
use super::sock_diag::ReadControl;
use crate::deadline::Deadline;
use crate::model::omission::{OmissionKind, Omissions};
use crate::model::socket_table::{SharedChains, SocketTable};
use crate::model::{Binding, ExtendedFields, Socket, TcpState};

/// A file in `/proc/<pid>/net`.
#[derive(Clone, Copy)]
pub(crate) struct SocketFile<'a> {
    pub(crate) table: SocketTable,
    /// From `/proc/<pid>` on: `net/tcp`.
    pub(crate) path: &'a str,
    /// The extended details to read, as far as the file has them.
    pub(crate) extended: ExtendedFields,
}

/// Passes every socket that a file of the namespace lists to `each`, once, until `each` stops the read.
pub(crate) fn for_each_socket(
    root: &ProcRoot,
    namespace: &Namespace,
    file: SocketFile<'_>,
    deadline: Deadline<'_>,
    omissions: &mut Omissions,
    each: impl FnMut(Socket) -> ReadControl,
) {
    let SocketFile { table, path, .. } = file;
    let opened = match namespace.open(root, path) {
        Ok(Some(opened)) => Ok(BufReader::with_capacity(64 * 1024, opened)),
        Ok(None) => return,
        Err(Errno::SRCH) => {
            return omissions.add(OmissionKind::Left, || namespace.path(root, path));
        }
        Err(errno) => Err(io::Error::from(errno)),
    };
    let mut reader = Reader {
        namespace,
        file,
        only_listeners_again: table.shared_chains() == SharedChains::Listeners,
        seen: Seen::default(),
        retry: DumpRetry::new(deadline),
    };
    let malformed = |line| {
        omissions
            .add(OmissionKind::Line, || format!("line {line} of {}", namespace.path(root, path)))
    };
    let result = opened.and_then(|mut text| reader.read_until_alike(&mut text, each, malformed));
    if let Err(error) = result {
        omissions
            .add(OmissionKind::SocketFile, || format!("{}: {error}", namespace.path(root, path)));
    }
}

/// Reads a file, several times if needed.
struct Reader<'a> {
    namespace: &'a Namespace,
    file: SocketFile<'a>,
    /// Whether the reads after the first one end after the listeners.
    only_listeners_again: bool,
    seen: Seen,
    retry: DumpRetry<'a>,
}

impl Reader<'_> {
    /// Reads the file until two reads show the same sockets. `malformed` gets the number of each malformed line
    /// of the first read.
    fn read_until_alike(
        &mut self,
        text: &mut BufReader<File>,
        mut each: impl FnMut(Socket) -> ReadControl,
        mut malformed: impl FnMut(u64),
    ) -> io::Result<()> {
        let mut is_first = true;
        while self.retry.next_attempt() {
            let hides = self.read(text, is_first, &mut each, &mut malformed)?;
            let is_long = !is_first || text.stream_position()? > PAGE;
            if !hides || !is_long {
                break;
            }
            is_first = false;
            text.rewind()?;
        }
        Ok(())
    }

    /// Reads the file once; returns whether a socket can still be hidden.
    fn read(
        &mut self,
        text: &mut BufReader<File>,
        is_first: bool,
        each: &mut impl FnMut(Socket) -> ReadControl,
        malformed: &mut impl FnMut(u64),
    ) -> io::Result<bool> {
        let is_compared = !is_first || !self.only_listeners_again;
        let mut lines = 0u64;
        let end = for_each_line(text, |line| {
            lines += 1;
            if lines == 1 && self.file.table.is_header(line.unwrap_or_default()) {
                return ControlFlow::Continue(());
            }
            match line.map(|line| self.file.table.parse(line, self.file.extended)) {
                Some(Ok(socket))
                    if !is_first && self.only_listeners_again && socket.state() != LISTEN =>
                {
                    return ControlFlow::Break(());
                }
                // Sockets without an inode cannot be distinguished: only the first read counts.
                Some(Ok(socket)) if socket.inode == 0 && !is_first => {}
                Some(Ok(socket)) => return self.pass_socket(socket, is_compared, each),
                Some(Err(_)) | None if !is_first => {}
                Some(Err(_)) | None => malformed(lines),
            }
            ControlFlow::Continue(())
        });
        end.map(|end| {
            let is_to_end = end.is_continue() || (!is_first && self.only_listeners_again);
            is_to_end && !(is_compared && self.retry.end_attempt())
        })
    }

    /// Passes a socket to `each` if it is new.
    fn pass_socket(
        &mut self,
        mut socket: Socket,
        is_compared: bool,
        each: &mut impl FnMut(Socket) -> ReadControl,
    ) -> ControlFlow<()> {
        socket.net_namespace = self.namespace.number();
        let hash = self.seen.hash(&socket);
        if let Some(hash) = hash.filter(|_| is_compared) {
            self.retry.add(hash);
        }
        let is_new = hash.is_none_or(|hash| self.seen.hashes.insert(hash));
        if is_new && each(socket) == ReadControl::Stop {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }
}

/// The sockets that a file has listed so far.
#[derive(Default)]
struct Seen {
    hasher: RandomState,
    hashes: HashSet<u64>,
}

impl Seen {
    /// The identity of the socket; None if it has none.
    fn hash(&self, socket: &Socket) -> Option<u64> {
        Some(match &socket.binding {
            // Only one connection has these endpoints, in any state.
            Binding::Inet { state: Some(_), local, remote, .. }
                if socket.inode == 0 && remote.port != 0 =>
            {
                self.hasher.hash_one((local, remote))
            }
            _ if socket.inode == 0 => return None,
            // With the path, so that a forged line does not hide a true one.
            Binding::Unix { path, .. } => self.hasher.hash_one((socket.inode, path)),
            // The subflows of an MPTCP connection have its inode.
            Binding::Inet { state: Some(_), local, remote, .. } => {
                self.hasher.hash_one((socket.inode, local, remote))
            }
            _ => socket.inode,
        })
    }
}

/// The state of listeners, as the column shows it.
const LISTEN: &str = TcpState::Listen.name();

/// The kernel prints at most this much at a time.
const PAGE: u64 = 4096;

/// Longer than any line of the kernel: lines of UNIX sockets have up to 170 bytes, those of TCP over IPv6
/// about 230.
const LONGEST_LINE: u64 = 4096;

/// Calls `each` with every line, without its newline, until `each` breaks. It gets None for a line that is too
/// long, and for a last line without a newline, which may be truncated.
fn for_each_line(
    mut text: impl BufRead,
    mut each: impl FnMut(Option<&[u8]>) -> ControlFlow<()>,
) -> io::Result<ControlFlow<()>> {
    let mut line = Vec::new();
    loop {
        line.clear();
        if io::Read::take(&mut text, LONGEST_LINE).read_until(b'\n', &mut line)? == 0 {
            return Ok(ControlFlow::Continue(()));
        }
        let whole = line.strip_suffix(b"\n");
        if each(whole).is_break() {
            return Ok(ControlFlow::Break(()));
        }
        if whole.is_none() {
            text.skip_until(b'\n')?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &[u8]) -> Vec<Option<Vec<u8>>> {
        let mut lines = Vec::new();
        let push = |line: Option<&[u8]>| {
            lines.push(line.map(<[u8]>::to_vec));
            ControlFlow::Continue(())
        };
        assert_eq!(for_each_line(text, push).unwrap(), ControlFlow::Continue(()));
        lines
    }

    #[test]
    fn a_last_line_without_an_end_is_not_taken_for_whole() {
        assert_eq!(lines(b"a\nbc"), [Some(b"a".to_vec()), None]);
        assert_eq!(lines(b"a\nbc\n"), [Some(b"a".to_vec()), Some(b"bc".to_vec())]);
    }

    #[test]
    fn an_endless_line_takes_no_memory_and_the_next_one_is_read() {
        let mut text = vec![b'x'; 10 * LONGEST_LINE as usize];
        text.extend(b"\nnext\n");
        assert_eq!(lines(&text), [None, Some(b"next".to_vec())]);
    }

    #[test]
    fn empty_lines_count() {
        assert_eq!(lines(b"\n\na\n"), [Some(vec![]), Some(vec![]), Some(b"a".to_vec())]);
        assert_eq!(lines(b""), []);
    }
}
