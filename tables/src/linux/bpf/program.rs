//! The program that the kernel runs for every descriptor of every task, or of one process: it writes a record
//! for each descriptor that refers to a socket.
//!
//! It loads members of the kernel's structures at the offsets of the [`Layout`], and stores them into a
//! [`SocketRecord`] on its stack. No such load faults: through a null pointer it yields zero. The fields that a family
//! keeps behind its `struct sock` are copied with `bpf_probe_read_kernel`.

use std::mem::offset_of;

use super::assembler::Condition::{Equal, Greater, NotEqual};
use super::assembler::Register::{R0, R1, R2, R3, R6, R7, R8, R9, R10};
use super::assembler::Width::{W8, W16, W32, W64};
use super::assembler::{AssembleError, Assembler, Instruction, Label, Register, Stored};
use super::helper_ids::{
    GET_SOCKET_COOKIE, JIFFIES64, PROBE_READ_KERNEL, SEQ_WRITE, SKC_TO_TCP_SOCK, SOCK_FROM_FILE,
};
use super::kernel_members::Layout;
use crate::formats::linux::bpf_record::record_members::{
    EXTENSION_SIZE, NAME_SIZE, SocketRecord, UnixSocketRecord, extension, field,
};
use crate::formats::linux::record_layout::Field;
use crate::model::socket_table::{IPPROTO_TCP, IPPROTO_UDP, IPPROTO_UDPLITE};
use crate::model::{Family, SOCK_DGRAM, SOCK_STREAM};

/// Where the name of a UNIX socket is on the stack: at its end.
const NAME: i16 = -(NAME_SIZE as i16);
const _: () = assert!(offset_of!(UnixSocketRecord, name) == size_of::<SocketRecord>());

/// The stack grows down from R10: the record, with the name at its end, and below both one or two pointers.
#[derive(Clone, Copy)]
struct Stack {
    record: i16,
}

impl Stack {
    const BASIC: Stack = Stack { record: NAME - size_of::<SocketRecord>() as i16 };
    const EXTENDED: Stack = Stack { record: Stack::BASIC.record - EXTENSION_SIZE as i16 };

    /// Where a member of the record is.
    const fn at<R, T>(self, field: &Field<R, T>) -> i16 {
        self.record + field.offset as i16
    }

    const fn pointer(self) -> i16 {
        self.record - size_of::<u64>() as i16
    }

    const fn second_pointer(self) -> i16 {
        self.pointer() - size_of::<u64>() as i16
    }
}

/// `MAX_BPF_STACK`.
const STACK_SIZE: i16 = 512;
const _: () = assert!(Stack::EXTENDED.second_pointer() >= -STACK_SIZE);

/// The helpers that the extended program calls, as far as the kernel has them for iterators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Helpers {
    /// `bpf_get_socket_cookie`: since Linux 5.12.
    pub(super) socket_cookie: bool,
    /// `bpf_jiffies64`, with the number of ticks that it counts in a second. Without it, the record has no fields of
    /// TCP.
    pub(super) jiffies: Option<u32>,
}

struct Writer<'a> {
    code: Assembler,
    layout: &'a Layout,
    stack: Stack,
    extended: Option<Helpers>,
    pid_number: Option<i16>,
    write: Label,
    end: Label,
}

/// The program for this kernel. `pid_number` is where a `struct pid` has its number in the PID namespace whose
/// pids are written; None for the first one. With `extended`, it writes extended records.
///
/// R6 holds the context, R8 the task, R9 the `struct sock`, and R7 the file, later other pointers.
pub(super) fn program(
    layout: &Layout,
    pid_number: Option<i16>,
    extended: Option<Helpers>,
) -> Result<Vec<Instruction>, AssembleError> {
    let mut code = Assembler::default();
    let (write, end) = (code.label(), code.label());
    let stack = if extended.is_some() { Stack::EXTENDED } else { Stack::BASIC };
    let mut writer = Writer { code, layout, stack, extended, pid_number, write, end };
    writer.find_socket();
    writer.store_descriptor();
    writer.store_extension();
    writer.store_socket();
    writer.store_by_family();
    writer.finish()
}

impl Writer<'_> {
    fn find_socket(&mut self) {
        let Writer { code, layout, end, .. } = self;
        code.copy(R6, R1);
        code.load(W64, R8, R6, layout.context.task);
        code.jump_if(R8, Equal, 0, *end);
        code.load(W64, R7, R6, layout.context.file);
        code.jump_if(R7, Equal, 0, *end);
        code.copy(R1, R7);
        code.call(SOCK_FROM_FILE);
        code.jump_if(R0, Equal, 0, *end);
        code.load(W64, R9, R0, layout.file.sk);
        code.jump_if(R9, Equal, 0, *end);
        self.clear(self.stack.record, NAME);
    }

    /// Fills a part of the stack with zeros.
    fn clear(&mut self, from: i16, to: i16) {
        for offset in (from..to).step_by(8) {
            self.code.store_number(W64, R10, offset, 0);
        }
    }

    fn store_descriptor(&mut self) {
        let Layout { context, task, file, start, .. } = self.layout;
        self.follow_and_store(R7, file.inode, file.inode_number, field!(inode));
        match self.pid_number {
            None => {
                self.load_and_store(R8, task.tgid, field!(tgid));
                self.load_and_store(R8, task.pid, field!(tid));
            }
            Some(number) => {
                self.code.load(W64, R7, R8, task.group_leader);
                self.code.load(W64, R7, R7, task.thread_pid);
                self.probe_and_store(R7, number, field!(tgid));
                self.code.load(W64, R7, R8, task.thread_pid);
                self.probe_and_store(R7, number, field!(tid));
            }
        }
        self.follow_and_store(R8, task.thread_pid, task.pid_level, field!(level));
        self.load_and_store(R6, context.fd, field!(fd));
        self.load_and_store(R8, task.files, field!(files));
        self.code.load(W64, R7, R8, task.group_leader);
        self.load_and_store(R7, task.files, field!(leader_files));
        if let Some(start) = start {
            self.load_and_store(R7, start.start_boottime, field!(start_boottime));
        }
    }

    /// Stores the fields that every extended record has.
    fn store_extension(&mut self) {
        let Some(helpers) = self.extended else { return };
        if helpers.socket_cookie {
            self.code.copy(R1, R9);
            self.code.call(GET_SOCKET_COOKIE);
            self.code.store(W64, R10, self.stack.at(&extension!(cookie)), R0);
        }
    }

    fn store_socket(&mut self) {
        let sock = &self.layout.sock;
        self.follow_and_store(R9, sock.net, sock.net_inum, field!(net));
        self.load_and_store(R9, sock.uid, field!(uid));
        self.load_and_store(R9, sock.kind, field!(kind));
        self.load_and_store(R9, sock.protocol, field!(protocol));
        self.load_and_store(R9, sock.state, field!(state));
        self.load_and_store(R9, sock.bound_dev_if, field!(interface));
        self.load_and_store(R9, sock.ack_backlog, field!(backlog));
        self.load_and_store(R9, sock.max_ack_backlog, field!(max_backlog));
        self.load_and_store(R9, sock.rmem_alloc, field!(received));
        self.load_and_store(R9, sock.wmem_alloc, field!(written));
        let unlisted = self.code.label();
        self.code.load(W64, R1, R9, sock.node_pprev);
        self.code.jump_if(R1, Equal, 0, unlisted);
        self.store_number(field!(is_listed), 1);
        self.code.put(unlisted);
        self.load_and_store(R9, sock.family, field!(family));
    }

    fn store_by_family(&mut self) {
        let [inet, inet6, unix, packet] = [(); 4].map(|()| self.code.label());
        // The family is in R1 still.
        for (family, label) in [
            (Family::Inet, inet),
            (Family::Inet6, inet6),
            (Family::Unix, unix),
            (Family::Packet, packet),
        ] {
            self.code.jump_if(R1, Equal, family as i32, label);
        }
        self.code.jump(self.write);
        let layout = self.layout;
        self.code.put(inet);
        self.load_and_store(R9, layout.inet.rcv_saddr, field!(local).ipv4());
        self.load_and_store(R9, layout.inet.daddr, field!(remote).ipv4());
        let ports = self.code.label();
        self.code.jump(ports);
        self.code.put(inet6);
        if let Some(inet6) = layout.inet6 {
            let halves = field!(local).halves().into_iter().zip(field!(remote).halves());
            for (offset, (local, remote)) in [0, 8].into_iter().zip(halves) {
                self.load_and_store(R9, inet6.rcv_saddr + offset, local);
                self.load_and_store(R9, inet6.daddr + offset, remote);
            }
        }
        self.code.put(ports);
        self.store_inet();
        self.code.jump(self.write);
        self.code.put(packet);
        if let Some(packet) = layout.packet {
            self.probe_and_store(R9, packet.ethertype, field!(remote_port));
            self.probe_and_store(R9, packet.interface, field!(interface));
            self.store_number(field!(has_family_fields), 1);
        }
        self.code.jump(self.write);
        self.code.put(unix);
        self.store_unix();
    }

    fn store_inet(&mut self) {
        let Layout { sock, inet, cgroup, tcp, udp, .. } = self.layout;
        self.load_and_store(R9, inet.num, field!(local_port));
        self.load_and_store(R9, inet.dport, field!(remote_port));
        if let Some(cgroup) = cgroup {
            self.code.load(W64, R1, R9, cgroup.cgroup);
            self.follow_and_store(R1, cgroup.node, cgroup.id, field!(cgroup));
        }
        let (is_stream, is_udp) = (self.code.label(), self.code.label());
        self.code.load(W16, R1, R9, sock.kind);
        self.code.load(W16, R2, R9, sock.protocol);
        self.code.jump_if(R1, Equal, SOCK_STREAM.into(), is_stream);
        self.code.jump_if(R1, NotEqual, SOCK_DGRAM.into(), self.write);
        self.code.jump_if(R2, Equal, IPPROTO_UDP.into(), is_udp);
        self.code.jump_if(R2, Equal, IPPROTO_UDPLITE.into(), is_udp);
        self.code.jump(self.write);
        self.code.put(is_udp);
        self.probe_and_store(R9, udp.forward_deficit, field!(read));
        self.code.jump(self.write);
        self.code.put(is_stream);
        self.code.jump_if(R2, NotEqual, IPPROTO_TCP.into(), self.write);
        self.code.copy(R1, R9);
        self.code.call(SKC_TO_TCP_SOCK);
        self.code.jump_if(R0, Equal, 0, self.write);
        self.load_and_store(R0, tcp.rcv_nxt, field!(received));
        self.load_and_store(R0, tcp.copied_seq, field!(read));
        self.load_and_store(R0, tcp.write_seq, field!(written));
        self.load_and_store(R0, tcp.snd_una, field!(acknowledged));
        self.store_tcp_info();
    }

    /// Stores what `struct tcp_info` shows of the `struct tcp_sock` in R0.
    fn store_tcp_info(&mut self) {
        let jiffies = self.extended.and_then(|helpers| helpers.jiffies);
        let (Some(ticks_per_second), Some(info)) = (jiffies, self.layout.tcp_info) else { return };
        self.load_and_store(R0, info.bytes_sent, extension!(bytes_sent));
        self.load_and_store(R0, info.bytes_retrans, extension!(bytes_retransmitted));
        self.load_and_store(R0, info.bytes_received, extension!(bytes_received));
        self.load_and_store(R0, info.srtt_us, extension!(rtt));
        self.load_and_store(R0, info.mdev_us, extension!(rtt_variance));
        self.load_and_store(R0, info.rtt_min, extension!(min_rtt_us));
        self.load_and_store(R0, info.total_retrans, extension!(retransmits));
        self.load_and_store(R0, info.lost_out, extension!(lost));
        self.load_and_store(R0, info.snd_cwnd, extension!(congestion_window));
        self.load_and_store(R0, info.mss_cache, extension!(send_mss));
        self.load_and_store(R0, info.lsndtime, extension!(last_sent));
        self.load_and_store(R0, info.lrcvtime, extension!(last_received));
        self.load_and_store(R0, info.rate_delivered, extension!(delivered));
        self.load_and_store(R0, info.rate_interval_us, extension!(delivered_in_us));
        self.load_and_store(R0, info.chrono_start, extension!(chrono_start));
        self.load_and_store(R0, info.chrono_stat, extension!(chrono_busy));
        self.load_and_store(R0, info.chrono_stat + 4, extension!(chrono_receive_window));
        self.load_and_store(R0, info.chrono_stat + 8, extension!(chrono_send_buffer));
        self.code.load(W8, R1, R0, info.chrono_type);
        self.code.shift_right(R1, info.chrono_type_shift.into());
        self.code.mask(R1, info.chrono_type_mask.into());
        self.code.store(W8, R10, self.stack.at(&extension!(running_chrono)), R1);
        self.code.load(W64, R7, R0, info.congestion);
        // After the members that it is compared with.
        self.code.call(JIFFIES64);
        self.code.store(W64, R10, self.stack.at(&extension!(ticks)), R0);
        self.store_number(extension!(ticks_per_second), ticks_per_second.cast_signed());
        self.store_number(extension!(has_tcp), 1);
        self.probe_and_store(R7, info.congestion_name, extension!(congestion_algorithm));
    }

    fn store_unix(&mut self) {
        let Layout { sock, unix, unix_stream, .. } = self.layout;
        self.clear(NAME, 0);
        self.load_and_store(R9, unix.queue_length, field!(received));
        // The next of an empty queue is the queue itself.
        self.code.load(W64, R1, R9, unix.queue_next);
        self.load_and_store(R1, unix.sk_buff_len, field!(read));
        if let Some(unix_stream) = unix_stream {
            let is_packets = self.code.label();
            self.code.load(W16, R1, R9, sock.kind);
            self.code.jump_if(R1, NotEqual, SOCK_STREAM.into(), is_packets);
            self.probe_and_store(R9, unix_stream.inq_len, field!(read));
            self.store_number(field!(has_family_fields), 1);
            self.code.put(is_packets);
        }
        let no_peer = self.code.label();
        self.probe_pointer(R9, unix.peer, no_peer);
        self.probe_pointer(R7, unix.socket, no_peer);
        self.probe_and_store(R7, unix.inode_number, field!(peer));
        self.code.put(no_peer);
        self.store_unix_name();
        if self.extended.is_some() {
            self.store_bound_file();
            self.store_peer();
        }
        self.write_record(size_of::<UnixSocketRecord>());
        self.code.jump(self.end);
    }

    fn store_bound_file(&mut self) {
        let Layout { file, bound_file, .. } = self.layout;
        let Some(bound_file) = bound_file else { return };
        let unbound = self.code.label();
        self.probe_pointer(R9, bound_file.dentry, unbound);
        let inode = self.stack.second_pointer();
        self.probe(size_of::<u64>(), R7, bound_file.inode, inode);
        self.probe_pointer(R7, bound_file.super_block, unbound);
        self.probe_and_store(R7, bound_file.device, extension!(file_device));
        self.code.load(W64, R7, R10, inode);
        self.code.jump_if(R7, Equal, 0, unbound);
        self.probe_and_store(R7, file.inode_number, extension!(file_inode));
        self.store_number(extension!(has_file), 1);
        self.code.put(unbound);
    }

    /// Stores the credentials that SO_PEERCRED returns.
    fn store_peer(&mut self) {
        let Layout { task, peer, .. } = self.layout;
        let Some(peer) = peer else { return };
        let [no_peer, no_number] = [(); 2].map(|()| self.code.label());
        self.code.load(W64, R1, R9, peer.credentials);
        self.code.jump_if(R1, Equal, 0, no_peer);
        self.load_and_store(R1, peer.euid, extension!(peer_uid));
        self.store_number(extension!(has_peer), 1);
        self.code.load(W64, R7, R9, peer.pid);
        self.code.jump_if(R7, Equal, 0, no_number);
        let number = self.pid_number.unwrap_or(task.pid_number);
        let level = (number - task.pid_number).checked_div(task.upid_size).unwrap_or_default();
        if level > 0 {
            self.jump_unless_in_namespace(
                level,
                peer.namespace + number - task.pid_number,
                no_number,
            );
        }
        self.probe_and_store(R7, number, extension!(peer_pid));
        self.code.put(no_number);
        self.code.put(no_peer);
    }

    /// Jumps unless the `struct pid` in R7 is in the PID namespace of this level that the task is in. `namespace` is
    /// where a `struct pid` has its namespace of this level.
    fn jump_unless_in_namespace(&mut self, level: i16, namespace: i16, to: Label) {
        let Layout { task, .. } = self.layout;
        let is_deep = self.code.label();
        self.code.load(W32, R1, R7, task.pid_level);
        self.code.jump_if(R1, Greater, i32::from(level) - 1, is_deep);
        self.code.jump(to);
        self.code.put(is_deep);
        let (of_peer, of_task) = (self.stack.pointer(), self.stack.second_pointer());
        self.probe(size_of::<u64>(), R7, namespace, of_peer);
        self.code.load(W64, R0, R8, task.thread_pid);
        self.probe(size_of::<u64>(), R0, namespace, of_task);
        self.code.load(W64, R1, R10, of_peer);
        self.code.load(W64, R2, R10, of_task);
        self.code.jump_if_different(R1, R2, to);
    }

    fn store_unix_name(&mut self) {
        let unix = &self.layout.unix;
        let no_name = self.code.label();
        self.probe_pointer(R9, unix.address, no_name);
        let pointer = self.stack.pointer();
        self.probe(size_of::<u32>(), R7, unix.address_len, pointer);
        let code = &mut self.code;
        code.load(W32, R2, R10, pointer);
        code.jump_if(R2, Greater, NAME_SIZE as i32, no_name);
        code.store(W32, R10, self.stack.at(&field!(name_length)), R2);
        code.copy(R1, R10);
        code.plus(R1, NAME.into());
        code.copy(R3, R7);
        code.plus(R3, unix.address_name.into());
        code.call(PROBE_READ_KERNEL);
        code.put(no_name);
    }

    fn finish(mut self) -> Result<Vec<Instruction>, AssembleError> {
        self.code.put(self.write);
        self.write_record(size_of::<SocketRecord>());
        self.code.put(self.end);
        self.code.set(R0, 0);
        self.code.exit();
        self.code.finish()
    }

    /// Writes this many bytes of the record to the reader, and those of the extension.
    fn write_record(&mut self, size: usize) {
        let size = size as i32 + i32::from(Stack::BASIC.record - self.stack.record);
        self.store_number(field!(size), size);
        let Writer { code, layout, stack, .. } = self;
        code.load(W64, R1, R6, layout.context.meta);
        code.load(W64, R1, R1, layout.context.seq);
        code.copy(R2, R10);
        code.plus(R2, stack.record.into());
        code.set(R3, size);
        // A record that does not fit is written once more by the kernel, into the next buffer.
        code.call(SEQ_WRITE);
    }

    fn store_number<R, T: Stored>(&mut self, field: Field<R, T>, number: i32) {
        self.code.store_number(T::WIDTH, R10, self.stack.at(&field), number);
    }

    /// Stores a member of the structure that a register points to, by way of R1.
    fn load_and_store<R, T: Stored>(&mut self, from: Register, offset: i16, field: Field<R, T>) {
        self.code.load(T::WIDTH, R1, from, offset);
        self.code.store(T::WIDTH, R10, self.stack.at(&field), R1);
    }

    /// The same with a member of the structure that a member points to.
    fn follow_and_store<R, T: Stored>(
        &mut self,
        from: Register,
        pointer: i16,
        offset: i16,
        field: Field<R, T>,
    ) {
        self.code.load(W64, R1, from, pointer);
        self.load_and_store(R1, offset, field);
    }

    /// Copies bytes from behind a pointer to the stack.
    fn probe(&mut self, size: usize, from: Register, offset: i16, to: i16) {
        let code = &mut self.code;
        code.copy(R1, R10);
        code.plus(R1, to.into());
        code.set(R2, size as i32);
        code.copy(R3, from);
        code.plus(R3, offset.into());
        code.call(PROBE_READ_KERNEL);
    }

    fn probe_and_store<R, T>(&mut self, from: Register, offset: i16, field: Field<R, T>) {
        self.probe(size_of::<T>(), from, offset, self.stack.at(&field));
    }

    /// Copies a pointer into R7; jumps if it is null.
    fn probe_pointer(&mut self, from: Register, offset: i16, if_null: Label) {
        let pointer = self.stack.pointer();
        self.probe(size_of::<u64>(), from, offset, pointer);
        self.code.load(W64, R7, R10, pointer);
        self.code.jump_if(R7, Equal, 0, if_null);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compares the program with the fixture, which was reviewed by hand. A change of the program needs a change of
    /// the fixture: the test prints the new one.
    #[test]
    fn the_program_is_the_one_that_was_read() {
        let read = include_str!("../../../../fixtures/bpf/program.txt");
        let made = text(&program(&Layout::made_up(), None, None).unwrap());
        assert!(made == read, "another program than fixtures/bpf/program.txt:\n{made}");
    }

    fn text(program: &[Instruction]) -> String {
        let line = |(index, instruction)| format!("{index}: {instruction}\n");
        program.iter().enumerate().map(line).collect()
    }

    #[test]
    fn the_extended_program_is_the_one_that_was_read() {
        let read = include_str!("../../../../fixtures/bpf/extended-program.txt");
        let helpers = Helpers { socket_cookie: true, jiffies: Some(250) };
        let made = text(&program(&Layout::made_up(), None, Some(helpers)).unwrap());
        assert!(made == read, "another program than fixtures/bpf/extended-program.txt:\n{made}");
    }

    #[test]
    fn a_kernel_with_less_gets_a_shorter_program() {
        let whole = program(&Layout::made_up(), None, None).unwrap().len();
        let layout = Layout {
            inet6: None,
            cgroup: None,
            unix_stream: None,
            packet: None,
            ..Layout::made_up()
        };
        // The four loads and stores of the addresses; three loads and a store; a load, a jump, the six
        // instructions of a copy and a store; two copies and a store.
        let less = 4 * 2 + 4 + (2 + 6 + 1) + (2 * 6 + 1);
        assert_eq!(program(&layout, None, None).unwrap().len(), whole - less);
    }

    #[test]
    fn in_a_pid_namespace_the_pids_are_those_of_its_level() {
        let layout = Layout::made_up();
        let number = layout.task.pid_number_at(2).unwrap();
        let program = program(&layout, Some(number), None).unwrap();
        let program: Vec<String> = program.iter().map(ToString::to_string).collect();
        // Copied to the process's and to the thread's number.
        let number = format!("r3 += {number}");
        let copied: Vec<&String> = program
            .windows(5)
            .filter(|window| window[4] == number)
            .map(|window| &window[1])
            .collect();
        let to = [Stack::BASIC.at(&field!(tgid)), Stack::BASIC.at(&field!(tid))];
        let to = to.map(|offset: i16| format!("r1 += {offset}"));
        assert_eq!(copied, [&to[0], &to[1]]);
        assert!(!program.contains(&format!("r1 = *(u32 *)(r8 +{})", layout.task.tgid)));
    }
}
