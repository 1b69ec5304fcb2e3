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
pub struct Turns {
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
pub(super) struct Query<'a>(&'a Turns);

/// A query's turn, until it is dropped.
pub(super) struct Turn<'a>(&'a Turns, Kind);

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
    /// Waits for a turn to collect the answer.
    pub(super) fn turn(&self, kind: Kind) -> Turn<'_> {
        let turns = self.0;
        let mut counts = turns
            .freed
            .wait_while(turns.counts(), |counts| *counts.of(kind) >= SCANS)
            .unwrap_or_else(PoisonError::into_inner);
        *counts.of(kind) += 1;
        Turn(turns, kind)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.0.counts().of(self.1) -= 1;
        // Those that wait may be of another kind.
        self.0.freed.notify_all();
    }
}

impl Drop for Query<'_> {
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
        let turns = Turns::default();
        let queries: Vec<Query> = (0..=SCANS).map(|_| turns.enter().unwrap()).collect();
        let scans: Vec<Turn> = queries.iter().skip(1).map(|it| it.turn(Kind::Scan)).collect();
        drop(queries[0].turn(Kind::Lookup));
        assert_eq!(turns.counts().scans, SCANS);
        drop(scans);
        assert_eq!(turns.counts().scans, 0);
    }
}
