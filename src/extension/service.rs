//! The service that osquery calls: ping, call, shutdown (`Extension` in `osquery.thrift`).
//!
//! A thread a connection, of which there are few: the core opens one for each request and closes
//! it. Whoever connects and is silent, slow or gone is dropped after a while, and first of all when
//! the places run out. Scans take turns; pings, `columns` and everything else never wait for one.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use socket2::{Domain, SockAddr, Socket, Type};
use thrift::protocol::{TBinaryOutputProtocol, TOutputProtocol};

use super::protocol::BinaryInput;
use super::requests::{Request, Requests};

/// The most connections at a time.
const CONNECTIONS: usize = 64;
/// A connection's thread needs little: the depth of a request is limited.
const STACK: usize = 512 << 10;

/// How long clients have for what they do.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// For a request, from the first byte that is waited for to the last.
    pub request: Duration,
    /// For reading anything at all of an answer.
    pub stall: Duration,
    /// For reading the whole answer.
    pub answer: Duration,
}

impl Default for Limits {
    /// 10 s, 10 s, and as long as osquery itself waits for an answer.
    fn default() -> Self {
        Limits {
            request: Duration::from_secs(10),
            stall: Duration::from_secs(10),
            answer: Duration::from_secs(300),
        }
    }
}

/// The service and its open connections.
pub struct Service {
    requests: Requests,
    limits: Limits,
    connections: Mutex<Connections>,
}

#[derive(Default)]
struct Connections {
    last: u64,
    open: BTreeMap<u64, Connection>,
}

struct Connection {
    stream: UnixStream,
    /// Whether its request is being read: nobody misses it if it is closed.
    idle: bool,
}

impl Service {
    /// Has these requests answered.
    pub fn new(requests: Requests, limits: Limits) -> Self {
        Service { requests, limits, connections: Mutex::default() }
    }

    fn connections(&self) -> MutexGuard<'_, Connections> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the connection a thread; if there are too many, the one that has been silent longest
    /// makes room, and if none is silent, this one is closed.
    fn take(self: &Arc<Self>, stream: UnixStream) -> io::Result<()> {
        let mut connections = self.connections();
        if connections.open.len() >= CONNECTIONS {
            let Some(id) = connections.open.iter().find(|(_, c)| c.idle).map(|(id, _)| *id) else {
                return Ok(());
            };
            if let Some(oldest) = connections.open.remove(&id) {
                let _ = oldest.stream.shutdown(Shutdown::Both);
            }
        }
        connections.last += 1;
        let id = connections.last;
        let connection = Connection { stream: stream.try_clone()?, idle: true };
        connections.open.insert(id, connection);
        drop(connections);
        let place = Place { service: Arc::clone(self), id };
        thread::Builder::new()
            .name("connection".into())
            .stack_size(STACK)
            .spawn(move || {
                if let Err(error) = place.serve(&stream) {
                    log::debug!("a connection ended: {error}");
                }
            })
            .map(drop)
    }
}

/// A connection's place among the open ones, until it is dropped.
struct Place {
    service: Arc<Service>,
    id: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.service.connections().open.remove(&self.id);
    }
}

impl Place {
    fn set_idle(&self, idle: bool) {
        if let Some(connection) = self.service.connections().open.get_mut(&self.id) {
            connection.idle = idle;
        }
    }

    /// Answers one request after the other, until the client closes or something is wrong.
    fn serve(&self, stream: &UnixStream) -> thrift::Result<()> {
        let limits = self.service.limits;
        let timed = Timed::new(stream);
        let mut input = BinaryInput::new(BufReader::new(&timed));
        let mut output =
            TBinaryOutputProtocol::new(BufWriter::with_capacity(64 << 10, &timed), true);
        loop {
            timed.set(limits.request, limits.request);
            self.set_idle(true);
            if is_at_end(input.reader())? {
                return Ok(());
            }
            let request = Request::read(&mut input)?;
            self.set_idle(false);
            timed.set(limits.answer, limits.stall);
            self.service.requests.answer(&request, &mut output)?;
            output.flush()?;
        }
    }
}

fn is_at_end(reader: &mut impl io::BufRead) -> io::Result<bool> {
    Ok(reader.fill_buf()?.is_empty())
}

/// A stream that is read and written against the clock.
struct Timed<'a> {
    stream: &'a UnixStream,
    /// When all has to be done.
    end: Cell<Instant>,
    /// How long a single read or write may take.
    step: Cell<Duration>,
}

impl<'a> Timed<'a> {
    fn new(stream: &'a UnixStream) -> Self {
        Timed { stream, end: Cell::new(Instant::now()), step: Cell::new(Duration::ZERO) }
    }

    /// Starts the clock anew.
    fn set(&self, all: Duration, step: Duration) {
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

/// The socket at which a service listens, until it is dropped.
pub struct Listening {
    path: PathBuf,
    /// Device and inode of the socket's file, to know it by.
    file: (u64, u64),
    /// Closed to end the thread that accepts.
    stop: Option<UnixStream>,
    acceptor: Option<thread::JoinHandle<()>>,
}

impl Listening {
    /// Serves at that path, for its owner alone.
    ///
    /// # Errors
    /// When the socket cannot be made: a file of that name, whosever it is, is left alone.
    pub fn start(path: &Path, service: Arc<Service>) -> io::Result<Listening> {
        let listener = bind(path)?;
        let file = identity(path)?;
        let (stop, stopped) = UnixStream::pair()?;
        let acceptor = thread::Builder::new()
            .name("acceptor".into())
            .spawn(move || accept(&listener, &stopped, &service))?;
        Ok(Listening { path: path.into(), file, stop: Some(stop), acceptor: Some(acceptor) })
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.stop = None;
        let _ = self.acceptor.take().map(thread::JoinHandle::join);
        if identity(&self.path).is_ok_and(|file| file == self.file) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|file| (file.dev(), file.ino()))
}

/// Binds the socket with mode 0600 whatever the umask. Linux gives the file the mode that the socket
/// has before, less the umask, so there is no moment at which others could connect.
fn bind(path: &Path) -> io::Result<UnixListener> {
    const OWNER_ALONE: u32 = 0o600;
    let socket = File::from(OwnedFd::from(Socket::new(Domain::UNIX, Type::STREAM, None)?));
    if cfg!(target_os = "linux") {
        socket.set_permissions(Permissions::from_mode(OWNER_ALONE))?;
    }
    let socket = Socket::from(OwnedFd::from(socket));
    socket.bind(&SockAddr::unix(path)?)?;
    fs::set_permissions(path, Permissions::from_mode(OWNER_ALONE))?;
    socket.listen(128)?;
    Ok(OwnedFd::from(socket).into())
}

/// Takes connections until the other end of `stopped` is closed.
fn accept(listener: &UnixListener, stopped: &UnixStream, service: &Arc<Service>) {
    loop {
        let mut ready = [PollFd::new(listener, PollFlags::IN), PollFd::new(stopped, PollFlags::IN)];
        let polled = poll(&mut ready, None);
        if ready.last().is_some_and(|stop| !stop.revents().is_empty()) {
            return;
        }
        let taken = match polled {
            Err(Errno::INTR) => continue,
            Ok(_) => listener.accept().and_then(|(stream, _)| service.take(stream)),
            Err(errno) => Err(errno.into()),
        };
        if let Err(error) = taken {
            // Too many open files or threads, most likely: some will be closed soon.
            log::warn!("cannot take a connection: {error}");
            thread::sleep(Duration::from_millis(100));
        }
    }
}
