//! What the programs keep of a datagram socket: the kernel frees it with the socket.

use std::mem::offset_of;

/// A value of the map of socket storage.
#[derive(Debug)]
#[repr(C)]
pub(super) struct SocketStorage {
    /// Not 0: the first send was reported.
    is_reported: u64,
    /// To the slot of the process that used the socket first: the number of the slot is in the lower half, its generation
    /// in the upper. 0: none.
    reference: u64,
    /// What all processes have sent and received since counting began.
    bytes_sent: u64,
    bytes_received: u64,
    /// The tick of the kernel in which the process of the reference has last read the clock.
    tick: u64,
}

impl SocketStorage {
    pub(super) const IS_REPORTED: i16 = offset_of!(SocketStorage, is_reported) as i16;
    pub(super) const REFERENCE: i16 = offset_of!(SocketStorage, reference) as i16;
    pub(super) const BYTES_SENT: i16 = offset_of!(SocketStorage, bytes_sent) as i16;
    pub(super) const BYTES_RECEIVED: i16 = offset_of!(SocketStorage, bytes_received) as i16;
    pub(super) const TICK: i16 = offset_of!(SocketStorage, tick) as i16;
}
