//! The program that the kernel runs when a socket has sent: the tracepoint `sock_send_length`, since Linux 6.3.
//!
//! It writes a [`DatagramRecord`] into the ring buffer when a UDP, raw, ping or packet socket sends for the first time.
//! The kernel runs it in the process that sends, after the protocol has sent or refused the datagram. A mark in the
//! socket's own storage shows that it has been reported. Sockets of TCP, and of UNIX, are left at once.

use super::super::assembler::Condition::{Equal, Less, NotEqual};
use super::super::assembler::Register::{R0, R1, R2, R3, R4, R6, R7, R8, R9, R10};
use super::super::assembler::Width::{W8, W32, W64};
use super::super::assembler::{AssembleError, Assembler, Instruction, Label, MapFd, Register};
use super::super::helper_ids::{
    GET_SOCKET_COOKIE, MAP_LOOKUP_ELEM, MAP_UPDATE_ELEM, PROBE_READ_USER, SK_STORAGE_GET,
};
use super::members::Layout;
use super::record_steps::RECORD;
use super::socket_storage::SocketStorage;
use super::writer::{
    LOST_DATAGRAMS, SEEN_VALUE, STACK_END, Variant, Writer, address, choose_datagram_sockets,
};
use crate::formats::linux::event_record::members::{
    DATAGRAM, DatagramRecord, SOCKADDR_IN6_SIZE, StateRecord, field,
};
use crate::model::Family;

/// The arguments of the tracepoint in the context: the socket, and what the system call returns.
const SOCK: i16 = 0;
pub(super) const RESULT: i16 = 8;

/// `BPF_SK_STORAGE_GET_F_CREATE`
const CREATE: i32 = 1;

/// `BPF_NOEXIST`, and what the helper returns then.
const NOEXIST: i32 = 1;
const EEXIST: i32 = 17;

/// System calls whose caller names the peer.
const SENDTO: i32 = libc::SYS_sendto as i32;
const SENDMSG: i32 = libc::SYS_sendmsg as i32;
const SENDMMSG: i32 = libc::SYS_sendmmsg as i32;

/// The socket cookie, and the first members of a `struct msghdr`: the peer's address and its length.
const COOKIE: i16 = STACK_END - 8;
const MESSAGE: i16 = STACK_END - 16;
/// Where the stack is free.
pub(super) const DATAGRAM_STACK_END: i16 = MESSAGE;

/// The maps of the sockets that were reported: their storage, and the cookies of those that have none.
#[derive(Clone, Copy, Debug)]
pub(super) struct SendMaps {
    pub(super) marks: MapFd,
    pub(super) unmarked: MapFd,
}

/// The program for this kernel.
///
/// R6 holds the socket, R7 the record, R8 the task, and R9 the context.
pub(super) fn program(
    layout: &Layout,
    variant: &Variant,
    maps: SendMaps,
) -> Result<Vec<Instruction>, AssembleError> {
    let mut writer = Writer { code: Assembler::default(), layout, variant };
    let end = writer.code.label();
    writer.choose_sockets(end);
    writer.mark(maps, end);
    writer.report_datagram(Direction::Send, None, end, |code| {
        RECORD.store_number(code, field!(DatagramRecord.is_first_send), 1);
    });
    writer.code.put(end);
    writer.code.set(R0, 0);
    writer.code.exit();
    writer.code.finish()
}

/// Which tracepoint a program is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    Send,
    Receive,
}

impl Writer<'_> {
    /// Jumps to the end unless it is a UDP, raw, ping or packet socket.
    pub(super) fn choose_sockets(&mut self, end: Label) {
        let code = &mut self.code;
        code.copy(R9, R1);
        code.load(W64, R6, R9, SOCK);
        choose_datagram_sockets(code, self.layout, R6, end);
    }

    /// Marks the socket as reported; jumps to the end if it is, or if it is one of the kernel itself.
    fn mark(&mut self, maps: SendMaps, end: Label) {
        let [no_storage, marked] = [(); 2].map(|()| self.code.label());
        self.find_storage(maps.marks, end, no_storage);
        self.code.load(W64, R1, R7, SocketStorage::IS_REPORTED);
        self.code.jump_if(R1, NotEqual, 0, end);
        self.mark_storage(end);
        self.code.jump(marked);
        self.code.put(no_storage);
        self.mark_without_storage(maps.unmarked, end);
        self.code.put(marked);
    }

    /// R7 = the storage of the socket; jumps if it has none and cannot get one, or if the kernel owns the socket.
    pub(super) fn find_storage(&mut self, marks: MapFd, if_of_kernel: Label, no_storage: Label) {
        let found = self.code.label();
        self.storage(marks, R6, 0);
        self.code.copy(R7, R0);
        self.code.jump_if(R7, NotEqual, 0, found);
        self.leave_sockets_of_kernel(if_of_kernel);
        self.storage(marks, R6, CREATE);
        self.code.copy(R7, R0);
        self.code.jump_if(R7, NotEqual, 0, found);
        // Another thread has just created it, or there is no room.
        self.storage(marks, R6, 0);
        self.code.copy(R7, R0);
        self.code.jump_if(R7, Equal, 0, no_storage);
        self.code.put(found);
    }

    /// Jumps if the kernel owns the socket. Some of its sockets have no file.
    fn leave_sockets_of_kernel(&mut self, end: Label) {
        let Layout { sock, kernel_socket, .. } = self.layout;
        let code = &mut self.code;
        code.load(W64, R1, R6, sock.socket);
        code.load(W64, R1, R1, sock.file);
        code.jump_if(R1, Equal, 0, end);
        if let Some(bit) = kernel_socket {
            code.load(W8, R1, R6, bit.byte);
            code.shift_right(R1, bit.shift.into());
            code.mask(R1, bit.mask.into());
            code.jump_if(R1, NotEqual, 0, end);
        }
    }

    /// Marks the socket in its storage, which R7 points to; jumps if it is marked. Of several threads that send at once, one
    /// finds 0.
    pub(super) fn mark_storage(&mut self, if_marked: Label) {
        let code = &mut self.code;
        code.set(R1, 1);
        code.exchange(R7, SocketStorage::IS_REPORTED, R1);
        code.jump_if(R1, NotEqual, 0, if_marked);
    }

    /// The memory for options of a socket can be full, and a process can fill it.
    pub(super) fn mark_without_storage(&mut self, unmarked: MapFd, end: Label) {
        let code = &mut self.code;
        code.copy(R1, R6);
        code.call(GET_SOCKET_COOKIE);
        code.store(W64, R10, COOKIE, R0);
        // An update alone would evict another socket before it finds this one.
        code.load_map(R1, unmarked);
        address(code, R2, R10, COOKIE);
        code.call(MAP_LOOKUP_ELEM);
        code.jump_if(R0, NotEqual, 0, end);
        code.store_number(W64, R10, SEEN_VALUE, 1);
        code.load_map(R1, unmarked);
        address(code, R2, R10, COOKIE);
        address(code, R3, R10, SEEN_VALUE);
        code.set(R4, NOEXIST);
        code.call(MAP_UPDATE_ELEM);
        code.jump_if(R0, Equal, -EEXIST, end);
    }

    /// R0 = the socket's storage in this map; null if it has none. The register has the socket, or the context of a program
    /// of a control group.
    pub(super) fn storage(&mut self, map: MapFd, socket: Register, flags: i32) {
        let code = &mut self.code;
        code.load_map(R1, map);
        code.copy(R2, socket);
        code.set(R3, 0);
        code.set(R4, flags);
        code.call(SK_STORAGE_GET);
    }

    /// Writes the record of the datagram, and goes to the end. `store` adds members; then R7 points to the record.
    pub(super) fn report_datagram(
        &mut self,
        direction: Direction,
        sleeper: Option<MapFd>,
        end: Label,
        store: impl FnOnce(&mut Assembler),
    ) {
        let [no_room, submit] = [(); 2].map(|()| self.code.label());
        self.report_executable();
        self.reserve_record(size_of::<DatagramRecord>(), no_room);
        self.begin_record(DATAGRAM);
        self.code.load(W64, R1, R9, RESULT);
        RECORD.store(&mut self.code, field!(DatagramRecord.result), R1);
        store(&mut self.code);
        self.store_socket();
        self.store_ends();
        self.code.jump_if(R8, Equal, 0, submit);
        self.store_actor();
        match direction {
            Direction::Send => self.store_peer(submit),
            Direction::Receive => self.store_call_of_receive(submit),
        }
        self.code.put(submit);
        self.submit(sleeper);
        self.code.jump(end);
        self.code.put(no_room);
        self.count_lost(LOST_DATAGRAMS);
    }

    /// Stores the ends of an IP socket. The family is in R1.
    pub(super) fn store_ends(&mut self) {
        let end = self.code.label();
        self.code.jump_if(R1, Equal, Family::Packet as i32, end);
        let [local, remote] = [field!(StateRecord.local), field!(StateRecord.remote)];
        RECORD.store_endpoints(&mut self.code, self.layout, R6, local, remote);
        self.code.put(end);
    }

    /// Stores the system call, which names the descriptor. The peer comes later.
    fn store_call_of_receive(&mut self, end: Label) {
        if let Some(registers) = self.layout.registers {
            self.store_registers(&registers, end);
        }
    }

    /// Stores the peer that the caller names: the fifth and sixth argument of sendto(2), or the first members of the message
    /// of sendmsg(2) and sendmmsg(2). The task is in R8.
    fn store_peer(&mut self, end: Label) {
        let Some(registers) = self.layout.registers else { return };
        self.store_registers(&registers, end);
        let [second, fifth, sixth] = registers.arguments();
        let code = &mut self.code;
        let [message, read, is_short] = [(); 3].map(|()| code.label());
        code.load(W32, R1, R0, registers.call);
        code.load(W64, R3, R0, fifth);
        code.load(W32, R2, R0, sixth);
        code.jump_if(R1, Equal, SENDTO, read);
        code.load(W64, R3, R0, second);
        code.jump_if(R1, Equal, SENDMSG, message);
        code.jump_if(R1, NotEqual, SENDMMSG, end);
        code.put(message);
        address(code, R1, R10, MESSAGE);
        code.set(R2, 2 * size_of::<u64>() as i32);
        code.call(PROBE_READ_USER);
        // Without the message, both are 0.
        code.load(W64, R3, R10, MESSAGE);
        code.load(W32, R2, R10, MESSAGE + size_of::<u64>() as i16);
        code.put(read);
        code.jump_if(R3, Equal, 0, end);
        RECORD.store(code, field!(DatagramRecord.peer_length), R2);
        code.jump_if(R2, Less, SOCKADDR_IN6_SIZE as i32 + 1, is_short);
        code.set(R2, SOCKADDR_IN6_SIZE as i32);
        code.put(is_short);
        address(code, R1, R7, RECORD.offset(field!(DatagramRecord.peer)));
        code.call(PROBE_READ_USER);
    }
}

#[cfg(test)]
mod tests {
    use super::super::writer::Maps;
    use super::*;

    fn text(layout: &Layout) -> Vec<String> {
        let maps =
            Maps { ring: MapFd(1001), ring_size: 1 << 20, seen: MapFd(1002), lost: MapFd(1003) };
        let variant = Variant { maps, namespace: None, has_paths: true };
        let code =
            program(layout, &variant, SendMaps { marks: MapFd(1004), unmarked: MapFd(1005) })
                .unwrap();
        code.iter().map(ToString::to_string).collect()
    }

    /// Compares the program with the fixture, which was reviewed by hand. A change of the program needs a change of
    /// the fixture: the test prints the new one.
    #[test]
    fn the_program_is_the_one_that_was_read() {
        let read = include_str!("../../../../../fixtures/bpf/first_sends.txt");
        let line = |(index, instruction)| format!("{index}: {instruction}\n");
        let made: String = text(&Layout::made_up()).into_iter().enumerate().map(line).collect();
        assert!(made == read, "another program than fixtures/bpf/first_sends.txt:\n{made}");
    }

    #[test]
    fn without_registers_no_memory_of_the_caller_is_read() {
        let with = text(&Layout::made_up());
        let without = text(&Layout { registers: None, ..Layout::made_up() });
        let reads = |text: &[String]| text.iter().filter(|line| *line == "call #112").count();
        assert_eq!((reads(&with), reads(&without)), (2, 0));
    }
}
