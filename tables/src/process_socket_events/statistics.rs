//! The table `socket_event_stats`: what the collection of events has done, and what it has lost.

use std::sync::Arc;

use super::collection::{Collection, Status};
use super::datagram_flows::LostFlows;
use super::shared::Shared;
use super::store::EVENT_BYTES;
use crate::enum_table::enum_table;
use crate::model::tcp_event::DatagramCounts;
use crate::{
    Column, ColumnOptions, ColumnType, Error, QueryContext, Rows, Table, TableOption, Value,
    options,
};

/// The table. Its queries do not start the collection.
pub struct SocketEventStats {
    collection: Arc<Collection>,
    columns: Vec<Column>,
}

enum_table! {
    /// A column.
    enum Field: (&'static str, ColumnType) {
        Kind = ("kind", ColumnType::Text),
        Value = ("value", ColumnType::BigInt),
        Detail = ("detail", ColumnType::Text),
    }
}

impl SocketEventStats {
    pub(super) fn new(collection: Arc<Collection>) -> SocketEventStats {
        let column = |field: Field| {
            let &(name, kind) = field.row();
            Column { name, kind, options: ColumnOptions::OPTIMIZED }
        };
        SocketEventStats { collection, columns: Field::ALL.map(column).into() }
    }
}

impl Table for SocketEventStats {
    fn name(&self) -> &str {
        "socket_event_stats"
    }

    fn description(&self) -> &str {
        "What the collection of socket events has done and what it has lost, one row for each kind"
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

    fn generate(&self, _query: &QueryContext) -> Result<Box<dyn Rows>, Error> {
        Ok(Box::new(Statistics::of(&self.collection)))
    }
}

/// A number.
struct Statistic {
    kind: &'static str,
    value: Option<u64>,
    detail: String,
}

/// The rows.
pub(super) struct Statistics(Vec<Statistic>);

impl Statistics {
    pub(super) fn of(collection: &Collection) -> Statistics {
        let mut rows = Statistics(Vec::new());
        match collection.status() {
            Status::Runs(shared) => {
                rows.add("running", 1, String::new());
                rows.of_run(&shared);
            }
            Status::Ended(shared) => {
                let failure = shared.counts().failure;
                let ended = "it ended after --events-idle without a query".to_owned();
                rows.add("running", 0, failure.unwrap_or(ended));
                rows.of_run(&shared);
            }
            Status::Idle(reason) => rows.add("running", 0, reason),
        }
        let settings = collection.settings();
        rows.add("max_events", settings.max, "--events-max".to_owned());
        rows.add("max_age", settings.expiry.as_secs(), "seconds (--events-expiry)".to_owned());
        rows
    }

    /// The numbers of a run, since its start.
    fn of_run(&mut self, shared: &Shared) {
        let counts = shared.counts();
        self.add("since", shared.since.cast_unsigned(), "UNIX seconds".to_owned());
        for (name, outcome) in &counts.programs {
            let (runs, why) = match outcome {
                Ok(()) => (1, String::new()),
                Err(error) => (0, format!(": {error}")),
            };
            self.add("program", runs, format!("{name}{why}"));
        }
        let losses = counts.losses;
        self.add(
            "captured",
            counts.captured,
            "changes of states, first datagrams, and ends of datagram sockets, that were read"
                .to_owned(),
        );
        let detail = "changes of states: the ring buffer was full".to_owned();
        self.add("lost_events", losses.ring_events, detail);
        let detail =
            "first datagrams, and ends of datagram sockets: the ring buffer was full".to_owned();
        self.add("lost_datagrams", losses.ring_datagrams, detail);
        let LostFlows { flows, counts: DatagramCounts { bytes, messages } } = counts.lost_flows;
        let detail = format!(
            "flows whose first datagram was lost: {} datagrams, {} bytes",
            messages.sent + messages.received,
            bytes.sent + bytes.received
        );
        self.add("lost_flows", flows, detail);
        let detail = "datagrams that were not counted: too many flows were open, or the memory for options of the socket was full".to_owned();
        self.add("uncounted_datagrams", losses.uncounted_messages, detail);
        self.add("uncounted_bytes", losses.uncounted_bytes, "bytes of these".to_owned());
        let detail = "executables: the ring buffer was full".to_owned();
        self.add("lost_executables", losses.ring_executables, detail);
        let detail =
            "runs of the programs that the kernel skipped: at most that many events".to_owned();
        self.add("skipped", losses.skipped, detail);
        let detail =
            "ends of TCP sockets that were lost or skipped, and that lists of sockets showed";
        self.add("repaired", counts.repaired, detail.to_owned());
        shared.inspect(|store| {
            let evicted = store.evicted();
            self.add("events", store.added(), "rows that were added".to_owned());
            self.add("stored", store.len(), "rows that are kept".to_owned());
            self.add("evicted_age", evicted.age, "older than --events-expiry".to_owned());
            self.add(
                "evicted_number",
                evicted.number,
                "the oldest of more than --events-max".to_owned(),
            );
            let detail = "of the user with the most, who had more than others".to_owned();
            self.add("evicted_user", evicted.user, detail);
            for (user, events) in store.evicted_of() {
                self.add("evicted_of_user", events, user.to_string());
            }
            self.add(
                "evicted_memory",
                evicted.memory,
                "of the user with the most texts".to_owned(),
            );
            let time =
                |event: Option<&super::event::Event>| event.map(|it| it.time.cast_unsigned());
            self.push("oldest", time(store.oldest()), "UNIX seconds".to_owned());
            self.push("newest", time(store.newest()), "UNIX seconds".to_owned());
            let detail = format!("bytes of rows ({EVENT_BYTES} each) and of texts");
            self.add("memory_events", store.bytes(), detail);
        });
        self.add("sockets", counts.sockets, "open sockets that are followed".to_owned());
        let detail = "open sockets that are no longer followed: there are too many".to_owned();
        self.add("evicted_sockets", counts.evicted_sockets, detail);
        let detail = "executables that are no longer known".to_owned();
        self.add("evicted_executables", counts.evicted_executables, detail);
        let detail = "open flows of datagrams; NULL: datagrams are not counted".to_owned();
        self.push("flows", counts.flows.and_then(|flows| flows.try_into().ok()), detail);
        self.add("memory_sockets", counts.socket_bytes + counts.flow_bytes, "bytes".to_owned());
        self.add("memory_kernel", counts.kernel_bytes, "bytes".to_owned());
    }

    fn add(&mut self, kind: &'static str, value: impl TryInto<u64>, detail: String) {
        self.push(kind, value.try_into().ok(), detail);
    }

    fn push(&mut self, kind: &'static str, value: Option<u64>, detail: String) {
        self.0.push(Statistic { kind, value, detail });
    }
}

impl Rows for Statistics {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn id(&self, row: usize) -> i64 {
        i64::try_from(row).unwrap_or(i64::MAX)
    }

    fn cell(&self, row: usize, column: usize) -> Value<'_> {
        let field = Field::ALL.get(column);
        let (Some(row), Some(field)) = (self.0.get(row), field) else { return Value::Null };
        match field {
            Field::Kind => Value::Text(row.kind.into()),
            Field::Value => {
                row.value.map_or(Value::Null, |value| Value::Integer(value.cast_signed()))
            }
            Field::Detail => Value::Text((&*row.detail).into()),
        }
    }
}
