//! The table as an osquery extension.
//!
//! One life: wait for osquery, look which name is free, register, serve, watch whether osquery still
//! lists us, deregister. osquery drops an extension without a word when one ping fails; then the life
//! begins anew.

pub mod answer;
pub mod context;
mod failure;
mod life;
pub mod manager;
mod omitted_log;
pub mod plugin;
pub mod protocol;
pub mod requests;
mod routes;
pub mod service;
mod timed;
pub mod turns;

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tables::process_open_sockets::{Options, ProcessOpenSockets};

use self::failure::Failure;
use self::life::Life;
use crate::cli::Launch;

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
    /// SIGTERM or SIGINT came.
    Signal,
    /// osquery called `shutdown`.
    Shutdown,
}

/// Says it on stderr. Whoever read that may be gone, which must not end the extension.
fn say(what: &str) {
    let _ = writeln!(io::stderr(), "{EXTENSION_NAME}: {what}");
}

/// Serves the table until osquery goes away or says so, or a SIGTERM or SIGINT comes.
///
/// Says on stderr which name the table got, or why it is not served. The status is 0 after an
/// orderly end, 1 when osquery cannot be reached or refuses, 2 when the flags do not say where
/// osquery is.
pub fn run(launch: &Launch, options: Options) -> ExitCode {
    let (send, events) = channel();
    let Err(failure) = serve(launch, options, &send, &events) else { return ExitCode::SUCCESS };
    say(&format!("error: {failure}"));
    if !matches!(failure, Failure::NoSocket) {
        let _ = events.recv_timeout(launch.interval().min(LONGEST_LINGER));
    }
    failure.exit_code()
}

fn serve(
    launch: &Launch,
    options: Options,
    send: &Sender<Event>,
    events: &Receiver<Event>,
) -> Result<(), Failure> {
    let socket = launch.socket.as_deref().ok_or(Failure::NoSocket)?;
    log::debug!("{launch:?}, {options:?}");
    let mut signals = Signals::new([SIGTERM, SIGINT]).map_err(Failure::System)?;
    let on_signal = send.clone();
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            for _ in &mut signals {
                let _ = on_signal.send(Event::Signal);
            }
        })
        .map_err(Failure::System)?;
    Life::new(
        launch,
        socket,
        Arc::new(ProcessOpenSockets::new(options.for_osquery())),
        send,
        events,
    )
    .live()
}
