//! The slots in which the kernel's programs count datagrams.

use super::tcp_event::UsedSlot;

/// The slots of the kernel, or of a test.
pub(crate) trait DatagramSlots {
    /// Lets the next program that takes a slot wake the reader.
    fn set_asleep(&self);
    /// The slots in use.
    fn used(&self) -> Vec<UsedSlot>;
    /// Takes a slot back: the next datagram takes another one. A program that runs now can still count in it.
    fn retire(&self, number: u32);
    /// Begins to wait for the end of the programs that run now.
    fn begin_grace_period(&self);
    /// Whether they have ended.
    fn is_grace_period_over(&self) -> bool;
    /// Frees a slot that was taken back before the last grace period, and returns what it has counted.
    fn release(&self, number: u32) -> UsedSlot;
}
