//! The program that the kernel runs for every descriptor of every task: it writes the cookie of each datagram socket.

use super::super::assembler::Condition::Equal;
use super::super::assembler::Register::{R0, R1, R6, R7, R8, R10};
use super::super::assembler::Width::W64;
use super::super::assembler::{AssembleError, Assembler, Instruction};
use super::super::helper_ids::{GET_SOCKET_COOKIE, SOCK_FROM_FILE};
use super::members::{Context, Layout};
use super::writer::{choose_datagram_sockets, write_record};

const COOKIE: i16 = -8;

/// The program for this kernel. R6 holds the socket, R7 the file, and R8 the context.
pub(super) fn program(
    layout: &Layout,
    context: &Context,
) -> Result<Vec<Instruction>, AssembleError> {
    let mut code = Assembler::default();
    let end = code.label();
    code.copy(R8, R1);
    code.load(W64, R7, R8, context.file);
    code.jump_if(R7, Equal, 0, end);
    code.copy(R1, R7);
    code.call(SOCK_FROM_FILE);
    code.jump_if(R0, Equal, 0, end);
    code.load(W64, R6, R0, layout.sock.sk);
    code.jump_if(R6, Equal, 0, end);
    choose_datagram_sockets(&mut code, layout, R6, end);
    code.copy(R1, R6);
    code.call(GET_SOCKET_COOKIE);
    code.store(W64, R10, COOKIE, R0);
    write_record(&mut code, R8, [context.meta, context.seq], COOKIE, size_of::<u64>());
    code.put(end);
    code.set(R0, 0);
    code.exit();
    code.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compares the program with the fixture, which was reviewed by hand. A change of the program needs a change of
    /// the fixture: the test prints the new one.
    #[test]
    fn the_program_is_the_one_that_was_read() {
        let read = include_str!("../../../../../fixtures/bpf/datagram_sockets.txt");
        let layout = Layout::made_up();
        let made = program(&layout, &layout.iterator.unwrap().context).unwrap();
        let line = |(index, instruction)| format!("{index}: {instruction}\n");
        let made: String = made.iter().enumerate().map(line).collect();
        assert!(made == read, "another program than fixtures/bpf/datagram_sockets.txt:\n{made}");
    }
}
