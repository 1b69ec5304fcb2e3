//! How many scans run at once, and how many may wait.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// The most scans at a time: one for each of two busy readers, and no third to slow them down.
pub const SCANS: usize = 2;
/// The most queries at a time, running or waiting for their turn.
pub const QUERIES: usize = 32;

/// Who scans and who waits.
#[derive(Default)]
pub(super) struct Turns {
    counts: Mutex<Counts>,
    freed: Condvar,
}

#[derive(Default)]
struct Counts {
    queries: usize,
    scans: usize,
}

/// A query's turn, until it is dropped.
pub(super) struct Turn<'a>(&'a Turns);

impl Turns {
    /// Waits for a turn.
    ///
    /// # Errors
    /// At once, with a message for the client, when too many wait already.
    pub(super) fn take(&self) -> Result<Turn<'_>, String> {
        let mut counts = self.counts();
        if counts.queries >= QUERIES {
            return Err(format!("{QUERIES} queries of this table wait already: try again later"));
        }
        counts.queries += 1;
        let mut counts = self
            .freed
            .wait_while(counts, |counts| counts.scans >= SCANS)
            .unwrap_or_else(PoisonError::into_inner);
        counts.scans += 1;
        Ok(Turn(self))
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut counts = self.0.counts();
        counts.scans -= 1;
        counts.queries -= 1;
        drop(counts);
        self.0.freed.notify_one();
    }
}
