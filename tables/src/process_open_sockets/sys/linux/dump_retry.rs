//! How often a table is read while sockets come and go in it.
//!
//! A socket that goes may hide another in the same attempt (see [`Crowded`]). An attempt that shows the
//! same sockets as the one before it saw none go.
//!
//! [`Crowded`]: crate::process_open_sockets::socket_table::Crowded

use std::collections::HashSet;
use std::time::{Duration, Instant};

use super::deadline::Deadline;

/// So many attempts are made in any case if the answer keeps changing,
const MIN_ATTEMPTS: u32 = 8;
/// at most so many,
const MAX_ATTEMPTS: u32 = 16;
/// and those beyond the minimum only for so long.
const BUDGET: Duration = Duration::from_millis(100);

/// Attempts at one table. Of sockets that are all on one chain an attempt hides a tenth at the worst, and
/// the next one another tenth: the minimum hides one in a hundred million.
pub(super) struct DumpRetry {
    start: Instant,
    deadline: Deadline,
    attempts: u32,
    last: HashSet<u64>,
    current: HashSet<u64>,
}

impl DumpRetry {
    pub(super) fn new(deadline: Deadline) -> DumpRetry {
        let (last, current) = Default::default();
        DumpRetry { start: Instant::now(), deadline, attempts: 0, last, current }
    }

    /// Starts another attempt; false if there should be none.
    pub(super) fn next_attempt(&mut self) -> bool {
        self.attempts += 1;
        let is_in_budget = self.attempts <= MIN_ATTEMPTS
            || (self.attempts <= MAX_ATTEMPTS && self.start.elapsed() < BUDGET);
        self.attempts == 1 || (is_in_budget && !self.deadline.has_passed())
    }

    /// Adds a socket that the attempt shows.
    pub(super) fn add(&mut self, socket: u64) {
        self.current.insert(socket);
    }

    /// Ends an attempt; returns whether it showed the same sockets as the one before.
    pub(super) fn end_attempt(&mut self) -> bool {
        let is_settled = self.current == self.last;
        self.last = std::mem::take(&mut self.current);
        is_settled
    }
}
