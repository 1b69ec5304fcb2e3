//! The collection of events: when it runs, and what a query of it sees.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::closed_sockets::UsedSockets;
use super::drain::Drain;
use super::event::Event;
use super::feed::Opened;
use super::settings::Settings;
use super::shared::{Select, Shared};
use super::texts;
use crate::Error;
use crate::model::{DatagramBytes, DatagramCounter};
use crate::options::EventMode;

/// How long a query waits for the records that were made before it.
const SYNC_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a query waits for texts of processes.
const TEXT_TIMEOUT: Duration = Duration::from_millis(50);
/// The time between two attempts to start, if the first one failed.
const RETRY: Duration = Duration::from_secs(60);

/// Opens the kernel's source of records.
pub(super) type Open = Box<dyn Fn() -> Result<Opened, String> + Send + Sync>;

/// The collection that the event tables share.
pub(super) struct Collection {
    settings: Settings,
    open: Open,
    state: Mutex<State>,
    is_logged: AtomicBool,
}

#[derive(Default)]
struct State {
    drain: Option<Drain>,
    /// The last failure to start, and when it was.
    failure: Option<(String, Instant)>,
    /// The id of the last event of an earlier collection.
    last_id: u64,
}

/// What the collection does.
pub(super) enum Status {
    Runs(Arc<Shared>),
    /// It ended after some time without a query.
    Ended(Arc<Shared>),
    /// It did not start yet, or cannot.
    Idle(String),
}

impl Collection {
    pub(super) fn new(settings: Settings, open: Open) -> Collection {
        Collection { settings, open, state: Mutex::default(), is_logged: AtomicBool::new(false) }
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts at the start of the extension, if the user wants that.
    pub(super) fn start_at_once(&self) {
        if self.settings.mode == EventMode::On && self.settings.forbidden.is_none() {
            let mut state = self.state();
            if let Err(error) = self.start(&mut state) {
                log::error!("{error}");
            }
        }
    }

    /// Starts the collection for the subcommand `events`.
    pub(super) fn start_now(&self) -> Result<(), String> {
        if let Some(reason) = self.settings.forbidden {
            return Err(reason.to_owned());
        }
        self.start(&mut self.state())
    }

    /// The id of the first event of the running collection.
    pub(super) fn first_id(&self) -> u64 {
        self.state().drain.as_ref().map_or(0, |drain| drain.shared().first_id)
    }

    fn start(&self, state: &mut State) -> Result<(), String> {
        let idle = (self.settings.mode == EventMode::OnDemand).then_some(self.settings.idle);
        let started = (self.open)().and_then(|opened| {
            Drain::start(opened, &self.settings, idle, state.last_id)
                .map_err(|source| Error::Thread { source }.to_string())
        });
        match started {
            Ok(drain) => {
                state.drain = Some(drain);
                state.failure = None;
                Ok(())
            }
            Err(error) => {
                let message = format!("socket events cannot be collected: {error}");
                state.failure = Some((error, Instant::now()));
                Err(message)
            }
        }
    }

    /// Ends the collection.
    pub(super) fn stop(&self) {
        let drain = self.state().drain.take();
        if let Some(drain) = drain {
            drain.stop();
        }
    }

    /// The running collection, with all that happened before the call. None if it does not run: the query then has
    /// no rows.
    fn for_query(&self, reads_flows: bool) -> Option<Arc<Shared>> {
        if let Some(reason) = self.settings.forbidden {
            self.log_once(reason);
            return None;
        }
        let running = self.running_or_start(reads_flows)?;
        if reads_flows {
            running.want_flows();
            running.sync_counting(SYNC_TIMEOUT);
        } else {
            running.sync(SYNC_TIMEOUT);
        }
        Some(running)
    }

    fn running_or_start(&self, reads_flows: bool) -> Option<Arc<Shared>> {
        let mut state = self.state();
        if let Some(drain) = &state.drain {
            if drain.shared().begin_query() {
                return Some(Arc::clone(drain.shared()));
            }
            state.last_id = drain.shared().last_id();
        }
        if state.failure.as_ref().is_some_and(|(_, at)| at.elapsed() < RETRY) {
            return None;
        }
        match self.start(&mut state) {
            Ok(()) => {
                if let Some(drain) = &state.drain {
                    if reads_flows {
                        drain.shared().want_flows();
                    }
                    drain.shared().answer_nothing();
                }
                log::warn!(
                    "the collection of socket events starts with this query, which has no rows; it ends {} s \
                     after the last query (--events-idle); --events on starts it with the extension",
                    self.settings.idle.as_secs()
                );
            }
            Err(error) => log::warn!("{error}"),
        }
        None
    }

    fn log_once(&self, reason: &str) {
        if !self.is_logged.swap(true, Ordering::Relaxed) {
            log::warn!("socket events: {reason}");
        }
    }

    /// The events that `select` returns, of all that happened before the call.
    pub(super) fn query(&self, query: Query, select: Select<'_>) -> Vec<Arc<Event>> {
        let Some(running) = self.for_query(query.reads_flows) else { return Vec::new() };
        if query.reads_texts {
            running.texts().wait(TEXT_TIMEOUT);
        }
        let events = running.select(select);
        if query.reads_cgroups {
            texts::find_cgroups(&self.settings.procfs, &events);
        }
        events
    }

    /// The sockets whose datagrams the running collection counts.
    fn used_sockets(&self) -> Option<Arc<dyn UsedSockets>> {
        let state = self.state();
        state.drain.as_ref()?.shared().used_sockets()
    }

    /// What the collection does, without starting it.
    pub(super) fn status(&self) -> Status {
        let state = self.state();
        if let Some(drain) = &state.drain {
            let shared = Arc::clone(drain.shared());
            if shared.is_running() {
                drop(state);
                shared.sync_counting(SYNC_TIMEOUT);
                return Status::Runs(shared);
            }
            return Status::Ended(shared);
        }
        let failure = state.failure.as_ref().map(|(error, _)| error.clone());
        let reason = self.settings.forbidden.map(str::to_owned).or(failure);
        Status::Idle(reason.unwrap_or_else(|| {
            "the collection starts with the first query of process_socket_events or process_socket_flows".to_owned()
        }))
    }
}

/// Which texts a query reads.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Query {
    pub(super) reads_texts: bool,
    pub(super) reads_cgroups: bool,
    /// Whether it is a query of flows, for which datagrams are counted.
    pub(super) reads_flows: bool,
}

impl DatagramCounter for Collection {
    fn is_counting(&self) -> bool {
        self.used_sockets().is_some()
    }

    fn bytes(&self) -> Option<DatagramBytes> {
        let bytes = self.used_sockets()?.bytes();
        bytes.unwrap_or_else(|error| {
            self.log_once(&format!("the bytes of datagram sockets cannot be read: {error}"));
            None
        })
    }
}

impl Drop for Collection {
    fn drop(&mut self) {
        self.stop();
    }
}
