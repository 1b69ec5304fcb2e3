//! The table `process_socket_flows`: TCP connections and flows of datagrams that have ended, with their bytes.
//!
//! Its rows are the events that end a flow, so both tables share one store and its bounds.

mod cells;
mod columns;

use std::sync::Arc;

use self::columns::Field;
use super::answer::Answer;
use super::collection::{Collection, Query};
use super::event::{Event, UNKNOWN_PID};
use super::filter::{Columns, Filter};
use crate::{Column, Error, Explanation, QueryContext, Rows, Table, TableOption, options};

/// The table. The first query of it lets the collection count datagrams.
pub struct ProcessSocketFlows {
    collection: Arc<Collection>,
    columns: Vec<Column>,
}

impl ProcessSocketFlows {
    pub(super) fn new(collection: Arc<Collection>) -> ProcessSocketFlows {
        ProcessSocketFlows { collection, columns: Field::ALL.map(Field::column).into() }
    }
}

impl Table for ProcessSocketFlows {
    fn name(&self) -> &str {
        "process_socket_flows"
    }

    fn description(&self) -> &str {
        "TCP connections, and flows of datagrams of UDP, raw, ping and packet sockets, that ended since the collection of \
         events began, one row for each"
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
            action: None,
        };
        let filter = Filter::new(query, &columns);
        let reads = |field: Field| query.columns_used.contains(field as usize);
        let of_container = [Field::ContainerId, Field::PodUid].into_iter().any(reads);
        let texts = Query {
            reads_texts: of_container || reads(Field::ProcessCmdline),
            reads_cgroups: of_container || reads(Field::ProcessCgroupPath),
            reads_flows: true,
        };
        let admits = |event: &Event| {
            let pid = event.opener().map_or(UNKNOWN_PID, |process| process.pid);
            event.ended.is_some() && filter.admits(event, pid)
        };
        let flows = self.collection.query(texts, &|store| store.select(filter.times(), admits));
        let explanation = Explanation {
            plan: "flows that are kept".to_owned(),
            work: format!("{} flows", flows.len()),
        };
        let cells = Field::ALL.map(Field::cell);
        Ok(Box::new(Answer::new(flows, cells.into(), explanation)))
    }
}
