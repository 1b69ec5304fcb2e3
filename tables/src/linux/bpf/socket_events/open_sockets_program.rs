//! The program that the kernel runs for every descriptor of every task: it writes an [`OpenSocketRecord`] for each
//! descriptor that refers to a TCP socket, with the socket cookie by which events are joined.

use std::mem::offset_of;

use super::super::assembler::Condition::{Equal, NotEqual};
use super::super::assembler::Register::{R0, R1, R6, R7, R8, R9, R10};
use super::super::assembler::Width::{W16, W64};
use super::super::assembler::{AssembleError, Assembler, Instruction, Label, Stored};
use super::super::helper_ids::SOCK_FROM_FILE;
use super::members::{Context, Layout};
use super::writer::{PidNamespace, RecordAddress, STACK_END, store_pid, write_record};
use crate::formats::linux::event_record::members::{OpenSocketRecord, field};
use crate::formats::linux::record_layout::Field;
use crate::model::socket_table::{IPPROTO_MPTCP, IPPROTO_TCP};
use crate::model::{Family, SOCK_STREAM};

const SIZE: usize = size_of::<OpenSocketRecord>();
const RECORD: RecordAddress = RecordAddress { register: R10, start: STACK_END - SIZE as i16 };
const _: () = assert!(offset_of!(OpenSocketRecord, socket) == 0 && SIZE < 256);

/// R6 holds the context, R7 the file, later other pointers, R8 the task, and R9 the socket.
struct Writer<'a> {
    code: Assembler,
    layout: &'a Layout,
    context: &'a Context,
}

/// The program for this kernel.
pub(super) fn program(
    layout: &Layout,
    context: &Context,
    namespace: Option<&PidNamespace>,
) -> Result<Vec<Instruction>, AssembleError> {
    let mut writer = Writer { code: Assembler::default(), layout, context };
    let end = writer.code.label();
    writer.find_socket(end);
    RECORD.clear(&mut writer.code, 0, SIZE);
    writer.store_socket();
    writer.store_task(namespace, end);
    write_record(&mut writer.code, R6, [context.meta, context.seq], RECORD.start, SIZE);
    writer.code.put(end);
    writer.code.set(R0, 0);
    writer.code.exit();
    writer.code.finish()
}

impl Writer<'_> {
    fn find_socket(&mut self, end: Label) {
        let Writer { code, layout: Layout { sock, .. }, context } = self;
        let [is_inet, is_tcp] = [(); 2].map(|()| code.label());
        code.copy(R6, R1);
        code.load(W64, R8, R6, context.task);
        code.jump_if(R8, Equal, 0, end);
        code.load(W64, R7, R6, context.file);
        code.jump_if(R7, Equal, 0, end);
        code.copy(R1, R7);
        code.call(SOCK_FROM_FILE);
        code.jump_if(R0, Equal, 0, end);
        code.load(W64, R9, R0, sock.sk);
        code.jump_if(R9, Equal, 0, end);
        code.load(W16, R1, R9, sock.family);
        code.jump_if(R1, Equal, Family::Inet as i32, is_inet);
        code.jump_if(R1, NotEqual, Family::Inet6 as i32, end);
        code.put(is_inet);
        code.load(W16, R1, R9, sock.kind);
        code.jump_if(R1, NotEqual, SOCK_STREAM.into(), end);
        code.load(W16, R1, R9, sock.protocol);
        code.jump_if(R1, Equal, IPPROTO_TCP.into(), is_tcp);
        code.jump_if(R1, NotEqual, IPPROTO_MPTCP.into(), end);
        code.put(is_tcp);
    }

    fn store_socket(&mut self) {
        let sock = self.layout.sock;
        let code = &mut self.code;
        RECORD.store_key(code, self.layout, R9, field!(OpenSocketRecord.socket));
        code.load(W64, R1, R7, sock.inode);
        RECORD.load_and_store(code, R1, sock.inode_number, field!(OpenSocketRecord.inode));
        code.load(W64, R1, R9, sock.net);
        RECORD.load_and_store(code, R1, sock.net_inum, field!(OpenSocketRecord.net));
        self.load_and_store(sock.num, field!(OpenSocketRecord.num));
        self.load_and_store(sock.dport, field!(OpenSocketRecord.dport));
        self.load_and_store(sock.state, field!(OpenSocketRecord.state));
        self.load_and_store(sock.protocol, field!(OpenSocketRecord.protocol));
        self.load_and_store(sock.family, field!(OpenSocketRecord.family));
        let [local, remote] = [field!(OpenSocketRecord.local), field!(OpenSocketRecord.remote)];
        RECORD.store_endpoints(&mut self.code, self.layout, R9, local, remote);
    }

    fn store_task(&mut self, namespace: Option<&PidNamespace>, end: Label) {
        let Layout { task, pid: pids, .. } = self.layout;
        let (code, context) = (&mut self.code, self.context);
        RECORD.load_and_store(code, R6, context.fd, field!(OpenSocketRecord.fd));
        code.load(W64, R1, R8, task.leader);
        RECORD.load_and_store(code, R1, task.start, field!(OpenSocketRecord.start_ns));
        code.load(W64, R1, R8, pids.pid);
        RECORD.load_and_store(code, R1, pids.level, field!(OpenSocketRecord.level));
        let Some(namespace) = namespace else {
            RECORD.load_and_store(code, R8, task.tgid, field!(OpenSocketRecord.tgid));
            RECORD.load_and_store(code, R8, task.tid, field!(OpenSocketRecord.tid));
            return;
        };
        code.load(W64, R7, R8, task.leader);
        code.load(W64, R7, R7, pids.pid);
        let tgid = RECORD.offset(field!(OpenSocketRecord.tgid));
        store_pid(code, pids, namespace, R7, (R10, tgid), end);
        code.load(W64, R7, R8, pids.pid);
        let tid = RECORD.offset(field!(OpenSocketRecord.tid));
        store_pid(code, pids, namespace, R7, (R10, tid), end);
    }

    /// Stores a member of the socket, by way of R1.
    fn load_and_store<T: Stored>(&mut self, offset: i16, field: Field<OpenSocketRecord, T>) {
        RECORD.load_and_store(&mut self.code, R9, offset, field);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compares the program with the fixture, which was reviewed by hand. A change of the program needs a change of
    /// the fixture: the test prints the new one.
    #[test]
    fn the_program_is_the_one_that_was_read() {
        let read = include_str!("../../../../../fixtures/bpf/tcp_sockets.txt");
        let layout = Layout::made_up();
        let made = program(&layout, &layout.iterator.unwrap().context, None).unwrap();
        let line = |(index, instruction)| format!("{index}: {instruction}\n");
        let made: String = made.iter().enumerate().map(line).collect();
        assert!(made == read, "another program than fixtures/bpf/tcp_sockets.txt:\n{made}");
    }
}
