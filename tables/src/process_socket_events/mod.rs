//! The table `process_socket_events`: what happened to sockets, with the process that did it.
//!
//! The kernel's programs report changes of states and first sends. The thread of `drain` reads them, `join` makes events of them,
//! and `store` keeps these for the queries. `collection` starts and ends that.

mod answer;
mod cells;
mod collection;
mod columns;
mod drain;
mod event;
mod filter;
mod join;
mod listeners;
mod number_hash;
mod processes;
#[cfg(test)]
mod records;
mod settings;
mod shares;
mod source;
mod statistics;
mod store;
mod stream;
#[cfg(test)]
mod tests;
mod texts;

use std::sync::Arc;

use self::answer::Answer;
use self::collection::{Collection, Query};
use self::columns::Field;
use self::filter::Filter;
use self::settings::Settings;
pub use self::statistics::SocketEventStats;
pub use self::stream::{EventStream, Losses};
use crate::{Column, Error, Explanation, Options, QueryContext, Rows, Table, TableOption, options};

/// The table.
pub struct ProcessSocketEvents {
    collection: Arc<Collection>,
    columns: Vec<Column>,
}

impl ProcessSocketEvents {
    /// Nothing is opened before the collection starts.
    pub fn new(options: &Options) -> Self {
        let collection = Collection::new(Settings::new(options), source::open(options));
        ProcessSocketEvents::of(Arc::new(collection))
    }

    fn of(collection: Arc<Collection>) -> Self {
        ProcessSocketEvents { collection, columns: Field::ALL.map(Field::column).into() }
    }

    /// The table of the statistics of this table's collection.
    pub fn statistics(&self) -> SocketEventStats {
        SocketEventStats::new(Arc::clone(&self.collection))
    }
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
        let filter = Filter::new(query);
        let reads = |field: Field| query.columns_used.contains(field as usize);
        let texts = Query {
            reads_texts: [Field::ProcessCmdline, Field::ContainerId, Field::PodUid]
                .into_iter()
                .any(reads),
            reads_cgroups: [Field::ProcessCgroupPath, Field::ContainerId, Field::PodUid]
                .into_iter()
                .any(reads),
        };
        let times = filter.times();
        let events = self
            .collection
            .query(texts, &|store| store.select(times, |event| filter.admits(event)));
        let explanation = Explanation {
            plan: "events that are kept".to_owned(),
            work: format!("{} events", events.len()),
        };
        Ok(Box::new(Answer::new(events, explanation)))
    }

    fn start(&self) -> Result<(), Error> {
        self.collection.start_at_once();
        Ok(())
    }

    fn stop(&self) {
        self.collection.stop();
    }
}
