//! The table as an osquery extension.
//!
//! One life: wait for osquery, look which name is free, register, serve, watch whether osquery still
//! lists us, deregister. osquery drops an extension without a word when one ping fails; then the life
//! begins anew.

pub mod answer;
pub mod context;
mod failure;
mod life;
mod log_limit;
pub mod manager;
mod omitted_log;
pub mod plugin;
pub mod protocol;
pub mod requests;
mod routes;
pub mod service;
mod signals;
mod socket_file;
mod timed;
pub mod turns;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use tables::process_open_sockets::{Options, ProcessOpenSockets};

use self::failure::Failure;
use self::life::Life;
use crate::cli::Launch;
use crate::log_queue::LogQueue;

/// osquery's Thrift interface, generated from `osquery.thrift` beside it.
#[allow(missing_docs, clippy::all, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#[rustfmt::skip]
pub mod osquery;

/// The extension's name in osquery, for `--extensions_require`.
pub const EXTENSION_NAME: &str = "process_open_sockets";

/// Whoever starts an extension that ended anew, as osquery does without limit, is not to spin: the
/// longest wait before ending.
const LONGEST_LINGER: Duration = Duration::from_secs(10);

/// What ends the extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// SIGTERM, SIGINT or SIGHUP came.
    Signal,
    /// osquery called `shutdown`.
    Shutdown,
}

/// Serves the table until osquery goes away or calls `shutdown`, or a SIGTERM, SIGINT or SIGHUP comes.
///
/// Writes to the log which name the table got, or why it is not served. The status is 0 after an
/// orderly end, 1 when osquery cannot be reached or refuses, 2 when the flags do not say where
/// osquery is.
pub fn run(launch: &Launch, options: Options, log: &LogQueue) -> ExitCode {
    let (send, events) = channel();
    let Err(failure) = serve(launch, options, log, &send, &events) else {
        return ExitCode::SUCCESS;
    };
    log.print(&format!("error: {failure}"));
    if !matches!(failure, Failure::NoSocket) {
        let _ = events.recv_timeout(launch.interval().min(LONGEST_LINGER));
    }
    failure.exit_code()
}

fn serve(
    launch: &Launch,
    options: Options,
    log: &LogQueue,
    send: &Sender<Event>,
    events: &Receiver<Event>,
) -> Result<(), Failure> {
    let socket = launch.socket.as_deref().ok_or(Failure::NoSocket)?;
    log::debug!("{launch:?}, {options:?}");
    signals::send_events(send.clone()).map_err(Failure::System)?;
    let table = Arc::new(ProcessOpenSockets::new(options.for_osquery()));
    Life::new(launch, socket, table, log, send, events).live()
}
