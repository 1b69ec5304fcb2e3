//! The programs that count datagrams: after a send (`sock_send_length`) and after a receive (`sock_recv_length`), since
//! Linux 6.3. The first one also does the work of [`super::datagram_program`].
//!
//! Each pair of a socket and a process has a [`Slot`] with its counters. The storage of the socket has a reference to the
//! slot of the process that used it first; the map `references` has those of the other processes, which inherited the
//! socket. The reader takes a slot back by counting up its generation: references to it are then void, and the next
//! datagram takes another slot. A program that has followed a reference before can still count there, so the slot is free
//! only some time later.
//!
//! Reading the clock takes half of the time of these programs. So each direction of a slot reads it for its first datagrams;
//! after that, both together read it once a tick of the kernel (1 to 10 ms). The tick is in the storage of the socket, for
//! the process of the reference there; other processes always read the clock.
//!
//! Two threads that begin at once can take two slots for one pair: the reader adds them up.

use std::mem::offset_of;

use super::super::assembler::Condition::{Equal, Greater, NotEqual};
use super::super::assembler::Register::{R0, R1, R2, R3, R4, R6, R7, R8, R9, R10};
use super::super::assembler::Width::{W32, W64};
use super::super::assembler::{AssembleError, Assembler, Instruction, Label, MapFd};
use super::super::helper_ids::{
    GET_SOCKET_COOKIE, JIFFIES64, KTIME_GET_BOOT_NS, MAP_LOOKUP_ELEM, MAP_POP_ELEM, MAP_UPDATE_ELEM,
};
use super::datagram_program::{DATAGRAM_STACK_END, Direction, RESULT, SendMaps};
use super::members::Layout;
use super::record_steps::RECORD;
use super::slots::{ReferenceKey, SLOTS, Slot};
use super::socket_storage::SocketStorage;
use super::writer::{
    UNCOUNTED_BYTES, UNCOUNTED_MESSAGES, Variant, WITHOUT_STORAGE, Writer, address,
};
use crate::formats::linux::event_record::members::{DatagramRecord, field};

/// The third argument of the tracepoint after a receive: `MSG_*`.
const FLAGS: i16 = 16;
/// So many datagrams of each direction have their exact time.
const EXACT_TIMES: i32 = 64;
/// `MSG_PEEK` leaves the datagram, and `MSG_ERRQUEUE` returns one that was sent before.
const NOT_RECEIVED: i32 = 2 | 0x2000;

// The stack grows down from R10.
/// The reference that this run has made; 0: none. The number of the slot is in the lower half, its generation in the
/// upper.
const CLAIMED: i16 = DATAGRAM_STACK_END - 8;
/// Whether this is the first send of the socket.
const IS_FIRST_SEND: i16 = CLAIMED - 8;
/// Whether the process is another one than that of the reference in the storage.
const IS_OTHER: i16 = IS_FIRST_SEND - 8;
/// A free number.
const NUMBER: i16 = IS_OTHER - 8;
/// The current process, and the socket: a [`ReferenceKey`].
const REFERENCE_KEY: i16 = NUMBER - size_of::<ReferenceKey>() as i16;

const fn in_key(offset: usize) -> i16 {
    REFERENCE_KEY + offset as i16
}
const COOKIE: i16 = in_key(offset_of!(ReferenceKey, cookie));
const START: i16 = in_key(offset_of!(ReferenceKey, start_ns));
const TGID: i16 = in_key(offset_of!(ReferenceKey, tgid));

/// A shift that takes a slot's number to its offset.
const SLOT_BITS: i32 = size_of::<Slot>().trailing_zeros().cast_signed();
const _: () = assert!(size_of::<Slot>().is_power_of_two() && SLOTS.is_power_of_two());

/// The maps of the counting programs.
#[derive(Clone, Copy, Debug)]
pub(super) struct CountMaps {
    pub(super) slots: MapFd,
    /// A queue of the numbers of free slots.
    pub(super) free: MapFd,
    pub(super) references: MapFd,
}

/// The program for this kernel.
///
/// R6 holds the socket, R7 its storage and later the record, R8 the slot and later the task, and R9 the context.
pub(super) fn program(
    layout: &Layout,
    variant: &Variant,
    marks: SendMaps,
    maps: CountMaps,
    direction: Direction,
) -> Result<Vec<Instruction>, AssembleError> {
    let mut writer = Writer { code: Assembler::default(), layout, variant };
    let [end, report, counted] = [(); 3].map(|()| writer.code.label());
    let no_storage = writer.code.label();
    writer.choose_sockets(end);
    if direction == Direction::Receive {
        writer.choose_receives(end);
    }
    writer.code.store_number(W64, R10, CLAIMED, 0);
    writer.code.store_number(W64, R10, IS_FIRST_SEND, 0);
    writer.find_storage(marks.marks, end, no_storage);
    if direction == Direction::Send {
        // The kernel has not sent it.
        writer.jump_if_failed(counted);
    }
    writer.count_in_storage(direction);
    writer.find_slot(maps, counted);
    writer.count(direction);
    writer.code.put(counted);
    if direction == Direction::Send {
        writer.mark_first_send(report);
    }
    writer.code.load(W64, R1, R10, CLAIMED);
    writer.code.jump_if(R1, Equal, 0, end);
    writer.code.jump(report);
    writer.code.put(no_storage);
    writer.count_lost(WITHOUT_STORAGE);
    writer.count_uncounted(direction);
    match direction {
        Direction::Send => {
            writer.mark_without_storage(marks.unmarked, end);
            writer.code.store_number(W64, R10, IS_FIRST_SEND, 1);
        }
        Direction::Receive => writer.code.jump(end),
    }
    writer.code.put(report);
    writer.report_datagram(direction, Some(maps.slots), end, |code| {
        code.load(W64, R1, R10, CLAIMED);
        RECORD.store(code, field!(DatagramRecord.slot), R1);
        code.shift_right(R1, 32);
        RECORD.store(code, field!(DatagramRecord.generation), R1);
        code.load(W64, R1, R10, IS_FIRST_SEND);
        RECORD.store(code, field!(DatagramRecord.is_first_send), R1);
        let is_received = direction == Direction::Receive;
        RECORD.store_number(code, field!(DatagramRecord.is_received), is_received.into());
    });
    writer.code.put(end);
    writer.code.set(R0, 0);
    writer.code.exit();
    writer.code.finish()
}

impl Writer<'_> {
    /// Jumps to the end unless a datagram was received.
    fn choose_receives(&mut self, end: Label) {
        let code = &mut self.code;
        code.load(W64, R1, R9, FLAGS);
        code.mask(R1, NOT_RECEIVED);
        code.jump_if(R1, NotEqual, 0, end);
        self.jump_if_failed(end);
    }

    /// Jumps if the result is negative.
    fn jump_if_failed(&mut self, to: Label) {
        let code = &mut self.code;
        code.load(W64, R1, R9, RESULT);
        code.shift_right(R1, 31);
        code.mask(R1, 1);
        code.jump_if(R1, NotEqual, 0, to);
    }

    /// Adds the bytes to those of the socket, whose storage is in R7.
    fn count_in_storage(&mut self, direction: Direction) {
        let bytes = match direction {
            Direction::Send => SocketStorage::BYTES_SENT,
            Direction::Receive => SocketStorage::BYTES_RECEIVED,
        };
        self.load_length();
        self.code.atomic_add(R7, bytes, R1);
    }

    /// R8 = the slot of the current process on the socket, whose storage is in R7. Jumps if no slot is free.
    fn find_slot(&mut self, maps: CountMaps, counted: Label) {
        let [count, other, claim, claim_other] = [(); 4].map(|()| self.code.label());
        let no_slot = self.code.label();
        self.code.store_number(W64, R10, IS_OTHER, 0);
        self.store_process();
        self.code.load(W64, R1, R7, SocketStorage::REFERENCE);
        self.code.jump_if(R1, Equal, 0, claim);
        self.follow_reference(maps.slots, claim);
        let code = &mut self.code;
        let member = |offset: usize| offset as i16;
        code.load(W32, R1, R8, member(offset_of!(Slot, tgid)));
        code.load(W64, R2, R10, TGID);
        code.jump_if_different(R1, R2, other);
        code.load(W64, R1, R8, member(offset_of!(Slot, start_ns)));
        code.load(W64, R2, R10, START);
        code.jump_if_same(R1, R2, count);

        code.put(other);
        code.store_number(W64, R10, IS_OTHER, 1);
        code.load(W64, R1, R8, member(offset_of!(Slot, cookie)));
        code.store(W64, R10, COOKIE, R1);
        code.load_map(R1, maps.references);
        address(code, R2, R10, REFERENCE_KEY);
        code.call(MAP_LOOKUP_ELEM);
        code.jump_if(R0, Equal, 0, claim_other);
        code.load(W64, R1, R0, 0);
        self.follow_reference(maps.slots, claim_other);
        self.code.jump(count);

        self.code.put(claim_other);
        self.claim(maps, no_slot);
        let code = &mut self.code;
        code.load_map(R1, maps.references);
        address(code, R2, R10, REFERENCE_KEY);
        address(code, R3, R10, CLAIMED);
        code.set(R4, 0);
        code.call(MAP_UPDATE_ELEM);
        code.jump(count);

        code.put(claim);
        self.claim(maps, no_slot);
        let code = &mut self.code;
        code.load(W64, R1, R10, CLAIMED);
        code.store(W64, R7, SocketStorage::REFERENCE, R1);
        code.jump(count);

        code.put(no_slot);
        self.add_uncounted();
        self.code.jump(counted);
        self.code.put(count);
    }

    /// Stores the current process on the stack.
    fn store_process(&mut self) {
        self.current_task();
        let task = self.layout.task;
        let code = &mut self.code;
        code.load(W32, R1, R0, task.tgid);
        code.store(W64, R10, TGID, R1);
        code.load(W64, R1, R0, task.leader);
        code.load(W64, R1, R1, task.start);
        code.store(W64, R10, START, R1);
    }

    /// R8 = the slot that the reference in R1 is to; jumps if the reference is void.
    fn follow_reference(&mut self, slots: MapFd, if_void: Label) {
        self.slot(slots);
        let code = &mut self.code;
        code.shift_right(R1, 32);
        code.load(W32, R2, R8, offset_of!(Slot, generation) as i16);
        code.jump_if_different(R1, R2, if_void);
    }

    /// R8 = the slot whose number is in R1, by way of R2.
    fn slot(&mut self, slots: MapFd) {
        let code = &mut self.code;
        code.copy(R2, R1);
        code.mask(R2, SLOTS as i32 - 1);
        code.shift_left(R2, SLOT_BITS);
        code.load_map_value(R8, slots, 0);
        code.plus_register(R8, R2);
    }

    /// Takes a free slot for the process on the stack: R8 = the slot. Its reference is on the stack.
    fn claim(&mut self, maps: CountMaps, no_slot: Label) {
        let code = &mut self.code;
        let member = |offset: usize| offset as i16;
        code.store_number(W64, R10, NUMBER, 0);
        code.load_map(R1, maps.free);
        address(code, R2, R10, NUMBER);
        code.call(MAP_POP_ELEM);
        code.jump_if(R0, NotEqual, 0, no_slot);
        code.load(W32, R1, R10, NUMBER);
        self.slot(maps.slots);
        let code = &mut self.code;
        code.load(W32, R2, R8, member(offset_of!(Slot, generation)));
        code.shift_left(R2, 32);
        code.or_register(R1, R2);
        code.store(W64, R10, CLAIMED, R1);
        code.load(W64, R1, R10, START);
        code.store(W64, R8, member(offset_of!(Slot, start_ns)), R1);
        code.load(W64, R1, R10, TGID);
        code.store(W32, R8, member(offset_of!(Slot, tgid)), R1);
        code.copy(R1, R6);
        code.call(GET_SOCKET_COOKIE);
        code.store(W64, R10, COOKIE, R0);
        code.store(W64, R8, member(offset_of!(Slot, cookie)), R0);
    }

    /// Adds the datagram to the slot in R8.
    fn count(&mut self, direction: Direction) {
        let [bytes, messages] = match direction {
            Direction::Send => [offset_of!(Slot, bytes_sent), offset_of!(Slot, messages_sent)],
            Direction::Receive => {
                [offset_of!(Slot, bytes_received), offset_of!(Slot, messages_received)]
            }
        };
        self.load_length();
        let [read_clock, timed] = [(); 2].map(|()| self.code.label());
        let code = &mut self.code;
        code.atomic_add(R8, bytes as i16, R1);
        code.set(R1, 1);
        code.atomic_add(R8, messages as i16, R1);
        code.load(W64, R1, R10, IS_OTHER);
        code.jump_if(R1, NotEqual, 0, read_clock);
        code.call(JIFFIES64);
        code.load(W64, R2, R7, SocketStorage::TICK);
        code.store(W64, R7, SocketStorage::TICK, R0);
        code.jump_if_different(R0, R2, read_clock);
        code.load(W64, R1, R8, messages as i16);
        code.jump_if(R1, Greater, EXACT_TIMES, timed);
        code.put(read_clock);
        code.call(KTIME_GET_BOOT_NS);
        code.store(W64, R8, offset_of!(Slot, last_ns) as i16, R0);
        code.put(timed);
    }

    /// R1 = the result, which is not negative.
    fn load_length(&mut self) {
        self.code.load(W64, R1, R9, RESULT);
        // The upper half of an int is undefined in an argument.
        self.code.shift_left(R1, 32);
        self.code.shift_right(R1, 32);
    }

    /// Counts a datagram that no slot counts, if it was sent or received.
    fn count_uncounted(&mut self, direction: Direction) {
        let next = self.code.label();
        if direction == Direction::Send {
            self.jump_if_failed(next);
        }
        self.add_uncounted();
        self.code.put(next);
    }

    fn add_uncounted(&mut self) {
        self.count_lost(UNCOUNTED_MESSAGES);
        self.load_length();
        let offset = UNCOUNTED_BYTES * size_of::<u64>();
        self.code.load_map_value(R2, self.variant.maps.lost, offset as i32);
        self.code.atomic_add(R2, 0, R1);
    }

    /// Jumps to the report if it is the first send of the socket.
    fn mark_first_send(&mut self, report: Label) {
        let marked = self.code.label();
        self.code.load(W64, R1, R7, SocketStorage::IS_REPORTED);
        self.code.jump_if(R1, NotEqual, 0, marked);
        self.mark_storage(marked);
        self.code.store_number(W64, R10, IS_FIRST_SEND, 1);
        self.code.jump(report);
        self.code.put(marked);
    }
}

#[cfg(test)]
mod tests {
    use super::super::writer::Maps;
    use super::*;

    fn made(direction: Direction) -> String {
        let maps =
            Maps { ring: MapFd(1001), ring_size: 1 << 20, seen: MapFd(1002), lost: MapFd(1003) };
        let variant = Variant { maps, namespace: None, has_paths: true };
        let marks = SendMaps { marks: MapFd(1004), unmarked: MapFd(1005) };
        let maps = CountMaps { slots: MapFd(1006), free: MapFd(1007), references: MapFd(1008) };
        let code = program(&Layout::made_up(), &variant, marks, maps, direction).unwrap();
        let line = |(index, instruction)| format!("{index}: {instruction}\n");
        code.iter().enumerate().map(line).collect()
    }

    /// Compares the programs with the fixtures, which were reviewed by hand. A change of a program needs a change of the
    /// fixture: the test prints the new one.
    #[test]
    fn the_program_after_a_send_is_the_one_that_was_read() {
        let read = include_str!("../../../../../fixtures/bpf/count_sent.txt");
        let made = made(Direction::Send);
        assert!(made == read, "another program than fixtures/bpf/count_sent.txt:\n{made}");
    }

    #[test]
    fn the_program_after_a_receive_is_the_one_that_was_read() {
        let read = include_str!("../../../../../fixtures/bpf/count_received.txt");
        let made = made(Direction::Receive);
        assert!(made == read, "another program than fixtures/bpf/count_received.txt:\n{made}");
    }
}
