//! What the thread that drains shares with queries.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::background::Wake;
use super::closed_sockets::UsedSockets;
use super::datagram_flows::LostFlows;
use super::event::{Event, TextBytes};
use super::feed::Program;
use super::settings::Settings;
use super::store::{Limits, Store};
use super::texts::Texts;
use crate::linux::clock::Clocks;
use crate::model::tcp_event::Losses;

/// The maximum bytes of texts.
const TEXT_BYTES: usize = 12 << 20;

/// Selects events of the store.
pub(super) type Select<'a> = &'a dyn Fn(&Store) -> Vec<Arc<Event>>;

/// What the thread shares with queries.
pub(super) struct Shared {
    stored: Mutex<Stored>,
    sync: Mutex<SyncState>,
    /// Notified when the thread has drained, and when it ends.
    pub(super) drained: Condvar,
    counts: Mutex<Counts>,
    /// None: datagrams are not counted.
    used: Mutex<Option<Arc<dyn UsedSockets>>>,
    pub(super) wake: Wake,
    texts: Arc<Texts>,
    /// UNIX time of the start.
    pub(super) since: i64,
    pub(super) first_id: u64,
}

/// The events.
pub(super) struct Stored {
    pub(super) store: Store,
    /// The boot time of the last answer: later events get no earlier time.
    answered_ns: u64,
}

/// Which requests to drain are done.
pub(super) struct SyncState {
    pub(super) requested: u64,
    pub(super) done: u64,
    pub(super) last_query: Instant,
    pub(super) counting: CountingRequest,
    pub(super) is_over: bool,
    pub(super) has_ended: bool,
}

/// A query of flows lets the thread load the counting programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CountingRequest {
    NotMade,
    Made,
    Loading,
    /// The programs run, or cannot.
    Done,
}

/// Numbers for the statistics.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts {
    pub(super) losses: Losses,
    /// Ends of connections that no record shows, and that were found.
    pub(super) repaired: u64,
    /// Changes of states, and first datagrams of sockets and of flows, that were read.
    pub(super) captured: u64,
    pub(super) kernel_bytes: u64,
    pub(super) sockets: usize,
    pub(super) socket_bytes: usize,
    pub(super) evicted_sockets: u64,
    pub(super) evicted_executables: u64,
    pub(super) programs: Vec<Program>,
    /// Flows of datagrams that have not ended; None: datagrams are not counted.
    pub(super) flows: Option<usize>,
    pub(super) flow_bytes: usize,
    pub(super) lost_flows: LostFlows,
    /// Why the thread ended.
    pub(super) failure: Option<String>,
}

impl Shared {
    /// Nothing is stored. The ids of events are greater than `last_id`.
    pub(super) fn new(
        settings: &Settings,
        wake: Wake,
        programs: Vec<Program>,
        last_id: u64,
        text_bytes: TextBytes,
    ) -> Shared {
        let limits = Limits {
            events: settings.max,
            age_ns: u64::try_from(settings.expiry.as_nanos()).unwrap_or(u64::MAX),
            text_bytes: TEXT_BYTES,
        };
        let clocks = Clocks::now();
        let since = clocks.unix_seconds(clocks.boot_ns);
        // Ids grow over restarts, unless the clock is set back.
        let first_id = (u64::try_from(since).unwrap_or_default() << 24).max(last_id + 1);
        let store = Store::new(limits, first_id, text_bytes);
        let counting =
            if settings.counts_at_once { CountingRequest::Made } else { CountingRequest::NotMade };
        Shared {
            stored: Mutex::new(Stored { store, answered_ns: 0 }),
            sync: Mutex::new(SyncState {
                requested: 0,
                done: 0,
                last_query: Instant::now(),
                counting,
                is_over: false,
                has_ended: false,
            }),
            drained: Condvar::new(),
            used: Mutex::default(),
            counts: Mutex::new(Counts { programs, ..Counts::default() }),
            wake,
            texts: Texts::new(settings.procfs.clone()),
            since,
            first_id,
        }
    }

    pub(super) fn stored(&self) -> MutexGuard<'_, Stored> {
        self.stored.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn sync_state(&self) -> MutexGuard<'_, SyncState> {
        self.sync.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn lock_counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn lock_used(&self) -> MutexGuard<'_, Option<Arc<dyn UsedSockets>>> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The sockets whose datagrams are counted; None: they are not counted.
    pub(super) fn used_sockets(&self) -> Option<Arc<dyn UsedSockets>> {
        self.lock_used().clone()
    }

    pub(super) fn counts(&self) -> Counts {
        self.lock_counts().clone()
    }

    pub(super) fn texts(&self) -> &Arc<Texts> {
        &self.texts
    }

    pub(super) fn last_id(&self) -> u64 {
        self.stored().store.last_id()
    }

    pub(super) fn is_running(&self) -> bool {
        !self.sync_state().has_ended
    }

    /// Notes a query; false if the thread has ended.
    pub(super) fn begin_query(&self) -> bool {
        let mut sync = self.sync_state();
        sync.last_query = Instant::now();
        !sync.has_ended
    }

    /// Lets the collection count datagrams, for flows.
    pub(super) fn want_flows(&self) {
        {
            let mut sync = self.sync_state();
            if sync.counting != CountingRequest::NotMade {
                return;
            }
            sync.counting = CountingRequest::Made;
        }
        (self.wake)();
    }

    /// Waits until the records that were made before the call are read; not longer than that time.
    pub(super) fn sync(&self, timeout: Duration) {
        self.sync_until(timeout, |_| true);
    }

    /// The same, and until the counting that is wanted has begun.
    pub(super) fn sync_counting(&self, timeout: Duration) {
        use CountingRequest::{Done, NotMade};
        self.sync_until(timeout, |sync| matches!(sync.counting, NotMade | Done));
    }

    fn sync_until(&self, timeout: Duration, is_ready: impl Fn(&SyncState) -> bool) {
        let request = {
            let mut sync = self.sync_state();
            if sync.has_ended {
                return;
            }
            sync.requested += 1;
            sync.requested
        };
        (self.wake)();
        let is_pending =
            |sync: &mut SyncState| (sync.done < request || !is_ready(sync)) && !sync.has_ended;
        drop(self.drained.wait_timeout_while(self.sync_state(), timeout, is_pending));
    }

    /// The events that `select` returns.
    pub(super) fn select(&self, select: Select<'_>) -> Vec<Arc<Event>> {
        let mut stored = self.stored();
        let now = Clocks::now().boot_ns;
        stored.store.expire(now);
        stored.answered_ns = now;
        select(&stored.store)
    }

    /// Notes an answer without events.
    pub(super) fn answer_nothing(&self) {
        self.stored().answered_ns = Clocks::now().boot_ns;
    }

    /// Reads the store without making an answer.
    pub(super) fn inspect<T>(&self, read: impl FnOnce(&Store) -> T) -> T {
        read(&self.stored().store)
    }

    /// Stores the events.
    pub(super) fn store(&self, batch: &mut Vec<Event>) {
        if batch.is_empty() {
            return;
        }
        let clocks = Clocks::now();
        let mut stored = self.stored();
        let Stored { store, answered_ns } = &mut *stored;
        for mut event in batch.drain(..) {
            event.clock_offset_ns = clocks.offset_ns();
            // A query that selects later times than the last one must find the event.
            let time = clocks.unix_seconds(event.boot_ns.max(*answered_ns));
            store.add(event, time);
        }
    }

    /// Frees the events and marks the end of the thread, so that a query after the end finds none.
    pub(super) fn end(&self, mut sync: MutexGuard<'_, SyncState>) {
        self.stored().store.clear();
        sync.has_ended = true;
    }
}

/// Marks the end of the thread, however it ends.
pub(super) struct End(pub(super) Arc<Shared>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.end(self.0.sync_state());
        self.0.drained.notify_all();
        self.0.texts.end();
        *self.0.lock_used() = None;
    }
}
