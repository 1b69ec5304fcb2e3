//! The iterator over the file descriptors of all tasks, for the TCP sockets that were open before the events.

use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::fstat;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use super::super::calls::{self, Program};
use super::super::error::{LoadError, PassError};
use super::maps::with_memory;
use super::members::Layout;
use super::open_sockets_program::program;
use super::writer::PidNamespace;
use crate::formats::linux::event_record::take_open_socket;
use crate::model::tcp_event::OpenSocket;

/// The loaded program.
#[derive(Debug)]
pub(super) struct OpenSockets {
    link: OwnedFd,
}

impl OpenSockets {
    pub(super) fn load(
        layout: &Layout,
        name: [u8; 16],
        namespace: Option<&PidNamespace>,
    ) -> Result<OpenSockets, LoadError> {
        let iterator = layout.iterator.as_ref().ok_or(LoadError::NoCookies)?;
        let code = program(layout, &iterator.context, namespace)?;
        let program = Program::iterator(name, &code, iterator.function);
        let program = with_memory(|| program.load_or_log())?;
        Ok(OpenSockets { link: calls::link(program.as_fd(), None)? })
    }

    /// Hands over each TCP socket with each process that holds it.
    pub(super) fn run(&self, each: &mut dyn FnMut(OpenSocket)) -> Result<(), PassError> {
        // Threads whose file descriptor tables differ show the same descriptors again, one after the other.
        let (mut process, mut seen) = (0, HashSet::new());
        self.read(&mut |open, _| {
            if process != open.pid {
                process = open.pid;
                seen.clear();
            }
            if seen.insert((open.fd, open.socket)) {
                each(open);
            }
        })
    }

    /// The depth of the PID namespace of this process.
    pub(super) fn own_level(&self) -> Result<u32, LoadError> {
        let own = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None);
        let inode = own.and_then(|own| Ok((fstat(&own)?.st_ino, own)));
        let (inode, _own) = inode.map_err(LoadError::OwnSocket)?;
        let mut own_level = None;
        let pass = self.read(&mut |open, level| {
            if open.inode == inode {
                own_level = Some(level);
            }
        });
        pass.map_err(LoadError::OwnLevel)?;
        own_level.ok_or(LoadError::OwnSocketMissed)
    }

    fn read(&self, each: &mut dyn FnMut(OpenSocket, u32)) -> Result<(), PassError> {
        let file = calls::iterator(self.link.as_fd())?;
        // The kernel fills half of it at a time.
        let mut buffer = vec![0; 64 * 1024];
        let mut filled = 0;
        loop {
            let room = buffer.get_mut(filled..).unwrap_or_default();
            match rustix::io::read(&file, room) {
                Ok(0) => return Ok(()),
                Ok(length) => filled += length,
                // The kernel has visited a million files without a record.
                Err(Errno::AGAIN | Errno::INTR) => continue,
                Err(errno) => return Err(PassError::Read(errno)),
            }
            let mut rest = buffer.get(..filled).unwrap_or_default();
            while let Some((open, level)) = take_open_socket(&mut rest)? {
                each(open, level);
            }
            let left = rest.len();
            buffer.copy_within(filled - left..filled, 0);
            filled = left;
        }
    }
}
