//! How many scans run at once, and how many may wait. Answers that take no scan do not wait for those that
//! do: a scan reads /proc, and a process can block that for seconds.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// The most answers of a kind at a time: one for each of two busy readers, and no third to slow them down.
pub const SCANS: usize = 2;
/// The most queries at a time, from their arrival to the last byte of their answer. Fewer than there
/// may be connections, so that there is always room for a ping.
pub const QUERIES: usize = 32;

/// Who scans and who waits.
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

/// What an answer takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A scan of processes or of whole socket tables.
    Scan,
    /// Less.
    Lookup,
}

/// A query's place among the others, until it is dropped.
pub(super) struct QueryPermit<'a>(&'a ScanLimiter);

/// A query's turn, until it is dropped.
pub(super) struct ScanPermit<'a>(&'a ScanLimiter, Kind);

impl ScanLimiter {
    /// Takes a place.
    ///
    /// # Errors
    /// At once, with a message for the client, when all are taken.
    pub(super) fn enter(&self) -> Result<QueryPermit<'_>, String> {
        let mut counts = self.counts();
        if counts.queries >= QUERIES {
            return Err(format!("{QUERIES} queries of this table wait already: try again later"));
        }
        counts.queries += 1;
        Ok(QueryPermit(self))
    }

    /// The queries that scan or wait.
    pub fn queries(&self) -> usize {
        self.counts().queries
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl QueryPermit<'_> {
    /// Waits for a turn to collect the answer.
    pub(super) fn turn(&self, kind: Kind) -> ScanPermit<'_> {
        let limiter = self.0;
        let mut counts = limiter
            .freed
            .wait_while(limiter.counts(), |counts| *counts.of(kind) >= SCANS)
            .unwrap_or_else(PoisonError::into_inner);
        *counts.of(kind) += 1;
        ScanPermit(limiter, kind)
    }
}

impl Drop for ScanPermit<'_> {
    fn drop(&mut self) {
        *self.0.counts().of(self.1) -= 1;
        // Those that wait may be of another kind.
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
        let queries: Vec<QueryPermit> = (0..=SCANS).map(|_| limiter.enter().unwrap()).collect();
        let scans: Vec<ScanPermit> = queries.iter().skip(1).map(|it| it.turn(Kind::Scan)).collect();
        drop(queries[0].turn(Kind::Lookup));
        assert_eq!(limiter.counts().scans, SCANS);
        drop(scans);
        assert_eq!(limiter.counts().scans, 0);
    }
}
