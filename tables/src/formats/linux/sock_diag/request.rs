//! Requests for a dump: all sockets of a family and protocol, or those that pass a condition that the kernel
//! evaluates.

use std::ops::RangeInclusive;

use super::{ATTRIBUTE_HEADER, MESSAGE_HEADER, SOCK_DIAG_BY_FAMILY};
use crate::model::protocol::{IPPROTO_MPTCP, IPPROTO_RAW, IPPROTO_TCP};
use crate::model::socket_table::{SharedChains, SocketTable};
use crate::model::{ExtendedFields, Family, TcpState};

/// A request for a dump.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) table: DiagTable,
    shared_chains: SharedChains,
    states: States,
    local_ports: RangeInclusive<u16>,
    remote_ports: RangeInclusive<u16>,
    half: Option<Half>,
    pub(super) extended: ExtendedFields,
}

/// Half of all TCP sockets: two parallel dumps of the halves each take about half the time.
///
/// Mostly one end of a connection has an ephemeral port, and the other the port of a service. So the local port
/// decides if it is in the default ephemeral range, and otherwise the remote port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Half {
    Lower,
    Upper,
}

/// A list of sockets in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DiagTable {
    Inet {
        v6: bool,
        /// IPPROTO_*.
        protocol: u16,
    },
    Unix,
    Packet,
    Netlink,
    Vsock,
}

/// A set of states, with a bit for each number in `include/net/tcp_states.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct States(u32);

pub(crate) const AF_UNIX: u8 = Family::Unix as u8;
pub(crate) const AF_INET: u8 = Family::Inet as u8;
pub(crate) const AF_INET6: u8 = Family::Inet6 as u8;
pub(crate) const AF_NETLINK: u8 = Family::Netlink as u8;
pub(crate) const AF_PACKET: u8 = Family::Packet as u8;
pub(crate) const AF_VSOCK: u8 = Family::Vsock as u8;

impl States {
    const SYN_RECV: u32 = 3;
    const CLOSING: u32 = 11;
    /// The internal state of the kernel until the handshake is over; shown as TCP_SYN_RECV.
    const NEW_SYN_RECV: u32 = 12;
    const BOUND_INACTIVE: u32 = 13;

    /// All states that `/proc/net` lists.
    pub(crate) const LISTED: States = States((1 << (Self::NEW_SYN_RECV + 1)) - 2);

    /// The states that `admits` accepts.
    pub(crate) fn admitting(admits: impl Fn(TcpState) -> bool) -> States {
        let mut states = 0;
        for (number, bit) in (1u8..).zip(1..=Self::CLOSING) {
            if admits(TcpState::from(number)) {
                states |= 1 << bit;
            }
        }
        if states & (1 << Self::SYN_RECV) != 0 {
            states |= 1 << Self::NEW_SYN_RECV;
        }
        States(states)
    }

    /// The states of listening and bound-inactive sockets among these.
    fn listening(self) -> States {
        const LISTEN: u32 = 10;
        States(self.0 & (1 << LISTEN | 1 << Self::BOUND_INACTIVE))
    }

    /// These states, and bound-inactive TCP sockets. Linux dumps those since 6.8, with the state CLOSED;
    /// `/proc/net` does not list them.
    pub(crate) fn with_bound_inactive(self) -> States {
        States(self.0 | 1 << Self::BOUND_INACTIVE)
    }
}

const EVERY_PORT: RangeInclusive<u16> = 0..=u16::MAX;

impl Request {
    /// A request for the sockets of a table; of TCP those that `/proc/net` lists. None for ping sockets.
    pub(crate) fn of(table: SocketTable) -> Option<Request> {
        if !table.has_dump() {
            return None;
        }
        let shared_chains = table.shared_chains();
        let table = match (table.family(), table.protocol()) {
            (Family::Inet, Some(protocol)) => DiagTable::Inet { v6: false, protocol },
            (Family::Inet6, Some(protocol)) => DiagTable::Inet { v6: true, protocol },
            (Family::Unix, _) => DiagTable::Unix,
            (Family::Packet, _) => DiagTable::Packet,
            (Family::Netlink, _) => DiagTable::Netlink,
            (Family::Vsock, _) => DiagTable::Vsock,
            (Family::Inet | Family::Inet6 | Family::Ndrv | Family::System, _) => return None,
        };
        Some(Request {
            table,
            shared_chains,
            states: States::LISTED,
            local_ports: EVERY_PORT,
            remote_ports: EVERY_PORT,
            half: None,
            extended: ExtendedFields::empty(),
        })
    }

    /// Selects these details of each socket in addition.
    pub(crate) fn with_extended(self, extended: ExtendedFields) -> Request {
        Request { extended, ..self }
    }

    pub(crate) fn extended(&self) -> ExtendedFields {
        self.extended
    }

    /// Two requests for the halves of this one. Each socket is in one half only, since ports do not change. None if
    /// it is not for TCP.
    pub(crate) fn halves(&self) -> Option<[Request; 2]> {
        let DiagTable::Inet { protocol: IPPROTO_TCP, .. } = self.table else { return None };
        Some([Half::Lower, Half::Upper].map(|half| Request { half: Some(half), ..self.clone() }))
    }

    /// Selects only sockets in these states. Requests for protocols without states stay the same.
    pub(crate) fn in_states(self, states: States) -> Request {
        match self.table {
            DiagTable::Inet { protocol: IPPROTO_TCP | IPPROTO_MPTCP, .. } => {
                Request { states, ..self }
            }
            _ => self,
        }
    }

    /// Selects only sockets in states that `admits` accepts; None if this does not narrow the request.
    pub(crate) fn in_states_only(self, admits: impl Fn(TcpState) -> bool) -> Option<Request> {
        let narrowed = self.clone().in_states(States::admitting(admits));
        (narrowed != self).then_some(narrowed)
    }

    /// Selects only sockets with these local ports. A range that ends before it begins is empty.
    pub(crate) fn with_local_ports(self, ports: RangeInclusive<u16>) -> Request {
        Request { local_ports: ports, ..self }
    }

    /// Selects only sockets with these remote ports.
    ///
    /// Requests for raw sockets stay the same: a connected raw socket has the port of connect(2) in the kernel, but
    /// shows 0 in `/proc/net` and here.
    pub(crate) fn with_remote_ports(self, ports: RangeInclusive<u16>) -> Request {
        match self.table {
            DiagTable::Inet { protocol: IPPROTO_RAW, .. } => self,
            _ => Request { remote_ports: ports, ..self },
        }
    }

    /// The request to repeat, since a dump for this request can have hidden sockets; see [`SharedChains`]. None if
    /// it cannot.
    pub(crate) fn repeated(&self) -> Option<Request> {
        match self.shared_chains {
            SharedChains::All => Some(self.clone()),
            SharedChains::Listeners => {
                let states = self.states.listening();
                (states != States(0)).then(|| Request { states, ..self.clone() })
            }
        }
    }

    /// The message of the request. The answers have the same sequence number.
    pub(crate) fn to_bytes(&self, sequence: u32) -> Vec<u8> {
        const NLM_F_REQUEST: u16 = 0x1;
        const NLM_F_DUMP: u16 = 0x300;
        let body = match self.table {
            DiagTable::Inet { v6, protocol } => self.inet_body(v6, protocol),
            DiagTable::Unix => unix_body(self.extended),
            DiagTable::Packet => packet_body(),
            DiagTable::Netlink => netlink_body(),
            DiagTable::Vsock => vsock_body(),
        };
        let mut message = Vec::with_capacity(MESSAGE_HEADER + body.len());
        message.extend(length_u32(MESSAGE_HEADER + body.len()).to_ne_bytes());
        message.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        message.extend((NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
        message.extend(sequence.to_ne_bytes());
        message.extend(0u32.to_ne_bytes());
        message.extend(body);
        message
    }

    /// Whether the answers have the counters of TCP.
    pub(super) fn has_tcp_info(&self) -> bool {
        let is_tcp = matches!(self.table, DiagTable::Inet { protocol: IPPROTO_TCP, .. });
        is_tcp && self.extended.contains(ExtendedFields::TCP)
    }

    /// `struct inet_diag_req_v2` and attributes. An extension is requested for the counters of TCP only: the other
    /// attributes that are read come without one.
    fn inet_body(&self, v6: bool, protocol: u16) -> Vec<u8> {
        const INET_DIAG_REQ_BYTECODE: u16 = 1;
        const INET_DIAG_REQ_PROTOCOL: u16 = 3;
        const SOCKET_ID: usize = 48;
        const TCP_EXTENSIONS: u8 = 1 << (INET_DIAG_INFO - 1) | 1 << (INET_DIAG_CONG - 1);
        let mut body = Vec::with_capacity(128);
        body.push(if v6 { AF_INET6 } else { AF_INET });
        // A number beyond 255 goes into an attribute. A kernel without this attribute finds 0 here, for which
        // there is no list, and not another protocol.
        body.push(u8::try_from(protocol).unwrap_or(0));
        body.extend([if self.has_tcp_info() { TCP_EXTENSIONS } else { 0 }, 0]);
        body.extend(self.states.0.to_ne_bytes());
        body.extend([0; SOCKET_ID]);
        if u8::try_from(protocol).is_err() {
            let number = u32::from(protocol).to_ne_bytes();
            push_attribute(&mut body, INET_DIAG_REQ_PROTOCOL, &number);
        }
        let conditions = self.conditions();
        if !conditions.is_empty() {
            push_attribute(&mut body, INET_DIAG_REQ_BYTECODE, &conditions);
        }
        body
    }

    /// A program for the kernel (`inet_diag_bc_run`): from each instruction it jumps `yes` or `no` bytes ahead, and
    /// accepts a socket if it arrives exactly at the end. So `yes` jumps to the next condition, and `no` four bytes
    /// beyond the end, the farthest allowed target.
    fn conditions(&self) -> Vec<u8> {
        let (local, remote) = (&self.local_ports, &self.remote_ports);
        let conditions = [
            (INET_DIAG_BC_S_GE, *local.start(), *local.start() > 0),
            (INET_DIAG_BC_S_LE, *local.end(), *local.end() < u16::MAX),
            (INET_DIAG_BC_D_GE, *remote.start(), *remote.start() > 0),
            (INET_DIAG_BC_D_LE, *remote.end(), *remote.end() < u16::MAX),
        ];
        let mut program = self.half.map(Half::program).unwrap_or_default();
        for (code, port, _) in conditions.into_iter().rev().filter(|(.., needed)| *needed) {
            let beyond_end = length_u16(program.len()) + u16::from(CONDITION) + 4;
            program.splice(..0, condition(code, port, beyond_end));
        }
        program
    }
}

impl Half {
    /// Either both of the first two conditions hold, or both of the last two.
    fn program(self) -> Vec<u8> {
        const INET_DIAG_BC_JMP: u8 = 1;
        /// The begin of `net.ipv4.ip_local_port_range`, and its middle.
        const FIRST: u16 = 32_768;
        const MIDDLE: u16 = 46_884;
        const BOTH: u16 = 2 * CONDITION as u16;
        let (local, remote, port) = match self {
            Half::Lower => (INET_DIAG_BC_S_LE, INET_DIAG_BC_D_LE, MIDDLE - 1),
            Half::Upper => (INET_DIAG_BC_S_GE, INET_DIAG_BC_D_GE, MIDDLE),
        };
        // From the first of two conditions to the instruction after both and the jump, or beyond the end.
        let over_both = BOTH + 4;
        let over_one = over_both - u16::from(CONDITION);
        let mut program = Vec::new();
        program.extend(condition(INET_DIAG_BC_S_GE, FIRST, over_both));
        program.extend(condition(local, port, over_one));
        program.extend([INET_DIAG_BC_JMP, 4]);
        program.extend((BOTH + 4).to_ne_bytes());
        program.extend(condition(INET_DIAG_BC_S_LE, FIRST - 1, over_both));
        program.extend(condition(remote, port, over_one));
        program
    }
}

/// The structure that a protocol shows of a socket,
pub(super) const INET_DIAG_INFO: u16 = 2;
/// and the name of its congestion control.
pub(super) const INET_DIAG_CONG: u16 = 4;

const INET_DIAG_BC_S_GE: u8 = 2;
const INET_DIAG_BC_S_LE: u8 = 3;
const INET_DIAG_BC_D_GE: u8 = 4;
const INET_DIAG_BC_D_LE: u8 = 5;
/// Two `struct inet_diag_bc_op`: code and jumps, and then the port in the field of a jump.
const CONDITION: u8 = 8;

/// An instruction that compares a port, and jumps to the next one or `no` bytes ahead.
fn condition(code: u8, port: u16, no: u16) -> [u8; CONDITION as usize] {
    let ([a, b], [c, d]) = (no.to_ne_bytes(), port.to_ne_bytes());
    [code, CONDITION, a, b, 0, 0, c, d]
}

/// `struct unix_diag_req`: every state, and the cookie that stands for none.
///
/// UDIAG_SHOW_ICONS, for the peers of pending connections, is not set: a listener with many of them does not fit
/// into a datagram, and the kernel then ends the dump.
fn unix_body(extended: ExtendedFields) -> Vec<u8> {
    const UDIAG_SHOW_NAME: u32 = 0x1;
    const UDIAG_SHOW_VFS: u32 = 0x2;
    const UDIAG_SHOW_PEER: u32 = 0x4;
    const UDIAG_SHOW_RQLEN: u32 = 0x10;
    const UDIAG_SHOW_UID: u32 = 0x40;
    let has_file = extended.contains(ExtendedFields::BOUND_FILE);
    let vfs = if has_file { UDIAG_SHOW_VFS } else { 0 };
    let show = vfs | UDIAG_SHOW_NAME | UDIAG_SHOW_PEER | UDIAG_SHOW_RQLEN | UDIAG_SHOW_UID;
    let mut body = vec![AF_UNIX, 0, 0, 0];
    for field in [u32::MAX, 0, show, u32::MAX, u32::MAX] {
        body.extend(field.to_ne_bytes());
    }
    body
}

/// `struct packet_diag_req`: the interface, the uid and the queues, and the cookie that stands for
/// none.
fn packet_body() -> Vec<u8> {
    const PACKET_SHOW_INFO: u32 = 0x1;
    const PACKET_SHOW_MEMINFO: u32 = 0x10;
    let mut body = vec![AF_PACKET, 0, 0, 0];
    for field in [0, PACKET_SHOW_INFO | PACKET_SHOW_MEMINFO, u32::MAX, u32::MAX] {
        body.extend(field.to_ne_bytes());
    }
    body
}

/// `struct netlink_diag_req`: all protocols, with the queues.
fn netlink_body() -> Vec<u8> {
    const NDIAG_PROTO_ALL: u8 = u8::MAX;
    const NDIAG_SHOW_MEMINFO: u32 = 0x1;
    let mut body = vec![AF_NETLINK, NDIAG_PROTO_ALL, 0, 0];
    for field in [0, NDIAG_SHOW_MEMINFO, 0, 0] {
        body.extend(field.to_ne_bytes());
    }
    body
}

/// `struct vsock_diag_req`: every state.
fn vsock_body() -> Vec<u8> {
    let mut body = vec![AF_VSOCK, 0, 0, 0];
    for field in [u32::MAX, 0, 0, 0, 0] {
        body.extend(field.to_ne_bytes());
    }
    body
}

/// Values are at most 68 bytes, and multiples of 4.
fn push_attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    body.extend(length_u16(ATTRIBUTE_HEADER + value.len()).to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
}

fn length_u16(length: usize) -> u16 {
    u16::try_from(length).unwrap_or(u16::MAX)
}

fn length_u32(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}
