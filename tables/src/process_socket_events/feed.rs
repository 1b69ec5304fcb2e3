//! Sources of records: the kernel, or a test.

use std::sync::Arc;
use std::time::Duration;

use super::background::Wake;
use super::closed_sockets::UsedSockets;
use super::repair::ListSockets;
use crate::model::DatagramSlots;
use crate::model::tcp_event::{EventRecord, Losses, OpenSocket};

/// A source of records: the kernel, or a test.
pub(super) trait Feed: Send {
    /// Waits until there is much to read, the wait is ended or the timeout has passed; then hands over every record.
    fn drain(&mut self, timeout: Duration, each: &mut dyn FnMut(EventRecord))
    -> Result<(), String>;
    /// What was lost since the start.
    fn losses(&self) -> Losses;
    /// The memory in the kernel, in bytes.
    fn memory(&self) -> u64;
    /// The programs, and why some do not run.
    fn programs(&self) -> Vec<Program>;
    /// Begins to load the counting programs, unless the settings or the kernel forbid it. At its end, the waker is used.
    fn begin_counting(&mut self);
    /// Takes over the programs that were loaded; false while they are being loaded.
    fn has_loaded_counting(&mut self) -> bool;
    /// The slots that count datagrams, if they are counted.
    fn slots(&self) -> Option<&dyn DatagramSlots>;
    /// The sockets whose datagrams are counted, if they are.
    fn used_sockets(&self) -> Option<Arc<dyn UsedSockets>>;
}

/// A program, and why it does not run, if so.
pub(super) type Program = (&'static str, Result<(), String>);

/// An open source of records.
pub(super) struct Opened {
    pub(super) feed: Box<dyn Feed>,
    /// Ends a wait in [`Feed::drain`].
    pub(super) wake: Wake,
    /// The sockets that are open already.
    pub(super) open_sockets: Vec<OpenSocket>,
    /// Lists the sockets of the host, if records are lost.
    pub(super) list_sockets: Option<ListSockets>,
}
