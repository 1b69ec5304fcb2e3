//! How often a table is read while sockets come and go in it.
//!
//! A socket that goes may hide another in the same attempt (see [`Crowded`]). An attempt that shows just
//! what the one before it showed saw none go.
//!
//! [`Crowded`]: crate::process_open_sockets::socket_table::Crowded

use std::collections::HashSet;
use std::time::{Duration, Instant};

/// Always so often, if need be;
const FEW: u32 = 4;
/// at most so often,
const MANY: u32 = 16;
/// and that only for so long.
const WHILE: Duration = Duration::from_millis(100);

/// Attempts at one table. Of sockets that are all on one chain an attempt hides a tenth at the worst, and
/// the next one another tenth.
pub(super) struct Attempts {
    begun: Instant,
    count: u32,
    last: HashSet<u64>,
    current: HashSet<u64>,
}

impl Attempts {
    pub(super) fn begin() -> Attempts {
        let (last, current) = Default::default();
        Attempts { begun: Instant::now(), count: 0, last, current }
    }

    /// Whether there should be another attempt.
    pub(super) fn go_on(&mut self) -> bool {
        self.count += 1;
        self.count <= FEW || (self.count <= MANY && self.begun.elapsed() < WHILE)
    }

    /// Notes a socket that the attempt shows.
    pub(super) fn shows(&mut self, socket: u64) {
        self.current.insert(socket);
    }

    /// At the end of an attempt, whether it shows just what the one before did.
    pub(super) fn is_settled(&mut self) -> bool {
        let settled = self.current == self.last;
        self.last = std::mem::take(&mut self.current);
        settled
    }
}
