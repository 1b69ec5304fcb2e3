//! The iterator over the file descriptors of all tasks, for the TCP sockets that were open before the events.

use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{AddressFamily, SocketType};

use super::super::calls::{self, Program};
use super::super::error::{LoadError, PassError};
use super::super::iterator::{own_level, read_records};
use super::maps::with_memory;
use super::members::Layout;
use super::open_sockets_program::program;
use super::writer::PidNamespace;
use crate::deadline::Deadline;
use crate::formats::linux::event_record::{EventRecordError, take_open_socket};
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
        own_level((AddressFamily::INET, SocketType::STREAM), |each| {
            self.read(&mut |open, level| each(open.inode, level))
        })
    }

    fn read(&self, each: &mut dyn FnMut(OpenSocket, u32)) -> Result<(), PassError> {
        read_records(self.link.as_fd(), Deadline::NEVER, |bytes| {
            let taken = take_open_socket(bytes)?;
            let is_complete = taken.is_some();
            if let Some((open, level)) = taken {
                each(open, level);
            }
            Ok::<_, EventRecordError>(is_complete)
        })
    }
}
