//! The table as an osquery extension: look whether osquery is there and which name is free,
//! register, serve, watch, deregister.
//!
//! Serving is osquery-rust-ng's. Its server does not look at the core's answer to a registration,
//! so this module looks before, and asks afterwards whether the extension is listed.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use osquery_rust_ng::plugin::Plugin;
use osquery_rust_ng::{Server, ServerStopHandle};
use tables::process_open_sockets::{ALTERNATIVE_NAME, NAME, Options, ProcessOpenSockets};

use self::failure::Failure;
use self::manager::Manager;
use self::plugin::TablePlugin;
use crate::cli::Launch;

pub mod context;
mod failure;
pub mod manager;
pub mod plugin;

/// osquery's Thrift interface, generated from `osquery.thrift` beside it.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#[rustfmt::skip]
pub mod osquery;

/// The extension's name in osquery, for `--extensions_require`.
pub const EXTENSION_NAME: &str = "process_open_sockets";

/// How long the core has for an answer. It gives an extension as much for a ping.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long after the start the extension must be listed by the core.
const REGISTRATION_PATIENCE: Duration = Duration::from_secs(5);
/// How often that is looked at.
const REGISTRATION_POLL: Duration = Duration::from_millis(50);
/// osquery starts an extension that ended anew, without limit: the longest wait before ending.
const LONGEST_LINGER: u64 = 10;

/// Serves the table until osquery goes away or a SIGTERM or SIGINT comes.
///
/// Says on stderr which name the table got, or why it is not served. The status is 0 after an
/// orderly end, 1 when osquery cannot be reached or refuses, 2 when the flags do not say where
/// osquery is.
pub fn run(launch: &Launch, options: Options) -> ExitCode {
    let Err(failure) = serve(launch, options) else { return ExitCode::SUCCESS };
    eprintln!("{EXTENSION_NAME}: {failure}");
    if std::env::var_os("OSQUERY_EXTENSION").is_some() {
        thread::sleep(Duration::from_secs(launch.interval.min(LONGEST_LINGER)));
    }
    failure.exit_code()
}

fn serve(launch: &Launch, options: Options) -> Result<(), Failure> {
    let socket = launch.socket.as_deref().ok_or(Failure::NoSocket)?;
    let socket_text = socket.to_str().ok_or_else(|| Failure::SocketNotText(socket.into()))?;
    let manager = Manager::new(socket, ANSWER_TIMEOUT);
    manager.wait(Duration::from_secs(launch.timeout))?;
    if manager.is_registered(EXTENSION_NAME)? {
        return Err(Failure::AlreadyRegistered(socket.into()));
    }
    let name = free_name(&manager, launch.table_name.as_deref())?;

    let mut server: Server<Plugin> =
        Server::new(Some(EXTENSION_NAME), socket_text).map_err(Failure::Start)?;
    let table = Arc::new(ProcessOpenSockets::new(options));
    server.register_plugin(Plugin::readonly_table(TablePlugin::new(name.clone(), table)));

    let (ended, end) = channel::<()>();
    let watcher = Watcher {
        manager: manager.clone(),
        server: server.get_stop_handle(),
        end,
        interval: Duration::from_secs(launch.interval),
    };
    let watcher = thread::spawn(move || watcher.watch(&name));
    let served = server.run_with_signal_handling().map_err(Failure::Serve);
    server.stop();
    drop(ended);
    let watched = watcher.join().unwrap_or(Ok(()));
    served.and(watched)?;
    if manager.wait(Duration::ZERO).is_err() {
        eprintln!("{EXTENSION_NAME}: osquery is gone from {socket_text}; ending");
    }
    Ok(())
}

/// The name that the table can have: the wanted one, or else the plain one, or else the one beside
/// the core's own table.
fn free_name(manager: &Manager, wanted: Option<&str>) -> Result<String, Failure> {
    let candidates = match wanted {
        Some(name) => vec![name],
        None => vec![NAME, ALTERNATIVE_NAME],
    };
    let taken: BTreeSet<String> = manager.tables_among(&candidates)?;
    let free = candidates.iter().find(|name| !taken.contains(&name.to_ascii_lowercase()));
    match (free, wanted) {
        (Some(name), _) => Ok((*name).to_owned()),
        (None, Some(name)) => Err(Failure::NameTaken(name.to_owned())),
        (None, None) => Err(Failure::NamesTaken),
    }
}

/// Looks from a thread of its own whether the core lists the extension.
struct Watcher {
    manager: Manager,
    server: ServerStopHandle,
    /// Disconnected when the server has ended.
    end: Receiver<()>,
    interval: Duration,
}

impl Watcher {
    /// Says which name the table got, and stops the server when the core does not list the
    /// extension (any more): the core drops it without a word when one ping fails, and starts it
    /// anew when it ends.
    fn watch(&self, table: &str) -> Result<(), Failure> {
        let deadline = Instant::now() + REGISTRATION_PATIENCE;
        while self.is_listed() != Some(true) {
            if Instant::now() >= deadline {
                return self.stop(Failure::Refused);
            }
            if self.has_ended_within(REGISTRATION_POLL) {
                return Ok(());
            }
        }
        eprintln!("{EXTENSION_NAME}: registered with osquery; the table is named {table}");
        while !self.has_ended_within(self.interval) {
            if self.is_listed() == Some(false) {
                return self.stop(Failure::Dropped);
            }
        }
        Ok(())
    }

    /// Nothing when the core cannot be asked: whether it is still there, the server's pings tell.
    fn is_listed(&self) -> Option<bool> {
        self.manager.is_registered(EXTENSION_NAME).inspect_err(|error| log::debug!("{error}")).ok()
    }

    fn has_ended_within(&self, time: Duration) -> bool {
        self.end.recv_timeout(time) == Err(RecvTimeoutError::Disconnected)
    }

    /// A server that is stopping already deregisters by itself.
    fn stop(&self, failure: Failure) -> Result<(), Failure> {
        if !self.server.is_running() {
            return Ok(());
        }
        self.server.stop();
        Err(failure)
    }
}
