//! Repeats a read of a socket table while sockets are opened and closed in it.
//!
//! A socket that is closed can hide another one from the same attempt (see [`SharedChains`]). If two
//! consecutive attempts show the same sockets, none was closed during the second one.
//!
//! [`SharedChains`]: crate::model::socket_table::SharedChains

use std::collections::HashSet;
use std::time::{Duration, Instant};

use crate::deadline::Deadline;

/// The maximum number of attempts while the answer changes, and the time for them after the first.
const ATTEMPTS: [(u32, Duration); 3] =
    [(4, Duration::MAX), (8, Duration::from_secs(2)), (16, Duration::from_millis(100))];

/// Attempts to read one table. In the worst case, with all sockets on one chain, an attempt hides a tenth of
/// them, and the next one another tenth: eight attempts hide one in a hundred million.
pub(crate) struct DumpRetry<'a> {
    start: Instant,
    deadline: Deadline<'a>,
    attempts: u32,
    last: HashSet<u64>,
    current: HashSet<u64>,
}

impl<'a> DumpRetry<'a> {
    pub(crate) fn new(deadline: Deadline<'a>) -> DumpRetry<'a> {
        let (last, current) = Default::default();
        DumpRetry { start: Instant::now(), deadline, attempts: 0, last, current }
    }

    /// Starts another attempt; returns false if there are enough.
    pub(crate) fn next_attempt(&mut self) -> bool {
        self.attempts += 1;
        let elapsed = self.start.elapsed();
        let is_in_budget =
            ATTEMPTS.iter().any(|(most, time)| self.attempts <= *most && elapsed < *time);
        self.attempts == 1 || (is_in_budget && !self.deadline.has_passed())
    }

    /// Adds a socket of the current attempt.
    pub(crate) fn add(&mut self, socket: u64) {
        self.current.insert(socket);
    }

    /// Ends the attempt; returns whether it showed the same sockets as the one before.
    pub(crate) fn end_attempt(&mut self) -> bool {
        let is_settled = self.current == self.last;
        self.last = std::mem::take(&mut self.current);
        is_settled
    }
}
