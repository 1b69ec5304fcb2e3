//! macOS: libproc for who and what; the kernel's lists of sockets for those that nobody holds.
//!
//! libproc tells of each descriptor what its socket is, so a row of a holder needs nothing else. The lists
//! (`net.inet.tcp.pcblist_n` and its neighbours) are read where a query can show what only they tell: sockets
//! without a descriptor, the user who made a socket, and the process that used it last. macOS 27 keeps
//! them from most programs, and what was read by libproc stays true then.

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

/// Collects.
pub(crate) struct Collector {
    calls: Calls,
    limits: HolderLimits,
    scan_timeout: Duration,
}

impl Collector {
    /// Of the other options only the families mean something here, and the filter has them.
    #[cfg(target_os = "macos")]
    pub(crate) fn new(options: crate::Options) -> Self {
        let limits = options.holder_limits();
        Collector { calls: crate::macos::ffi::CALLS, limits, scan_timeout: options.scan_timeout }
    }

    /// Every answer takes calls for each process.
    #[cfg(target_os = "macos")]
    pub(crate) fn scans(&self, _: &Filter) -> bool {
        true
    }

    /// Collects what the filter asks for.
    pub(crate) fn collect(&self, filter: &Filter) -> Result<Snapshot, Error> {
        let deadline = Deadline::after(self.scan_timeout);
        Scan::new(&self.calls, filter, self.limits, deadline).run()
    }
}
