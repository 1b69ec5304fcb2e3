//! The constraints of a query, as conditions on events.

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

/// The indexes of the columns that a table has for these conditions.
#[derive(Clone, Copy, Debug)]
pub(super) struct Columns {
    pub(super) time: usize,
    pub(super) pid: usize,
    pub(super) local_port: usize,
    pub(super) remote_port: usize,
    pub(super) cookie: usize,
    pub(super) action: Option<usize>,
}

impl Filter {
    pub(super) fn new(query: &QueryContext, columns: &Columns) -> Filter {
        let of = |column: usize| query.constraints.iter().filter(move |it| it.column == column);
        let number = |column| NumberCondition::new(of(column));
        let action = columns.action.into_iter().flat_map(of);
        Filter {
            time: number(columns.time),
            pid: number(columns.pid),
            local_port: number(columns.local_port),
            remote_port: number(columns.remote_port),
            cookie: number(columns.cookie),
            action: TextCondition::new(action),
        }
    }

    /// The least and the greatest time of the events.
    pub(super) fn times(&self) -> (i64, i64) {
        self.time.range()
    }

    /// `pid` is that of the row.
    pub(super) fn admits(&self, event: &Event, pid: i32) -> bool {
        self.time.admits(event.time)
            && self.pid.admits(pid.into())
            && self.local_port.admits(event.ends.local.port.into())
            && self.remote_port.admits(event.ends.remote.port.into())
            // A comparison with NULL is never true, but IS NOT is.
            && event.socket.cookie().is_none_or(|cookie| self.cookie.admits(cookie.cast_signed()))
            && (self.action.is_open() || self.action.admits(event.action.name()))
    }
}
