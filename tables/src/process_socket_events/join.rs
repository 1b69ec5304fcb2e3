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

mod socket;

pub(super) use socket::CONNECT_NS;
use socket::{Phase, Socket, direction, ends, was_connected};

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
            EventRecord::State(change) => self.change(&change, each),
        }
    }

    fn change(&mut self, change: &StateChange, each: &mut impl FnMut(Event)) {
        if was_connected(change.old) {
            // If the connect has no result yet, its record was lost: this state shows that it succeeded.
            self.finish_connect(change, each);
        }
        match change.new {
            TcpState::SynSent => self.begin(change, Phase::Connecting, each),
            // An MPTCP socket begins to listen twice.
            TcpState::Listen
                if change.old == TcpState::Listen && self.sockets.contains_key(&change.socket) => {}
            TcpState::Listen => self.begin(change, Phase::Listening, each),
            TcpState::Established => self.establish(change, each),
            TcpState::FinWait1 => self.close_first(change, ClosedBy::Local),
            TcpState::LastAck => self.close_first(change, ClosedBy::Remote),
            TcpState::Closed => self.close(change, each),
            _ => {}
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

    /// A socket that began before this change: before the collection, or without a record.
    fn socket_without_begin(&mut self, change: &StateChange, phase: Phase) -> Socket {
        Socket { since_ns: None, ..self.new_socket(change, phase) }
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
        if self.finish_connect(change, each) {
            return;
        }
        if change.old == TcpState::SynSent {
            // The begin of the connect was before the collection, or was lost.
            let socket = self.socket_without_begin(change, Phase::Established);
            each(socket.event(change, Action::Connect, Status::Succeeded));
            self.insert(change.socket, socket);
        } else {
            self.accept(change, each);
        }
    }

    /// The connect of the socket has succeeded, at this change or, if the record of that was lost, before. Returns
    /// whether it had no result so far.
    fn finish_connect(&mut self, change: &StateChange, each: &mut impl FnMut(Event)) -> bool {
        let Some(socket) = self.sockets.get_mut(&change.socket) else { return false };
        match socket.phase {
            Phase::Connecting => {
                socket.update(change);
                self.connecting -= 1;
                each(socket.connect_result(change, Status::Succeeded));
            }
            Phase::InProgress => socket.update(change),
            Phase::Established | Phase::Listening => return false,
        }
        socket.phase = Phase::Established;
        true
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
            let socket = self.socket_without_begin(change, Phase::Established);
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
                self.socket_without_begin(change, phase)
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

const SOCK_STREAM: u16 = crate::model::SOCK_STREAM as u16;

#[cfg(test)]
mod tests;
