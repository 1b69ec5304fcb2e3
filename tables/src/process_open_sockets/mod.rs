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
#[cfg(target_os = "linux")]
mod tcp_sockets;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use self::columns::Field;
use self::omission_rate_limit::OmissionRateLimit;
#[cfg(target_os = "linux")]
use crate::model::OpenTcpSockets;
use crate::model::omission::Omissions;
use crate::model::{DatagramCounter, Families};
use crate::{Column, Error, Options, QueryContext, Rows, Table, TableOption, options};

/// The table.
pub struct ProcessOpenSockets {
    collector: Arc<sys::Collector>,
    columns: Vec<Column>,
    families: Families,
    datagrams: Option<Arc<dyn DatagramCounter>>,
    log: Mutex<OmissionRateLimit>,
}

impl ProcessOpenSockets {
    /// Nothing is opened before the first query.
    pub fn new(options: Options) -> Self {
        let columns = Field::here().iter().map(|field| field.column()).collect();
        let families = options.families;
        let collector = Arc::new(sys::Collector::new(options));
        let (datagrams, log) = (None, Mutex::default());
        ProcessOpenSockets { collector, columns, families, datagrams, log }
    }

    /// Gives datagram sockets the bytes that the counter has.
    #[cfg(target_os = "linux")]
    pub(crate) fn with_datagrams(self, counter: Arc<dyn DatagramCounter>) -> Self {
        ProcessOpenSockets { datagrams: Some(counter), ..self }
    }

    /// A function that lists the TCP sockets of the host; it returns None if some could not be read.
    #[cfg(target_os = "linux")]
    pub(crate) fn tcp_sockets(&self) -> impl Fn() -> Option<OpenTcpSockets> + Send + Sync + use<> {
        let collector = Arc::clone(&self.collector);
        move || tcp_sockets::read(&collector)
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
        let mut filter = filter::Filter::new(query, self.families);
        let datagrams = self.datagrams.as_ref().filter(|_| filter.shows_bytes());
        let datagrams = datagrams.filter(|counter| counter.is_counting());
        if datagrams.is_some() {
            filter.read_cookies();
        }
        // A socket that is closed during the scan has bytes before it only.
        let before = datagrams.and_then(|counter| counter.bytes());
        let mut snapshot = self.collector.collect(&filter)?;
        let after = datagrams.and_then(|counter| counter.bytes());
        snapshot.datagram_bytes = before.zip(after).map(|(before, after)| before.then(after));
        self.log(&snapshot.omissions);
        Ok(Box::new(correlate::correlate(snapshot, &filter)))
    }
}
