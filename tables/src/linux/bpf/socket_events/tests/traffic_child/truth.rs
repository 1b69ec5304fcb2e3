//! What a process counts itself, and its random numbers.

use std::os::fd::AsFd;

use rustix::net::sockopt::socket_cookie;

/// What a process has sent and received on a socket.
#[derive(Default)]
pub(super) struct Truth {
    bytes: [u64; 2],
    messages: [u64; 2],
}

impl Truth {
    pub(super) fn sent(&mut self, bytes: usize) {
        self.bytes[0] += bytes as u64;
        self.messages[0] += 1;
    }

    pub(super) fn received(&mut self, bytes: usize) {
        self.bytes[1] += bytes as u64;
        self.messages[1] += 1;
    }

    /// Prints it for the test: cookie, pid, bytes and messages.
    pub(super) fn print(&self, socket: impl AsFd) {
        let ([sent, received], [messages_sent, messages_received]) = (self.bytes, self.messages);
        println!(
            "truth {} {} {sent} {received} {messages_sent} {messages_received}",
            socket_cookie(socket).unwrap(),
            std::process::id(),
        );
    }
}

/// Numbers that depend on the seed only (xorshift).
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end as u64) as usize
    }
}
