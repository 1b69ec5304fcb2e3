//! The signals that end the extension.

use std::io;
use std::sync::mpsc::Sender;
use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::event::Event;

/// Starts a thread that sends an event for each SIGTERM, SIGINT and SIGHUP.
///
/// If the process starts with SIGHUP ignored, as under nohup(1), it stays ignored.
///
/// # Errors
/// If the system installs no handler or starts no thread.
pub(super) fn send_events(events: Sender<Event>) -> io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    if !is_ignored(SIGHUP)? {
        signals.add_signal(SIGHUP)?;
    }
    let send = move || {
        for _ in &mut signals {
            let _ = events.send(Event::Signal);
        }
    };
    thread::Builder::new().name("signals".into()).spawn(send).map(drop)
}

#[allow(unsafe_code)]
fn is_ignored(signal: i32) -> io::Result<bool> {
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: without a new action the call changes nothing; it writes the current one to `action`, which has
    // room for it.
    if unsafe { libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so it initialized `action`.
    let action = unsafe { action.assume_init() };
    Ok(action.sa_sigaction == libc::SIG_IGN)
}
