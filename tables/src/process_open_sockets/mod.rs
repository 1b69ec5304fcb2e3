//! The table `process_open_sockets`: every open socket of the host, once for every file descriptor
//! that holds it.
//!
//! A `Filter` is made of the constraints of the query, `sys` collects a `Snapshot` of the admitted sockets and
//! holders, and `correlate` makes rows of it.

#[cfg(feature = "bench")]
pub mod bench;
mod cells;
mod columns;
mod correlate;
mod filter;
#[cfg(feature = "fuzz")]
pub mod fuzz;
#[cfg(target_os = "linux")]
mod linux;
#[cfg(any(target_os = "macos", test))]
mod macos;
mod omission_rate_limit;
mod row;
mod sys;

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use self::columns::Field;
use self::omission_rate_limit::OmissionRateLimit;
use crate::model::Families;
use crate::model::omission::Omissions;
use crate::{Column, Error, Options, QueryContext, Rows, Table, TableOption, options};

/// The table.
pub struct ProcessOpenSockets {
    collector: sys::Collector,
    columns: Vec<Column>,
    families: Families,
    log: Mutex<OmissionRateLimit>,
}

impl ProcessOpenSockets {
    /// Nothing is opened before the first query.
    pub fn new(options: Options) -> Self {
        let columns = Field::here().iter().map(|field| field.column()).collect();
        let families = options.families;
        let collector = sys::Collector::new(options);
        ProcessOpenSockets { collector, columns, families, log: Mutex::default() }
    }

    fn log(&self, omissions: &Omissions) {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        for omission in omissions.iter() {
            if let Some(line) = log.line(omission, Instant::now()) {
                log::log!(omission.level(), "{line}");
            }
        }
    }
}

impl Table for ProcessOpenSockets {
    fn name(&self) -> &str {
        "process_open_sockets"
    }

    /// osquery has a built-in table with the same name.
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
        self.log(&snapshot.omissions);
        Ok(Box::new(correlate::correlate(snapshot, &filter)))
    }
}
