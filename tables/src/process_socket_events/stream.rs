//! Events as they happen, for the command line.

use std::cell::Cell;
use std::time::Duration;

use super::ProcessSocketEvents;
use super::answer::Answer;
use super::collection::Status;
use super::texts;
use crate::{Explanation, Options, Rows};

/// How long one call waits for the drain.
const SYNC_TIMEOUT: Duration = Duration::from_secs(1);
/// How long one call waits for texts of processes.
const TEXT_TIMEOUT: Duration = Duration::from_millis(20);

/// The events since the start, each once.
pub struct EventStream {
    table: ProcessSocketEvents,
    /// The id of the last event that was added before the last call.
    last: u64,
    evicted: u64,
}

/// What a stream has lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// Changes of states, and first sends, for which the ring buffer had no room.
    pub ring_buffer: u64,
    /// Runs of the program that the kernel skipped: at most that many changes.
    pub skipped: u64,
    /// Events that were evicted before the caller read them.
    pub evicted: u64,
}

impl EventStream {
    /// Starts the collection.
    ///
    /// # Errors
    /// If it cannot start, with a message.
    pub fn start(options: &Options) -> Result<EventStream, String> {
        let table = ProcessSocketEvents::new(options);
        table.collection.start_now()?;
        let last = table.collection.first_id().saturating_sub(1);
        Ok(EventStream { table, last, evicted: 0 })
    }

    /// The table that the rows are of.
    pub fn table(&self) -> &ProcessSocketEvents {
        &self.table
    }

    /// The events that happened since the last call.
    ///
    /// # Errors
    /// If the collection has ended, with the reason.
    pub fn next_rows(&mut self) -> Result<Box<dyn Rows>, String> {
        let shared = match self.table.collection.status() {
            Status::Runs(shared) => shared,
            Status::Ended(shared) => {
                return Err(shared.counts().failure.unwrap_or_else(|| "it was stopped".to_owned()));
            }
            Status::Idle(reason) => return Err(reason),
        };
        shared.texts().wait(TEXT_TIMEOUT);
        let (last, newest) = (self.last, Cell::new(self.last));
        let events = shared.select(&|store| {
            newest.set(store.last_id());
            store.after(last)
        });
        // Ids are consecutive.
        let added = newest.get().saturating_sub(last);
        self.evicted += added.saturating_sub(events.len() as u64);
        self.last = newest.get();
        let events: Vec<_> = events.into_iter().filter(|event| super::is_shown(event)).collect();
        texts::find_cgroups(&self.table.collection.settings().procfs, &events);
        Ok(Box::new(Answer::new(events, super::cells(), Explanation::default())))
    }

    /// What was lost since the start. Events that were dropped after they were read do not count.
    pub fn losses(&self) -> Losses {
        let (Status::Runs(shared) | Status::Ended(shared)) = self.table.collection.status() else {
            return Losses::default();
        };
        shared.sync(SYNC_TIMEOUT);
        let losses = shared.counts().losses;
        let ring_buffer = losses.ring_events + losses.ring_datagrams;
        Losses { ring_buffer, skipped: losses.skipped, evicted: self.evicted }
    }
}
