//! The table `process_open_sockets`: every open socket of the host, once for every file descriptor
//! that holds it.
//!
//! The query's constraints become a `Filter`, `sys` collects a `Snapshot` of what it lets through, and
//! `correlate` makes rows of it.

#[cfg(feature = "bench")]
pub mod bench;
mod correlate;
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "some of it only Linux needs"))]
mod filter;
#[cfg(feature = "fuzz")]
pub mod fuzz;
mod gap_log;
mod inet_ntop;
#[cfg(target_os = "linux")]
mod linux;
#[cfg(any(target_os = "macos", test))]
mod macos;
mod sys;

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use self::gap_log::GapLog;
use crate::model::Families;
use crate::model::gap::Gaps;
use crate::{
    Column, ColumnOptions, ColumnType, Error, Options, QueryContext, Rows, Table, TableOption,
    options,
};

/// A column. Not every platform has all.
///
/// `tables/process_open_sockets.table` says what each holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Pid,
    Fd,
    Socket,
    Family,
    Protocol,
    LocalAddress,
    RemoteAddress,
    LocalPort,
    RemotePort,
    Path,
    State,
    NetNamespace,
    Tid,
    OwnerUnknown,
    Type,
    Uid,
    PeerSocket,
    RxQueue,
    TxQueue,
    Interface,
    CgroupPath,
    Scope,
    LastPid,
    Control,
    Descriptors,
    RowsOmitted,
}

impl Field {
    /// Those of this platform, the hidden ones after those of `SELECT *`.
    const ALL: &'static [Field] =
        if cfg!(target_os = "macos") { &Field::MACOS } else { &Field::LINUX };

    const LINUX: [Field; 24] = [
        Field::Pid,
        Field::Fd,
        Field::Socket,
        Field::Family,
        Field::Protocol,
        Field::LocalAddress,
        Field::RemoteAddress,
        Field::LocalPort,
        Field::RemotePort,
        Field::Path,
        Field::State,
        Field::NetNamespace,
        Field::Tid,
        Field::OwnerUnknown,
        Field::Type,
        Field::Uid,
        Field::PeerSocket,
        Field::RxQueue,
        Field::TxQueue,
        Field::Interface,
        Field::CgroupPath,
        Field::Scope,
        Field::Descriptors,
        Field::RowsOmitted,
    ];

    const MACOS: [Field; 22] = [
        Field::Pid,
        Field::Fd,
        Field::Socket,
        Field::Family,
        Field::Protocol,
        Field::LocalAddress,
        Field::RemoteAddress,
        Field::LocalPort,
        Field::RemotePort,
        Field::Path,
        Field::State,
        Field::OwnerUnknown,
        Field::Type,
        Field::Uid,
        Field::PeerSocket,
        Field::RxQueue,
        Field::TxQueue,
        Field::Interface,
        Field::LastPid,
        Field::Control,
        Field::Descriptors,
        Field::RowsOmitted,
    ];

    /// Its number, by which queries speak of it; None if this platform does not have it.
    fn place(self) -> Option<usize> {
        Field::ALL.iter().position(|&field| field == self)
    }

    fn column(self) -> Column {
        // A constraint on one of these saves work; on the others it would only cost the planner
        // a request for each value that a join compares with.
        let filterable = ColumnOptions::ADDITIONAL | ColumnOptions::OPTIMIZED;
        let other = ColumnOptions::OPTIMIZED;
        // What osquery's own table does not have is there for who names it.
        let hidden = other | ColumnOptions::HIDDEN;
        let (name, kind, options) = match self {
            Field::Pid => ("pid", ColumnType::Integer, filterable),
            Field::Fd => ("fd", ColumnType::BigInt, filterable),
            Field::Socket => ("socket", ColumnType::BigInt, filterable),
            Field::Family => ("family", ColumnType::Integer, filterable),
            Field::Protocol => ("protocol", ColumnType::Integer, filterable),
            Field::LocalAddress => ("local_address", ColumnType::Text, other),
            Field::RemoteAddress => ("remote_address", ColumnType::Text, other),
            Field::LocalPort => ("local_port", ColumnType::Integer, filterable),
            Field::RemotePort => ("remote_port", ColumnType::Integer, filterable),
            Field::Path => ("path", ColumnType::Text, other),
            Field::State => ("state", ColumnType::Text, filterable),
            Field::NetNamespace => ("net_namespace", ColumnType::Text, filterable),
            Field::Tid => ("tid", ColumnType::Integer, hidden),
            Field::OwnerUnknown => ("owner_unknown", ColumnType::Text, hidden),
            Field::Type => ("type", ColumnType::Integer, hidden),
            Field::Uid => ("uid", ColumnType::BigInt, hidden),
            Field::PeerSocket => ("peer_socket", ColumnType::BigInt, hidden),
            Field::RxQueue => ("rx_queue", ColumnType::BigInt, hidden),
            Field::TxQueue => ("tx_queue", ColumnType::BigInt, hidden),
            Field::Interface => ("interface", ColumnType::Text, hidden),
            Field::CgroupPath => ("cgroup_path", ColumnType::Text, hidden),
            Field::Scope => ("scope", ColumnType::Integer, hidden),
            Field::LastPid => ("last_pid", ColumnType::Integer, hidden),
            Field::Control => ("control", ColumnType::Text, hidden),
            Field::Descriptors => ("descriptors", ColumnType::Integer, hidden),
            Field::RowsOmitted => ("rows_omitted", ColumnType::BigInt, hidden),
        };
        Column { name: name.into(), kind, options }
    }
}

/// The table, as it looks from one place.
pub struct ProcessOpenSockets {
    collector: sys::Collector,
    columns: Vec<Column>,
    families: Families,
    log: Mutex<GapLog>,
}

impl ProcessOpenSockets {
    /// Nothing is opened before the first query.
    pub fn new(options: Options) -> Self {
        let columns = Field::ALL.iter().copied().map(Field::column).collect();
        let families = options.families;
        let collector = sys::Collector::new(options);
        ProcessOpenSockets { collector, columns, families, log: Mutex::default() }
    }

    fn log(&self, gaps: &Gaps) {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        for gap in gaps.iter() {
            if let Some(line) = log.line(gap, Instant::now()) {
                log::log!(gap.level(), "{line}");
            }
        }
    }
}

impl Table for ProcessOpenSockets {
    fn name(&self) -> &str {
        "process_open_sockets"
    }

    /// osquery has a built-in table of the name.
    fn fallback_names(&self) -> &[&str] {
        &["alt_process_open_sockets"]
    }

    fn description(&self) -> &str {
        "Every open socket of the host, once for each file descriptor that holds it"
    }

    fn options(&self) -> &'static [TableOption] {
        options::PROCESS_OPEN_SOCKETS
    }

    fn columns(&self) -> &[Column] {
        &self.columns
    }

    fn scans(&self, query: &QueryContext) -> bool {
        self.collector.scans(&filter::Filter::new(query, self.families))
    }

    fn generate(&self, query: &QueryContext) -> Result<Box<dyn Rows>, Error> {
        let filter = filter::Filter::new(query, self.families);
        let snapshot = self.collector.collect(&filter)?;
        self.log(&snapshot.gaps);
        Ok(Box::new(correlate::correlate(snapshot, &filter)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_platform_has_the_columns_that_are_stated_for_it() {
        let spec = include_str!("../../process_open_sockets.table");
        let (common, rest) = spec.split_once("extended_schema(LINUX").unwrap();
        let (linux, macos) = rest.split_once("extended_schema(DARWIN").unwrap();
        let stated = |text: &'static str| {
            let lines = text.lines().filter_map(|line| line.trim().strip_prefix("Column(\""));
            lines.map(|line| line.split_once('"').unwrap().0)
        };
        for (fields, extended) in [(&Field::LINUX[..], linux), (&Field::MACOS, macos)] {
            let coded: Vec<_> = fields.iter().map(|field| field.column().name).collect();
            assert_eq!(coded, stated(common).chain(stated(extended)).collect::<Vec<_>>());
        }
    }
}
