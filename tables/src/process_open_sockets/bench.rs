//! Single steps of a scan, for the benchmarks. With the feature `bench` only.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};

use super::correlate::correlate;
use super::filter::Filter;
use crate::formats::linux::sock_diag::{Message, Messages, Request};
use crate::model::holders::{Holder, Holders};
use crate::model::socket_table::SocketTable;
use crate::model::{
    Binding, Details, Endpoint, ExtendedFields, Families, Snapshot, Socket, TcpState,
};
use crate::{QueryContext, Rows};

#[cfg(target_os = "linux")]
pub use super::sys::bench::{dump_tcp, walk};

/// Parses the lines of `/proc/net/tcp`; returns how many are sockets.
pub fn parse_proc_net(text: &[u8]) -> usize {
    let lines = text.split(|&byte| byte == b'\n');
    lines
        .filter(|line| black_box(SocketTable::Tcp.parse(line, ExtendedFields::empty())).is_ok())
        .count()
}

/// Parses the messages of a dump of TCP sockets with the sequence number 1; returns how many are
/// sockets.
pub fn parse_dump(datagrams: &[u8]) -> usize {
    let Some(request) = Request::of(SocketTable::Tcp) else { return 0 };
    let messages = Messages::new(datagrams, 1).flatten();
    let is_socket = |message: &Message| match message {
        Message::Socket(message) => black_box(request.parse(message)).is_ok(),
        Message::End(_) | Message::Overrun => false,
    };
    messages.filter(is_socket).count()
}

/// TCP sockets and as many holders, not yet correlated.
pub struct Collected(Snapshot);

impl Collected {
    /// Makes this many of each.
    pub fn new(size: u32) -> Self {
        let end = |port| Endpoint { address: IpAddr::V4(Ipv4Addr::LOCALHOST), port };
        let socket = |number: u32| Socket {
            inode: u64::from(number.reverse_bits()) + 1,
            net_namespace: None,
            binding: Binding::Inet {
                v6: false,
                protocol: 6,
                local: end(443),
                remote: end(u16::try_from(number % 65_536).unwrap_or_default()),
                state: Some(TcpState::Established),
            },
            details: Details::default(),
        };
        let sockets: Vec<Socket> = (0..size).map(socket).collect();
        let holder =
            |(fd, socket): (i32, &Socket)| Holder { inode: socket.inode, pid: 1, fd, tid: None };
        let holders: Holders = (0..).zip(&sockets).map(holder).collect();
        Collected(Snapshot { sockets, holders, ..Snapshot::default() })
    }

    /// Correlates them; returns the number of rows.
    pub fn correlate(self) -> usize {
        let filter = Filter::new(&QueryContext::default(), Families::default());
        black_box(correlate(self.0, &filter)).len()
    }
}
