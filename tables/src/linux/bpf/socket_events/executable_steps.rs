//! The steps of the program that report the executable of the current process: its path from inside the kernel, so that
//! it is known even if the process is gone when the record is read.
//!
//! The steps walk up from the file to the root of its mount namespace, as `prepend_path` of `fs/d_path.c` does. All
//! variables of the walk are in the record's own memory. The verifier does not track what is there, so that each round
//! of the loop looks to it like the one before.

use std::mem::offset_of;

use super::super::assembler::Condition::{Equal, Greater, NotEqual};
use super::super::assembler::Register::{R0, R1, R2, R3, R4, R7, R8, R10};
use super::super::assembler::Width::{W32, W64};
use super::super::assembler::{Assembler, Label, Register};
use super::super::helper_ids::{
    GET_CURRENT_PID_TGID, MAP_LOOKUP_ELEM, MAP_UPDATE_ELEM, PROBE_READ_KERNEL_STR, RINGBUF_SUBMIT,
};
use super::writer::{
    ACTOR, KEY, LOST_EXECUTABLES, NO_WAKEUP, PID, ProcessKey, RecordAddress, SEEN_VALUE, Writer,
    address, store_pid,
};
use crate::formats::linux::event_record::members::{
    EXECUTABLE, ExecutableRecord, NAME_SIZE, NAMES_SIZE, field,
};
use crate::formats::linux::record_layout::Field;

/// The maximum number of directories and mounts between a file and the root.
const ROUNDS: i32 = 40;

const RECORD: RecordAddress = RecordAddress { register: R7, start: 0 };
const NAMES: i16 = offset_of!(ExecutableRecord, names) as i16;

const fn in_key(offset: usize) -> i16 {
    KEY + offset as i16
}
pub(super) const KEY_EXECUTABLE: i16 = in_key(offset_of!(ProcessKey, executable));
pub(super) const KEY_START: i16 = in_key(offset_of!(ProcessKey, start_ns));
pub(super) const KEY_TGID: i16 = in_key(offset_of!(ProcessKey, tgid));

impl Writer<'_> {
    /// Stores the [`ProcessKey`] of the current process on the stack, and reports its executable unless that is done.
    /// R8 is then the current task; 0 if it is outside the PID namespace. R7 is lost.
    pub(super) fn report_executable(&mut self) {
        let [done, hidden, next] = [(); 3].map(|()| self.code.label());
        self.current_task();
        self.code.copy(R8, R0);
        self.code.store(W64, R10, ACTOR, R8);
        let task = self.layout.task;
        self.follow(R7, R8, task.leader);
        if let Some(namespace) = self.variant.namespace {
            self.code.store_number(W64, R10, PID, 0);
            self.code.load(W64, R7, R7, self.layout.pid.pid);
            let pids = &self.layout.pid;
            store_pid(&mut self.code, pids, &namespace, R7, (R10, PID), hidden);
            self.follow(R7, R8, task.leader);
        }
        self.follow(R1, R7, task.start);
        self.code.store(W64, R10, KEY_START, R1);
        if self.layout.has_typed_task {
            self.code.load(W32, R1, R8, task.tgid);
            self.code.store(W64, R10, KEY_TGID, R1);
        } else {
            self.code.call(GET_CURRENT_PID_TGID);
            self.code.shift_right(R0, 32);
            self.code.store(W64, R10, KEY_TGID, R0);
        }
        self.follow(R1, R8, task.mm);
        self.follow(R1, R1, task.executable);
        self.code.store(W64, R10, KEY_EXECUTABLE, R1);
        // A kernel thread, or a process that is exiting.
        self.code.jump_if(R1, Equal, 0, done);
        if self.variant.has_paths {
            self.report_once(done);
        }
        self.code.put(done);
        self.code.load(W64, R8, R10, ACTOR);
        if self.variant.namespace.is_some() {
            self.code.jump(next);
            self.code.put(hidden);
            self.code.set(R8, 0);
            self.code.put(next);
        }
    }

    fn report_once(&mut self, done: Label) {
        let no_room = self.code.label();
        self.code.load_map(R1, self.variant.maps.seen);
        address(&mut self.code, R2, R10, KEY);
        self.code.call(MAP_LOOKUP_ELEM);
        self.code.jump_if(R0, NotEqual, 0, done);
        self.reserve(size_of::<ExecutableRecord>());
        self.code.jump_if(R0, Equal, 0, no_room);
        self.code.copy(R7, R0);
        self.start_record();
        self.walk_up();
        let code = &mut self.code;
        code.copy(R1, R7);
        code.set(R2, NO_WAKEUP);
        code.call(RINGBUF_SUBMIT);
        // Only after the ring buffer had room: otherwise the next event of the process reports it.
        code.store_number(W64, R10, SEEN_VALUE, 1);
        code.load_map(R1, self.variant.maps.seen);
        address(code, R2, R10, KEY);
        address(code, R3, R10, SEEN_VALUE);
        code.set(R4, 0);
        code.call(MAP_UPDATE_ELEM);
        code.jump(done);
        code.put(no_room);
        self.count_lost(LOST_EXECUTABLES);
    }

    fn start_record(&mut self) {
        let pid = if self.variant.namespace.is_some() { PID } else { KEY_TGID };
        let path = self.layout.path;
        let code = &mut self.code;
        RECORD.clear(code, 0, NAMES as usize);
        RECORD.store_number(code, field!(ExecutableRecord.record), EXECUTABLE as i32);
        code.load(W64, R1, R10, pid);
        RECORD.store(code, field!(ExecutableRecord.tgid), R1);
        code.load(W64, R1, R10, KEY_START);
        RECORD.store(code, field!(ExecutableRecord.start_ns), R1);
        code.load(W64, R2, R10, KEY_EXECUTABLE);
        RECORD.store(code, field!(ExecutableRecord.executable), R2);
        RECORD.probe(code, field!(ExecutableRecord.dentry), R2, path.file_dentry);
        code.load(W64, R2, R10, KEY_EXECUTABLE);
        RECORD.probe(code, field!(ExecutableRecord.mount), R2, path.file_mount);
        // From the `struct vfsmount` to the `struct mount` around it.
        load(code, R1, field!(ExecutableRecord.mount));
        code.plus(R1, -i32::from(path.mount));
        RECORD.store(code, field!(ExecutableRecord.mount), R1);
        let hashed = code.label();
        load(code, R2, field!(ExecutableRecord.dentry));
        RECORD.probe(code, field!(ExecutableRecord.scratch), R2, path.hashed);
        load(code, R1, field!(ExecutableRecord.scratch));
        code.jump_if(R1, NotEqual, 0, hashed);
        RECORD.store_number(code, field!(ExecutableRecord.is_deleted), 1);
        code.put(hashed);
    }

    /// R8 counts the rounds.
    fn walk_up(&mut self) {
        let [start, mount_root, next, complete, end] = [(); 5].map(|()| self.code.label());
        let path = self.layout.path;
        let code = &mut self.code;
        code.set(R8, 0);
        code.put(start);
        load(code, R2, field!(ExecutableRecord.mount));
        RECORD.probe(
            code,
            field!(ExecutableRecord.scratch),
            R2,
            path.mount.saturating_add(path.mount_root),
        );
        load(code, R1, field!(ExecutableRecord.scratch));
        load(code, R2, field!(ExecutableRecord.dentry));
        code.jump_if_same(R1, R2, mount_root);
        self.add_name(complete, end);
        let code = &mut self.code;
        code.jump(next);
        code.put(mount_root);
        load(code, R2, field!(ExecutableRecord.mount));
        RECORD.probe(code, field!(ExecutableRecord.parent), R2, path.mount_parent);
        load(code, R1, field!(ExecutableRecord.parent));
        load(code, R2, field!(ExecutableRecord.mount));
        // The root of the mount namespace.
        code.jump_if_same(R1, R2, complete);
        RECORD.store(code, field!(ExecutableRecord.mount), R1);
        RECORD.probe(code, field!(ExecutableRecord.dentry), R2, path.mountpoint);
        code.put(next);
        code.plus(R8, 1);
        code.repeat_while_less(R8, ROUNDS, start);
        code.jump(end);
        code.put(complete);
        RECORD.store_number(code, field!(ExecutableRecord.is_complete), 1);
        code.put(end);
    }

    /// Copies the name, and goes on to the directory.
    fn add_name(&mut self, complete: Label, end: Label) {
        let path = self.layout.path;
        let code = &mut self.code;
        load(code, R2, field!(ExecutableRecord.dentry));
        RECORD.probe(code, field!(ExecutableRecord.scratch), R2, path.name);
        load(code, R2, field!(ExecutableRecord.used));
        code.jump_if(R2, Greater, (NAMES_SIZE - NAME_SIZE) as i32, end);
        address(code, R1, R7, NAMES);
        code.plus_register(R1, R2);
        code.set(R2, NAME_SIZE as i32);
        load(code, R3, field!(ExecutableRecord.scratch));
        code.call(PROBE_READ_KERNEL_STR);
        // An error is negative.
        code.jump_if(R0, Greater, NAME_SIZE as i32, end);
        load(code, R1, field!(ExecutableRecord.used));
        code.plus_register(R1, R0);
        RECORD.store(code, field!(ExecutableRecord.used), R1);
        load(code, R2, field!(ExecutableRecord.dentry));
        RECORD.probe(code, field!(ExecutableRecord.parent), R2, path.parent);
        load(code, R1, field!(ExecutableRecord.parent));
        load(code, R2, field!(ExecutableRecord.dentry));
        // A file in no directory, such as a memfd.
        code.jump_if_same(R1, R2, complete);
        RECORD.store(code, field!(ExecutableRecord.dentry), R1);
    }
}

fn load(code: &mut Assembler, to: Register, field: Field<ExecutableRecord, u64>) {
    code.load(W64, to, R7, RECORD.offset(field));
}
