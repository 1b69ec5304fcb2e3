//! The log of the extension: a bounded queue, and a thread that writes the lines to stderr.
//!
//! The reader of stderr may stop reading, and a pipe holds 64 KiB. Queries, registrations and signals must not
//! wait for that reader, so callers only queue lines. A full queue drops further lines and counts them.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// Limits of the queued lines. The writer holds at most as much again.
#[derive(Clone, Copy, Debug)]
struct Capacity {
    lines: usize,
    bytes: usize,
}

const CAPACITY: Capacity = Capacity { lines: 2_000, bytes: 256 << 10 };
/// Longer lines are truncated: a single message of osquery must not fill the queue.
const MAX_LINE: usize = 16 << 10;
/// Time between two attempts to write to a full stderr in non-blocking mode.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);

/// A handle of the queue.
#[derive(Clone)]
pub struct LogQueue(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// Notified when the queue has lines.
    filled: Condvar,
    /// Notified when all lines are written.
    written: Condvar,
    capacity: Capacity,
    name: &'static str,
}

#[derive(Default)]
struct State {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Number of lines dropped after the queued ones. While it is not 0, no line is queued, so the count is
    /// written at the position of the missing lines.
    dropped: u64,
    is_writing: bool,
}

impl State {
    fn is_empty(&self) -> bool {
        self.lines.is_empty() && self.dropped == 0
    }
}

impl LogQueue {
    /// Starts a thread that writes to `sink`. Messages of the log itself begin with `name`.
    ///
    /// # Errors
    /// If the system starts no thread.
    pub fn start(name: &'static str, sink: impl Write + Send + 'static) -> io::Result<LogQueue> {
        LogQueue::with_capacity(name, sink, CAPACITY)
    }

    fn with_capacity(
        name: &'static str,
        sink: impl Write + Send + 'static,
        capacity: Capacity,
    ) -> io::Result<LogQueue> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            filled: Condvar::new(),
            written: Condvar::new(),
            capacity,
            name,
        });
        let writer = Arc::clone(&shared);
        thread::Builder::new().name("log".into()).spawn(move || writer.write_to(sink))?;
        Ok(LogQueue(shared))
    }

    /// Queues one or more lines as a unit. Never waits for stderr.
    pub fn push(&self, mut line: Vec<u8>) {
        if line.len() > MAX_LINE {
            line.truncate(MAX_LINE);
            line.extend("…\n".as_bytes());
        }
        let mut state = self.0.state();
        let Capacity { lines, bytes } = self.0.capacity;
        let has_room = state.lines.len() < lines && state.bytes + line.len() <= bytes;
        if state.dropped > 0 || !has_room {
            state.dropped += 1;
            return;
        }
        state.bytes += line.len();
        state.lines.push_back(line);
        drop(state);
        self.0.filled.notify_one();
    }

    /// Queues a message of the extension, independent of the log level.
    pub fn print(&self, message: &str) {
        self.push(format!("{}: {message}\n", self.0.name).into_bytes());
    }

    /// Waits until all lines are written or the timeout expires; returns whether all are written.
    pub fn flush_within(&self, timeout: Duration) -> bool {
        let is_pending = |state: &mut State| state.is_writing || !state.is_empty();
        let waited = self.0.written.wait_timeout_while(self.0.state(), timeout, is_pending);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }
}

/// env_logger writes each line with one call.
impl Write for LogQueue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(line.to_vec());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the queued lines, forever.
    fn write_to(&self, mut sink: impl Write) {
        // Number of lines whose write failed, for example on a full disk.
        let mut failed = 0;
        loop {
            let waited = self.filled.wait_while(self.state(), |state| state.is_empty());
            let mut state = waited.unwrap_or_else(PoisonError::into_inner);
            state.is_writing = true;
            state.bytes = 0;
            let lines = std::mem::take(&mut state.lines);
            let dropped = std::mem::take(&mut state.dropped);
            drop(state);
            for line in lines {
                failed = self.write_after(failed, &line, &mut sink);
            }
            failed = self.write_after(failed + dropped, b"", &mut sink);
            let mut state = self.state();
            state.is_writing = false;
            if state.is_empty() {
                self.written.notify_all();
            }
        }
    }

    /// Writes the number of missing lines, if any, and this line; returns the new number.
    fn write_after(&self, missing: u64, line: &[u8], sink: &mut impl Write) -> u64 {
        let of_line = u64::from(!line.is_empty());
        if missing > 0 {
            let count = format!("{}: warning: log messages dropped: {missing}\n", self.name);
            if write_all(count.as_bytes(), sink).is_err() {
                return missing + of_line;
            }
        }
        if write_all(line, sink).is_err() { of_line } else { 0 }
    }
}

/// Writes a line, with a single call if the sink accepts it, and waits while the sink is full.
fn write_all(mut line: &[u8], sink: &mut impl Write) -> io::Result<()> {
    while !line.is_empty() {
        match sink.write(line) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(length) => line = line.get(length..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Another process that shares stderr can set O_NONBLOCK: it belongs to the open file description.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                thread::sleep(RETRY_INTERVAL)
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
