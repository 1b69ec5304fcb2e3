//! The steps that the programs at tracepoints share: the socket and the process of a record, and its way to the reader.
//!
//! Every record of these programs begins with a [`StateRecord`].

use super::super::assembler::Condition::{Equal, Greater, Less, NotEqual};
use super::super::assembler::Register::{R0, R1, R2, R6, R7, R8, R10};
use super::super::assembler::Width::W64;
use super::super::assembler::{Label, MapFd, Stored};
use super::super::helper_ids::{
    GET_CURRENT_CGROUP_ID, GET_CURRENT_COMM, GET_CURRENT_PID_TGID, GET_CURRENT_UID_GID,
    KTIME_GET_BOOT_NS, RINGBUF_QUERY, RINGBUF_SUBMIT, TASK_PT_REGS,
};
use super::executable_steps::{KEY_EXECUTABLE, KEY_START, KEY_TGID};
use super::members::{Layout, Registers};
use super::writer::{
    FORCE_WAKEUP, NO_WAKEUP, PID, PidNamespace, RecordAddress, Writer, address, store_pid,
};
use crate::formats::linux::event_record::members::{
    DatagramRecord, ExecutableRecord, StateRecord, field,
};
use crate::formats::linux::record_layout::Field;

/// The record that the program writes, in the ring buffer.
pub(super) const RECORD: RecordAddress = RecordAddress { register: R7, start: 0 };

/// `ENOSYS` of `include/uapi/asm-generic/errno.h`: the result before a system call has one.
const ENOSYS: i32 = 38;

/// The most bytes that one run of a program adds to the ring buffer: the executable and the larger record, with headers.
const LARGEST_STEP: i32 = (size_of::<DatagramRecord>() + size_of::<ExecutableRecord>() + 16) as i32;

impl Writer<'_> {
    /// R7 = room for a record in the ring buffer; jumps if there is none.
    pub(super) fn reserve_record(&mut self, size: usize, no_room: Label) {
        self.reserve(size);
        self.code.jump_if(R0, Equal, 0, no_room);
        self.code.copy(R7, R0);
        // Reserved memory holds old data: every byte is written here, before the first jump.
        RECORD.clear(&mut self.code, 0, size);
    }

    /// Stores which record it is, and the time.
    pub(super) fn begin_record(&mut self, number: u32) {
        let code = &mut self.code;
        RECORD.store_number(code, field!(StateRecord.record), number.cast_signed());
        // 0 is the number of a system call.
        RECORD.store_number(code, field!(StateRecord.call), -1);
        code.call(KTIME_GET_BOOT_NS);
        RECORD.store(code, field!(StateRecord.boot_ns), R0);
    }

    /// Stores what every record has of the socket in R6. R1 is then its family.
    pub(super) fn store_socket(&mut self) {
        RECORD.store_key(&mut self.code, self.layout, R6, field!(StateRecord.socket));
        self.store_socket_members();
    }

    /// Stores all of it but its key.
    pub(super) fn store_socket_members(&mut self) {
        let sock = self.layout.sock;
        let code = &mut self.code;
        code.load(W64, R1, R6, sock.socket);
        code.load(W64, R1, R1, sock.file);
        code.load(W64, R1, R1, sock.inode);
        RECORD.load_and_store(code, R1, sock.inode_number, field!(StateRecord.inode));
        code.load(W64, R1, R6, sock.net);
        RECORD.load_and_store(code, R1, sock.net_inum, field!(StateRecord.net));
        self.load_and_store(sock.error, field!(StateRecord.error));
        self.load_and_store(sock.kind, field!(StateRecord.kind));
        self.load_and_store(sock.protocol, field!(StateRecord.protocol));
        self.load_and_store(sock.num, field!(StateRecord.num));
        self.load_and_store(sock.dport, field!(StateRecord.dport));
        self.load_and_store(sock.uid, field!(StateRecord.owner_uid));
        self.load_and_store(sock.flags, field!(StateRecord.flags));
        self.load_and_store(sock.family, field!(StateRecord.family));
    }

    /// R8 holds the task.
    pub(super) fn store_actor(&mut self) {
        RECORD.store_number(&mut self.code, field!(StateRecord.has_actor), 1);
        match self.variant.namespace {
            None => self.store_first_pids(),
            Some(namespace) => self.store_pids_in(&namespace),
        }
        self.store_user();
        let code = &mut self.code;
        code.load(W64, R1, R10, KEY_START);
        RECORD.store(code, field!(StateRecord.start_ns), R1);
        code.load(W64, R1, R10, KEY_EXECUTABLE);
        RECORD.store(code, field!(StateRecord.executable), R1);
        if let Some(cgroup) = self.layout.cgroup {
            code.load(W64, R1, R8, cgroup.set);
            code.load(W64, R1, R1, cgroup.cgroup);
            code.load(W64, R1, R1, cgroup.node);
            RECORD.load_and_store(code, R1, cgroup.id, field!(StateRecord.cgroup));
        } else if self.layout.has_cgroup_ids {
            code.call(GET_CURRENT_CGROUP_ID);
            RECORD.store(code, field!(StateRecord.cgroup), R0);
        }
        let comm = field!(StateRecord.comm);
        address(code, R1, R7, RECORD.offset(comm));
        code.set(R2, size_of::<[u8; 16]>() as i32);
        code.call(GET_CURRENT_COMM);
    }

    /// The pids of the first PID namespace.
    fn store_first_pids(&mut self) {
        let task = self.layout.task;
        let parent = field!(StateRecord.parent);
        self.code.load(W64, R1, R10, KEY_TGID);
        RECORD.store(&mut self.code, field!(StateRecord.tgid), R1);
        if self.layout.has_typed_task {
            let code = &mut self.code;
            RECORD.load_and_store(code, R8, task.tid, field!(StateRecord.tid));
            code.load(W64, R1, R8, task.parent);
            RECORD.load_and_store(code, R1, task.tgid, parent);
        } else {
            self.code.call(GET_CURRENT_PID_TGID);
            RECORD.store(&mut self.code, field!(StateRecord.tid), R0);
            self.follow(R2, R8, task.parent);
            RECORD.probe(&mut self.code, parent, R2, task.tgid);
        }
    }

    /// The pids of another PID namespace. A task and its process are in the same one; the parent can be outside.
    fn store_pids_in(&mut self, namespace: &PidNamespace) {
        let Layout { task, pid: pids, .. } = self.layout;
        let code = &mut self.code;
        let [no_tid, no_parent] = [(); 2].map(|()| code.label());
        code.load(W64, R1, R10, PID);
        RECORD.store(code, field!(StateRecord.tgid), R1);
        code.load(W64, R6, R8, pids.pid);
        let tid = RECORD.offset(field!(StateRecord.tid));
        store_pid(code, pids, namespace, R6, (R7, tid), no_tid);
        code.put(no_tid);
        code.load(W64, R1, R8, task.parent);
        code.load(W64, R1, R1, task.leader);
        code.load(W64, R6, R1, pids.pid);
        let parent = RECORD.offset(field!(StateRecord.parent));
        store_pid(code, pids, namespace, R6, (R7, parent), no_parent);
        code.put(no_parent);
    }

    /// The real user and group, in the first user namespace.
    fn store_user(&mut self) {
        let task = self.layout.task;
        let code = &mut self.code;
        if self.layout.has_typed_task {
            code.load(W64, R2, R8, task.cred);
            RECORD.load_and_store(code, R2, task.uid, field!(StateRecord.uid));
            RECORD.load_and_store(code, R2, task.gid, field!(StateRecord.gid));
        } else {
            code.call(GET_CURRENT_UID_GID);
            RECORD.store(code, field!(StateRecord.uid), R0);
            code.shift_right(R0, 32);
            RECORD.store(code, field!(StateRecord.gid), R0);
        }
    }

    /// The system call of the task in R8, and its first argument; jumps if the task is not in a system call. R0 then points
    /// to the task's registers.
    pub(super) fn store_registers(&mut self, registers: &Registers, if_outside: Label) {
        let code = &mut self.code;
        code.copy(R1, R8);
        code.call(TASK_PT_REGS);
        // Work of io_uring runs at the end of any system call, when the registers have its result, and in threads that
        // have the registers of another one.
        code.load(W64, R1, R0, registers.result);
        if cfg!(target_arch = "aarch64") {
            // The register has the first argument until the call ends.
            code.load(W64, R2, R0, registers.argument);
            code.jump_if_different(R1, R2, if_outside);
        } else {
            code.jump_if(R1, NotEqual, -ENOSYS, if_outside);
        }
        RECORD.load_and_store(code, R0, registers.call, field!(StateRecord.call));
        RECORD.load_and_store(code, R0, registers.argument, field!(StateRecord.argument));
    }

    /// Wakes the reader with the first records of each further eighth of the ring buffer: a wake-up takes longer than
    /// all the rest. Several processors together can pass these records, so those of the last eighth all wake it. If the
    /// first number of the array `sleeper` is not 0, the reader is woken once.
    pub(super) fn submit(&mut self, sleeper: Option<MapFd>) {
        let maps = self.variant.maps;
        let eighth = (maps.ring_size / 8).cast_signed();
        let code = &mut self.code;
        let [submit, wake, is_awake] = [(); 3].map(|()| code.label());
        if let Some(sleeper) = sleeper {
            code.load_map_value(R1, sleeper, 0);
            code.load(W64, R2, R1, 0);
            code.jump_if(R2, Equal, 0, is_awake);
            code.store_number(W64, R1, 0, 0);
            code.jump(wake);
            code.put(is_awake);
        }
        code.load_map(R1, maps.ring);
        code.set(R2, 0); // BPF_RB_AVAIL_DATA
        code.call(RINGBUF_QUERY);
        code.set(R2, NO_WAKEUP);
        code.jump_if(R0, Less, eighth, submit);
        code.jump_if(R0, Greater, 7 * eighth, wake);
        // The size of an eighth is a power of two.
        code.mask(R0, eighth - 1);
        code.jump_if(R0, Greater, LARGEST_STEP, submit);
        code.put(wake);
        code.set(R2, FORCE_WAKEUP);
        code.put(submit);
        code.copy(R1, R7);
        code.call(RINGBUF_SUBMIT);
    }

    /// Stores a member of the socket, by way of R1.
    pub(super) fn load_and_store<T: Stored>(&mut self, offset: i16, field: Field<StateRecord, T>) {
        RECORD.load_and_store(&mut self.code, R6, offset, field);
    }
}
