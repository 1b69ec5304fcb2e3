//! The table `process_socket_events`: what happened to sockets, with the process that did it.
//!
//! The kernel's programs report changes of states and first sends. The thread of `drain` reads them, `join` makes events of them,
//! and `store` keeps these for the queries. `collection` starts and ends that.

mod answer;
mod background;
mod cells;
mod closed_sockets;
mod collection;
mod column_spec;
mod columns;
mod datagram_flows;
mod drain;
mod event;
mod feed;
mod filter;
mod flows;
mod join;
mod listeners;
mod number_hash;
mod processes;
#[cfg(test)]
mod records;
mod repair;
mod settings;
mod shared;
mod shares;
mod source;
mod statistics;
mod store;
mod stream;
#[cfg(test)]
mod test_slots;
#[cfg(test)]
mod tests;
mod texts;

use std::sync::Arc;

use self::answer::Answer;
use self::collection::{Collection, Open, Query};
use self::columns::Field;
use self::event::{Action, Event};
use self::filter::{Columns, Filter};
pub use self::flows::ProcessSocketFlows;
use self::settings::Settings;
pub use self::statistics::SocketEventStats;
pub use self::stream::{EventStream, Losses};
use crate::model::{DatagramCounter, OpenTcpSockets};
use crate::{Column, Error, Explanation, Options, QueryContext, Rows, Table, TableOption, options};

/// The table.
pub struct ProcessSocketEvents {
    collection: Arc<Collection>,
    columns: Vec<Column>,
}

impl ProcessSocketEvents {
    /// Nothing is opened before the collection starts.
    pub fn new(options: &Options) -> Self {
        ProcessSocketEvents::reading(source::open(options, None), options)
    }

    /// As [`ProcessSocketEvents::new`]. `list` lists the sockets of the host, with which ends of connections are found that the
    /// kernel skips.
    pub(crate) fn with_sockets(
        options: &Options,
        list: impl Fn() -> Option<OpenTcpSockets> + Send + Sync + 'static,
    ) -> Self {
        ProcessSocketEvents::reading(source::open(options, Some(Arc::new(list))), options)
    }

    fn reading(open: Open, options: &Options) -> Self {
        ProcessSocketEvents::of(Arc::new(Collection::new(Settings::new(options), open)))
    }

    fn of(collection: Arc<Collection>) -> Self {
        ProcessSocketEvents { collection, columns: Field::ALL.map(Field::column).into() }
    }

    /// The table of the flows of this table's collection.
    pub fn flows(&self) -> ProcessSocketFlows {
        ProcessSocketFlows::new(Arc::clone(&self.collection))
    }

    /// The counter of datagrams of this table's collection.
    pub(crate) fn datagrams(&self) -> Arc<dyn DatagramCounter> {
        Arc::clone(&self.collection) as Arc<dyn DatagramCounter>
    }

    /// The table of the statistics of this table's collection.
    pub fn statistics(&self) -> SocketEventStats {
        SocketEventStats::new(Arc::clone(&self.collection))
    }
}

/// Whether it is a row of this table; the others are rows of `process_socket_flows`.
fn is_shown(event: &Event) -> bool {
    event.action != Action::Flow
}

fn cells() -> Box<[cells::Cell]> {
    Field::ALL.map(Field::cell).into()
}

impl Table for ProcessSocketEvents {
    fn name(&self) -> &str {
        "process_socket_events"
    }

    fn description(&self) -> &str {
        "TCP connections, listening sockets and first sends of other sockets since the collection of events began, one row for \
         each event"
    }

    fn options(&self) -> &'static [TableOption] {
        options::SOCKET_EVENTS
    }

    fn columns(&self) -> &[Column] {
        &self.columns
    }

    fn scans(&self, _query: &QueryContext) -> bool {
        false
    }

    fn generate(&self, query: &QueryContext) -> Result<Box<dyn Rows>, Error> {
        let columns = Columns {
            time: Field::Time as usize,
            pid: Field::Pid as usize,
            local_port: Field::LocalPort as usize,
            remote_port: Field::RemotePort as usize,
            cookie: Field::SocketCookie as usize,
            action: Some(Field::Action as usize),
        };
        let filter = Filter::new(query, &columns);
        let reads = |field: Field| query.columns_used.contains(field as usize);
        let texts = Query {
            reads_texts: [Field::ProcessCmdline, Field::ContainerId, Field::PodUid]
                .into_iter()
                .any(reads),
            reads_cgroups: [Field::ProcessCgroupPath, Field::ContainerId, Field::PodUid]
                .into_iter()
                .any(reads),
            reads_flows: false,
        };
        let admits = |event: &Event| is_shown(event) && filter.admits(event, event.pid());
        let events = self.collection.query(texts, &|store| store.select(filter.times(), admits));
        let explanation = Explanation {
            plan: "events that are kept".to_owned(),
            work: format!("{} events", events.len()),
        };
        Ok(Box::new(Answer::new(events, cells(), explanation)))
    }

    fn start(&self) -> Result<(), Error> {
        self.collection.start_at_once();
        Ok(())
    }

    fn stop(&self) {
        self.collection.stop();
    }
}
