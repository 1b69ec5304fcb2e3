//! A stream with a deadline for a whole request or answer. The timeouts of a socket apply to each read and
//! write alone: a peer that sends byte by byte never exceeds them.

use std::cell::Cell;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// A stream with a deadline for all reads and writes together.
pub(super) struct Timed<'a> {
    stream: &'a UnixStream,
    /// The deadline for all reads and writes.
    end: Cell<Instant>,
    /// The timeout of a single read or write.
    step: Cell<Duration>,
}

impl<'a> Timed<'a> {
    /// The deadline has passed already: set one with [`Timed::set`].
    pub(super) fn new(stream: &'a UnixStream) -> Self {
        Timed { stream, end: Cell::new(Instant::now()), step: Cell::new(Duration::ZERO) }
    }

    /// Sets the time for all reads and writes, and for a single one.
    pub(super) fn set(&self, all: Duration, step: Duration) {
        self.end.set(Instant::now() + all);
        self.step.set(step);
    }

    /// Reads or writes before the deadline. Repeats a call that a signal interrupts, with the same deadline:
    /// the kernel does not restart a call on a socket with a timeout (signal(7)).
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
