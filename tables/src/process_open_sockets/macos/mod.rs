//! macOS: holders and their sockets from libproc; unheld sockets from the kernel's socket lists.
//!
//! libproc reports the socket of each descriptor, so the row of a holder needs no other source. The lists
//! (`net.inet.tcp.pcblist_n` and similar ones) are read if a query can show something that only they report:
//! unheld sockets, the user who created a socket, and the process that used it last. macOS 27 withholds them
//! from most programs; the rows from libproc remain right then.

mod filter;
mod scan;
#[cfg(test)]
mod tests;

use std::time::Duration;

use self::scan::Scan;
use crate::Error;
use crate::deadline::Deadline;
use crate::macos::calls::Calls;
use crate::model::Snapshot;
use crate::model::holders::HolderLimits;
use crate::process_open_sockets::filter::Filter;

/// Collects snapshots.
pub(crate) struct Collector {
    calls: Calls,
    limits: HolderLimits,
    scan_timeout: Duration,
}

impl Collector {
    /// Of the other options only the families have a meaning on macOS; the filter has them.
    #[cfg(target_os = "macos")]
    pub(crate) fn new(options: crate::Options) -> Self {
        let limits = options.holder_limits();
        Collector { calls: crate::macos::ffi::CALLS, limits, scan_timeout: options.scan_timeout }
    }

    /// Every query makes system calls for each process.
    #[cfg(target_os = "macos")]
    pub(crate) fn scans(&self, _: &Filter) -> bool {
        true
    }

    /// Collects the sockets and holders that the filter admits.
    pub(crate) fn collect(&self, filter: &Filter) -> Result<Snapshot, Error> {
        let deadline = Deadline::after(self.scan_timeout);
        Scan::new(&self.calls, filter, self.limits, deadline).run()
    }
}
