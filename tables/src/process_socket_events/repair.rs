//! Ends of connections that no record shows: the ring buffer was full, or the kernel has skipped the program, as it can under
//! preemption from Linux 7 on (`recursion_misses`).
//!
//! After such a loss, the TCP sockets of the host are listed twice. A socket that is in no list, but has not
//! ended by its records, has ended.

use std::collections::HashSet;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use super::background::{Background, Wake};
use super::event::Event;
use super::join::Join;
use crate::linux::clock::Clocks;
use crate::model::OpenTcpSockets;
use crate::model::tcp_event::SocketKey;

/// Lists the TCP sockets of the host; None if some could not be read.
pub(super) type ListSockets = Arc<dyn Fn() -> Option<OpenTcpSockets> + Send + Sync>;

/// The time before each list.
const INTERVAL: Duration = Duration::from_secs(10);
/// How often the sockets are listed. A dump can miss a socket that moves meanwhile.
const LISTS: u32 = 2;
/// How many lists may fail.
const FAILURES: u32 = 5;
/// The time from one repair to the next, in intervals: a list costs as much as a full scan.
const PAUSE: u32 = 30;

/// The lists that are still to be made, and their result.
pub(super) struct Repair {
    list: Option<ListSockets>,
    interval: Duration,
    /// The records that were lost when the last loss was noticed.
    lost: u64,
    /// How many lists are still to be made, and when the next one is.
    left: u32,
    next: Instant,
    failures: u32,
    /// The list that is being made, and the boot time when it began.
    running: Option<(u64, Background<Option<OpenTcpSockets>>)>,
    /// The sockets that the last list lacks.
    missing: HashSet<SocketKey>,
    repaired: u64,
}

impl Repair {
    /// Without `list`, nothing is repaired.
    pub(super) fn new(list: Option<ListSockets>) -> Repair {
        Repair {
            list,
            interval: INTERVAL,
            lost: 0,
            left: 0,
            next: Instant::now(),
            failures: 0,
            running: None,
            missing: HashSet::new(),
            repaired: 0,
        }
    }

    /// The number of ends that were found.
    pub(super) fn repaired(&self) -> u64 {
        self.repaired
    }

    /// Notes how many records were lost, and how many runs were skipped.
    pub(super) fn note_lost(&mut self, lost: u64) {
        if self.list.is_none() || lost <= self.lost {
            return;
        }
        // Another number is noticed after the repair that goes on.
        if self.left == 0 {
            self.lost = lost;
            self.next = self.next.max(Instant::now() + self.interval);
            (self.left, self.failures) = (LISTS, 0);
        }
    }

    /// The time until the next list; None: none is to be made, or one is being made.
    pub(super) fn until_next(&self) -> Option<Duration> {
        let is_waiting = self.left > 0 && self.running.is_none();
        is_waiting.then(|| self.next.saturating_duration_since(Instant::now()))
    }

    /// Begins the next list if it is time, or hands over the ends that the last one shows. `wake` is called when a list
    /// is there.
    pub(super) fn step(&mut self, join: &mut Join, wake: &Wake, each: &mut impl FnMut(Event)) {
        if let Some((began_ns, running)) = &self.running {
            let Poll::Ready(listed) = running.poll() else { return };
            let listed = listed.flatten();
            let began_ns = *began_ns;
            self.running = None;
            match listed {
                Some(listed) => {
                    self.left = self.left.saturating_sub(1);
                    self.compare(join, &listed, began_ns, each);
                }
                None => self.note_failure(),
            }
            let pause = if self.left == 0 { PAUSE } else { 1 };
            self.next = Instant::now() + pause * self.interval;
        } else if self.until_next().is_some_and(|left| left.is_zero()) {
            self.begin(wake);
        }
    }

    fn begin(&mut self, wake: &Wake) {
        let Some(list) = self.list.clone() else { return };
        let began_ns = Clocks::now().boot_ns;
        match Background::start("repair", Arc::clone(wake), move || list()) {
            Ok(running) => self.running = Some((began_ns, running)),
            Err(error) => {
                log::warn!(
                    "ends of connections that were lost stay unknown: cannot start a thread: {error}"
                );
                self.left = 0;
            }
        }
    }

    fn note_failure(&mut self) {
        self.failures += 1;
        if self.failures == FAILURES {
            log::warn!(
                "ends of connections that were lost stay unknown: the sockets of the host cannot all be listed"
            );
            self.left = 0;
            self.missing.clear();
        }
    }

    fn compare(
        &mut self,
        join: &mut Join,
        listed: &OpenTcpSockets,
        began_ns: u64,
        each: &mut impl FnMut(Event),
    ) {
        let missing: HashSet<SocketKey> = join.missing(listed, began_ns).collect();
        for key in missing.intersection(&self.missing) {
            if let Some(event) = join.end_missing(*key, began_ns) {
                self.repaired += 1;
                each(event);
            }
        }
        self.missing = if self.left == 0 { HashSet::new() } else { missing };
    }
}

#[cfg(test)]
mod tests;
