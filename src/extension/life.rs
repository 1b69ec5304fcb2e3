//! From one registration to the next.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use tables::Table;
use tables::process_open_sockets::{ALTERNATIVE_NAME, NAME};

use super::failure::Failure;
use super::manager::{self, Manager};
use super::osquery::{ExtensionRouteUUID, InternalExtensionInfo};
use super::requests::Requests;
use super::service::{Limits, Listening, Service};
use super::{EXTENSION_NAME, Event, routes};
use crate::cli::{Launch, WhenGone};

/// How long the core has for an answer. It gives an extension as much for a ping.
const ANSWER_TIME: Duration = Duration::from_secs(10);
/// How long it has at the end, when somebody waits for the process to be gone.
const FAREWELL_TIME: Duration = Duration::from_millis(500);
/// The first and the longest wait between two looks for the core, when there is no hurry.
const FIRST_RETRY: Duration = Duration::from_millis(50);
const LONGEST_RETRY: Duration = Duration::from_secs(5);
/// How often one who waits for the core looks whether it is still wanted.
const GLANCE: Duration = Duration::from_millis(50);
/// The SDK whose interface this is; osquery takes any from 1.7.7 on.
const SDK_VERSION: &str = "5.23.0";

/// The extension between its start and its end.
pub(super) struct Life<'a> {
    launch: &'a Launch,
    socket: &'a Path,
    manager: Manager,
    table: Arc<dyn Table>,
    send: &'a Sender<Event>,
    events: &'a Receiver<Event>,
}

/// Why a registration came to its end, or to nothing.
enum Stop {
    /// Somebody wants the extension to end.
    Asked,
    /// Nobody listens at the core's socket (any more).
    CoreGone(manager::Error),
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

impl<'a> Life<'a> {
    pub(super) fn new(
        launch: &'a Launch,
        socket: &'a Path,
        table: Arc<dyn Table>,
        send: &'a Sender<Event>,
        events: &'a Receiver<Event>,
    ) -> Self {
        let manager = Manager::new(socket, ANSWER_TIME);
        Life { launch, socket, manager, table, send, events }
    }

    /// Lives until it is asked to end, osquery is gone for good, or something is wrong.
    pub(super) fn live(&self) -> Result<(), Failure> {
        let patience = Duration::from_secs(self.launch.timeout);
        let mut patience = self.launch.by_osquery().then_some(patience);
        loop {
            match self.live_once(patience) {
                Stop::Asked => return Ok(()),
                Stop::Dropped => {
                    log::warn!("osquery no longer lists the extension: registering anew");
                    continue;
                }
                Stop::CoreGone(_) if self.launch.when_gone() == WhenGone::Exit => {
                    super::say(&format!("osquery is gone from {}", self.socket.display()));
                    return Ok(());
                }
                Stop::CoreGone(_) => {
                    log::warn!("osquery is gone from {}: waiting for it", self.socket.display());
                }
                // A core that dies, hangs or begins anew while it is asked is as good as gone.
                Stop::Failed(
                    failure @ (Failure::NotListed(_)
                    | Failure::Manager(
                        manager::Error::Silent { .. } | manager::Error::Garbled { .. },
                    )),
                ) if self.launch.when_gone() == WhenGone::Wait => log::warn!("{failure}"),
                Stop::Failed(failure) => return Err(failure),
            }
            patience = None;
            if self.is_ended_within(self.interval()) {
                return Ok(());
            }
        }
    }

    /// From waiting for the core to the end of one registration.
    fn live_once(&self, patience: Option<Duration>) -> Stop {
        let registered = self.wait_for_core(patience).and_then(|()| self.register());
        let (uuid, name) = match registered {
            Ok(registered) => registered,
            Err(stop) => return stop,
        };
        let stop = self.serve(uuid, name);
        if !matches!(stop, Stop::CoreGone(_) | Stop::Dropped) {
            let farewell = self.manager.with_timeout(FAREWELL_TIME).deregister(uuid);
            let _ = farewell.inspect_err(|error| log::debug!("{error}"));
        }
        stop
    }

    fn serve(&self, uuid: ExtensionRouteUUID, name: String) -> Stop {
        let path = self.service_socket(uuid);
        let requests = Requests::new(name.clone(), Arc::clone(&self.table), self.send.clone());
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
        super::say(&format!("registered with osquery; the table is named {name}"));
        self.watch(uuid)
    }

    /// Looks for the core until it is there, for that long at the most.
    fn wait_for_core(&self, patience: Option<Duration>) -> Result<(), Stop> {
        let start = Instant::now();
        let longest = if patience.is_some() { FIRST_RETRY } else { LONGEST_RETRY };
        let mut retry = FIRST_RETRY;
        loop {
            match self.ask(Manager::look) {
                Err(
                    Stop::CoreGone(error)
                    | Stop::Failed(Failure::Manager(error @ manager::Error::Silent { .. })),
                ) => {
                    if patience.is_some_and(|patience| start.elapsed() >= patience) {
                        return Err(Stop::Failed(error.into()));
                    }
                }
                result => return result,
            }
            if self.is_ended_within(retry) {
                return Err(Stop::Asked);
            }
            retry = (retry * 2).min(longest);
        }
    }

    /// Registers under the first name that the core takes.
    fn register(&self) -> Result<(ExtensionRouteUUID, String), Stop> {
        let give_up = Instant::now() + 2 * self.interval();
        loop {
            match self.register_once() {
                Err(Stop::Failed(Failure::AlreadyRegistered(_))) if Instant::now() < give_up => {}
                result => return result,
            }
            if self.is_ended_within(self.interval() / 4) {
                return Err(Stop::Asked);
            }
        }
    }

    fn register_once(&self) -> Result<(ExtensionRouteUUID, String), Stop> {
        // A life before this one holds its table's name too, until the core misses it.
        let listed = self.ask(Manager::extensions)?;
        if listed.values().any(|info| info.name.as_deref() == Some(EXTENSION_NAME)) {
            return Err(Failure::AlreadyRegistered(self.socket.into()).into());
        }
        let wanted = self.launch.table_name.as_deref();
        let candidates = wanted.map_or(vec![NAME, ALTERNATIVE_NAME], |name| vec![name]);
        let names: Vec<String> = candidates.iter().map(|name| (*name).to_owned()).collect();
        let taken = self.ask(move |manager| manager.tables_among(&names))?;
        for name in candidates {
            if taken.contains(&name.to_ascii_lowercase()) {
                continue;
            }
            let words = match self.register_as(name) {
                Ok(uuid) => return Ok((uuid, name.to_owned())),
                Err(Stop::Failed(Failure::Manager(manager::Error::Refused {
                    message, ..
                }))) => message,
                Err(stop) => return Err(stop),
            };
            if words.contains("Duplicate extension registered") {
                return Err(Failure::AlreadyRegistered(self.socket.into()).into());
            }
            if !words.contains("conflicts with another item of the same name") {
                return Err(Failure::Refused(self.socket.into(), words).into());
            }
            log::debug!("the name {name} was taken meanwhile: {words}");
        }
        Err(wanted.map_or(Failure::NamesTaken, |name| Failure::NameTaken(name.to_owned())).into())
    }

    fn register_as(&self, name: &str) -> Result<ExtensionRouteUUID, Stop> {
        let info = InternalExtensionInfo::new(
            EXTENSION_NAME.to_owned(),
            env!("CARGO_PKG_VERSION").to_owned(),
            SDK_VERSION.to_owned(),
            SDK_VERSION.to_owned(),
        );
        let tables = BTreeMap::from([(name.to_owned(), routes::routes(self.table.columns()))]);
        let registry = BTreeMap::from([("table".to_owned(), tables)]);
        self.ask(move |manager| manager.register(&info, &registry))
    }

    /// `<the core's socket>.<uuid>`, where the core calls.
    fn service_socket(&self, uuid: ExtensionRouteUUID) -> PathBuf {
        let mut path = self.socket.as_os_str().to_owned();
        path.push(format!(".{uuid}"));
        path.into()
    }

    /// Asks every interval whether the core still lists the extension.
    fn watch(&self, uuid: ExtensionRouteUUID) -> Stop {
        while !self.is_ended_within(self.interval()) {
            match self.ask(Manager::extensions) {
                Ok(extensions) if extensions.contains_key(&uuid) => {}
                Ok(_) => return Stop::Dropped,
                // Busy or hung: it will be asked again.
                Err(Stop::Failed(failure)) => log::debug!("{failure}"),
                Err(stop) => return stop,
            }
        }
        Stop::Asked
    }

    /// Asks the core from a thread of its own, so that a slow core does not delay our end.
    fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Manager) -> Result<T, manager::Error> + Send + 'static,
    ) -> Result<T, Stop> {
        let (send, answer) = mpsc::channel();
        let manager = self.manager.clone();
        thread::Builder::new()
            .name("question".into())
            .spawn(move || send.send(question(&manager)))
            .map_err(Failure::System)?;
        loop {
            match answer.recv_timeout(GLANCE) {
                Ok(answer) => return Ok(answer?),
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Failure::System(io::ErrorKind::BrokenPipe.into()).into());
                }
                Err(_) if self.is_ended_within(Duration::ZERO) => return Err(Stop::Asked),
                Err(_) => {}
            }
        }
    }

    fn interval(&self) -> Duration {
        Duration::from_secs(self.launch.interval)
    }

    fn is_ended_within(&self, time: Duration) -> bool {
        match self.events.recv_timeout(time) {
            Ok(Event::Signal) => log::debug!("ending: a signal came"),
            Ok(Event::Shutdown) => log::debug!("ending: osquery says so"),
            Err(RecvTimeoutError::Timeout) => return false,
            Err(RecvTimeoutError::Disconnected) => {}
        }
        true
    }
}
