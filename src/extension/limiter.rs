//! Limits the scans that run at once and the queries that wait for one.
//!
//! Lookups do not wait for scans: a scan reads /proc, and a process can block such a read for seconds.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Most answers of one kind that are collected at a time: a third would slow down the other two.
pub const MAX_SCANS: usize = 2;
/// Most queries at a time, from the request to the last byte of the answer. Fewer than the connections, so
/// that a ping always gets one.
pub const MAX_QUERIES: usize = 32;

/// Counts the queries and the scans that run, and issues their permits.
#[derive(Default)]
pub struct ScanLimiter {
    counts: Mutex<Counts>,
    freed: Condvar,
}

#[derive(Default)]
struct Counts {
    queries: usize,
    scans: usize,
    lookups: usize,
}

impl Counts {
    fn of(&mut self, kind: Kind) -> &mut usize {
        match kind {
            Kind::Scan => &mut self.scans,
            Kind::Lookup => &mut self.lookups,
        }
    }
}

/// The effort of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A scan of processes or of whole socket tables.
    Scan,
    /// A read of given processes or sockets.
    Lookup,
}

/// Counts one query until it is dropped.
pub(super) struct QueryPermit<'a>(&'a ScanLimiter);

/// Counts one scan or lookup that runs, until it is dropped.
pub(super) struct ScanPermit<'a>(&'a ScanLimiter, Kind);

impl ScanLimiter {
    /// Returns a permit for a query, without waiting.
    ///
    /// # Errors
    /// With a message for the client, if all permits are in use.
    pub(super) fn try_acquire_query(&self) -> Result<QueryPermit<'_>, String> {
        let mut counts = self.counts();
        if counts.queries >= MAX_QUERIES {
            return Err(format!("{MAX_QUERIES} queries already run or wait: try again later"));
        }
        counts.queries += 1;
        Ok(QueryPermit(self))
    }

    /// Returns the number of queries that run or wait.
    pub fn queries(&self) -> usize {
        self.counts().queries
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl QueryPermit<'_> {
    /// Waits for a permit to collect the answer.
    pub(super) fn acquire_scan(&self, kind: Kind) -> ScanPermit<'_> {
        let limiter = self.0;
        let mut counts = limiter
            .freed
            .wait_while(limiter.counts(), |counts| *counts.of(kind) >= MAX_SCANS)
            .unwrap_or_else(PoisonError::into_inner);
        *counts.of(kind) += 1;
        ScanPermit(limiter, kind)
    }
}

impl Drop for ScanPermit<'_> {
    fn drop(&mut self) {
        *self.0.counts().of(self.1) -= 1;
        // A waiting query may be of another kind, so one wake-up does not suffice.
        self.0.freed.notify_all();
    }
}

impl Drop for QueryPermit<'_> {
    fn drop(&mut self) {
        self.0.counts().queries -= 1;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_lookup_does_not_wait_for_scans() {
        let limiter = ScanLimiter::default();
        let queries: Vec<QueryPermit> =
            (0..=MAX_SCANS).map(|_| limiter.try_acquire_query().unwrap()).collect();
        let scans: Vec<ScanPermit> =
            queries.iter().skip(1).map(|query| query.acquire_scan(Kind::Scan)).collect();
        drop(queries[0].acquire_scan(Kind::Lookup));
        assert_eq!(limiter.counts().scans, MAX_SCANS);
        drop(scans);
        assert_eq!(limiter.counts().scans, 0);
    }
}
