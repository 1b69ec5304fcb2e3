//! A stand-in for osquery's core: its extension manager on a UNIX socket, with the exact answers of the
//! real one.
//!
//! It has no periodic ping. It pings an extension before each call, and drops it if the ping fails.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use process_open_sockets::extension::osquery::{
    ExtensionManagerSyncHandler, ExtensionManagerSyncProcessor, ExtensionPluginRequest,
    ExtensionPluginResponse, ExtensionRegistry, ExtensionResponse, ExtensionRouteTable,
    ExtensionRouteUUID, ExtensionStatus, ExtensionSyncHandler, InternalExtensionInfo,
    InternalExtensionList, InternalOptionInfo, InternalOptionList,
};
use tempfile::TempDir;
use thrift::protocol::{TBinaryInputProtocol, TBinaryOutputProtocol};
use thrift::server::TProcessor;
use thrift::transport::{TBufferedReadTransport, TBufferedWriteTransport};

use super::core_faults::{Faults, Outgoing};
use super::remote;

/// No wait of a test takes this long, unless the test fails.
pub(super) const TEST_TIMEOUT: Duration = Duration::from_secs(60);

/// A row as sent in an answer, and as `--json` prints it.
pub(crate) type Row = BTreeMap<String, String>;

/// The tables that every stand-in core has, beside those of its test.
const BUILT_IN: [&str; 2] = ["osquery_registry", "processes"];
/// The registries that an extension may add to.
const REGISTRIES: [&str; 5] = ["config", "distributed", "enroll", "logger", "table"];
/// The lowest SDK version that the core accepts.
const LOWEST_SDK: [u32; 3] = [1, 7, 7];

/// A core that runs until it is dropped.
pub(crate) struct Core {
    pub(crate) shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
    dir: Option<TempDir>,
}

/// What the connections of a core share.
pub(crate) struct Shared {
    pub(crate) socket: PathBuf,
    pub(crate) own_tables: BTreeSet<String>,
    /// How often an extension has requested the list of extensions.
    lists: AtomicUsize,
    /// How many queries are being answered.
    pub(crate) running: AtomicUsize,
    state: Mutex<State>,
    pub(crate) faults: Faults,
    stop: AtomicBool,
}

#[derive(Default)]
struct State {
    extensions: BTreeMap<ExtensionRouteUUID, Registered>,
    requests: Vec<Request>,
    connections: Vec<UnixStream>,
    registrations: i64,
}

/// A registered extension.
#[derive(Clone)]
pub(crate) struct Registered {
    pub(crate) info: InternalExtensionInfo,
    pub(crate) tables: ExtensionRouteTable,
}

/// A request to an extension.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) table: String,
    pub(crate) action: String,
    /// Column, operator, expression; in the order of the columns.
    pub(crate) constraints: Vec<(String, u64, String)>,
    /// Absent when the context has no `colsUsed`.
    pub(crate) columns_used: Option<Vec<String>>,
}

impl Core {
    /// A core that owns `process_open_sockets`, as every stock one does.
    pub(crate) fn stock() -> Core {
        Core::with_tables(&["process_open_sockets"])
    }

    pub(crate) fn with_tables(own: &[&str]) -> Core {
        Core::start(tempfile::tempdir().expect("a temporary directory"), own)
    }

    /// Starts a core with the socket [`socket_in`] of that directory.
    pub(crate) fn start(dir: TempDir, own: &[&str]) -> Core {
        let socket = socket_in(dir.path());
        // The socket of an earlier core.
        let _ = std::fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).expect("the manager's socket");
        let shared = Arc::new(Shared {
            socket,
            own_tables: own.iter().chain(&BUILT_IN).map(|name| (*name).to_owned()).collect(),
            lists: AtomicUsize::new(0),
            running: AtomicUsize::new(0),
            state: Mutex::default(),
            faults: Faults::default(),
            stop: AtomicBool::new(false),
        });
        let acceptor = thread::spawn({
            let shared = Arc::clone(&shared);
            move || accept(&listener, &shared)
        });
        Core { shared, acceptor: Some(acceptor), dir: Some(dir) }
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.shared.socket
    }

    pub(crate) fn query(&self, sql: &str) -> Result<Vec<Row>, String> {
        self.shared.query(sql)
    }

    /// The faults of this core.
    pub(crate) fn faults(&self) -> &Faults {
        &self.shared.faults
    }

    /// Ends as in a crash: the file of its socket stays. Returns the directory for the next core.
    pub(crate) fn crash(mut self) -> TempDir {
        self.dir.take().expect("a core has its directory until it dies")
    }

    /// Counts as a running query until the guard is dropped.
    pub(crate) fn busy(&self) -> impl Drop + use<> {
        Busy::new(&self.shared)
    }

    /// The requests to the extensions since the last call.
    pub(crate) fn take_requests(&self) -> Vec<Request> {
        std::mem::take(&mut self.shared.state().requests)
    }

    pub(crate) fn extensions(&self) -> BTreeMap<ExtensionRouteUUID, Registered> {
        self.shared.state().extensions.clone()
    }

    pub(crate) fn uuid_of(&self, name: &str) -> Option<ExtensionRouteUUID> {
        let has_name =
            |(_, extension): &(&i64, &Registered)| extension.info.name.as_deref() == Some(name);
        self.shared.state().extensions.iter().find(has_name).map(|(uuid, _)| *uuid)
    }

    /// Drops an extension and sends it nothing, as after a failed ping.
    pub(crate) fn drop_extension(&self, uuid: ExtensionRouteUUID) {
        self.shared.state().extensions.remove(&uuid);
    }

    /// The socket of that extension.
    pub(crate) fn socket_of(&self, uuid: ExtensionRouteUUID) -> PathBuf {
        self.shared.socket_of(uuid)
    }

    /// Waits until an extension requests the list of extensions again.
    pub(crate) fn wait_for_another_list(&self) {
        let before = self.shared.lists.load(Ordering::SeqCst);
        let start = Instant::now();
        while self.shared.lists.load(Ordering::SeqCst) == before {
            assert!(start.elapsed() < TEST_TIMEOUT, "no extension requests the list");
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until an extension of that name is registered and listens.
    pub(crate) fn wait_for(&self, name: &str) -> ExtensionRouteUUID {
        self.wait_for_another(name, 0)
    }

    /// Waits until an extension of that name with another uuid is registered and listens.
    pub(crate) fn wait_for_another(
        &self,
        name: &str,
        than: ExtensionRouteUUID,
    ) -> ExtensionRouteUUID {
        let start = Instant::now();
        loop {
            if let Some(uuid) = self.uuid_of(name).filter(|uuid| *uuid != than)
                && UnixStream::connect(self.socket_of(uuid)).is_ok()
            {
                return uuid;
            }
            assert!(start.elapsed() < TEST_TIMEOUT, "{name} did not register");
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.faults().answer_after(Duration::ZERO);
        self.faults().release_registrations();
        // Wakes the acceptor.
        let _ = UnixStream::connect(&self.shared.socket);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

/// The socket of a core that is started in that directory.
pub(crate) fn socket_in(dir: &Path) -> PathBuf {
    dir.join("osquery.em")
}

/// Counts one query until it is dropped.
pub(crate) struct Busy(Arc<Shared>);

impl Busy {
    pub(crate) fn new(shared: &Arc<Shared>) -> Busy {
        shared.running.fetch_add(1, Ordering::SeqCst);
        Busy(Arc::clone(shared))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Serves each connection in a thread, and joins all threads before it returns.
fn accept(listener: &UnixListener, shared: &Arc<Shared>) {
    let mut threads = Vec::new();
    for stream in listener.incoming() {
        if shared.stop.load(Ordering::SeqCst) {
            break;
        }
        let stream = stream.expect("a connection");
        shared.state().connections.push(stream.try_clone().expect("a second handle"));
        let shared = Arc::clone(shared);
        threads.push(thread::spawn(move || serve(stream, shared)));
    }
    for connection in shared.state().connections.drain(..) {
        let _ = connection.shutdown(std::net::Shutdown::Both);
    }
    for thread in threads {
        let _ = thread.join();
    }
}

fn serve(stream: UnixStream, shared: Arc<Shared>) {
    let processor = ExtensionManagerSyncProcessor::new(Handler(Arc::clone(&shared)));
    let reader = stream.try_clone().expect("a second handle");
    let mut input = TBinaryInputProtocol::new(TBufferedReadTransport::new(reader), true);
    let writer = Outgoing { stream: &stream, faults: &shared.faults };
    let mut output = TBinaryOutputProtocol::new(TBufferedWriteTransport::new(writer), true);
    while processor.process(&mut input, &mut output).is_ok() {}
    let _ = stream.shutdown(std::net::Shutdown::Both);
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics while it holds the lock")
    }

    fn socket_of(&self, uuid: ExtensionRouteUUID) -> PathBuf {
        PathBuf::from(format!("{}.{uuid}", self.socket.display()))
    }

    pub(crate) fn extensions(&self) -> BTreeMap<ExtensionRouteUUID, Registered> {
        self.state().extensions.clone()
    }

    /// Calls a table of an extension as the core does: it sends a ping on another connection first, and
    /// drops the extension if the ping fails.
    pub(crate) fn call(
        &self,
        uuid: ExtensionRouteUUID,
        table: &str,
        request: ExtensionPluginRequest,
    ) -> Result<ExtensionPluginResponse, String> {
        self.state().requests.push(recorded(table, &request));
        let socket = self.socket_of(uuid);
        remote::ping(&socket).map_err(|error| {
            self.state().extensions.remove(&uuid);
            format!("Extension ping failed: {error}")
        })?;
        remote::call(&socket, table, request)
    }

    fn register(
        &self,
        info: InternalExtensionInfo,
        registry: ExtensionRegistry,
    ) -> ExtensionStatus {
        if let Some(reason) = self.faults.refusal() {
            return refused(&reason);
        }
        let mut state = self.state();
        if state.extensions.values().any(|other| other.info.name == info.name) {
            return refused("Duplicate extension registered");
        }
        if info.sdk_version.as_deref().is_some_and(is_too_old) {
            return refused("Incompatible extension SDK version");
        }
        let names_of =
            |extension: &Registered| extension.tables.keys().cloned().collect::<Vec<_>>();
        let taken: BTreeSet<String> = state.extensions.values().flat_map(names_of).collect();
        for (name, items) in &registry {
            if !REGISTRIES.contains(&name.as_str()) {
                return refused(&format!("Failed adding registry: Unknown registry: {name}"));
            }
            let conflicts =
                |item: &&String| taken.contains(*item) || self.own_tables.contains(*item);
            if name == "table"
                && let Some(item) = items.keys().find(conflicts)
            {
                return refused(&format!(
                    "Failed adding registry: Registry item {item} conflicts with another item of \
                     the same name."
                ));
            }
        }
        state.registrations += 1;
        let uuid = 4710 + state.registrations;
        let tables = registry.get("table").cloned().unwrap_or_default();
        if !self.faults.loses_registrations() {
            state.extensions.insert(uuid, Registered { info, tables });
        }
        ExtensionStatus::new(0, "OK".to_owned(), uuid)
    }
}

/// Whether the version is below the lowest. The core accepts 0.0.0, and a text that is no version.
fn is_too_old(version: &str) -> bool {
    let parts: Result<Vec<u32>, _> = version.split('.').map(str::parse).collect();
    parts.is_ok_and(|parts| parts != [0, 0, 0] && parts < LOWEST_SDK.to_vec())
}

fn recorded(table: &str, request: &ExtensionPluginRequest) -> Request {
    let context: serde_json::Value = match request.get("context") {
        Some(text) => serde_json::from_str(text).expect("the context that this core wrote"),
        None => serde_json::Value::Null,
    };
    let text = |value: &serde_json::Value| value.as_str().expect("a text").to_owned();
    let mut constraints = Vec::new();
    for column in context["constraints"].as_array().into_iter().flatten() {
        for entry in column["list"].as_array().expect("a list") {
            let operator = entry["op"].as_u64().expect("a number");
            constraints.push((text(&column["name"]), operator, text(&entry["expr"])));
        }
    }
    Request {
        table: table.to_owned(),
        action: request.get("action").cloned().unwrap_or_default(),
        constraints,
        columns_used: context["colsUsed"].as_array().map(|names| names.iter().map(text).collect()),
    }
}

fn refused(message: &str) -> ExtensionStatus {
    ExtensionStatus::new(1, message.to_owned(), None)
}

fn answer(result: Result<Vec<Row>, String>) -> ExtensionResponse {
    match result {
        Ok(rows) => ExtensionResponse::new(ExtensionStatus::new(0, "OK".to_owned(), 0), rows),
        Err(message) => ExtensionResponse::new(refused(&message), Vec::new()),
    }
}

struct Handler(Arc<Shared>);

impl ExtensionSyncHandler for Handler {
    fn handle_ping(&self) -> thrift::Result<ExtensionStatus> {
        Ok(ExtensionStatus::new(0, "OK".to_owned(), 0))
    }

    fn handle_call(
        &self,
        registry: String,
        item: String,
        _request: ExtensionPluginRequest,
    ) -> thrift::Result<ExtensionResponse> {
        Ok(answer(Err(format!("the stand-in core has no {registry} plugin {item} to call"))))
    }

    fn handle_shutdown(&self) -> thrift::Result<()> {
        Ok(())
    }
}

impl ExtensionManagerSyncHandler for Handler {
    fn handle_extensions(&self) -> thrift::Result<InternalExtensionList> {
        let core = InternalExtensionInfo::new(
            "core".to_owned(),
            "5.23.0".to_owned(),
            "5.23.0".to_owned(),
            "0.0.0".to_owned(),
        );
        let extensions = self.0.extensions();
        self.0.lists.fetch_add(1, Ordering::SeqCst);
        Ok([(0, core)]
            .into_iter()
            .chain(extensions.into_iter().map(|(u, e)| (u, e.info)))
            .collect())
    }

    fn handle_options(&self) -> thrift::Result<InternalOptionList> {
        let interval = InternalOptionInfo::new("3".to_owned(), "3".to_owned(), "string".to_owned());
        Ok([("extensions_interval".to_owned(), interval)].into())
    }

    fn handle_register_extension(
        &self,
        info: InternalExtensionInfo,
        registry: ExtensionRegistry,
    ) -> thrift::Result<ExtensionStatus> {
        let status = self.0.register(info, registry);
        self.0.faults.wait_for_release();
        Ok(status)
    }

    fn handle_deregister_extension(
        &self,
        uuid: ExtensionRouteUUID,
    ) -> thrift::Result<ExtensionStatus> {
        Ok(match self.0.state().extensions.remove(&uuid) {
            Some(_) => ExtensionStatus::new(0, "OK".to_owned(), uuid),
            None => refused("No extension UUID found"),
        })
    }

    fn handle_query(&self, sql: String) -> thrift::Result<ExtensionResponse> {
        Ok(answer(self.0.query(&sql)))
    }

    fn handle_get_query_columns(&self, sql: String) -> thrift::Result<ExtensionResponse> {
        Ok(answer(self.0.query_columns(&sql)))
    }
}
