//! From one registration to the next.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
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
/// The SDK whose interface this is; osquery takes any from 1.7.7 on.
const SDK_VERSION: &str = "5.23.0";

/// The extension between its start and its end.
pub(super) struct Life<'a> {
    launch: &'a Launch,
    socket: &'a Path,
    manager: Manager,
    table: Arc<dyn Table>,
    send: Sender<Event>,
    events: Receiver<Event>,
}

/// How a step of the life came out.
enum Step<T> {
    Done(T),
    /// Somebody wants the extension to end.
    End,
    /// Nobody listens at the core's socket (any more).
    CoreGone,
    /// The core does not list the extension any more.
    Dropped,
}

impl<'a> Life<'a> {
    pub(super) fn new(
        launch: &'a Launch,
        socket: &'a Path,
        table: Arc<dyn Table>,
        send: Sender<Event>,
        events: Receiver<Event>,
    ) -> Self {
        let manager = Manager::new(socket, ANSWER_TIME);
        Life { launch, socket, manager, table, send, events }
    }

    /// Lives until it is asked to end, osquery is gone for good, or something is wrong.
    pub(super) fn live(&self) -> Result<(), Failure> {
        let patience = Duration::from_secs(self.launch.timeout);
        let mut patience = self.launch.by_osquery().then_some(patience);
        loop {
            match self.live_once(patience)? {
                Step::Done(()) | Step::End => return Ok(()),
                Step::Dropped => {
                    log::warn!("osquery no longer lists the extension: registering anew");
                }
                Step::CoreGone if self.launch.when_gone() == WhenGone::Exit => {
                    eprintln!("{EXTENSION_NAME}: osquery is gone from {}", self.socket.display());
                    return Ok(());
                }
                Step::CoreGone => {
                    log::warn!("osquery is gone from {}: waiting for it", self.socket.display());
                    patience = None;
                }
            }
        }
    }

    /// From waiting for the core to the end of one registration.
    fn live_once(&self, patience: Option<Duration>) -> Result<Step<()>, Failure> {
        if let Step::End = self.wait_for_core(patience)? {
            return Ok(Step::End);
        }
        let (uuid, name) = match self.register() {
            Ok(Step::Done(registered)) => registered,
            Ok(_) => return Ok(Step::End),
            Err(Failure::Manager(manager::Error::Absent { .. })) => return Ok(Step::CoreGone),
            Err(failure) => return Err(failure),
        };
        let requests = Requests::new(name.clone(), Arc::clone(&self.table), self.send.clone());
        let path = self.service_socket(uuid);
        let listening =
            Listening::start(&path, Arc::new(Service::new(requests, Limits::default())));
        let listed =
            listening.map_err(|error| Failure::Listen(path, error)).and_then(|listening| {
                self.check_listed(uuid)?;
                Ok(listening)
            });
        let outcome = listed.map(|listening| {
            eprintln!("{EXTENSION_NAME}: registered with osquery; the table is named {name}");
            let outcome = self.watch(uuid);
            drop(listening);
            outcome
        });
        if !matches!(outcome, Ok(Step::CoreGone | Step::Dropped)) {
            let farewell = self.manager.with_timeout(FAREWELL_TIME).deregister(uuid);
            let _ = farewell.inspect_err(|error| log::debug!("{error}"));
        }
        outcome
    }

    /// Looks for the core until it is there, for that long at the most.
    fn wait_for_core(&self, patience: Option<Duration>) -> Result<Step<()>, Failure> {
        let start = Instant::now();
        let longest = if patience.is_some() { FIRST_RETRY } else { LONGEST_RETRY };
        let mut retry = FIRST_RETRY;
        loop {
            match self.manager.look() {
                Ok(()) => return Ok(Step::Done(())),
                Err(manager::Error::Absent { .. } | manager::Error::Silent { .. })
                    if patience.is_none_or(|patience| start.elapsed() < patience) => {}
                Err(error) => return Err(error.into()),
            }
            if self.is_ended_within(retry) {
                return Ok(Step::End);
            }
            retry = (retry * 2).min(longest);
        }
    }

    /// Registers under the first name that the core takes.
    fn register(&self) -> Result<Step<(ExtensionRouteUUID, String)>, Failure> {
        let interval = Duration::from_secs(self.launch.interval);
        let give_up = Instant::now() + 2 * interval;
        loop {
            match self.register_once() {
                // Of a life before this one, which the core has not missed yet.
                Err(Failure::AlreadyRegistered(_)) if Instant::now() < give_up => {}
                result => return result.map(Step::Done),
            }
            if self.is_ended_within(interval / 4) {
                return Ok(Step::End);
            }
        }
    }

    fn register_once(&self) -> Result<(ExtensionRouteUUID, String), Failure> {
        let wanted = self.launch.table_name.as_deref();
        let candidates = wanted.map_or(vec![NAME, ALTERNATIVE_NAME], |name| vec![name]);
        let taken: BTreeSet<String> = self.manager.tables_among(&candidates)?;
        for name in candidates {
            if taken.contains(&name.to_ascii_lowercase()) {
                continue;
            }
            match self.register_as(name) {
                Ok(uuid) => return Ok((uuid, name.to_owned())),
                Err(manager::Error::Refused { message, .. })
                    if message.contains("conflicts with another item of the same name") =>
                {
                    log::debug!("the name {name} was taken meanwhile: {message}");
                }
                Err(manager::Error::Refused { message, .. })
                    if message.contains("Duplicate extension registered") =>
                {
                    return Err(Failure::AlreadyRegistered(self.socket.into()));
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(wanted.map_or(Failure::NamesTaken, |name| Failure::NameTaken(name.to_owned())))
    }

    fn register_as(&self, name: &str) -> Result<ExtensionRouteUUID, manager::Error> {
        let info = InternalExtensionInfo::new(
            EXTENSION_NAME.to_owned(),
            env!("CARGO_PKG_VERSION").to_owned(),
            SDK_VERSION.to_owned(),
            SDK_VERSION.to_owned(),
        );
        let tables = BTreeMap::from([(name.to_owned(), routes::routes(self.table.columns()))]);
        self.manager.register(&info, &BTreeMap::from([("table".to_owned(), tables)]))
    }

    fn check_listed(&self, uuid: ExtensionRouteUUID) -> Result<(), Failure> {
        match self.manager.extensions()?.contains_key(&uuid) {
            true => Ok(()),
            false => Err(Failure::NotListed(self.socket.into())),
        }
    }

    /// `<the core's socket>.<uuid>`, where the core calls.
    fn service_socket(&self, uuid: ExtensionRouteUUID) -> PathBuf {
        let mut path = self.socket.as_os_str().to_owned();
        path.push(format!(".{uuid}"));
        path.into()
    }

    /// Asks every interval whether the core still lists the extension.
    fn watch(&self, uuid: ExtensionRouteUUID) -> Step<()> {
        while !self.is_ended_within(Duration::from_secs(self.launch.interval)) {
            match self.manager.extensions() {
                Ok(extensions) if extensions.contains_key(&uuid) => {}
                Ok(_) => return Step::Dropped,
                Err(manager::Error::Absent { .. }) => return Step::CoreGone,
                // Busy or hung: it will be asked again.
                Err(error) => log::debug!("{error}"),
            }
        }
        Step::End
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
