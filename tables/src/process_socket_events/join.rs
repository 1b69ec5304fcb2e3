//! Changes of states and first sends → events.
//!
//! A TCP socket has an entry from its first record to CLOSE. The changes of one socket arrive in their order.

use std::collections::VecDeque;
use std::sync::Arc;

use super::datagram_flows::DatagramFlows;
use super::event::{
    Action, Attribution, ClosedBy, Direction, EndedFlow, Ends, Event, FlowCounts, FlowResult,
    NO_UID, Process, Status, TextBytes,
};
use super::listeners::Listeners;
use super::number_hash::NumberMap;
use super::processes::Processes;
use super::shares::Shares;
use crate::model::socket_table::IPPROTO_TCP;
use crate::model::tcp_event::{
    Actor, DatagramEnd, EventRecord, FirstDatagram, OpenSocket, SocketKey, StateChange,
};
use crate::model::{OpenTcpSockets, TcpState, User};

/// The time after which a connect without a result is in progress.
pub(super) const CONNECT_NS: u64 = 10_000_000_000;
/// The maximum number of sockets. The hash table then has no unused room.
pub(super) const MAX_SOCKETS: usize = 28_000;

/// The sockets between their first and last record.
#[derive(Debug)]
pub(super) struct Join {
    sockets: NumberMap<SocketKey, Socket>,
    max: usize,
    /// The sockets of each user.
    shares: Shares<SocketKey>,
    /// The connects without a result and when they began, oldest first. Some of them have a result.
    connects: VecDeque<(u64, SocketKey)>,
    /// How many of them have none.
    connecting: usize,
    listeners: Listeners,
    processes: Processes,
    /// Those of datagrams.
    flows: DatagramFlows,
    evicted: u64,
}

#[derive(Debug)]
struct Socket {
    phase: Phase,
    direction: Option<Direction>,
    /// CLOCK_BOOTTIME; None: before the collection.
    since_ns: Option<u64>,
    ends: Ends,
    inode: u64,
    fd: Option<i32>,
    owner_uid: u32,
    process: Option<Arc<Process>>,
    attribution: Attribution,
    /// The process that closed the local end.
    ender: Option<Arc<Process>>,
    /// The end that closed first.
    closed_first: Option<ClosedBy>,
    user: User,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// A connect without a result.
    Connecting,
    /// A connect that was reported as in progress.
    InProgress,
    Established,
    Listening,
}

impl Join {
    pub(super) fn new(max: usize, texts: TextBytes) -> Join {
        Join {
            sockets: NumberMap::default(),
            max,
            shares: Shares::default(),
            connects: VecDeque::new(),
            connecting: 0,
            listeners: Listeners::default(),
            processes: Processes::new(texts),
            flows: DatagramFlows::default(),
            evicted: 0,
        }
    }

    pub(super) fn processes(&mut self) -> &mut Processes {
        &mut self.processes
    }

    pub(super) fn flows(&mut self) -> &mut DatagramFlows {
        &mut self.flows
    }

    /// The number of sockets.
    pub(super) fn len(&self) -> usize {
        self.sockets.len()
    }

    /// The number of sockets that were evicted.
    pub(super) fn evicted(&self) -> u64 {
        self.evicted
    }

    /// The number of executables that were evicted.
    pub(super) fn evicted_executables(&self) -> u64 {
        self.processes.evicted()
    }

    /// The memory of the sockets, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.sockets.capacity() * (size_of::<(SocketKey, Socket)>() + 1)
    }

    /// Adds a socket that was open when the collection began. If several processes hold it, the first one counts.
    pub(super) fn add_open(&mut self, open: &OpenSocket) {
        if self.sockets.contains_key(&open.socket) {
            return;
        }
        let ends = Ends {
            local: open.local,
            remote: open.remote,
            net_namespace: open.net_namespace,
            family: open.family,
            kind: SOCK_STREAM,
            protocol: open.protocol,
        };
        let process = Arc::new(Process {
            pid: open.pid,
            tid: None,
            parent: None,
            uid: None,
            gid: None,
            comm: None,
            image: self.processes.image(open.pid, open.start_ns, 0),
            cgroup: None,
        });
        let phase = match open.state {
            TcpState::Listen => Phase::Listening,
            TcpState::SynSent => Phase::InProgress,
            TcpState::Closed => return,
            _ => Phase::Established,
        };
        let socket = Socket {
            phase,
            direction: None,
            since_ns: None,
            ends,
            inode: open.inode,
            fd: Some(open.fd),
            owner_uid: NO_UID,
            process: Some(process),
            attribution: Attribution::Snapshot,
            ender: None,
            closed_first: None,
            user: User::of_uid(None),
        };
        self.insert(open.socket, socket);
    }

    /// Hands over the events that a record completes.
    pub(super) fn apply(&mut self, record: EventRecord, each: &mut impl FnMut(Event)) {
        match record {
            EventRecord::Executable(executable) => self.processes.add(executable),
            EventRecord::Datagram(first) => self.datagram(&first, each),
            EventRecord::DatagramEnd(end) => each(self.datagram_end(&end)),
            EventRecord::State(change) => match change.new {
                TcpState::SynSent => self.begin(&change, Phase::Connecting, each),
                // An MPTCP socket begins to listen twice.
                TcpState::Listen
                    if change.old == TcpState::Listen
                        && self.sockets.contains_key(&change.socket) => {}
                TcpState::Listen => self.begin(&change, Phase::Listening, each),
                TcpState::Established => self.establish(&change, each),
                TcpState::FinWait1 => self.close_first(&change, ClosedBy::Local),
                TcpState::LastAck => self.close_first(&change, ClosedBy::Remote),
                TcpState::Closed => self.close(&change, each),
                _ => {}
            },
        }
    }

    /// Hands over the connects that have no result after [`CONNECT_NS`], at that boot time.
    pub(super) fn expire(&mut self, now_ns: u64, each: &mut impl FnMut(Event)) {
        while let Some(&(since_ns, key)) = self.connects.front()
            && since_ns.saturating_add(CONNECT_NS) <= now_ns
        {
            self.connects.pop_front();
            if let Some(socket) = self.sockets.get_mut(&key)
                && socket.is_connecting(since_ns)
            {
                socket.phase = Phase::InProgress;
                self.connecting -= 1;
                each(socket.in_progress(key, since_ns));
            }
        }
    }

    /// A process begins to connect or to listen.
    fn begin(&mut self, change: &StateChange, phase: Phase, each: &mut impl FnMut(Event)) {
        let socket = self.new_socket(change, phase);
        if phase == Phase::Listening {
            each(socket.event(change, Action::Listen, Status::Succeeded));
        } else {
            self.connects.push_back((change.boot_ns, change.socket));
            self.connecting += 1;
        }
        self.insert(change.socket, socket);
        self.drop_finished_connects();
    }

    fn new_socket(&mut self, change: &StateChange, phase: Phase) -> Socket {
        let actor = change.actor.as_ref();
        let process = actor.map(|actor| self.processes.process(actor, None));
        let known = Attribution::exact_or_unknown(process.is_some());
        let direction = match phase {
            Phase::Connecting => Some(Direction::Outbound),
            _ => direction(change.old),
        };
        Socket {
            phase,
            direction,
            since_ns: Some(change.boot_ns),
            ends: ends(change),
            inode: change.inode,
            fd: actor.and_then(Actor::known_fd),
            owner_uid: change.owner_uid,
            user: User::of_uid(Some(actor.map_or(change.owner_uid, |actor| actor.uid))),
            process,
            attribution: known,
            ender: None,
            closed_first: None,
        }
    }

    /// The first send of a socket, or the first datagram of a process that is counted. The socket has no entry here.
    fn datagram(&mut self, first: &FirstDatagram, each: &mut impl FnMut(Event)) {
        let process = first.actor.as_ref().map(|actor| self.processes.process(actor, None));
        if let Some(slot) = first.slot {
            self.flows.begin(first, slot, process.clone());
        }
        if first.is_first_send {
            each(Self::send(first, process));
        }
    }

    fn send(first: &FirstDatagram, process: Option<Arc<Process>>) -> Event {
        let errno = first.errno;
        let status = if errno == 0 { Status::Succeeded } else { Status::Failed };
        let fd = first.actor.as_ref().and_then(Actor::known_fd);
        let event = Event::of_datagrams(&first.socket, first.boot_ns, Action::Send, process);
        Event { status, errno, fd, ..event }
    }

    /// The close of a datagram socket by the last process that held it.
    fn datagram_end(&mut self, end: &DatagramEnd) -> Event {
        // A thread of the kernel finishes what a process of io_uring has closed.
        let actor = end.actor.as_ref().filter(|actor| !actor.is_kernel_thread());
        let process = actor.map(|actor| self.processes.process(actor, None));
        self.flows.close(end.socket.key, end.boot_ns, process.clone());
        let event = Event::of_datagrams(&end.socket, end.boot_ns, Action::Close, process);
        Event { closed_by: Some(ClosedBy::Local), bytes: Some(end.bytes), ..event }
    }

    fn establish(&mut self, change: &StateChange, each: &mut impl FnMut(Event)) {
        match self.sockets.get_mut(&change.socket) {
            Some(socket) if socket.phase == Phase::Connecting => {
                socket.update(change);
                socket.phase = Phase::Established;
                self.connecting -= 1;
                each(socket.connect_result(change, Status::Succeeded));
            }
            Some(socket) if socket.phase == Phase::InProgress => {
                socket.update(change);
                socket.phase = Phase::Established;
            }
            _ if change.old == TcpState::SynSent => {
                // The begin of the connect was before the collection, or was lost.
                let mut socket = self.new_socket(change, Phase::Established);
                socket.since_ns = None;
                each(socket.event(change, Action::Connect, Status::Succeeded));
                self.insert(change.socket, socket);
            }
            _ => self.accept(change, each),
        }
    }

    fn accept(&mut self, change: &StateChange, each: &mut impl FnMut(Event)) {
        let ends = ends(change);
        let process = self.listeners.process(&ends).map(Arc::clone);
        let known = if process.is_some() { Attribution::Listener } else { Attribution::Unknown };
        let uid = process.as_ref().and_then(|process| process.uid);
        let socket = Socket {
            phase: Phase::Established,
            direction: Some(Direction::Inbound),
            since_ns: Some(change.boot_ns),
            ends,
            inode: change.inode,
            fd: None,
            owner_uid: change.owner_uid,
            user: User::of_uid(Some(uid.unwrap_or(change.owner_uid))),
            process,
            attribution: known,
            ender: None,
            closed_first: None,
        };
        each(socket.event(change, Action::Accept, Status::Succeeded));
        self.insert(change.socket, socket);
    }

    /// One end closes first, or the local end closes after the other.
    fn close_first(&mut self, change: &StateChange, by: ClosedBy) {
        if !self.sockets.contains_key(&change.socket) {
            let mut socket = self.new_socket(change, Phase::Established);
            socket.since_ns = None;
            self.insert(change.socket, socket);
        }
        let Some(socket) = self.sockets.get_mut(&change.socket) else { return };
        socket.update(change);
        socket.closed_first.get_or_insert(by);
        socket.note_ender(change, &mut self.processes);
    }

    fn close(&mut self, change: &StateChange, each: &mut impl FnMut(Event)) {
        let mut socket = match self.remove(change.socket) {
            Some(socket) => socket,
            // A request that did not become a connection.
            None if change.old == TcpState::SynRecv => return,
            None => {
                let phase = match change.old {
                    TcpState::SynSent => Phase::Connecting,
                    TcpState::Listen => Phase::Listening,
                    _ => Phase::Established,
                };
                Socket { since_ns: None, ..self.new_socket(change, phase) }
            }
        };
        socket.update(change);
        if socket.phase == Phase::Connecting {
            let event = socket.connect_result(change, Status::Failed);
            let is_known = event.status == Status::Failed;
            each(event);
            if is_known {
                return;
            }
            socket.phase = Phase::InProgress;
        }
        socket.note_ender(change, &mut self.processes);
        each(socket.close_event(change));
    }

    /// The sockets that began before this boot time, have not ended, and are not in the list.
    pub(super) fn missing<'a>(
        &'a self,
        listed: &'a OpenTcpSockets,
        before_ns: u64,
    ) -> impl Iterator<Item = SocketKey> + 'a {
        let is_missing = move |key: SocketKey, socket: &Socket| {
            socket.phase != Phase::Connecting
                && socket.since_ns.is_none_or(|since_ns| since_ns < before_ns)
                && socket.ends.protocol == IPPROTO_TCP
                && key.cookie().is_some_and(|it| listed.lacks(it, socket.ends.net_namespace))
        };
        let missing = self.sockets.iter().filter(move |(key, socket)| is_missing(**key, socket));
        missing.map(|(key, _)| *key)
    }

    /// Ends a socket whose end no record shows: it was before this boot time.
    pub(super) fn end_missing(&mut self, key: SocketKey, before_ns: u64) -> Option<Event> {
        // Of a connect, it is unknown whether it succeeded before.
        let socket = self.remove(key).filter(|socket| socket.phase != Phase::InProgress)?;
        let ended = EndedFlow {
            start_ns: socket.since_ns,
            end_ns: before_ns,
            direction: socket.direction,
            result: FlowResult::Closed,
            opener: socket.process.clone(),
            attribution: socket.attribution,
            closer: socket.ender.clone(),
            counts: FlowCounts::Unknown,
        };
        let is_listener = socket.phase == Phase::Listening;
        Some(Event {
            closed_by: socket.closed_first,
            ended: (!is_listener).then(|| Box::new(ended)),
            ..socket.event_at(key, before_ns, Action::Close, Status::Succeeded)
        })
    }

    fn insert(&mut self, key: SocketKey, socket: Socket) {
        // A record can be missing, and an address can be used again: the shares count each socket once.
        self.remove(key);
        let user = socket.user;
        if socket.phase == Phase::Listening
            && let Some(process) = &socket.process
        {
            self.listeners.insert(key, &socket.ends, process);
        }
        self.sockets.insert(key, socket);
        self.shares.add(user, key);
        while self.sockets.len() > self.max && self.evict() {}
    }

    /// Evicts the oldest socket of the user with the most sockets.
    fn evict(&mut self) -> bool {
        let Some(user) = self.shares.heaviest() else { return false };
        let Some(&key) = self.shares.oldest(user) else { return false };
        if self.sockets.get(&key).is_none_or(|socket| socket.user != user) {
            self.shares.drop_removed(user);
            return true;
        }
        self.shares.remove_oldest(user);
        self.forget(key);
        self.evicted += 1;
        true
    }

    fn remove(&mut self, key: SocketKey) -> Option<Socket> {
        let socket = self.forget(key)?;
        let sockets = &self.sockets;
        self.shares.remove_any(socket.user, |key| {
            sockets.get(key).is_some_and(|other| other.user == socket.user)
        });
        Some(socket)
    }

    /// Removes the socket, but not from the shares.
    fn forget(&mut self, key: SocketKey) -> Option<Socket> {
        let socket = self.sockets.remove(&key)?;
        match socket.phase {
            Phase::Listening => self.listeners.remove(key, &socket.ends),
            Phase::Connecting => self.connecting -= 1,
            Phase::InProgress | Phase::Established => {}
        }
        Some(socket)
    }

    /// Keeps the list of connects short.
    fn drop_finished_connects(&mut self) {
        const SPARE: usize = 1_024;
        if self.connects.len() > 2 * self.connecting + SPARE {
            let sockets = &self.sockets;
            self.connects.retain(|(since_ns, key)| {
                sockets.get(key).is_some_and(|socket| socket.is_connecting(*since_ns))
            });
        }
    }
}

impl Socket {
    fn is_connecting(&self, since_ns: u64) -> bool {
        self.phase == Phase::Connecting && self.since_ns == Some(since_ns)
    }

    /// Takes what a later record knows: the port is chosen after SYN_SENT, and the inode comes with accept(2).
    fn update(&mut self, change: &StateChange) {
        let ends = ends(change);
        if ends.local.port != 0 {
            self.ends = ends;
        }
        if change.inode != 0 {
            self.inode = change.inode;
        }
        if self.owner_uid == NO_UID {
            self.owner_uid = change.owner_uid;
        }
    }

    /// Takes the process that closes the local end. The kernel's own threads finish what a process has closed.
    fn note_ender(&mut self, change: &StateChange, processes: &mut Processes) {
        if let Some(actor) = change.actor.as_ref().filter(|actor| !actor.is_kernel_thread())
            && self.ender.is_none()
        {
            self.ender = Some(processes.process(actor, self.process.as_ref()));
        }
    }

    /// An event of the process that opened the socket.
    fn event(&self, change: &StateChange, action: Action, status: Status) -> Event {
        self.event_at(change.socket, change.boot_ns, action, status)
    }

    fn event_at(&self, socket: SocketKey, boot_ns: u64, action: Action, status: Status) -> Event {
        Event {
            status,
            attribution: self.attribution,
            process: self.process.clone(),
            owner_uid: self.owner_uid,
            fd: self.fd,
            inode: self.inode,
            ..Event::new(socket, self.ends, boot_ns, action)
        }
    }

    /// The event of a connect that is in progress.
    fn in_progress(&self, key: SocketKey, since_ns: u64) -> Event {
        let at = since_ns.saturating_add(CONNECT_NS);
        let event = self.event_at(key, at, Action::Connect, Status::InProgress);
        Event { duration_ns: Some(CONNECT_NS), ..event }
    }

    /// The event of a connect with this result. A result after [`CONNECT_NS`] does not count, whether or not the
    /// records were read by then.
    fn connect_result(&self, change: &StateChange, status: Status) -> Event {
        let duration_ns = self.since_ns.map(|since_ns| change.boot_ns.saturating_sub(since_ns));
        if let Some(since_ns) = self.since_ns
            && duration_ns > Some(CONNECT_NS)
        {
            return self.in_progress(change.socket, since_ns);
        }
        let event = Event { duration_ns, ..self.event(change, Action::Connect, status) };
        if status != Status::Failed {
            return event;
        }
        let ended = self.ended(change, FlowResult::Failed);
        Event { errno: change.errno, ended: Some(ended), ..event }
    }

    /// The flow of the connection, which ends.
    fn ended(&self, change: &StateChange, result: FlowResult) -> Box<EndedFlow> {
        Box::new(EndedFlow {
            start_ns: self.since_ns,
            end_ns: change.boot_ns,
            direction: self.direction,
            result,
            opener: self.process.clone(),
            attribution: self.attribution,
            closer: self.ender.clone(),
            counts: change.counts.map_or(FlowCounts::Unknown, FlowCounts::Tcp),
        })
    }

    fn close_event(&self, change: &StateChange) -> Event {
        let status =
            if self.phase == Phase::InProgress { Status::Failed } else { Status::Succeeded };
        let is_listener = self.phase == Phase::Listening;
        let closed_by = self.closed_by(change);
        let result = match (status, closed_by) {
            (Status::Failed, _) => FlowResult::Failed,
            (_, Some(ClosedBy::Reset)) => FlowResult::Reset,
            (_, Some(ClosedBy::Timeout)) => FlowResult::Timeout,
            _ => FlowResult::Closed,
        };
        let event = Event {
            errno: change.errno,
            closed_by,
            ended: (!is_listener).then(|| self.ended(change, result)),
            duration_ns: self.since_ns.map(|since_ns| change.boot_ns.saturating_sub(since_ns)),
            bytes: change.counts.map(|counts| counts.bytes).filter(|_| !is_listener),
            ..self.event(change, Action::Close, status)
        };
        match &self.ender {
            None => event,
            Some(ender) => {
                // The descriptor is that of the process that opened the socket.
                let is_opener = self
                    .process
                    .as_ref()
                    .is_some_and(|it| it.image.is_of_same_process(&ender.image));
                let fd = event.fd.filter(|_| is_opener);
                let process = Some(Arc::clone(ender));
                Event { process, fd, attribution: Attribution::Exact, ..event }
            }
        }
    }

    /// How the connection ended; None if the records do not show it.
    fn closed_by(&self, change: &StateChange) -> Option<ClosedBy> {
        match change.errno {
            ECONNRESET | EPIPE | ECONNREFUSED => return Some(ClosedBy::Reset),
            // Errors of ICMP end a connection that gets no answer.
            ETIMEDOUT | EHOSTUNREACH | ENETUNREACH => return Some(ClosedBy::Timeout),
            _ => {}
        }
        self.closed_first.or(match change.old {
            TcpState::FinWait1 | TcpState::FinWait2 | TcpState::Closing | TcpState::TimeWait => {
                Some(ClosedBy::Local)
            }
            TcpState::CloseWait | TcpState::LastAck => Some(ClosedBy::Remote),
            TcpState::Listen => Some(ClosedBy::Local),
            // close(2) with unread data or without lingering, ss --kill, or the close of a listener before accept(2): what
            // the peer or the network ends has another error.
            _ if change.actor.is_some() || matches!(change.errno, 0 | ECONNABORTED) => {
                Some(ClosedBy::Local)
            }
            _ => None,
        })
    }
}

fn ends(change: &StateChange) -> Ends {
    let &StateChange { local, remote, net_namespace, family, kind, protocol, .. } = change;
    Ends { local, remote, net_namespace, family, kind, protocol }
}

/// Which end opens a connection that leaves this state.
fn direction(old: TcpState) -> Option<Direction> {
    match old {
        TcpState::SynSent => Some(Direction::Outbound),
        TcpState::SynRecv => Some(Direction::Inbound),
        _ => None,
    }
}

const SOCK_STREAM: u16 = crate::model::SOCK_STREAM as u16;

// `include/uapi/asm-generic/errno.h`, the same on every processor that BPF programs run on here.
const EPIPE: i32 = 32;
const ENETUNREACH: i32 = 101;
const ECONNABORTED: i32 = 103;
const ECONNRESET: i32 = 104;
const ETIMEDOUT: i32 = 110;
const ECONNREFUSED: i32 = 111;
const EHOSTUNREACH: i32 = 113;

#[cfg(test)]
mod tests;
