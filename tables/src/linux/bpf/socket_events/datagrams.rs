//! The first sends of UDP, raw, ping and packet sockets: a program of its own, which older kernels lack.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use super::super::assembler::MapFd;
use super::super::calls::{self, Program};
use super::super::error::LoadError;
use super::datagram_program::{self, SendMaps};
use super::maps::{Names, create_set, with_memory};
use super::members::Layout;
use super::socket_storage::SocketStorage;
use super::writer::Variant;

/// The tracepoint after a send.
pub(super) const SEND: &str = "sock_send_length";

/// The program in the kernel.
#[derive(Debug)]
pub(super) struct Datagrams {
    program: OwnedFd,
    maps: Arc<SocketMaps>,
    /// The program runs until this is closed.
    link: Option<OwnedFd>,
}

/// The maps of sockets, for all programs.
#[derive(Debug)]
pub(super) struct SocketMaps {
    /// The storage of sockets.
    pub(super) storage: OwnedFd,
    /// The cookies of those that were reported and got no storage.
    unmarked: OwnedFd,
}

impl SocketMaps {
    /// The maps as a program names them.
    pub(super) fn of_program(&self) -> SendMaps {
        let [marks, unmarked] = [&self.storage, &self.unmarked].map(|map| MapFd(map.as_raw_fd()));
        SendMaps { marks, unmarked }
    }
}

/// Why the program does not run.
#[derive(Debug)]
pub(crate) enum DatagramError {
    Disabled,
    NoTracepoint,
    Load(LoadError),
    /// No thread for the loading could be started.
    Thread(io::Error),
}

impl fmt::Display for DatagramError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DatagramError::Disabled => f.write_str("disabled by --events-datagrams off"),
            DatagramError::NoTracepoint => {
                write!(f, "the kernel has no tracepoint {SEND}: it needs Linux 6.3 or later")
            }
            DatagramError::Load(error) => write!(f, "{error}"),
            DatagramError::Thread(error) => {
                write!(f, "no thread loads the programs: {error}")
            }
        }
    }
}

impl From<LoadError> for DatagramError {
    fn from(error: LoadError) -> DatagramError {
        DatagramError::Load(error)
    }
}

impl Datagrams {
    /// Loads and attaches the program.
    pub(super) fn start(
        layout: &Layout,
        variant: &Variant,
        names: &Names,
    ) -> Result<Datagrams, DatagramError> {
        let typedef = layout.send.ok_or(DatagramError::NoTracepoint)?;
        let load = || -> Result<Datagrams, LoadError> {
            let storage =
                with_memory(|| calls::create_socket_storage::<SocketStorage>(names.marks))?;
            let maps = SocketMaps { storage, unmarked: create_set::<u64>(names.unmarked)? };
            let code = datagram_program::program(layout, variant, maps.of_program())?;
            let program = Program::tracepoint(names.send, &code, typedef);
            let program = with_memory(|| program.load_or_log())?;
            let link = calls::attach(program.as_fd())?;
            Ok(Datagrams { program, maps: Arc::new(maps), link: Some(link) })
        };
        Ok(load()?)
    }

    /// Detaches the program; the marks stay.
    pub(super) fn detach(&mut self) {
        self.link = None;
    }

    /// Attaches the program again, or detaches it; the marks stay.
    #[cfg(feature = "bench")]
    pub(super) fn set_attached(&mut self, is_attached: bool) -> Result<(), calls::CallError> {
        self.link = is_attached.then(|| calls::attach(self.program.as_fd())).transpose()?;
        Ok(())
    }

    /// The runs that the kernel skipped.
    pub(super) fn skipped(&self) -> u64 {
        calls::skipped(self.program.as_fd())
    }

    /// What takes memory in the kernel, besides the mark of each socket.
    pub(super) fn objects(&self) -> [BorrowedFd<'_>; 3] {
        let SocketMaps { storage, unmarked } = &*self.maps;
        [self.program.as_fd(), storage.as_fd(), unmarked.as_fd()]
    }

    pub(super) fn maps(&self) -> Arc<SocketMaps> {
        Arc::clone(&self.maps)
    }
}
