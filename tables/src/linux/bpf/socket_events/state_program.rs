//! The program that the kernel runs when a TCP socket changes its state: the tracepoint `inet_sock_set_state`.
//!
//! It writes a [`StateRecord`] into the ring buffer. If a task holds the socket lock, this is the current task, and
//! its executable is reported first. Otherwise the state changes in a softirq, where the current task has nothing to do
//! with the socket.
//!
//! The program has no functions of its own: on Linux 5.10, a load through a null pointer panics in a program that has
//! them (fixed by 0108a4e9f358 in Linux 6.5).

use super::super::assembler::Condition::{Equal, NotEqual};
use super::super::assembler::Register::{R0, R1, R6, R7, R8, R9};
use super::super::assembler::Width::{W16, W32, W64};
use super::super::assembler::{AssembleError, Assembler, Instruction, Label};
use super::super::helper_ids::SKC_TO_TCP_SOCK;
use super::members::Layout;
use super::record_steps::RECORD;
use super::writer::{LOST_STATES, Variant, Writer};
use crate::formats::linux::event_record::members::{STATE, StateRecord, field};
use crate::model::socket_table::{IPPROTO_MPTCP, IPPROTO_TCP};
use crate::model::{Family, SOCK_STREAM};

// From `include/net/tcp_states.h`.
const ESTABLISHED: i32 = 1;
const SYN_SENT: i32 = 2;
const FIN_WAIT1: i32 = 4;
const CLOSE: i32 = 7;
const LAST_ACK: i32 = 9;
const LISTEN: i32 = 10;

/// The arguments of the tracepoint in the context.
const SOCK: i16 = 0;
const OLD_STATE: i16 = 8;
const NEW_STATE: i16 = 16;

/// The program for this kernel.
///
/// R6 holds the socket, R7 the new state and later the record, R8 whether there is an actor and then its task, and R9 the
/// context.
pub(super) fn program(
    layout: &Layout,
    variant: &Variant,
) -> Result<Vec<Instruction>, AssembleError> {
    let mut writer = Writer { code: Assembler::default(), layout, variant };
    let [record, end, submit, no_room] = [(); 4].map(|()| writer.code.label());
    writer.choose_changes(end);
    writer.code.jump_if(R8, Equal, 0, record);
    writer.report_executable();
    writer.code.put(record);
    writer.reserve_record(size_of::<StateRecord>(), no_room);
    writer.store_change();
    writer.store_socket();
    // The family is in R1 still.
    let [local, remote] = [field!(StateRecord.local), field!(StateRecord.remote)];
    RECORD.store_endpoints(&mut writer.code, layout, R6, local, remote);
    writer.store_tcp_if_closed();
    writer.code.jump_if(R8, Equal, 0, submit);
    writer.store_actor();
    writer.store_call();
    writer.code.put(submit);
    writer.submit(None);
    writer.code.jump(end);
    writer.code.put(no_room);
    writer.count_lost(LOST_STATES);
    writer.code.put(end);
    writer.code.set(R0, 0);
    writer.code.exit();
    writer.code.finish()
}

impl Writer<'_> {
    /// Jumps to the end unless the change is to be recorded. R8 is then 1 if there is an actor.
    fn choose_changes(&mut self, end: Label) {
        let sock = self.layout.sock;
        let code = &mut self.code;
        let [chosen, established, close, if_owned] = [(); 4].map(|()| code.label());
        let [is_inet, is_tcp] = [(); 2].map(|()| code.label());
        code.copy(R9, R1);
        code.load(W64, R6, R9, SOCK);
        code.load(W64, R7, R9, NEW_STATE);
        code.load(W16, R1, R6, sock.family);
        code.jump_if(R1, Equal, Family::Inet as i32, is_inet);
        code.jump_if(R1, NotEqual, Family::Inet6 as i32, end);
        code.put(is_inet);
        // Other protocols use the numbers of TCP's states for their own.
        code.load(W16, R1, R6, sock.protocol);
        code.jump_if(R1, Equal, IPPROTO_TCP.into(), is_tcp);
        code.jump_if(R1, NotEqual, IPPROTO_MPTCP.into(), end);
        code.put(is_tcp);
        code.load(W32, R8, R6, sock.owned);
        for state in [SYN_SENT, LISTEN] {
            code.jump_if_int(R7, Equal, state, chosen);
        }
        code.jump_if_int(R7, Equal, ESTABLISHED, established);
        code.jump_if_int(R7, Equal, CLOSE, close);
        // The task that sends the FIN: no task may hold the socket when it is closed.
        code.jump_if_int(R7, Equal, FIN_WAIT1, if_owned);
        code.jump_if_int(R7, NotEqual, LAST_ACK, end);
        code.put(if_owned);
        code.jump_if(R8, Equal, 0, end);
        code.jump(chosen);
        code.put(close);
        code.load(W64, R1, R9, OLD_STATE);
        code.jump_if_int(R1, Equal, CLOSE, end);
        code.jump(chosen);
        code.put(established);
        // The peer's answer: the process is that of SYN_SENT, or it is not known yet.
        code.set(R8, 0);
        code.put(chosen);
    }

    fn store_change(&mut self) {
        self.begin_record(STATE);
        let code = &mut self.code;
        code.load(W64, R1, R9, OLD_STATE);
        RECORD.store(code, field!(StateRecord.old), R1);
        code.load(W64, R1, R9, NEW_STATE);
        RECORD.store(code, field!(StateRecord.new), R1);
    }

    /// The counters, and the port, which the socket itself has no more when it is closed.
    fn store_tcp_if_closed(&mut self) {
        let Layout { sock, tcp, .. } = self.layout;
        let code = &mut self.code;
        let end = code.label();
        code.load(W64, R1, R9, NEW_STATE);
        code.jump_if_int(R1, NotEqual, CLOSE, end);
        // Some kernels take a raw socket of protocol 6 for a TCP socket.
        code.load(W16, R1, R6, sock.kind);
        code.jump_if(R1, NotEqual, SOCK_STREAM.into(), end);
        code.copy(R1, R6);
        code.call(SKC_TO_TCP_SOCK);
        code.jump_if(R0, Equal, 0, end);
        RECORD.load_and_store(code, R0, tcp.sent, field!(StateRecord.bytes_sent));
        RECORD.load_and_store(code, R0, tcp.retransmitted, field!(StateRecord.bytes_retrans));
        RECORD.load_and_store(code, R0, tcp.received, field!(StateRecord.bytes_received));
        RECORD.load_and_store(code, R0, tcp.srtt, field!(StateRecord.srtt));
        RECORD.load_and_store(code, R0, tcp.min_rtt, field!(StateRecord.min_rtt));
        RECORD.load_and_store(code, R0, tcp.sport, field!(StateRecord.sport));
        RECORD.store_number(code, field!(StateRecord.has_tcp), 1);
        code.put(end);
    }

    /// The system call, if it is one that names the socket's descriptor: of connect(2) and listen(2).
    fn store_call(&mut self) {
        let Some(registers) = self.layout.registers else { return };
        let code = &mut self.code;
        let [names_it, end] = [(); 2].map(|()| code.label());
        code.load(W64, R1, R9, NEW_STATE);
        code.jump_if_int(R1, Equal, SYN_SENT, names_it);
        code.jump_if_int(R1, NotEqual, LISTEN, end);
        code.put(names_it);
        self.store_registers(&registers, end);
        self.code.put(end);
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::assembler::MapFd;
    use super::super::writer::{Maps, PidNamespace};
    use super::*;

    fn variant() -> Variant {
        let maps =
            Maps { ring: MapFd(1001), ring_size: 1 << 20, seen: MapFd(1002), lost: MapFd(1003) };
        Variant { maps, namespace: None, has_paths: true }
    }

    fn text(layout: &Layout, variant: &Variant) -> Vec<String> {
        program(layout, variant).unwrap().iter().map(ToString::to_string).collect()
    }

    /// Compares the program with the fixture, which was reviewed by hand. A change of the program needs a change of
    /// the fixture: the test prints the new one.
    #[test]
    fn the_program_is_the_one_that_was_read() {
        let read = include_str!("../../../../../fixtures/bpf/tcp_states.txt");
        let line = |(index, instruction)| format!("{index}: {instruction}\n");
        let made: String =
            text(&Layout::made_up(), &variant()).into_iter().enumerate().map(line).collect();
        assert!(made == read, "another program than fixtures/bpf/tcp_states.txt:\n{made}");
    }

    /// What the ring buffer had there before must not be read as part of a record.
    #[test]
    fn every_byte_of_a_record_is_written_before_a_jump() {
        let text = text(&Layout::made_up(), &variant());
        let size = format!("r2 = {}", size_of::<StateRecord>());
        let reserve = text.windows(3).position(|w| w[0] == size && w[2] == "call #131").unwrap();
        let mut written = vec![false; size_of::<StateRecord>()];
        for line in text[reserve + 4..].iter().take_while(|line| !line.contains("goto")) {
            let Some(rest) = line.strip_prefix("*(u64 *)(r7 +") else { continue };
            let offset: usize = rest.split(')').next().unwrap().parse().unwrap();
            written[offset..offset + 8].fill(true);
        }
        assert!(written.iter().all(|&is_written| is_written), "{written:?}");
    }

    #[test]
    fn a_program_has_no_functions_of_its_own() {
        // A call of one has BPF_PSEUDO_CALL as its source register, and is printed in the same way.
        let code = program(&Layout::made_up(), &variant()).unwrap();
        let calls = code.iter().filter(|it| it.to_string().starts_with("call"));
        assert!(calls.clone().count() > 15);
        assert!(calls.clone().all(|call| !call.is_call_of_program()));
    }

    #[test]
    fn a_kernel_with_less_gets_a_program_without_it() {
        let layout = Layout {
            inet6: None,
            registers: None,
            cgroup: None,
            has_typed_task: false,
            has_cookies: false,
            has_cgroup_ids: false,
            ..Layout::made_up()
        };
        let text = text(&layout, &Variant { has_paths: false, ..variant() });
        for helper in [46, 80, 115, 158, 175] {
            assert!(!text.contains(&format!("call #{helper}")), "{helper}");
        }
        // Copied members of the current task: leader, start, mm, executable; parent and its process.
        assert_eq!(text.iter().filter(|line| *line == "call #35").count(), 1);
        assert_eq!(text.iter().filter(|line| *line == "call #113").count(), 6);
    }

    #[test]
    fn in_a_pid_namespace_the_pids_are_those_of_its_level() {
        let layout = Layout::made_up();
        let (number, namespace) = layout.pid.at(2).unwrap();
        let namespace = PidNamespace { level: 2, inum: 0xf000_0001, number, namespace };
        let text = text(&layout, &Variant { namespace: Some(namespace), ..variant() });
        let count = |line: String| text.iter().filter(|it| it.starts_with(&line)).count();
        // The process, the thread and the parent.
        assert_eq!(count(format!("r3 += {number}")), 3);
        assert_eq!(count("if r1 < 2 goto".into()), 3);
        assert_eq!(count(format!("if w1 != {} goto", 0xf000_0001_u32.cast_signed())), 3);
        let tgid = field!(StateRecord.tid);
        assert_eq!(count(format!("*(u32 *)(r7 +{}) = r0", tgid.offset)), 0);
    }
}
