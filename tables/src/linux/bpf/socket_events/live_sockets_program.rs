//! The program that the kernel runs for every socket that has storage in a map: it writes the socket's cookie, and the
//! bytes that it has sent and received.

use std::mem::offset_of;

use super::super::assembler::Condition::Equal;
use super::super::assembler::Register::{R0, R1, R6, R7, R8, R10};
use super::super::assembler::Width::W64;
use super::super::assembler::{AssembleError, Assembler, Instruction};
use super::super::helper_ids::GET_SOCKET_COOKIE;
use super::members::StorageContext;
use super::socket_storage::SocketStorage;
use super::writer::write_record;
use crate::formats::linux::event_record::members::LiveSocketRecord;

const SIZE: usize = size_of::<LiveSocketRecord>();
const RECORD: i16 = -(SIZE as i16);

/// The program for this kernel. R6 holds the context, R7 the socket, and R8 its storage.
pub(super) fn program(context: &StorageContext) -> Result<Vec<Instruction>, AssembleError> {
    let mut code = Assembler::default();
    let end = code.label();
    code.copy(R6, R1);
    code.load(W64, R7, R6, context.sk);
    code.jump_if(R7, Equal, 0, end);
    code.load(W64, R8, R6, context.value);
    code.jump_if(R8, Equal, 0, end);
    code.copy(R1, R7);
    code.call(GET_SOCKET_COOKIE);
    let member = |offset: usize| RECORD + offset as i16;
    code.store(W64, R10, member(offset_of!(LiveSocketRecord, cookie)), R0);
    for (from, to) in [
        (SocketStorage::BYTES_SENT, offset_of!(LiveSocketRecord, bytes_sent)),
        (SocketStorage::BYTES_RECEIVED, offset_of!(LiveSocketRecord, bytes_received)),
    ] {
        code.load(W64, R1, R8, from);
        code.store(W64, R10, member(to), R1);
    }
    write_record(&mut code, R6, [context.meta, context.seq], RECORD, SIZE);
    code.put(end);
    code.set(R0, 0);
    code.exit();
    code.finish()
}

#[cfg(test)]
mod tests {
    use super::super::members::Layout;
    use super::*;

    /// Compares the program with the fixture, which was reviewed by hand. A change of the program needs a change of
    /// the fixture: the test prints the new one.
    #[test]
    fn the_program_is_the_one_that_was_read() {
        let read = include_str!("../../../../../fixtures/bpf/live_sockets.txt");
        let made = program(&Layout::made_up().counting.unwrap().context).unwrap();
        let line = |(index, instruction)| format!("{index}: {instruction}\n");
        let made: String = made.iter().enumerate().map(line).collect();
        assert!(made == read, "another program than fixtures/bpf/live_sockets.txt:\n{made}");
    }
}
