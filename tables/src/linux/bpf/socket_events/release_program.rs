//! The program that the kernel runs when the last process closes an IPv4 or IPv6 socket, as a program of a control group:
//! `BPF_CGROUP_INET_SOCK_RELEASE`, since Linux 5.9.
//!
//! It writes a [`StateRecord`] with the bytes of a UDP, raw or ping socket that was used. The kernel runs it in the process
//! that closes the socket, before the protocol does anything.

use super::super::assembler::Condition::Equal;
use super::super::assembler::Register::{R0, R1, R6, R8, R9, R10};
use super::super::assembler::Width::W64;
use super::super::assembler::{AssembleError, Assembler, Instruction, MapFd};
use super::super::helper_ids::GET_SOCKET_COOKIE;
use super::datagram_program::DATAGRAM_STACK_END;
use super::members::Layout;
use super::record_steps::RECORD;
use super::socket_storage::SocketStorage;
use super::writer::{LOST_DATAGRAMS, Variant, Writer, choose_datagram_sockets};
use crate::formats::linux::event_record::members::{DATAGRAM_END, StateRecord, field};

// The stack grows down from R10.
const BYTES_SENT: i16 = DATAGRAM_STACK_END - 8;
const BYTES_RECEIVED: i16 = BYTES_SENT - 8;

/// The program for this kernel. `cast` is the BTF number of the function that makes a typed pointer of the context.
///
/// R6 holds the socket, R7 its storage and later the record, R8 the task, and R9 the context.
pub(super) fn program(
    layout: &Layout,
    variant: &Variant,
    marks: MapFd,
    cast: u32,
) -> Result<Vec<Instruction>, AssembleError> {
    let mut writer = Writer { code: Assembler::default(), layout, variant };
    let [end, no_room, submit] = [(); 3].map(|()| writer.code.label());
    let code = &mut writer.code;
    code.copy(R9, R1);
    code.call_kernel(cast);
    code.copy(R6, R0);
    choose_datagram_sockets(code, layout, R6, end);
    // The helpers of this kind of program take the context.
    writer.storage(marks, R9, 0);
    let code = &mut writer.code;
    code.jump_if(R0, Equal, 0, end);
    for (from, to) in
        [(SocketStorage::BYTES_SENT, BYTES_SENT), (SocketStorage::BYTES_RECEIVED, BYTES_RECEIVED)]
    {
        code.load(W64, R1, R0, from);
        code.store(W64, R10, to, R1);
    }
    writer.report_executable();
    writer.reserve_record(size_of::<StateRecord>(), no_room);
    writer.begin_record(DATAGRAM_END);
    let code = &mut writer.code;
    code.copy(R1, R9);
    code.call(GET_SOCKET_COOKIE);
    RECORD.store(code, field!(StateRecord.socket), R0);
    RECORD.load_and_store(code, R10, BYTES_SENT, field!(StateRecord.bytes_sent));
    RECORD.load_and_store(code, R10, BYTES_RECEIVED, field!(StateRecord.bytes_received));
    writer.store_socket_members();
    writer.store_ends();
    writer.code.jump_if(R8, Equal, 0, submit);
    writer.store_actor();
    writer.code.put(submit);
    writer.submit(None);
    writer.code.jump(end);
    writer.code.put(no_room);
    writer.count_lost(LOST_DATAGRAMS);
    writer.code.put(end);
    // Other results are errors.
    writer.code.set(R0, 1);
    writer.code.exit();
    writer.code.finish()
}

#[cfg(test)]
mod tests {
    use super::super::writer::Maps;
    use super::*;

    /// Compares the program with the fixture, which was reviewed by hand. A change of the program needs a change of
    /// the fixture: the test prints the new one.
    #[test]
    fn the_program_is_the_one_that_was_read() {
        let read = include_str!("../../../../../fixtures/bpf/datagram_ends.txt");
        let maps =
            Maps { ring: MapFd(1001), ring_size: 1 << 20, seen: MapFd(1002), lost: MapFd(1003) };
        let variant = Variant { maps, namespace: None, has_paths: true };
        let made = program(&Layout::made_up(), &variant, MapFd(1004), 4247).unwrap();
        let line = |(index, instruction)| format!("{index}: {instruction}\n");
        let made: String = made.iter().enumerate().map(line).collect();
        assert!(made == read, "another program than fixtures/bpf/datagram_ends.txt:\n{made}");
    }
}
