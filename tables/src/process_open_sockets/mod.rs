//! The table `process_open_sockets`: every open socket of the host, once for every file descriptor
//! that holds it.
//!
//! The query's constraints become a `Filter`, `sys` collects a `Snapshot` of what it lets through, and
//! `correlate` makes rows of it.

#[cfg(feature = "bench")]
pub mod bench;
mod cells;
mod columns;
mod condition;
mod correlate;
mod filter;
#[cfg(feature = "fuzz")]
pub mod fuzz;
mod gap_log;
mod inet_ntop;
#[cfg(target_os = "linux")]
mod linux;
#[cfg(any(target_os = "macos", test))]
mod macos;
mod row;
mod sys;

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use self::columns::Field;
use self::gap_log::GapLog;
use crate::model::gap::Gaps;
use crate::model::holders::{DEFAULT_DESCRIPTORS_PER_SOCKET, HolderLimits};
pub use crate::model::{Families, Source};
use crate::{Column, Error, QueryContext, Rows, Table};

/// The table's name; in osquery it is taken by the built-in table.
pub const NAME: &str = "process_open_sockets";
/// The name beside the built-in table.
pub const ALTERNATIVE_NAME: &str = "alt_process_open_sockets";

/// Where the table looks.
#[derive(Clone, Debug)]
pub struct Options {
    /// The mount of proc that is read.
    pub procfs: PathBuf,
    /// Who tells what sockets there are.
    pub source: Source,
    /// How many files the host must have open for BPF to be used if the source is `Auto`: to load the program
    /// takes some milliseconds. None forbids it, whatever the source.
    pub bpf_from_files: Option<u64>,
    /// For how long tables of sockets that were read for one lookup by pid may answer others; zero
    /// for not at all. What they show may be that old; whatever has come since is found.
    pub snapshot_ttl: Duration,
    /// Whether threads that have a descriptor table of their own (CLONE_FILES in clone(2)) are read.
    pub threads: Threads,
    /// How long one scan may take. What it has not read by then is counted and reported.
    pub scan_timeout: Duration,
    /// Which sockets there are rows of.
    pub families: Families,
    /// How many descriptors of one socket a process has rows for: the lowest are kept, and the column
    /// `descriptors` counts all. None keeps all.
    pub descriptors_per_socket: Option<u32>,
    /// How many file descriptors one scan keeps at most, besides one of each socket; None for all. Beyond
    /// that, the users with the most are reduced to a common level, and the column `rows_omitted` says by
    /// how much.
    pub max_holders: Option<usize>,
}

impl Options {
    fn holder_limits(&self) -> HolderLimits {
        HolderLimits { per_socket: self.descriptors_per_socket, max: self.max_holders }
    }

    /// The same for answers to osquery, which takes some hundred thousand rows: memory is bounded.
    #[must_use]
    pub fn for_osquery(self) -> Options {
        const MAX_HOLDERS: usize = 1_000_000;
        Options { max_holders: Some(MAX_HOLDERS), ..self }
    }

    /// The same for a process that ends after a query or two: BPF only on a host that has so many files open
    /// that it pays.
    #[must_use]
    pub fn for_one_query(self) -> Options {
        const BUSY: u64 = 10_000;
        Options { bpf_from_files: self.bpf_from_files.map(|files| files.max(BUSY)), ..self }
    }
}

/// Whether threads that have a descriptor table of their own are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    /// Where it costs next to nothing: with BPF on Linux 6.7 and later.
    Auto,
    /// With every source.
    On,
    /// With none.
    Off,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            procfs: PathBuf::from("/proc"),
            source: Source::Auto,
            bpf_from_files: Some(0),
            snapshot_ttl: Duration::from_secs(1),
            threads: Threads::Auto,
            scan_timeout: Duration::from_secs(30),
            families: Families::default(),
            max_holders: None,
            descriptors_per_socket: Some(DEFAULT_DESCRIPTORS_PER_SOCKET),
        }
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
        let columns = Field::here().iter().map(|field| field.column()).collect();
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
