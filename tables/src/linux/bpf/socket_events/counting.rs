//! The counting of datagrams: two programs, their slots, and the sockets that are live.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use super::super::assembler::MapFd;
use super::super::calls::{self, Counters, Program};
use super::super::error::LoadError;
use super::counted_sockets::CountedSockets;
use super::counting_program::{self, CountMaps};
use super::datagram_program::Direction;
use super::datagrams::{DatagramError, SocketMaps};
use super::grace_period::GracePeriod;
use super::maps::{COUNTERS, Names, with_memory};
use super::members::Layout;
use super::slots::Slots;
use super::writer::Variant;
use crate::model::DatagramSlots;
use crate::model::tcp_event::UsedSlot;

/// The tracepoint after a receive.
pub(super) const RECEIVE: &str = "sock_recv_length";

/// The programs in the kernel.
#[derive(Debug)]
pub(crate) struct Counting {
    /// After a send, and after a receive.
    programs: Arc<[OwnedFd; 2]>,
    /// The programs run until these are closed.
    #[cfg_attr(
        not(feature = "bench"),
        allow(dead_code, reason = "only benches detach the programs")
    )]
    links: Option<[OwnedFd; 2]>,
    sockets: Arc<CountedSockets>,
    slots: Slots,
    grace_period: GracePeriod,
}

impl Counting {
    /// Loads and attaches the programs. The maps of sockets are those of the program for first sends.
    pub(super) fn start(
        layout: &Layout,
        variant: &Variant,
        names: &Names,
        sockets: &SocketMaps,
        lost: &Arc<Counters<COUNTERS>>,
    ) -> Result<Counting, DatagramError> {
        let (Some(send), Some(counting)) = (layout.send, layout.counting) else {
            return Err(DatagramError::NoTracepoint);
        };
        let load = || -> Result<Counting, LoadError> {
            let slots = Slots::create([names.slots, names.free, names.references])?;
            let map = |fd: BorrowedFd<'_>| MapFd(fd.as_raw_fd());
            let maps = CountMaps {
                slots: map(slots.array()),
                free: map(slots.free.as_fd()),
                references: map(slots.references.as_fd()),
            };
            let program = |direction, name, typedef| -> Result<OwnedFd, LoadError> {
                let code = counting_program::program(
                    layout,
                    variant,
                    sockets.of_program(),
                    maps,
                    direction,
                )?;
                let program = Program::tracepoint(name, &code, typedef);
                Ok(with_memory(|| program.load_or_log())?)
            };
            let sent = program(Direction::Send, names.count_sent, send)?;
            let received = program(Direction::Receive, names.count_received, counting.receive)?;
            let programs = Arc::new([sent, received]);
            let storage = sockets.storage.as_fd();
            let mut counted =
                CountedSockets::load(&counting, names.live, storage, lost, &programs)?;
            let links = Some(attach(&programs)?);
            counted.list_open(layout, names.open);
            let (sockets, grace_period) = (Arc::new(counted), GracePeriod::default());
            Ok(Counting { programs, links, sockets, slots, grace_period })
        };
        Ok(load()?)
    }

    /// Attaches the programs again, or detaches them.
    #[cfg(feature = "bench")]
    pub(super) fn set_attached(&mut self, is_attached: bool) -> Result<(), calls::CallError> {
        self.links = None;
        self.links = is_attached.then(|| attach(&self.programs)).transpose()?;
        Ok(())
    }

    /// The runs that the kernel skipped.
    pub(super) fn skipped(&self) -> u64 {
        self.sockets.skipped()
    }

    /// What takes memory in the kernel.
    pub(super) fn objects(&self) -> [BorrowedFd<'_>; 5] {
        let [sent, received] = &*self.programs;
        let Slots { free, references, .. } = &self.slots;
        [sent.as_fd(), received.as_fd(), self.slots.array(), free.as_fd(), references.as_fd()]
    }

    pub(super) fn sockets(&self) -> &Arc<CountedSockets> {
        &self.sockets
    }
}

impl DatagramSlots for Counting {
    fn set_asleep(&self) {
        self.slots.set_asleep();
    }

    fn used(&self) -> Vec<UsedSlot> {
        self.slots.used()
    }

    fn retire(&self, number: u32) {
        self.slots.retire(number);
    }

    fn begin_grace_period(&self) {
        self.grace_period.begin();
    }

    fn is_grace_period_over(&self) -> bool {
        self.grace_period.is_over()
    }

    fn release(&self, number: u32) -> UsedSlot {
        self.slots.release(number)
    }
}

fn attach([sent, received]: &[OwnedFd; 2]) -> Result<[OwnedFd; 2], calls::CallError> {
    Ok([calls::attach(sent.as_fd())?, calls::attach(received.as_fd())?])
}
