//! From one registration to the next.

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
use super::names::{Chosen, EXTENSION_NAME, LeftOut, NameChoice, NamedTables};
use super::osquery::{ExtensionRouteUUID, InternalExtensionInfo};
use super::requests::Requests;
use super::routes;
use super::service::{Limits, Listening, Service};
use crate::cli::{Launch, WhenGone};
use crate::log_queue::LogQueue;

/// How long the core has for a whole answer. It gives an extension as much for a ping.
const ANSWER_TIME: Duration = Duration::from_secs(10);
/// How long it has at the end, when somebody waits for the process to be gone.
const DEREGISTER_TIMEOUT: Duration = Duration::from_millis(400);
/// The first and the longest wait between two looks for the core, when there is no hurry.
const FIRST_RETRY: Duration = Duration::from_millis(50);
const LONGEST_RETRY: Duration = Duration::from_secs(5);
/// How often one who waits for the core looks whether it is still wanted.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// The SDK whose interface this is; osquery takes any from 1.7.7 on.
const SDK_VERSION: &str = "5.23.0";

/// The extension between its start and its end.
pub(super) struct Supervisor<'a> {
    launch: &'a Launch,
    socket: &'a Path,
    manager: Manager,
    tables: Vec<Arc<dyn Table>>,
    /// Of all registrations, since queries may outlast the one under which they came.
    limiter: Arc<ScanLimiter>,
    log: &'a LogQueue,
    send: &'a Sender<Event>,
    events: &'a Receiver<Event>,
    /// Whether there has been a registration.
    was_registered: Cell<bool>,
    /// Whether it has been said that the first core is waited for.
    waiting_is_said: Cell<bool>,
}

/// Why a registration came to its end, or to nothing.
enum Stop {
    /// Somebody wants the extension to end.
    Asked,
    /// The core has called `shutdown`, as it does before it ends.
    CoreEnds,
    /// Nobody listens at the core's socket (any more).
    CoreGone(manager::Error),
    /// Nobody has listened there, or answered, for as long as there was patience.
    NoCore(manager::Error),
    /// The core does not list the extension any more.
    Dropped,
    /// It cannot be.
    Failed(Failure),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Manager(error @ manager::Error::Absent { .. }) => Stop::CoreGone(error),
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
            manager: Manager::new(socket, ANSWER_TIME),
            tables,
            limiter: Arc::default(),
            log,
            send,
            events,
            was_registered: Cell::new(false),
            waiting_is_said: Cell::new(false),
        }
    }

    /// Lives until it is asked to end, osquery is gone for good, or something is wrong.
    pub(super) fn run(&self) -> Result<(), Failure> {
        let waits = self.launch.when_gone() == WhenGone::Wait;
        let timeout = Duration::from_secs(self.launch.timeout);
        let patience = (!waits).then_some(timeout);
        loop {
            let was_registered = self.was_registered.get();
            let pause = match self.run_registration(patience) {
                Stop::Asked => return Ok(()),
                Stop::CoreEnds if !waits => return Ok(()),
                Stop::NoCore(error) if !was_registered => return Err(error.into()),
                Stop::CoreGone(_) | Stop::NoCore(_) if !waits => {
                    self.log.print(&format!("osquery is gone from {}", self.socket.display()));
                    return Ok(());
                }
                Stop::CoreEnds | Stop::CoreGone(_) | Stop::NoCore(_) => {
                    log::warn!("osquery is gone from {}: waiting for it", self.socket.display());
                    Some(self.launch.interval())
                }
                Stop::Dropped => {
                    log::warn!("osquery no longer lists the extension: registering anew");
                    None
                }
                // A core that dies, hangs or begins anew while it is asked is as good as gone.
                Stop::Failed(
                    failure @ (Failure::NotListed(_)
                    | Failure::Manager(
                        manager::Error::Silent { .. } | manager::Error::Garbled { .. },
                    )),
                ) if waits || was_registered => {
                    log::warn!("{failure}");
                    Some(self.launch.interval())
                }
                Stop::Failed(failure) => return Err(failure),
            };
            if pause.is_some_and(|pause| self.is_ended_within(pause)) {
                return Ok(());
            }
        }
    }

    /// Whether somebody else than the core wants an end before that time is over: a `shutdown` is of a
    /// core that is taken for gone.
    fn is_ended_within(&self, time: Duration) -> bool {
        let end = Instant::now() + time;
        loop {
            match self.pause(end.saturating_duration_since(Instant::now())) {
                Ok(()) => return false,
                Err(Stop::Asked) => return true,
                Err(_) => {}
            }
        }
    }

    /// From waiting for the core to the end of one registration.
    fn run_registration(&self, patience: Option<Duration>) -> Stop {
        let registered = self.wait_for_core(patience).and_then(|()| self.register());
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
        match self.ask(Manager::extensions) {
            Ok(extensions) if extensions.contains_key(&uuid) => {}
            Ok(_) => return Failure::NotListed(self.socket.into()).into(),
            Err(stop) => return stop,
        }
        self.was_registered.set(true);
        self.log.print(&registered);
        self.watch(uuid)
    }

    /// Looks for the core until it is there, for that long at the most.
    fn wait_for_core(&self, patience: Option<Duration>) -> Result<(), Stop> {
        let start = Instant::now();
        let longest = if patience.is_some() { FIRST_RETRY } else { LONGEST_RETRY };
        let mut retry = FIRST_RETRY;
        loop {
            let left = patience.map(|patience| patience.saturating_sub(start.elapsed()));
            let time = left.unwrap_or(ANSWER_TIME).clamp(FIRST_RETRY, ANSWER_TIME);
            match self.ask(move |manager| manager.with_timeout(time).look()) {
                Err(
                    Stop::CoreGone(error)
                    | Stop::Failed(Failure::Manager(error @ manager::Error::Silent { .. })),
                ) => {
                    if patience.is_some_and(|patience| start.elapsed() >= patience) {
                        return Err(Stop::NoCore(error));
                    }
                    if patience.is_none() {
                        self.say_waiting(&error);
                    }
                }
                result => return result,
            }
            self.pause(retry)?;
            retry = (retry * 2).min(longest);
        }
    }

    /// Says once that the first core is waited for; of a later one it is said when it is gone.
    fn say_waiting(&self, error: &manager::Error) {
        if !self.was_registered.get() && !self.waiting_is_said.replace(true) {
            log::warn!("waiting for osquery at {}", self.socket.display());
            log::debug!("{error}");
        }
    }

    /// Registers the tables under the first names that the core takes.
    fn register(&self) -> Result<(ExtensionRouteUUID, NamedTables), Stop> {
        let give_up = Instant::now() + 2 * self.launch.interval();
        loop {
            match self.register_once() {
                Err(Stop::Failed(Failure::AlreadyRegistered(_))) if Instant::now() < give_up => {}
                result => return result,
            }
            self.pause(self.launch.interval() / 4)?;
        }
    }

    fn register_once(&self) -> Result<(ExtensionRouteUUID, NamedTables), Stop> {
        // A life before this one holds the names of its tables too, until the core misses it.
        let listed = self.ask(Manager::extensions)?;
        if listed.values().any(|info| info.name.as_deref() == Some(EXTENSION_NAME)) {
            return Err(Failure::AlreadyRegistered(self.socket.into()).into());
        }
        let wanted = self.launch.table_name.as_deref();
        let mut choice = NameChoice::new(&self.tables, wanted);
        let candidates = choice.candidates();
        choice.take(self.ask(move |manager| manager.tables_among(&candidates))?);
        // Each turn takes a name away from the choice, so there are as many as names at the most.
        loop {
            let Chosen { tables, left_out } = choice.choose();
            if let (Some(name), Some(_)) = (wanted, left_out.iter().find(|out| self.is_first(out)))
            {
                return Err(Failure::NameTaken(name.to_owned()).into());
            }
            if tables.is_empty() {
                let names = left_out.into_iter().flat_map(|out| out.names).collect();
                return Err(Failure::NamesTaken(names).into());
            }
            let words = match self.register_as(&tables) {
                Ok(uuid) => {
                    left_out.iter().for_each(warn_of_left_out);
                    return Ok((uuid, tables));
                }
                Err(Stop::Failed(Failure::Manager(manager::Error::Refused {
                    message, ..
                }))) => message,
                Err(stop) => return Err(stop),
            };
            if words.contains("Duplicate extension registered") {
                return Err(Failure::AlreadyRegistered(self.socket.into()).into());
            }
            let conflict = conflicting_name(&words).filter(|name| tables.contains_key(*name));
            let Some(name) = conflict else {
                return Err(Failure::Refused(self.socket.into(), words).into());
            };
            log::debug!("the name {name} was taken meanwhile: {words}");
            choice.take([name.to_owned()]);
        }
    }

    fn is_first(&self, out: &LeftOut) -> bool {
        self.tables.first().is_some_and(|table| table.name() == out.table)
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
        let question = move |manager: &Manager| manager.register(&info, &registry);
        self.ask_to_the_end(question, |answer| {
            // The core may have taken us, although nobody wants to know any more.
            if let Ok(Ok(uuid)) = answer.recv_timeout(DEREGISTER_TIMEOUT) {
                self.deregister(uuid);
            }
        })
    }

    fn deregister(&self, uuid: ExtensionRouteUUID) {
        let farewell = self.manager.with_timeout(DEREGISTER_TIMEOUT).deregister(uuid);
        let _ = farewell.inspect_err(|error| log::debug!("{error}"));
    }

    /// `<the core's socket>.<uuid>`, where the core calls.
    fn service_socket(&self, uuid: ExtensionRouteUUID) -> PathBuf {
        let mut path = self.socket.as_os_str().to_owned();
        path.push(format!(".{uuid}"));
        path.into()
    }

    /// Asks every interval whether the core still lists the extension.
    fn watch(&self, uuid: ExtensionRouteUUID) -> Stop {
        loop {
            if let Err(stop) = self.pause(self.launch.interval()) {
                return stop;
            }
            match self.ask(Manager::extensions) {
                Ok(extensions) if extensions.contains_key(&uuid) => {}
                Ok(_) => return Stop::Dropped,
                // Busy or hung: it will be asked again.
                Err(Stop::Failed(failure)) => log::debug!("{failure}"),
                Err(stop) => return stop,
            }
        }
    }

    /// Asks the core from a thread of its own, so that a slow core does not delay our end.
    fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Manager) -> Result<T, manager::Error> + Send + 'static,
    ) -> Result<T, Stop> {
        self.ask_to_the_end(question, |_| {})
    }

    /// The same; if there is a reason to stop before the answer is there, `at_stop` may wait for it.
    fn ask_to_the_end<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Manager) -> Result<T, manager::Error> + Send + 'static,
        at_stop: impl FnOnce(&Receiver<Result<T, manager::Error>>),
    ) -> Result<T, Stop> {
        let (send, answer) = mpsc::channel();
        let manager = self.manager.clone();
        thread::Builder::new()
            .name("question".into())
            .spawn(move || send.send(question(&manager)))
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

    /// Waits that long, unless something happens that is a reason to stop.
    fn pause(&self, time: Duration) -> Result<(), Stop> {
        match self.events.recv_timeout(time) {
            Ok(Event::Signal) => {
                log::debug!("ending: a signal came");
                Err(Stop::Asked)
            }
            Ok(Event::Shutdown) => {
                log::debug!("osquery has called shutdown");
                Err(Stop::CoreEnds)
            }
            Err(RecvTimeoutError::Timeout) => Ok(()),
            Err(RecvTimeoutError::Disconnected) => Err(Stop::Asked),
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

fn warn_of_left_out(LeftOut { table, names }: &LeftOut) {
    log::warn!(
        "table {table} is left out: osquery already has tables named {}",
        names.join(" and ")
    );
}

/// The name in osquery's message that a registry item conflicts with another.
fn conflicting_name(message: &str) -> Option<&str> {
    let (_, rest) = message.split_once("Registry item ")?;
    Some(rest.split_once(" conflicts with another item of the same name")?.0)
}
