//! The constraints of a query, as conditions on events.

use super::columns::Field;
use super::event::Event;
use crate::QueryContext;
use crate::condition::{NumberCondition, TextCondition};

/// The conditions of a query on events.
#[derive(Clone, Debug)]
pub(super) struct Filter {
    time: NumberCondition,
    pid: NumberCondition,
    local_port: NumberCondition,
    remote_port: NumberCondition,
    cookie: NumberCondition,
    action: TextCondition,
}

impl Filter {
    pub(super) fn new(query: &QueryContext) -> Filter {
        let of =
            |field: Field| query.constraints.iter().filter(move |it| it.column == field as usize);
        let number = |field| NumberCondition::new(of(field));
        Filter {
            time: number(Field::Time),
            pid: number(Field::Pid),
            local_port: number(Field::LocalPort),
            remote_port: number(Field::RemotePort),
            cookie: number(Field::SocketCookie),
            action: TextCondition::new(of(Field::Action)),
        }
    }

    /// The least and the greatest time of the events.
    pub(super) fn times(&self) -> (i64, i64) {
        self.time.range()
    }

    pub(super) fn admits(&self, event: &Event) -> bool {
        self.time.admits(event.time)
            && self.pid.admits(event.pid().into())
            && self.local_port.admits(event.flow.local.port.into())
            && self.remote_port.admits(event.flow.remote.port.into())
            // A comparison with NULL is never true, but IS NOT is.
            && event.socket.cookie().is_none_or(|cookie| self.cookie.admits(cookie.cast_signed()))
            && (self.action.is_open() || self.action.admits(event.action.name()))
    }
}
