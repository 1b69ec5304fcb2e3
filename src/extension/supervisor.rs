//! Registers the extension with osquery, and again after osquery drops it or restarts.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use tables::Table;

use super::event::Event;
use super::failure::Failure;
use super::limiter::ScanLimiter;
use super::manager::{self, Manager};
use super::names::{ChosenNames, EXTENSION_NAME, NameChoice, NamedTables, UnnamedTable};
use super::osquery::{ExtensionRouteUUID, InternalExtensionInfo};
use super::requests::Requests;
use super::routes;
use super::service::{Limits, Listening, Service};
use crate::cli::{Launch, WhenGone};
use crate::log_queue::LogQueue;

/// Time for a request to osquery. osquery gives an extension as much time for a ping.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for the deregistration: another process may wait for this one to exit.
const DEREGISTER_TIMEOUT: Duration = Duration::from_millis(400);
/// First and longest delay between two connection attempts.
const MIN_RETRY_DELAY: Duration = Duration::from_millis(50);
const MAX_RETRY_DELAY: Duration = Duration::from_secs(5);
/// How often a wait for an answer of osquery checks for events.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Version of the implemented SDK interface; osquery accepts 1.7.7 and later.
const SDK_VERSION: &str = "5.23.0";

/// Runs one registration after the other until the extension ends.
pub(super) struct Supervisor<'a> {
    launch: &'a Launch,
    socket: &'a Path,
    manager: Manager,
    tables: Vec<Arc<dyn Table>>,
    /// Shared by all registrations: a query can outlast its registration.
    limiter: Arc<ScanLimiter>,
    log: &'a LogQueue,
    send: &'a Sender<Event>,
    events: &'a Receiver<Event>,
    /// A registration has succeeded before.
    was_registered: Cell<bool>,
    /// The wait for the first registration is logged.
    is_wait_logged: Cell<bool>,
}

/// The reason why a registration ended or failed.
enum Stop {
    /// A signal ends the extension.
    Signal,
    /// osquery called `shutdown`, as it does before it exits.
    CoreExits,
    /// No process listens at osquery's socket.
    CoreGone(manager::Error),
    /// No process listened there, or answered, before the timeout.
    CoreTimeout(manager::Error),
    /// osquery no longer lists the extension.
    Dropped,
    /// An error occurred.
    Failed(Failure),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Manager(error @ manager::Error::NotListening { .. }) => Stop::CoreGone(error),
            failure => Stop::Failed(failure),
        }
    }
}

impl From<manager::Error> for Stop {
    fn from(error: manager::Error) -> Self {
        Failure::from(error).into()
    }
}

impl<'a> Supervisor<'a> {
    pub(super) fn new(
        launch: &'a Launch,
        socket: &'a Path,
        tables: Vec<Arc<dyn Table>>,
        log: &'a LogQueue,
        send: &'a Sender<Event>,
        events: &'a Receiver<Event>,
    ) -> Self {
        Supervisor {
            launch,
            socket,
            manager: Manager::new(socket, REQUEST_TIMEOUT),
            tables,
            limiter: Arc::default(),
            log,
            send,
            events,
            was_registered: Cell::new(false),
            is_wait_logged: Cell::new(false),
        }
    }

    /// Runs until a signal, a permanent end of osquery, or an error.
    pub(super) fn run(&self) -> Result<(), Failure> {
        let waits = self.launch.when_gone() == WhenGone::Wait;
        let timeout = Duration::from_secs(self.launch.timeout);
        let timeout = (!waits).then_some(timeout);
        loop {
            let was_registered = self.was_registered.get();
            let pause = match self.run_registration(timeout) {
                Stop::Signal => return Ok(()),
                Stop::CoreExits if !waits => return Ok(()),
                Stop::CoreTimeout(error) if !was_registered => return Err(error.into()),
                Stop::CoreGone(_) | Stop::CoreTimeout(_) if !waits => {
                    self.log.print(&format!("osquery is gone from {}", self.socket.display()));
                    return Ok(());
                }
                Stop::CoreExits | Stop::CoreGone(_) | Stop::CoreTimeout(_) => {
                    log::warn!("osquery is gone from {}: waiting for it", self.socket.display());
                    Some(self.launch.interval())
                }
                Stop::Dropped => {
                    log::warn!("osquery no longer lists the extension: registering again");
                    None
                }
                // osquery crashed, hangs or restarted during a request.
                Stop::Failed(
                    failure @ (Failure::NotListed(_)
                    | Failure::Manager(
                        manager::Error::TimedOut { .. } | manager::Error::Protocol { .. },
                    )),
                ) if waits || was_registered => {
                    log::warn!("{failure}");
                    Some(self.launch.interval())
                }
                Stop::Failed(failure) => return Err(failure),
            };
            if pause.is_some_and(|pause| self.is_signaled_within(pause)) {
                return Ok(());
            }
        }
    }

    /// Waits that long, and returns whether a signal ends the wait. A call of `shutdown` does not: it comes
    /// from the osquery that is gone.
    fn is_signaled_within(&self, time: Duration) -> bool {
        let end = Instant::now() + time;
        loop {
            match self.pause(end.saturating_duration_since(Instant::now())) {
                Ok(()) => return false,
                Err(Stop::Signal) => return true,
                Err(_) => {}
            }
        }
    }

    /// Waits for osquery, registers, serves, and returns the reason for the end.
    fn run_registration(&self, timeout: Option<Duration>) -> Stop {
        let registered = self.wait_for_core(timeout).and_then(|()| self.register());
        let (uuid, tables) = match registered {
            Ok(registered) => registered,
            Err(stop) => return stop,
        };
        let stop = self.serve(uuid, tables);
        if !matches!(stop, Stop::CoreGone(_) | Stop::Dropped) {
            self.deregister(uuid);
        }
        stop
    }

    fn serve(&self, uuid: ExtensionRouteUUID, tables: NamedTables) -> Stop {
        let path = self.service_socket(uuid);
        let registered = registered_message(&tables);
        let requests = Requests::new(tables, Arc::clone(&self.limiter), self.send.clone());
        let service = Arc::new(Service::new(requests, Limits::default()));
        let _listening = match Listening::start(&path, service) {
            Ok(listening) => listening,
            Err(error) => return Failure::Listen(path, error).into(),
        };
        match self.request(Manager::extensions) {
            Ok(extensions) if extensions.contains_key(&uuid) => {}
            Ok(_) => return Failure::NotListed(self.socket.into()).into(),
            Err(stop) => return stop,
        }
        self.was_registered.set(true);
        self.log.print(&registered);
        self.watch(uuid)
    }

    /// Tries to connect to osquery until it listens or the timeout expires.
    fn wait_for_core(&self, timeout: Option<Duration>) -> Result<(), Stop> {
        let start = Instant::now();
        let max_delay = if timeout.is_some() { MIN_RETRY_DELAY } else { MAX_RETRY_DELAY };
        let mut delay = MIN_RETRY_DELAY;
        loop {
            let remaining = timeout.map(|timeout| timeout.saturating_sub(start.elapsed()));
            let time = remaining.unwrap_or(REQUEST_TIMEOUT).clamp(MIN_RETRY_DELAY, REQUEST_TIMEOUT);
            match self.request(move |manager| manager.with_timeout(time).probe()) {
                Err(
                    Stop::CoreGone(error)
                    | Stop::Failed(Failure::Manager(error @ manager::Error::TimedOut { .. })),
                ) => {
                    if timeout.is_some_and(|timeout| start.elapsed() >= timeout) {
                        return Err(Stop::CoreTimeout(error));
                    }
                    if timeout.is_none() {
                        self.log_wait(&error);
                    }
                }
                result => return result,
            }
            self.pause(delay)?;
            delay = (delay * 2).min(max_delay);
        }
    }

    /// Logs once the wait for the first registration. A later wait is logged when osquery is gone.
    fn log_wait(&self, error: &manager::Error) {
        if !self.was_registered.get() && !self.is_wait_logged.replace(true) {
            log::warn!("waiting for osquery at {}", self.socket.display());
            log::debug!("{error}");
        }
    }

    /// Registers the tables under the first names that osquery accepts.
    fn register(&self) -> Result<(ExtensionRouteUUID, NamedTables), Stop> {
        let deadline = Instant::now() + 2 * self.launch.interval();
        loop {
            match self.register_once() {
                Err(Stop::Failed(Failure::AlreadyRegistered(_))) if Instant::now() < deadline => {}
                result => return result,
            }
            self.pause(self.launch.interval() / 4)?;
        }
    }

    fn register_once(&self) -> Result<(ExtensionRouteUUID, NamedTables), Stop> {
        // A previous process of this extension also holds its table names, until osquery notices its end.
        let listed = self.request(Manager::extensions)?;
        if listed.values().any(|info| info.name.as_deref() == Some(EXTENSION_NAME)) {
            return Err(Failure::AlreadyRegistered(self.socket.into()).into());
        }
        let given_name = self.launch.table_name.as_deref();
        let mut choice = NameChoice::new(&self.tables, given_name);
        let candidates = choice.candidates();
        choice.exclude(self.request(move |manager| manager.existing_tables(&candidates))?);
        // Each round excludes a name, so there are at most as many rounds as names.
        loop {
            let ChosenNames { tables, unnamed } = choice.choose();
            // The extension is useless without its first table.
            if let Some(first) = unnamed.iter().find(|table| self.is_first(table)) {
                return Err(match given_name {
                    Some(name) => Failure::NameTaken(name.to_owned()).into(),
                    None => Failure::NamesTaken(first.names.clone()).into(),
                });
            }
            let message = match self.register_as(&tables) {
                Ok(uuid) => {
                    unnamed.iter().for_each(warn_of_unnamed);
                    return Ok((uuid, tables));
                }
                Err(Stop::Failed(Failure::Manager(manager::Error::Refused {
                    message, ..
                }))) => message,
                Err(stop) => return Err(stop),
            };
            if message.contains("Duplicate extension registered") {
                return Err(Failure::AlreadyRegistered(self.socket.into()).into());
            }
            let conflict = conflicting_name(&message).filter(|name| tables.contains_key(*name));
            let Some(name) = conflict else {
                return Err(Failure::Refused(self.socket.into(), message).into());
            };
            log::debug!("name {name} is taken: {message}");
            choice.exclude([name.to_owned()]);
        }
    }

    fn is_first(&self, unnamed: &UnnamedTable) -> bool {
        self.tables.first().is_some_and(|table| table.name() == unnamed.table)
    }

    fn register_as(&self, tables: &NamedTables) -> Result<ExtensionRouteUUID, Stop> {
        let info = InternalExtensionInfo::new(
            EXTENSION_NAME.to_owned(),
            env!("CARGO_PKG_VERSION").to_owned(),
            SDK_VERSION.to_owned(),
            SDK_VERSION.to_owned(),
        );
        let routes = |(name, table): (&String, &Arc<dyn Table>)| {
            (name.clone(), routes::routes(table.columns()))
        };
        let tables: BTreeMap<_, _> = tables.iter().map(routes).collect();
        let registry = BTreeMap::from([("table".to_owned(), tables)]);
        let request = move |manager: &Manager| manager.register(&info, &registry);
        self.request_or_else(request, |answer| {
            // osquery may complete the registration after the event that ends the wait.
            if let Ok(Ok(uuid)) = answer.recv_timeout(DEREGISTER_TIMEOUT) {
                self.deregister(uuid);
            }
        })
    }

    fn deregister(&self, uuid: ExtensionRouteUUID) {
        let manager = self.manager.with_timeout(DEREGISTER_TIMEOUT);
        let _ = manager.deregister(uuid).inspect_err(|error| log::debug!("{error}"));
    }

    /// Returns `<osquery's socket>.<uuid>`, the path to which osquery sends requests.
    fn service_socket(&self, uuid: ExtensionRouteUUID) -> PathBuf {
        let mut path = self.socket.as_os_str().to_owned();
        path.push(format!(".{uuid}"));
        path.into()
    }

    /// Checks at every interval that osquery still lists the extension.
    fn watch(&self, uuid: ExtensionRouteUUID) -> Stop {
        loop {
            if let Err(stop) = self.pause(self.launch.interval()) {
                return stop;
            }
            match self.request(Manager::extensions) {
                Ok(extensions) if extensions.contains_key(&uuid) => {}
                Ok(_) => return Stop::Dropped,
                // osquery is busy or hangs: check again after the next interval.
                Err(Stop::Failed(failure)) => log::debug!("{failure}"),
                Err(stop) => return stop,
            }
        }
    }

    /// Sends a request to osquery from another thread, so a slow answer does not delay the end.
    fn request<T: Send + 'static>(
        &self,
        request: impl FnOnce(&Manager) -> Result<T, manager::Error> + Send + 'static,
    ) -> Result<T, Stop> {
        self.request_or_else(request, |_| {})
    }

    /// Does the same. If an event ends the wait for the answer, `at_stop` may wait further.
    fn request_or_else<T: Send + 'static>(
        &self,
        request: impl FnOnce(&Manager) -> Result<T, manager::Error> + Send + 'static,
        at_stop: impl FnOnce(&Receiver<Result<T, manager::Error>>),
    ) -> Result<T, Stop> {
        let (send, answer) = mpsc::channel();
        let manager = self.manager.clone();
        thread::Builder::new()
            .name("request".into())
            .spawn(move || send.send(request(&manager)))
            .map_err(Failure::System)?;
        loop {
            match answer.recv_timeout(POLL_INTERVAL) {
                Ok(answer) => return Ok(answer?),
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Failure::System(io::ErrorKind::BrokenPipe.into()).into());
                }
                Err(_) => {
                    if let Err(stop) = self.pause(Duration::ZERO) {
                        at_stop(&answer);
                        return Err(stop);
                    }
                }
            }
        }
    }

    /// Waits that long, or until an event.
    fn pause(&self, time: Duration) -> Result<(), Stop> {
        match self.events.recv_timeout(time) {
            Ok(Event::Signal) => {
                log::debug!("received a signal: exiting");
                Err(Stop::Signal)
            }
            Ok(Event::Shutdown) => {
                log::debug!("osquery called shutdown");
                Err(Stop::CoreExits)
            }
            Err(RecvTimeoutError::Timeout) => Ok(()),
            Err(RecvTimeoutError::Disconnected) => Err(Stop::Signal),
        }
    }
}

fn registered_message(tables: &NamedTables) -> String {
    let names: Vec<&str> = tables.keys().map(String::as_str).collect();
    match *names {
        [name] => format!("registered with osquery; the table is named {name}"),
        _ => format!("registered with osquery; the tables are named {}", names.join(", ")),
    }
}

fn warn_of_unnamed(UnnamedTable { table, names }: &UnnamedTable) {
    log::warn!(
        "table {table} is not served: osquery already has tables named {}",
        names.join(" and ")
    );
}

/// Returns the table name in osquery's message about a conflict of two registry items.
fn conflicting_name(message: &str) -> Option<&str> {
    let (_, rest) = message.split_once("Registry item ")?;
    Some(rest.split_once(" conflicts with another item of the same name")?.0)
}
