//! A deadline for a whole conversation: a stream's own timeouts count for each read and write anew, so
//! that one who sends byte by byte is never late.

use std::cell::Cell;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// A stream that is read and written against the clock.
pub(super) struct Timed<'a> {
    stream: &'a UnixStream,
    /// When all has to be done.
    end: Cell<Instant>,
    /// How long a single read or write may take.
    step: Cell<Duration>,
}

impl<'a> Timed<'a> {
    /// Whose clock stands at zero: see [`Timed::set`].
    pub(super) fn new(stream: &'a UnixStream) -> Self {
        Timed { stream, end: Cell::new(Instant::now()), step: Cell::new(Duration::ZERO) }
    }

    /// Starts the clock: so long for everything, and for a single step.
    pub(super) fn set(&self, all: Duration, step: Duration) {
        self.end.set(Instant::now() + all);
        self.step.set(step);
    }

    /// How long the next read or write may take.
    fn patience(&self) -> io::Result<Option<Duration>> {
        match self.end.get().saturating_duration_since(Instant::now()).min(self.step.get()) {
            Duration::ZERO => Err(io::ErrorKind::TimedOut.into()),
            patience => Ok(Some(patience)),
        }
    }
}

impl Read for &Timed<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(self.patience()?)?;
        (&mut &*self.stream).read(bytes)
    }
}

impl Write for &Timed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(self.patience()?)?;
        (&mut &*self.stream).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
