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

    /// Makes a read or a write in the time that it may take. A signal interrupts it (a socket with a timeout is
    /// never restarted: signal(7)); it goes on then, in the same time.
    fn attempt(
        &self,
        set_timeout: impl Fn(&UnixStream, Option<Duration>) -> io::Result<()>,
        mut call: impl FnMut(&UnixStream) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let end = self.end.get().min(Instant::now() + self.step.get());
        loop {
            match end.saturating_duration_since(Instant::now()) {
                Duration::ZERO => return Err(io::ErrorKind::TimedOut.into()),
                left => set_timeout(self.stream, Some(left))?,
            }
            match call(self.stream) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }
}

impl Read for &Timed<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.attempt(UnixStream::set_read_timeout, |mut stream| stream.read(bytes))
    }
}

impl Write for &Timed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.attempt(UnixStream::set_write_timeout, |mut stream| stream.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
