//! The cost of socket events, for the benchmarks. With the feature `bench` only.

use std::hint::black_box;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use super::super::assembler::Assembler;
use super::super::assembler::Register::R0;
use super::super::calls::{self, Program};
use super::super::types::read_layout;
use super::members::Layout;
use super::{CountingState, EventSource, Waker};
use crate::linux::proc_root::ProcRoot;
use crate::model::tcp_event::EventRecord;
use crate::options::EventDatagrams;

/// The program at the tracepoint, attached or not.
pub struct Events(EventSource);

/// Programs without work at the tracepoints after a send and after a receive: what a call costs.
pub struct EmptyPrograms {
    programs: [OwnedFd; 2],
    links: Vec<OwnedFd>,
}

impl EmptyPrograms {
    /// Loads them.
    ///
    /// # Errors
    /// Why they cannot be loaded.
    pub fn load() -> Result<EmptyPrograms, String> {
        let layout =
            read_layout(&Layout::names(), Layout::of).map_err(|error| error.to_string())?;
        let (Some(send), Some(counting)) = (layout.send, layout.counting) else {
            return Err("the kernel lacks the tracepoints".into());
        };
        let mut code = Assembler::default();
        code.set(R0, 0);
        code.exit();
        let code = code.finish().map_err(|error| error.to_string())?;
        let load = |typedef| {
            let program = Program::tracepoint(*b"empty\0\0\0\0\0\0\0\0\0\0\0", &code, typedef);
            program.load_or_log().map_err(|error| error.to_string())
        };
        Ok(EmptyPrograms { programs: [load(send)?, load(counting.receive)?], links: Vec::new() })
    }

    /// Attaches the first ones and detaches the others.
    ///
    /// # Errors
    /// Why they cannot be attached.
    pub fn attach(&mut self, count: usize) -> Result<(), String> {
        self.links.clear();
        let programs = self.programs.iter().take(count);
        let links = programs.map(|program| calls::attach(program.as_fd()));
        self.links = links.collect::<Result<_, _>>().map_err(|error| error.to_string())?;
        Ok(())
    }
}

/// Ends a wait in [`Events::drain`].
pub struct Wake(Waker);

impl Wake {
    /// Ends it.
    pub fn wake(&self) {
        self.0.wake();
    }
}

impl Events {
    /// Loads the program and attaches it.
    ///
    /// # Errors
    /// Why it cannot be loaded.
    pub fn start() -> Result<Events, String> {
        let root = ProcRoot::open(Path::new("/proc")).map_err(|error| error.to_string())?;
        EventSource::start(&root, EventDatagrams::Auto)
            .map(Events)
            .map_err(|error| error.to_string())
    }

    /// Detaches the program; the maps stay.
    pub fn detach(&mut self) {
        self.0.link = None;
    }

    /// Attaches it again.
    ///
    /// # Errors
    /// Why it cannot be attached.
    pub fn attach(&mut self) -> Result<(), String> {
        let link = calls::attach(self.0.program.as_fd()).map_err(|error| error.to_string())?;
        self.0.link = Some(link);
        Ok(())
    }

    /// Attaches the program for first sends, or detaches it.
    ///
    /// # Errors
    /// Why it cannot be attached.
    pub fn set_datagrams(&mut self, is_attached: bool) -> Result<(), String> {
        let datagrams = self.0.datagrams.as_mut().map_err(|reason| reason.clone())?;
        datagrams.set_attached(is_attached).map_err(|error| error.to_string())
    }

    /// Begins to count datagrams.
    ///
    /// # Errors
    /// Why they cannot be counted.
    pub fn begin_counting(&mut self) -> Result<(), String> {
        let root = ProcRoot::open(Path::new("/proc")).map_err(|error| error.to_string())?;
        self.0.begin_counting(&root);
        self.0.counting.reason().map_or(Ok(()), Err)
    }

    /// Attaches the programs that count, or detaches them.
    ///
    /// # Errors
    /// Why they cannot be attached.
    pub fn set_counting(&mut self, is_attached: bool) -> Result<(), String> {
        let CountingState::Runs(counting) = &mut self.0.counting else {
            return Err(self.0.counting.reason().unwrap_or_default());
        };
        counting.set_attached(is_attached).map_err(|error| error.to_string())
    }

    /// Waits, and decodes what is in the ring buffer; returns the number of changes and executables.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub fn drain(&self, timeout: Duration) -> Result<(u64, u64), String> {
        let (mut states, mut executables) = (0, 0);
        let drained = self.0.drain(timeout, &mut |record| match black_box(record) {
            EventRecord::State(_) | EventRecord::Datagram(_) | EventRecord::DatagramEnd(_) => {
                states += 1
            }
            EventRecord::Executable(_) => executables += 1,
        });
        drained.map(|()| (states, executables)).map_err(|error| error.to_string())
    }

    /// Ends a wait of another thread.
    pub fn waker(&self) -> Wake {
        Wake(self.0.waker())
    }

    /// The number of lost and skipped changes.
    pub fn lost(&self) -> (u64, u64) {
        let losses = self.0.losses();
        (losses.ring_events, losses.skipped)
    }
}
