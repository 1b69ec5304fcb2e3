//! The thread that drains the ring buffer, and what it shares with queries.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::background::{Background, Wake};
use super::closed_sockets::{ClosedSockets, UsedSockets};
use super::datagram_flows::{InUse, LostFlows};
use super::event::{Event, TextBytes};
use super::join::{Join, MAX_SOCKETS};
use super::repair::{ListSockets, Repair};
use super::settings::Settings;
use super::store::{Limits, Store};
use super::texts::Texts;
use crate::linux::clock::Clocks;
use crate::model::DatagramSlots;
use crate::model::tcp_event::{EventRecord, Losses, OpenSocket};

/// A source of records: the kernel, or a test.
pub(super) trait Feed: Send {
    /// Waits until there is much to read, the wait is ended or the timeout has passed; then hands over every record.
    fn drain(&mut self, timeout: Duration, each: &mut dyn FnMut(EventRecord))
    -> Result<(), String>;
    /// What was lost since the start.
    fn losses(&self) -> Losses;
    /// The memory in the kernel, in bytes.
    fn memory(&self) -> u64;
    /// The programs, and why some do not run.
    fn programs(&self) -> Vec<Program>;
    /// Begins to load the counting programs, unless the settings or the kernel forbid it. At its end, the waker is used.
    fn begin_counting(&mut self);
    /// Takes over the programs that were loaded; false while they are being loaded.
    fn has_loaded_counting(&mut self) -> bool;
    /// The slots that count datagrams, if they are counted.
    fn slots(&self) -> Option<&dyn DatagramSlots>;
    /// The sockets whose datagrams are counted, if they are.
    fn used_sockets(&self) -> Option<Arc<dyn UsedSockets>>;
}

/// A program, and why it does not run, if so.
pub(super) type Program = (&'static str, Result<(), String>);

/// An open source of records.
pub(super) struct Opened {
    pub(super) feed: Box<dyn Feed>,
    /// Ends a wait in [`Feed::drain`].
    pub(super) wake: Wake,
    /// The sockets that are open already.
    pub(super) open_sockets: Vec<OpenSocket>,
    /// Lists the sockets of the host, if records are lost.
    pub(super) list_sockets: Option<ListSockets>,
}

/// The maximum bytes of texts.
const TEXT_BYTES: usize = 12 << 20;
/// So many events are stored at once: a query waits for no longer.
const BATCH: usize = 512;
/// After records, the thread looks for further ones without being woken: command lines must be read in time.
const ACTIVE_INTERVAL: Duration = Duration::from_secs(1);
/// The longest wait.
const MAX_WAIT: Duration = Duration::from_secs(86_400);

/// Selects events of the store.
pub(super) type Select<'a> = &'a dyn Fn(&Store) -> Vec<Arc<Event>>;

/// A running thread.
pub(super) struct Drain {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

/// What the thread shares with queries.
pub(super) struct Shared {
    stored: Mutex<Stored>,
    sync: Mutex<SyncState>,
    /// Notified when the thread has drained, and when it ends.
    drained: Condvar,
    counts: Mutex<Counts>,
    /// None: datagrams are not counted.
    used: Mutex<Option<Arc<dyn UsedSockets>>>,
    wake: Wake,
    texts: Arc<Texts>,
    /// UNIX time of the start.
    pub(super) since: i64,
    pub(super) first_id: u64,
}

struct Stored {
    store: Store,
    /// The boot time of the last answer: later events get no earlier time.
    answered_ns: u64,
}

/// Which requests to drain are done.
struct SyncState {
    requested: u64,
    done: u64,
    last_query: Instant,
    counting: CountingRequest,
    is_over: bool,
    has_ended: bool,
}

/// A query of flows lets the thread load the counting programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CountingRequest {
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

impl Drain {
    /// Starts the thread. With `idle` it ends after that time without a query.
    pub(super) fn start(
        opened: Opened,
        settings: &Settings,
        idle: Option<Duration>,
        last_id: u64,
    ) -> io::Result<Drain> {
        let Opened { feed, wake, open_sockets, list_sockets } = opened;
        let text_bytes = TextBytes::default();
        let limits = Limits {
            events: settings.max,
            age_ns: u64::try_from(settings.expiry.as_nanos()).unwrap_or(u64::MAX),
            text_bytes: TEXT_BYTES,
        };
        let clocks = Clocks::now();
        let since = clocks.unix_seconds(clocks.boot_ns);
        // Ids grow over restarts, unless the clock is set back.
        let first_id = (u64::try_from(since).unwrap_or_default() << 24).max(last_id + 1);
        let store = Store::new(limits, first_id, Arc::clone(&text_bytes));
        let shared = Arc::new(Shared {
            stored: Mutex::new(Stored { store, answered_ns: 0 }),
            sync: Mutex::new(SyncState {
                requested: 0,
                done: 0,
                last_query: Instant::now(),
                counting: if settings.counts_at_once {
                    CountingRequest::Made
                } else {
                    CountingRequest::NotMade
                },
                is_over: false,
                has_ended: false,
            }),
            drained: Condvar::new(),
            used: Mutex::default(),
            counts: Mutex::new(Counts { programs: feed.programs(), ..Counts::default() }),
            wake,
            texts: Texts::new(settings.procfs.clone()),
            since,
            first_id,
        });
        let mut join = Join::new(MAX_SOCKETS, text_bytes);
        for open in &open_sockets {
            join.add_open(open);
        }
        let worker = Worker {
            feed,
            join,
            repair: Repair::new(list_sockets),
            sweep: None,
            shared: Arc::clone(&shared),
            batch: Vec::new(),
            captured: 0,
        };
        let thread =
            thread::Builder::new().name("events".into()).spawn(move || worker.run(idle))?;
        Ok(Drain { shared, thread })
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Ends the thread, and waits for its end.
    pub(super) fn stop(self) {
        self.shared.sync_state().is_over = true;
        (self.shared.wake)();
        let _ = self.thread.join();
    }
}

impl Shared {
    fn stored(&self) -> MutexGuard<'_, Stored> {
        self.stored.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sync_state(&self) -> MutexGuard<'_, SyncState> {
        self.sync.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_used(&self) -> MutexGuard<'_, Option<Arc<dyn UsedSockets>>> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The sockets whose datagrams are counted; None: they are not counted.
    pub(super) fn used_sockets(&self) -> Option<Arc<dyn UsedSockets>> {
        self.lock_used().clone()
    }

    pub(super) fn counts(&self) -> Counts {
        self.lock_counts().clone()
    }

    pub(super) fn texts(&self) -> &Texts {
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

    /// Frees the events and marks the end of the thread, so that a query after the end finds none.
    fn end(&self, mut sync: MutexGuard<'_, SyncState>) {
        self.stored().store.clear();
        sync.has_ended = true;
    }
}

/// Marks the end of the thread, however it ends.
struct End(Arc<Shared>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.end(self.0.sync_state());
        self.0.drained.notify_all();
        self.0.texts.end();
        *self.0.lock_used() = None;
    }
}

/// The thread.
struct Worker {
    feed: Box<dyn Feed>,
    join: Join,
    repair: Repair,
    /// A sweep of the flows of datagrams, while another thread finds the sockets that were closed.
    sweep: Option<(InUse, Background<ClosedSockets>)>,
    shared: Arc<Shared>,
    batch: Vec<Event>,
    captured: u64,
}

impl Worker {
    fn run(mut self, idle: Option<Duration>) {
        let _end = End(Arc::clone(&self.shared));
        let mut is_active = true;
        while let Some((request, timeout)) = self.next_wait(idle, is_active) {
            let before = self.captured;
            let outcome = self.drain(timeout).and_then(|()| {
                let now = Clocks::now().boot_ns;
                // What happened until `now` is in the ring buffer.
                self.drain(Duration::ZERO)?;
                self.join.expire(now, &mut |event| self.batch.push(event));
                Ok(())
            });
            // After the last drain, which resets the waker.
            self.repair();
            self.sweep_if_due();
            is_active = self.captured > before;
            self.store_batch();
            self.finish_counting();
            self.tidy();
            if let Err(error) = outcome {
                log::error!("the collection of socket events ends: {error}");
                self.shared.lock_counts().failure = Some(error);
                break;
            }
            self.shared.sync_state().done = request;
            self.shared.drained.notify_all();
        }
    }

    /// Finds ends of connections that no record shows.
    fn repair(&mut self) {
        let Worker { repair, join, shared, batch, .. } = self;
        repair.step(join, &shared.wake, &mut |event| batch.push(event));
    }

    fn finish_counting(&mut self) {
        if self.shared.sync_state().counting == CountingRequest::Loading
            && self.feed.has_loaded_counting()
        {
            self.shared.lock_counts().programs = self.feed.programs();
            *self.shared.lock_used() = self.feed.used_sockets();
            self.shared.sync_state().counting = CountingRequest::Done;
        }
    }

    /// Ends flows of datagrams from time to time.
    fn sweep_if_due(&mut self) {
        let Worker { feed, join, sweep, batch, shared, .. } = self;
        let flows = join.flows();
        let (Some(slots), Some(sockets)) = (feed.slots(), feed.used_sockets()) else { return };
        let Some((in_use, closed)) = sweep.take() else {
            if flows.until_sweep().is_some_and(|left| left.is_zero())
                && let Some(in_use) = flows.begin_sweep(slots, Clocks::now().boot_ns)
            {
                let closed = ClosedSockets::find(sockets, in_use.cookies(), &shared.wake);
                *sweep = Some((in_use, closed));
            }
            return;
        };
        let Poll::Ready(found) = closed.poll() else {
            *sweep = Some((in_use, closed));
            return;
        };
        let closed = found.unwrap_or_else(|| ClosedSockets::unknown("a thread has ended".into()));
        // The records of the slots in use were read meanwhile: the thread drains between two calls.
        flows.sweep(slots, in_use, closed, Clocks::now(), &mut |event| {
            batch.push(event);
            if batch.len() >= BATCH {
                store(shared, batch);
            }
        });
    }

    /// The longest wait, if nothing was read: until the next sweep, or until a process takes the first slot.
    fn quiet_wait(&mut self) -> Duration {
        let Some(slots) = self.feed.slots().filter(|_| self.sweep.is_none()) else {
            return MAX_WAIT;
        };
        if let Some(left) = self.join.flows().until_sweep() {
            return left;
        }
        slots.set_asleep();
        // Slots that were taken before: their records did not wake this thread.
        let used = slots.used();
        if used.is_empty() {
            return MAX_WAIT;
        }
        self.join.flows().note_used(&used);
        Duration::ZERO
    }

    /// The requests that the next drain fulfils, and how long it may wait; None at the end.
    fn next_wait(&mut self, idle: Option<Duration>, is_active: bool) -> Option<(u64, Duration)> {
        let quiet = if is_active { ACTIVE_INTERVAL } else { self.quiet_wait() };
        let quiet = self.repair.until_next().map_or(quiet, |left| quiet.min(left));
        let mut sync = self.shared.sync_state();
        if sync.is_over {
            return None;
        }
        let mut wait = quiet;
        if let Some(idle) = idle {
            let rest = idle.saturating_sub(sync.last_query.elapsed());
            if rest.is_zero() && sync.requested == sync.done {
                self.shared.end(sync);
                log::warn!(
                    "the collection of socket events ends: no query read an event table for {} s (--events-idle)",
                    idle.as_secs()
                );
                return None;
            }
            wait = wait.min(rest);
        }
        if sync.requested > sync.done {
            wait = Duration::ZERO;
        }
        if sync.counting == CountingRequest::Made {
            sync.counting = CountingRequest::Loading;
            drop(sync);
            self.feed.begin_counting();
            // At once, if nothing is to be loaded.
            self.finish_counting();
            sync = self.shared.sync_state();
            wait = Duration::ZERO;
        }
        Some((sync.requested, wait))
    }

    fn drain(&mut self, timeout: Duration) -> Result<(), String> {
        let Worker { feed, join, shared, batch, captured, .. } = self;
        feed.drain(timeout, &mut |record| {
            *captured += u64::from(!matches!(record, EventRecord::Executable(_)));
            join.apply(record, &mut |event| batch.push(event));
            if batch.len() >= BATCH {
                store(shared, batch);
            }
        })
    }

    fn store_batch(&mut self) {
        store(&self.shared, &mut self.batch);
    }

    /// Drops what is too old or too much, and publishes the counts.
    fn tidy(&mut self) {
        self.shared.texts.read_soon(self.join.processes().take_unread());
        {
            let mut stored = self.shared.stored();
            stored.store.expire(Clocks::now().boot_ns);
            if stored.store.has_too_many_texts() {
                self.join.processes().shrink();
                stored.store.shrink();
            }
        }
        let losses = self.feed.losses();
        self.repair.note_lost(losses.skipped_states + losses.ring_events);
        let mut counts = self.shared.lock_counts();
        *counts = Counts {
            losses,
            repaired: self.repair.repaired(),
            captured: self.captured,
            kernel_bytes: self.feed.memory(),
            sockets: self.join.len(),
            socket_bytes: self.join.bytes(),
            evicted_sockets: self.join.evicted(),
            evicted_executables: self.join.evicted_executables(),
            programs: std::mem::take(&mut counts.programs),
            flows: self.feed.slots().map(|_| self.join.flows().len()),
            flow_bytes: self.join.flows().bytes(),
            lost_flows: self.join.flows().lost(),
            failure: None,
        };
    }
}

fn store(shared: &Shared, batch: &mut Vec<Event>) {
    if batch.is_empty() {
        return;
    }
    let clocks = Clocks::now();
    let mut stored = shared.stored();
    let Stored { store, answered_ns } = &mut *stored;
    for mut event in batch.drain(..) {
        event.clock_offset_ns = clocks.offset_ns();
        // A query that selects later times than the last one must find the event.
        let time = clocks.unix_seconds(event.boot_ns.max(*answered_ns));
        store.add(event, time);
    }
}
