//! The tables as an osquery extension.
//!
//! The supervisor waits for osquery, chooses free table names, registers, serves, polls osquery's list of
//! extensions, and deregisters. osquery drops an extension after one failed ping and sends no notice; the
//! supervisor then registers again.

pub mod answer;
pub mod context;
mod event;
mod failure;
pub mod limiter;
mod log_rate_limit;
pub mod manager;
pub mod names;
mod omitted_rows_warning;
#[cfg(feature = "osquery-rust-ng")]
pub mod plugin;
pub mod protocol;
pub mod requests;
mod routes;
pub mod service;
mod signals;
mod socket_file;
mod supervisor;
mod timed;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use tables::Table;

pub use self::event::Event;
use self::failure::Failure;
pub use self::names::EXTENSION_NAME;
use self::supervisor::Supervisor;
use crate::cli::Launch;
use crate::log_queue::LogQueue;

/// osquery's Thrift interface, generated from `osquery.thrift` beside it.
#[allow(missing_docs, clippy::all, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#[rustfmt::skip]
pub mod osquery;

/// Longest exit delay after a failure. osquery restarts an extension without limit: the delay bounds the
/// rate.
const MAX_EXIT_DELAY: Duration = Duration::from_secs(10);

/// Serves the tables until osquery exits or calls `shutdown`, or the process receives SIGTERM, SIGINT or
/// SIGHUP.
///
/// Logs the names of the registered tables, or the error. The exit code is 0 after an orderly end, 1 if
/// osquery cannot be reached or refuses the extension, 2 if no flag sets the socket.
pub fn run(launch: &Launch, tables: Vec<Arc<dyn Table>>, log: &LogQueue) -> ExitCode {
    let (send, events) = channel();
    if let Err(error) = signals::send_events(send.clone()) {
        log.print(&format!("error: {}", Failure::System(error)));
        return ExitCode::FAILURE;
    }
    run_until(launch, tables, log, &send, &events)
}

/// Does the same, and ends at one of these events. The service uses `send`, a sender of `events`, when
/// osquery calls `shutdown`.
pub fn run_until(
    launch: &Launch,
    tables: Vec<Arc<dyn Table>>,
    log: &LogQueue,
    send: &Sender<Event>,
    events: &Receiver<Event>,
) -> ExitCode {
    let Err(failure) = serve(launch, tables, log, send, events) else {
        return ExitCode::SUCCESS;
    };
    log.print(&format!("error: {failure}"));
    if !matches!(failure, Failure::NoSocket { .. }) {
        let _ = events.recv_timeout(launch.interval().min(MAX_EXIT_DELAY));
    }
    failure.exit_code()
}

fn serve(
    launch: &Launch,
    tables: Vec<Arc<dyn Table>>,
    log: &LogQueue,
    send: &Sender<Event>,
    events: &Receiver<Event>,
) -> Result<(), Failure> {
    let Some(socket) = launch.socket.as_deref() else {
        let table = tables.first().map(|table| table.name().to_owned()).unwrap_or_default();
        return Err(Failure::NoSocket { table });
    };
    let running = RunningTables::start(tables);
    Supervisor::new(launch, socket, running.0.clone(), log, send, events).run()
}

/// Running tables; dropping them stops them.
struct RunningTables(Vec<Arc<dyn Table>>);

impl RunningTables {
    /// Starts the tables, without those that fail to start.
    fn start(mut tables: Vec<Arc<dyn Table>>) -> RunningTables {
        tables.retain(|table| match table.start() {
            Ok(()) => true,
            Err(error) => {
                log::error!("table {} is not served: it cannot start: {error}", table.name());
                false
            }
        });
        RunningTables(tables)
    }
}

impl Drop for RunningTables {
    fn drop(&mut self) {
        self.0.iter().for_each(|table| table.stop());
    }
}
