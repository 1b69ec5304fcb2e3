//! The program that the kernel runs for every descriptor of every task, or of one process: it writes a record
//! for each that is of a socket.
//!
//! It loads what the kernel's types tell it is there, which faults nowhere: through a null pointer comes
//! zero. What lies behind a `struct sock` of one family only is copied with `bpf_probe_read_kernel`.

use super::assembler::Condition::{Equal, Greater, NotEqual};
use super::assembler::Register::{R0, R1, R2, R3, R6, R7, R8, R9, R10};
use super::assembler::Width::{W8, W16, W32, W64};
use super::assembler::{Assembler, Instruction, Label, Register, TooFar, Width};
use super::layout::Layout;
use super::record::{self, NAME_SIZE, RECORD_SIZE};
use crate::model::socket_table::{IPPROTO_TCP, IPPROTO_UDP, IPPROTO_UDPLITE};
use crate::model::{Family, SOCK_DGRAM, SOCK_STREAM};

// From `enum bpf_func_id` in `include/uapi/linux/bpf.h`.
const PROBE_READ_KERNEL: i32 = 113;
const SEQ_WRITE: i32 = 127;
const SKC_TO_TCP_SOCK: i32 = 137;
const SOCK_FROM_FILE: i32 = 162;

/// On the stack: the record, the name behind it, and before both room for a pointer.
const RECORD: i16 = -(RECORD_SIZE + NAME_SIZE);
const NAME: i16 = -NAME_SIZE;
const POINTER: i16 = RECORD - 8;

struct Writer<'a> {
    code: Assembler,
    layout: &'a Layout,
    write: Label,
    end: Label,
}

/// The program for this kernel, and for pids as the PID namespaces of that level have them.
///
/// R6 holds the context, R8 the task, R9 the `struct sock`, R7 the file and then whatever pointer is
/// followed.
pub(super) fn program(layout: &Layout, level: u32) -> Result<Vec<Instruction>, TooFar> {
    let mut code = Assembler::default();
    let (write, end) = (code.label(), code.label());
    let mut writer = Writer { code, layout, write, end };
    writer.find_socket();
    writer.tell_holder(level)?;
    writer.tell_socket();
    writer.tell_by_family();
    writer.finish()
}

impl Writer<'_> {
    fn find_socket(&mut self) {
        let Writer { code, layout, end, .. } = self;
        code.copy(R6, R1);
        code.load(W64, R8, R6, layout.context_task);
        code.jump_if(R8, Equal, 0, *end);
        code.load(W64, R7, R6, layout.context_file);
        code.jump_if(R7, Equal, 0, *end);
        code.copy(R1, R7);
        code.call(SOCK_FROM_FILE);
        code.jump_if(R0, Equal, 0, *end);
        code.load(W64, R9, R0, layout.socket_sk);
        code.jump_if(R9, Equal, 0, *end);
        self.clear(RECORD, NAME);
    }

    /// Fills a part of the stack with zeros.
    fn clear(&mut self, from: i16, to: i16) {
        for offset in (from..to).step_by(8) {
            self.code.store_number(W64, R10, offset, 0);
        }
    }

    fn tell_holder(&mut self, level: u32) -> Result<(), TooFar> {
        let layout = self.layout;
        self.follow_and_keep(R7, layout.file_inode, W64, layout.inode_number, record::INODE);
        if level == 0 {
            self.keep(W32, R8, layout.task_tgid, record::TGID);
            self.keep(W32, R8, layout.task_pid, record::TID);
        } else {
            let place =
                i16::try_from(level).ok().and_then(|level| layout.upid_size.checked_mul(level));
            let number =
                place.and_then(|place| layout.pid_numbers.checked_add(place)).ok_or(TooFar)?;
            self.code.load(W64, R7, R8, layout.task_group_leader);
            self.code.load(W64, R7, R7, layout.task_thread_pid);
            self.probe_and_keep(4, R7, number, record::TGID);
            self.code.load(W64, R7, R8, layout.task_thread_pid);
            self.probe_and_keep(4, R7, number, record::TID);
        }
        self.follow_and_keep(R8, layout.task_thread_pid, W32, layout.pid_level, record::LEVEL);
        self.keep(W32, R6, layout.context_fd, record::FD);
        self.keep(W64, R8, layout.task_files, record::FILES);
        self.follow_and_keep(
            R8,
            layout.task_group_leader,
            W64,
            layout.task_files,
            record::LEADER_FILES,
        );
        Ok(())
    }

    fn tell_socket(&mut self) {
        let layout = self.layout;
        self.follow_and_keep(R9, layout.sock_net, W32, layout.net_inum, record::NET);
        self.keep(W32, R9, layout.sock_uid, record::UID);
        self.keep(W16, R9, layout.sock_type, record::TYPE);
        self.keep(W16, R9, layout.sock_protocol, record::PROTOCOL);
        self.keep(W8, R9, layout.sock_state, record::STATE);
        self.keep(W32, R9, layout.sock_bound_dev_if, record::INTERFACE);
        self.keep(W32, R9, layout.sock_ack_backlog, record::BACKLOG);
        self.keep(W32, R9, layout.sock_max_ack_backlog, record::MOST_BACKLOG);
        self.keep(W32, R9, layout.sock_rmem_alloc, record::RECEIVED);
        self.keep(W32, R9, layout.sock_wmem_alloc, record::WRITTEN);
        let Writer { code, .. } = self;
        let unlisted = code.label();
        code.load(W64, R1, R9, layout.sock_node_pprev);
        code.jump_if(R1, Equal, 0, unlisted);
        code.store_number(W8, R10, RECORD + record::LISTED, 1);
        code.put(unlisted);
        self.keep(W16, R9, layout.sock_family, record::FAMILY);
    }

    fn tell_by_family(&mut self) {
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
        self.keep(W32, R9, layout.sock_rcv_saddr, record::LOCAL);
        self.keep(W32, R9, layout.sock_daddr, record::REMOTE);
        let ports = self.code.label();
        self.code.jump(ports);
        self.code.put(inet6);
        if let Some((local, remote)) = layout.sock_v6 {
            for half in [0, 8] {
                self.keep(W64, R9, local + half, record::LOCAL + half);
                self.keep(W64, R9, remote + half, record::REMOTE + half);
            }
        }
        self.code.put(ports);
        self.tell_inet();
        self.code.jump(self.write);
        self.code.put(packet);
        if let Some((protocol, interface)) = layout.packet {
            self.probe_and_keep(2, R9, protocol, record::REMOTE_PORT);
            self.probe_and_keep(4, R9, interface, record::INTERFACE);
            self.code.store_number(W32, R10, RECORD + record::FAMILYS_OWN, 1);
        }
        self.code.jump(self.write);
        self.code.put(unix);
        self.tell_unix();
    }

    fn tell_inet(&mut self) {
        let layout = self.layout;
        self.keep(W16, R9, layout.sock_num, record::LOCAL_PORT);
        self.keep(W16, R9, layout.sock_dport, record::REMOTE_PORT);
        if let Some((cgroup, node, number)) = layout.cgroup {
            self.code.load(W64, R1, R9, cgroup);
            self.follow_and_keep(R1, node, W64, number, record::CGROUP);
        }
        let (is_stream, is_udp) = (self.code.label(), self.code.label());
        self.code.load(W16, R1, R9, layout.sock_type);
        self.code.load(W16, R2, R9, layout.sock_protocol);
        self.code.jump_if(R1, Equal, SOCK_STREAM.into(), is_stream);
        self.code.jump_if(R1, NotEqual, SOCK_DGRAM.into(), self.write);
        self.code.jump_if(R2, Equal, IPPROTO_UDP.into(), is_udp);
        self.code.jump_if(R2, Equal, IPPROTO_UDPLITE.into(), is_udp);
        self.code.jump(self.write);
        self.code.put(is_udp);
        self.probe_and_keep(4, R9, layout.udp_forward_deficit, record::READ);
        self.code.jump(self.write);
        self.code.put(is_stream);
        self.code.jump_if(R2, NotEqual, IPPROTO_TCP.into(), self.write);
        self.code.copy(R1, R9);
        self.code.call(SKC_TO_TCP_SOCK);
        self.code.jump_if(R0, Equal, 0, self.write);
        self.keep(W32, R0, layout.tcp_rcv_nxt, record::RECEIVED);
        self.keep(W32, R0, layout.tcp_copied_seq, record::READ);
        self.keep(W32, R0, layout.tcp_write_seq, record::WRITTEN);
        self.keep(W32, R0, layout.tcp_snd_una, record::ACKNOWLEDGED);
    }

    fn tell_unix(&mut self) {
        let layout = self.layout;
        self.clear(NAME, 0);
        self.keep(W32, R9, layout.sock_queue_length, record::RECEIVED);
        // Of an empty queue it is the queue itself.
        self.code.load(W64, R1, R9, layout.sock_queue_next);
        self.keep(W32, R1, layout.sk_buff_len, record::READ);
        if let Some(length) = layout.unix_inq_len {
            let is_packets = self.code.label();
            self.code.load(W16, R1, R9, layout.sock_type);
            self.code.jump_if(R1, NotEqual, SOCK_STREAM.into(), is_packets);
            self.probe_and_keep(4, R9, length, record::READ);
            self.code.store_number(W32, R10, RECORD + record::FAMILYS_OWN, 1);
            self.code.put(is_packets);
        }
        let (no_peer, no_name) = (self.code.label(), self.code.label());
        self.probe_pointer(R9, layout.unix_peer, no_peer);
        self.probe_pointer(R7, layout.sock_socket, no_peer);
        self.probe_and_keep(8, R7, layout.socket_inode_number, record::PEER);
        self.code.put(no_peer);
        self.probe_pointer(R9, layout.unix_addr, no_name);
        self.probe(4, R7, layout.unix_address_len, POINTER);
        let code = &mut self.code;
        code.load(W32, R2, R10, POINTER);
        code.jump_if(R2, Greater, NAME_SIZE.into(), no_name);
        code.store(W32, R10, RECORD + record::NAME_LENGTH, R2);
        code.copy(R1, R10);
        code.plus(R1, NAME.into());
        code.copy(R3, R7);
        code.plus(R3, layout.unix_address_name.into());
        code.call(PROBE_READ_KERNEL);
        code.put(no_name);
        self.write_record(RECORD_SIZE + NAME_SIZE);
        self.code.jump(self.end);
    }

    fn finish(mut self) -> Result<Vec<Instruction>, TooFar> {
        self.code.put(self.write);
        self.write_record(RECORD_SIZE);
        self.code.put(self.end);
        self.code.set(R0, 0);
        self.code.exit();
        self.code.finish()
    }

    fn write_record(&mut self, size: i16) {
        let Writer { code, layout, .. } = self;
        code.store_number(W32, R10, RECORD + record::SIZE, size.into());
        code.load(W64, R1, R6, layout.context_meta);
        code.load(W64, R1, R1, layout.meta_seq);
        code.copy(R2, R10);
        code.plus(R2, RECORD.into());
        code.set(R3, size.into());
        // What does not fit is written once more by the kernel, into the next buffer.
        code.call(SEQ_WRITE);
    }

    /// Writes a member of what a register points to into the record, by way of R1.
    fn keep(&mut self, width: Width, from: Register, offset: i16, field: i16) {
        self.code.load(width, R1, from, offset);
        self.code.store(width, R10, RECORD + field, R1);
    }

    /// The same with a member of what a member points to.
    fn follow_and_keep(
        &mut self,
        from: Register,
        pointer: i16,
        width: Width,
        offset: i16,
        field: i16,
    ) {
        self.code.load(W64, R1, from, pointer);
        self.keep(width, R1, offset, field);
    }

    /// Copies so many bytes that lie somewhere behind a pointer to the stack.
    fn probe(&mut self, size: i32, from: Register, offset: i16, to: i16) {
        let code = &mut self.code;
        code.copy(R1, R10);
        code.plus(R1, to.into());
        code.set(R2, size);
        code.copy(R3, from);
        code.plus(R3, offset.into());
        code.call(PROBE_READ_KERNEL);
    }

    fn probe_and_keep(&mut self, size: i32, from: Register, offset: i16, field: i16) {
        self.probe(size, from, offset, RECORD + field);
    }

    /// Copies a pointer into R7; goes elsewhere if it is null.
    fn probe_pointer(&mut self, from: Register, offset: i16, if_null: Label) {
        self.probe(8, from, offset, POINTER);
        self.code.load(W64, R7, R10, POINTER);
        self.code.jump_if(R7, Equal, 0, if_null);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Line by line with the fixture, which a person has read beside the doc comments above. Where the
    /// program is meant to change, so is the fixture: what the test prints is the new one.
    #[test]
    fn the_program_is_the_one_that_was_read() {
        let read = include_str!("../../../../fixtures/bpf/program.txt");
        let made = program(&Layout::made_up(), 0).unwrap();
        let line = |(place, instruction)| format!("{place}: {instruction}\n");
        let made: String = made.iter().enumerate().map(line).collect();
        assert!(made == read, "another program than fixtures/bpf/program.txt:\n{made}");
    }

    #[test]
    fn a_kernel_with_less_gets_a_shorter_program() {
        let whole = program(&Layout::made_up(), 0).unwrap().len();
        let layout = Layout {
            sock_v6: None,
            cgroup: None,
            unix_inq_len: None,
            packet: None,
            ..Layout::made_up()
        };
        // The four loads and stores of the addresses; three loads and a store; a load, a jump, the six
        // instructions of a copy and a store; two copies and a store.
        let less = 4 * 2 + 4 + (2 + 6 + 1) + (2 * 6 + 1);
        assert_eq!(program(&layout, 0).unwrap().len(), whole - less);
    }

    #[test]
    fn in_a_pid_namespace_the_pids_are_those_of_its_level() {
        let program = program(&Layout::made_up(), 2).unwrap();
        let program: Vec<String> = program.iter().map(ToString::to_string).collect();
        let layout = Layout::made_up();
        // Two of `struct upid` further, copied to where the thread group's number and the thread's stand.
        let number = format!("r3 += {}", layout.pid_numbers + 2 * 20);
        let copied: Vec<&String> = program
            .windows(5)
            .filter(|window| window[4] == number)
            .map(|window| &window[1])
            .collect();
        let to = [record::TGID, record::TID].map(|field| format!("r1 += {}", RECORD + field));
        assert_eq!(copied, [&to[0], &to[1]]);
        assert!(!program.contains(&format!("r1 = *(u32 *)(r8 +{})", layout.task_tgid)));
    }
}
