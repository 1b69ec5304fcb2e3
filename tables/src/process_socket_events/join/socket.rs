//! A TCP socket between its first and last record, and its events.

use std::sync::Arc;

use crate::model::tcp_event::{SocketKey, StateChange};
use crate::model::{TcpState, User};
use crate::process_socket_events::event::{
    Action, Attribution, ClosedBy, Direction, EndedFlow, Ends, Event, FlowCounts, FlowResult,
    NO_UID, Process, Status,
};
use crate::process_socket_events::processes::Processes;

/// The time after which a connect without a result is in progress.
pub(crate) const CONNECT_NS: u64 = 10_000_000_000;

#[derive(Debug)]
pub(super) struct Socket {
    pub(super) phase: Phase,
    pub(super) direction: Option<Direction>,
    /// CLOCK_BOOTTIME; None: before the collection.
    pub(super) since_ns: Option<u64>,
    pub(super) ends: Ends,
    pub(super) inode: u64,
    pub(super) fd: Option<i32>,
    pub(super) owner_uid: u32,
    pub(super) process: Option<Arc<Process>>,
    pub(super) attribution: Attribution,
    /// The process that closed the local end.
    pub(super) ender: Option<Arc<Process>>,
    /// The end that closed first.
    pub(super) closed_first: Option<ClosedBy>,
    pub(super) user: User,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// A connect without a result.
    Connecting,
    /// A connect that was reported as in progress.
    InProgress,
    Established,
    Listening,
}

impl Socket {
    pub(super) fn is_connecting(&self, since_ns: u64) -> bool {
        self.phase == Phase::Connecting && self.since_ns == Some(since_ns)
    }

    /// Takes what a later record knows: the port is chosen after SYN_SENT, and the inode comes with accept(2).
    pub(super) fn update(&mut self, change: &StateChange) {
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
    pub(super) fn note_ender(&mut self, change: &StateChange, processes: &mut Processes) {
        if let Some(actor) = change.actor.as_ref().filter(|actor| !actor.is_kernel_thread())
            && self.ender.is_none()
        {
            self.ender = Some(processes.process(actor, self.process.as_ref()));
        }
    }

    /// An event of the process that opened the socket.
    pub(super) fn event(&self, change: &StateChange, action: Action, status: Status) -> Event {
        self.event_at(change.socket, change.boot_ns, action, status)
    }

    pub(super) fn event_at(
        &self,
        socket: SocketKey,
        boot_ns: u64,
        action: Action,
        status: Status,
    ) -> Event {
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

    /// The time from its begin to this change.
    fn duration_ns(&self, change: &StateChange) -> Option<u64> {
        self.since_ns.map(|since_ns| change.boot_ns.saturating_sub(since_ns))
    }

    /// The event of a connect that is in progress.
    pub(super) fn in_progress(&self, key: SocketKey, since_ns: u64) -> Event {
        let at = since_ns.saturating_add(CONNECT_NS);
        let event = self.event_at(key, at, Action::Connect, Status::InProgress);
        Event { duration_ns: Some(CONNECT_NS), ..event }
    }

    /// The event of a connect with this result. A result after [`CONNECT_NS`] does not count, whether or not the
    /// records were read by then.
    pub(super) fn connect_result(&self, change: &StateChange, status: Status) -> Event {
        let duration_ns = self.duration_ns(change);
        if let Some(since_ns) = self.since_ns
            && duration_ns > Some(CONNECT_NS)
        {
            return self.in_progress(change.socket, since_ns);
        }
        // If the record of the result was lost, its time is unknown.
        let duration_ns = duration_ns.filter(|_| !was_connected(change.old));
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

    pub(super) fn close_event(&self, change: &StateChange) -> Event {
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
            duration_ns: self.duration_ns(change),
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

pub(super) fn ends(change: &StateChange) -> Ends {
    let &StateChange { local, remote, net_namespace, family, kind, protocol, .. } = change;
    Ends { local, remote, net_namespace, family, kind, protocol }
}

/// Whether a socket that leaves this state had a connection.
pub(super) fn was_connected(old: TcpState) -> bool {
    matches!(
        old,
        TcpState::Established
            | TcpState::FinWait1
            | TcpState::FinWait2
            | TcpState::TimeWait
            | TcpState::CloseWait
            | TcpState::LastAck
            | TcpState::Closing
    )
}

/// Which end opens a connection that leaves this state.
pub(super) fn direction(old: TcpState) -> Option<Direction> {
    match old {
        TcpState::SynSent => Some(Direction::Outbound),
        TcpState::SynRecv => Some(Direction::Inbound),
        _ => None,
    }
}

// `include/uapi/asm-generic/errno.h`, the same on every processor that BPF programs run on here.
pub(super) const EPIPE: i32 = 32;
const ENETUNREACH: i32 = 101;
pub(super) const ECONNABORTED: i32 = 103;
pub(super) const ECONNRESET: i32 = 104;
pub(super) const ETIMEDOUT: i32 = 110;
pub(super) const ECONNREFUSED: i32 = 111;
pub(super) const EHOSTUNREACH: i32 = 113;
