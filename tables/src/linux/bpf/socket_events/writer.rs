//! Steps that the programs for socket events share.

use super::super::assembler::Condition::{Equal, Less, NotEqual};
use super::super::assembler::Register::{R0, R1, R2, R3, R10};
use super::super::assembler::Width::{W16, W32, W64};
use super::super::assembler::{Assembler, Label, MapFd, Register, Stored};
use super::super::helper_ids::{
    GET_CURRENT_TASK, GET_CURRENT_TASK_BTF, GET_SOCKET_COOKIE, PROBE_READ_KERNEL, RINGBUF_RESERVE,
    SEQ_WRITE,
};
use super::members::{Layout, Pid};
use crate::formats::linux::record_layout::Field;
use crate::model::socket_table::IPPROTO_MPTCP;
use crate::model::{COUNTED_FAMILIES, COUNTED_TYPES, Family};

/// The maps of a program.
#[derive(Clone, Copy, Debug)]
pub(super) struct Maps {
    pub(super) ring: MapFd,
    /// The size of the ring buffer in bytes.
    pub(super) ring_size: u32,
    /// The processes whose executables are reported: the key is a [`ProcessKey`].
    pub(super) seen: MapFd,
    /// Counters: [`LOST_STATES`] and those behind it.
    pub(super) lost: MapFd,
}

/// Flags of `bpf_ringbuf_submit`.
pub(super) const NO_WAKEUP: i32 = 1;
pub(super) const FORCE_WAKEUP: i32 = 2;

/// Indexes of the counters.
pub(super) const LOST_STATES: usize = 0;
pub(super) const LOST_EXECUTABLES: usize = 1;
pub(super) const LOST_DATAGRAMS: usize = 2;
pub(super) const UNCOUNTED_MESSAGES: usize = 3;
pub(super) const UNCOUNTED_BYTES: usize = 4;
/// Datagrams of sockets that got no storage.
pub(super) const WITHOUT_STORAGE: usize = 5;

/// A key of the map `seen`.
#[repr(C)]
pub(super) struct ProcessKey {
    pub(super) executable: u64,
    pub(super) start_ns: u64,
    pub(super) tgid: u64,
}

/// The PID namespace whose pids are reported, if it is not the first one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PidNamespace {
    pub(super) level: u32,
    pub(super) inum: u32,
    /// Where a `struct pid` has its number and its namespace at this level.
    pub(super) number: i16,
    pub(super) namespace: i16,
}

/// What a program is made for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Variant {
    pub(super) maps: Maps,
    pub(super) namespace: Option<PidNamespace>,
    /// Whether executables are reported. That needs bpf_probe_read_kernel, which lockdown can forbid.
    pub(super) has_paths: bool,
}

// The stack grows down from R10.
pub(super) const KEY: i16 = -(size_of::<ProcessKey>() as i16);
pub(super) const SEEN_VALUE: i16 = KEY - 8;
const SCRATCH: i16 = SEEN_VALUE - 8;
pub(super) const ACTOR: i16 = SCRATCH - 8;
/// The process's number in the PID namespace.
pub(super) const PID: i16 = ACTOR - 8;
const NAMESPACE: i16 = PID - 8;
/// Where the stack is free.
pub(super) const STACK_END: i16 = NAMESPACE;

/// A program for the tracepoint that is being written.
pub(super) struct Writer<'a> {
    pub(super) code: Assembler,
    pub(super) layout: &'a Layout,
    pub(super) variant: &'a Variant,
}

impl Writer<'_> {
    /// R0 = the current task.
    pub(super) fn current_task(&mut self) {
        let typed = self.layout.has_typed_task;
        self.code.call(if typed { GET_CURRENT_TASK_BTF } else { GET_CURRENT_TASK });
    }

    /// `to` = a pointer or number of eight bytes in a structure of the task. R1 to R3 are lost.
    pub(super) fn follow(&mut self, to: Register, from: Register, offset: i16) {
        if self.layout.has_typed_task {
            self.code.load(W64, to, from, offset);
        } else {
            probe(&mut self.code, R10, SCRATCH, size_of::<u64>(), from, offset);
            self.code.load(W64, to, R10, SCRATCH);
        }
    }

    /// Counts a record for which the ring buffer has no room, or a datagram that no slot counts.
    pub(super) fn count_lost(&mut self, counter: usize) {
        let (lost, offset) = (self.variant.maps.lost, counter * size_of::<u64>());
        self.code.load_map_value(R1, lost, offset as i32);
        self.code.set(R2, 1);
        self.code.atomic_add(R1, 0, R2);
    }

    /// R0 = room for a record in the ring buffer; null if there is none.
    pub(super) fn reserve(&mut self, size: usize) {
        self.code.load_map(R1, self.variant.maps.ring);
        self.code.set(R2, size as i32);
        self.code.set(R3, 0);
        self.code.call(RINGBUF_RESERVE);
    }
}

/// Copies the number of a `struct pid` in the PID namespace to the record or the stack. If it is not in that namespace,
/// jumps. `pid` is a register that a call keeps.
pub(super) fn store_pid(
    code: &mut Assembler,
    pids: &Pid,
    namespace: &PidNamespace,
    pid: Register,
    (to, offset): (Register, i16),
    if_outside: Label,
) {
    // Through a null pointer it is 0.
    code.load(W32, R1, pid, pids.level);
    code.jump_if(R1, Less, namespace.level.cast_signed(), if_outside);
    probe(code, R10, NAMESPACE, size_of::<u64>(), pid, namespace.namespace);
    code.load(W64, R2, R10, NAMESPACE);
    probe(code, R10, SCRATCH, size_of::<u32>(), R2, pids.namespace_inum);
    code.load(W32, R1, R10, SCRATCH);
    code.jump_if_int(R1, NotEqual, namespace.inum.cast_signed(), if_outside);
    probe(code, to, offset, size_of::<u32>(), pid, namespace.number);
}

/// Writes a record from the stack to the reader of an iterator, whose context is in a register. `meta` and `seq` are the
/// offsets of the members of the context. A record that does not fit is written once more by the kernel, into the next
/// buffer.
pub(super) fn write_record(
    code: &mut Assembler,
    context: Register,
    [meta, seq]: [i16; 2],
    start: i16,
    size: usize,
) {
    code.load(W64, R1, context, meta);
    code.load(W64, R1, R1, seq);
    address(code, R2, R10, start);
    code.set(R3, size as i32);
    code.call(SEQ_WRITE);
}

/// Jumps unless it is a UDP, raw, ping or packet socket.
pub(super) fn choose_datagram_sockets(
    code: &mut Assembler,
    layout: &Layout,
    socket: Register,
    if_other: Label,
) {
    code.load(W16, R1, socket, layout.sock.kind);
    jump_unless_one_of(code, R1, COUNTED_TYPES.map(i32::from), if_other);
    code.load(W16, R1, socket, layout.sock.family);
    jump_unless_one_of(code, R1, COUNTED_FAMILIES.map(|family| family as i32), if_other);
}

fn jump_unless_one_of(
    code: &mut Assembler,
    register: Register,
    [first, second, last]: [i32; 3],
    if_other: Label,
) {
    let found = code.label();
    code.jump_if(register, Equal, first, found);
    code.jump_if(register, Equal, second, found);
    code.jump_if(register, NotEqual, last, if_other);
    code.put(found);
}

/// Where a record is: a register that points to it, and the distance from there.
#[derive(Clone, Copy)]
pub(super) struct RecordAddress {
    pub(super) register: Register,
    pub(super) start: i16,
}

impl RecordAddress {
    pub(super) fn offset<R, T>(&self, field: Field<R, T>) -> i16 {
        self.start + field.offset as i16
    }

    pub(super) fn store<R, T: Stored>(
        &self,
        code: &mut Assembler,
        field: Field<R, T>,
        from: Register,
    ) {
        code.store(T::WIDTH, self.register, self.offset(field), from);
    }

    pub(super) fn store_number<R, T: Stored>(
        &self,
        code: &mut Assembler,
        field: Field<R, T>,
        number: i32,
    ) {
        code.store_number(T::WIDTH, self.register, self.offset(field), number);
    }

    /// Stores a member of the structure that a register points to, by way of R1.
    pub(super) fn load_and_store<R, T: Stored>(
        &self,
        code: &mut Assembler,
        from: Register,
        offset: i16,
        field: Field<R, T>,
    ) {
        code.load(T::WIDTH, R1, from, offset);
        self.store(code, field, R1);
    }

    /// Stores what identifies a socket: its cookie, or where that is missing or not unique, its address.
    pub(super) fn store_key<R>(
        &self,
        code: &mut Assembler,
        layout: &Layout,
        socket: Register,
        field: Field<R, u64>,
    ) {
        if !layout.has_cookies {
            return self.store(code, field, socket);
        }
        let [address, end] = [(); 2].map(|()| code.label());
        // An accepted MPTCP socket has the cookie of its listener.
        code.load(W16, R1, socket, layout.sock.protocol);
        code.jump_if(R1, Equal, IPPROTO_MPTCP.into(), address);
        code.copy(R1, socket);
        code.call(GET_SOCKET_COOKIE);
        self.store(code, field, R0);
        code.jump(end);
        code.put(address);
        self.store(code, field, socket);
        code.put(end);
    }

    /// Stores the addresses of a socket, by way of R1, which has its family.
    pub(super) fn store_endpoints<R>(
        &self,
        code: &mut Assembler,
        layout: &Layout,
        socket: Register,
        local: Field<R, [u8; 16]>,
        remote: Field<R, [u8; 16]>,
    ) {
        let [ipv4, end] = [(); 2].map(|()| code.label());
        code.jump_if(R1, Equal, Family::Inet as i32, ipv4);
        if let Some(inet6) = &layout.inet6 {
            let offsets = [0, 8].into_iter();
            let halves = local.halves().into_iter().zip(remote.halves());
            for (offset, (local, remote)) in offsets.zip(halves) {
                self.load_and_store(code, socket, inet6.rcv_saddr + offset, local);
                self.load_and_store(code, socket, inet6.daddr + offset, remote);
            }
        }
        code.jump(end);
        code.put(ipv4);
        self.load_and_store(code, socket, layout.sock.rcv_saddr, local.ipv4());
        self.load_and_store(code, socket, layout.sock.daddr, remote.ipv4());
        code.put(end);
    }

    /// Fills the record with zeros from this offset to that.
    pub(super) fn clear(&self, code: &mut Assembler, from: usize, to: usize) {
        for offset in (from..to).step_by(8) {
            code.store_number(W64, self.register, self.start + offset as i16, 0);
        }
    }

    /// Copies bytes of the kernel to a member. R0 is 0, or negative if they could not be read.
    pub(super) fn probe<R, T>(
        &self,
        code: &mut Assembler,
        field: Field<R, T>,
        from: Register,
        offset: i16,
    ) {
        probe(code, self.register, self.offset(field), size_of::<T>(), from, offset);
    }
}

/// Copies bytes of the kernel from behind a pointer. It reads `from` before it changes R1 to R3.
pub(super) fn probe(
    code: &mut Assembler,
    to: Register,
    to_offset: i16,
    size: usize,
    from: Register,
    offset: i16,
) {
    address(code, R3, from, offset);
    address(code, R1, to, to_offset);
    code.set(R2, size as i32);
    code.call(PROBE_READ_KERNEL);
}

/// `to = from + offset`
pub(super) fn address(code: &mut Assembler, to: Register, from: Register, offset: i16) {
    code.copy(to, from);
    if offset != 0 {
        code.plus(to, offset.into());
    }
}
