//! How many scans run at once, and how many may wait.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// The most scans at a time: one for each of two busy readers, and no third to slow them down.
pub const SCANS: usize = 2;
/// The most queries at a time, from their arrival to the last byte of their answer. Fewer than there
/// may be connections, so that there is always room for a ping.
pub const QUERIES: usize = 32;

/// Who scans and who waits.
#[derive(Default)]
pub struct Turns {
    counts: Mutex<Counts>,
    freed: Condvar,
}

#[derive(Default)]
struct Counts {
    queries: usize,
    scans: usize,
}

/// A query's place among the others, until it is dropped.
pub(super) struct Query<'a>(&'a Turns);

/// A query's turn to scan, until it is dropped.
pub(super) struct Turn<'a>(&'a Turns);

impl Turns {
    /// Takes a place.
    ///
    /// # Errors
    /// At once, with a message for the client, when all are taken.
    pub(super) fn enter(&self) -> Result<Query<'_>, String> {
        let mut counts = self.counts();
        if counts.queries >= QUERIES {
            return Err(format!("{QUERIES} queries of this table wait already: try again later"));
        }
        counts.queries += 1;
        Ok(Query(self))
    }

    /// The queries that scan or wait.
    pub fn queries(&self) -> usize {
        self.counts().queries
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Query<'_> {
    /// Waits for a turn to scan.
    pub(super) fn turn(&self) -> Turn<'_> {
        let turns = self.0;
        let mut counts = turns
            .freed
            .wait_while(turns.counts(), |counts| counts.scans >= SCANS)
            .unwrap_or_else(PoisonError::into_inner);
        counts.scans += 1;
        Turn(turns)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.counts().scans -= 1;
        self.0.freed.notify_one();
    }
}

impl Drop for Query<'_> {
    fn drop(&mut self) {
        self.0.counts().queries -= 1;
    }
}
