//! The tables as an osquery extension.
//!
//! One life: wait for osquery, look which names are free, register, serve, watch whether osquery still
//! lists us, deregister. osquery drops an extension without a word when one ping fails; then the life
//! begins anew.

pub mod answer;
pub mod context;
mod event;
mod failure;
pub mod limiter;
mod log_limit;
pub mod manager;
pub mod names;
mod omitted_rows_log;
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

/// Whoever starts an extension that ended anew, as osquery does without limit, is not to spin: the
/// longest wait before ending.
const LONGEST_LINGER: Duration = Duration::from_secs(10);

/// Serves the tables until osquery goes away or calls `shutdown`, or a SIGTERM, SIGINT or SIGHUP comes.
///
/// Writes to the log which names the tables got, or why they are not served. The status is 0 after an
/// orderly end, 1 when osquery cannot be reached or refuses, 2 when the flags do not say where
/// osquery is.
pub fn run(launch: &Launch, tables: Vec<Arc<dyn Table>>, log: &LogQueue) -> ExitCode {
    let (send, events) = channel();
    if let Err(error) = signals::send_events(send.clone()) {
        log.print(&format!("error: {}", Failure::System(error)));
        return ExitCode::FAILURE;
    }
    run_until(launch, tables, log, &send, &events)
}

/// The same until one of these events. `send` is a sender of `events`, for the calls of osquery.
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
        let _ = events.recv_timeout(launch.interval().min(LONGEST_LINGER));
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
    let started = Started::start(tables);
    Supervisor::new(launch, socket, started.0.clone(), log, send, events).run()
}

/// The tables that were started, until they are stopped by the drop.
struct Started(Vec<Arc<dyn Table>>);

impl Started {
    /// Leaves out the tables that do not start.
    fn start(mut tables: Vec<Arc<dyn Table>>) -> Started {
        tables.retain(|table| match table.start() {
            Ok(()) => true,
            Err(error) => {
                log::error!("table {} is left out: {error}", table.name());
                false
            }
        });
        Started(tables)
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        self.0.iter().for_each(|table| table.stop());
    }
}
