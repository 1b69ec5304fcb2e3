//! The thread that drains the ring buffer.

use std::io;
use std::sync::Arc;
use std::task::Poll;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::background::Background;
use super::closed_sockets::ClosedSockets;
use super::event::{Event, TextBytes};
use super::feed::{Feed, Opened};
use super::join::{Join, MAX_SOCKETS};
use super::repair::Repair;
use super::settings::Settings;
use super::shared::{CountingRequest, Counts, End, Shared};
use crate::linux::clock::Clocks;
use crate::model::tcp_event::{EventRecord, UsedSlot};

/// So many events are stored at once: a query waits for no longer.
const BATCH: usize = 512;
/// After records, the thread looks for further ones without being woken: command lines must be read in time.
const ACTIVE_INTERVAL: Duration = Duration::from_secs(1);
/// The longest wait.
const MAX_WAIT: Duration = Duration::from_secs(86_400);

/// A running thread.
pub(super) struct Drain {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
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
        let programs = feed.programs();
        let shared = Shared::new(settings, wake, programs, last_id, Arc::clone(&text_bytes));
        let shared = Arc::new(shared);
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

/// The thread.
struct Worker {
    feed: Box<dyn Feed>,
    join: Join,
    repair: Repair,
    /// A sweep of the flows of datagrams: the slots with which it began, while another thread finds which of their sockets
    /// were closed.
    sweep: Option<(Vec<UsedSlot>, Background<ClosedSockets>)>,
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
        let Some(slots) = feed.slots() else { return };
        let Some((in_use, closed)) = sweep.take() else {
            if flows.until_sweep().is_some_and(|left| left.is_zero())
                && let Some(sockets) = feed.used_sockets()
                && let Some(in_use) = flows.begin_sweep(slots)
            {
                let cookies = in_use.iter().map(|used| used.cookie).collect();
                let closed = ClosedSockets::find(sockets, cookies, &shared.wake);
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
        flows.sweep(slots, &in_use, closed, Clocks::now(), &mut |event| {
            batch.push(event);
            if batch.len() >= BATCH {
                shared.store(batch);
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
                shared.store(batch);
            }
        })
    }

    fn store_batch(&mut self) {
        self.shared.store(&mut self.batch);
    }

    /// Drops what is too old or too much, and publishes the counts.
    fn tidy(&mut self) {
        self.shared.texts().read_soon(self.join.processes().take_unread());
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
