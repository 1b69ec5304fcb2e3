//! The log of the extension: a bounded queue, and a thread that writes it to stderr.
//!
//! The reader of stderr may stop reading, and a pipe holds 64 KiB. A query, a registration or a signal must not
//! wait for that reader, so no call here writes: a line that finds the queue full is dropped and counted.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// How much may wait to be written. As much again may be in the writer's hands.
#[derive(Clone, Copy, Debug)]
struct Capacity {
    lines: usize,
    bytes: usize,
}

const CAPACITY: Capacity = Capacity { lines: 2_000, bytes: 256 << 10 };
/// A longer line is cut: one message of osquery's must not take the room of all others.
const MAX_LINE: usize = 16 << 10;
/// Between two attempts to write where stderr is in non-blocking mode and full.
const RETRY: Duration = Duration::from_millis(50);

/// A handle of the queue.
#[derive(Clone)]
pub struct LogQueue(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// Notified when there is something to write.
    filled: Condvar,
    /// Notified when everything is written.
    written: Condvar,
    capacity: Capacity,
    name: &'static str,
}

#[derive(Default)]
struct State {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    /// How many lines were dropped behind those that wait. None is queued before the writer has taken
    /// those, so the lines that are written keep their order, and the count stands where they are missing.
    dropped: u64,
    is_writing: bool,
}

impl State {
    fn is_empty(&self) -> bool {
        self.lines.is_empty() && self.dropped == 0
    }
}

impl LogQueue {
    /// Starts the thread that writes to `sink`. Its own messages begin with `name`.
    ///
    /// # Errors
    /// When the system starts no thread.
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

    /// Queues a line, or a few that belong together. Never waits for stderr.
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

    /// Queues a message of the extension itself, which no filter holds back.
    pub fn print(&self, message: &str) {
        self.push(format!("{}: {message}\n", self.0.name).into_bytes());
    }

    /// Waits until everything is written, no longer than that; returns whether it is.
    pub fn flush_within(&self, time: Duration) -> bool {
        let is_pending = |state: &mut State| state.is_writing || !state.is_empty();
        let waited = self.0.written.wait_timeout_while(self.0.state(), time, is_pending);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }
}

/// Each write is a line, which is how env_logger writes.
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

    /// Takes all that waits and writes it, again and again.
    fn write_to(&self, mut sink: impl Write) {
        // Lines that could not be written, such as on a full disk.
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

    /// Writes how many lines are missing, if any, and this line; returns how many are missing now.
    fn write_after(&self, missing: u64, line: &[u8], sink: &mut impl Write) -> u64 {
        let of_line = u64::from(!line.is_empty());
        if missing > 0 {
            let count = format!("{}: warning: log messages dropped: {missing}\n", self.name);
            if write_whole(count.as_bytes(), sink).is_err() {
                return missing + of_line;
            }
        }
        if write_whole(line, sink).is_err() { of_line } else { 0 }
    }
}

/// Writes a line in one piece where the sink takes it so, and waits where it is full.
fn write_whole(mut line: &[u8], sink: &mut impl Write) -> io::Result<()> {
    while !line.is_empty() {
        match sink.write(line) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(length) => line = line.get(length..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Whoever shares this stderr may have set its mode (O_NONBLOCK is the open file's).
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(RETRY),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
