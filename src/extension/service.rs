//! The service that osquery calls: ping, call, shutdown (`Extension` in `osquery.thrift`).
//!
//! A thread a connection, of which there are few: the core opens one for each request and closes
//! it. Whoever connects and is silent, slow or gone is dropped after a while, and first of all when
//! the places run out. Scans take turns; pings, `columns` and everything else never wait for one.

use std::collections::BTreeMap;
use std::io::{self, BufReader, BufWriter};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use thrift::protocol::{TBinaryOutputProtocol, TOutputProtocol};

use super::log_limit::LogLimit;
use super::protocol::BinaryInput;
use super::requests::{Request, Requests};
use super::socket_file::{SocketFile, bind};
use super::timed::Timed;

/// The most connections at a time.
pub const CONNECTIONS: usize = 64;
/// A connection's thread needs little: the depth of a request is limited.
const STACK: usize = 512 << 10;

/// How long a client may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// For a request, from the moment when it is waited for to its last byte.
    pub request: Duration,
    /// Without reading anything of its answer.
    pub stall: Duration,
    /// For its whole answer.
    pub answer: Duration,
}

impl Default for Limits {
    /// osquery itself waits 300 s for an answer, and sends a request as soon as it has connected.
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
    refused: LogLimit,
    failed: LogLimit,
}

#[derive(Default)]
struct Connections {
    last: u64,
    open: BTreeMap<u64, Connection>,
    /// Whether there are to be no more requests.
    closed: bool,
}

struct Connection {
    stream: UnixStream,
    /// Whether its request is being read: nobody misses it if it is closed.
    idle: bool,
}

impl Service {
    /// Nobody can connect yet: see [`Listening`].
    pub fn new(requests: Requests, limits: Limits) -> Self {
        let (refused, failed) = (LogLimit::default(), LogLimit::default());
        Service { requests, limits, connections: Mutex::default(), refused, failed }
    }

    /// Ends all connections: at once, or as soon as the request that is being answered is.
    fn close(&self) {
        let mut connections = self.connections();
        connections.closed = true;
        for connection in connections.open.values().filter(|connection| connection.idle) {
            let _ = connection.stream.shutdown(Shutdown::Both);
        }
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
                drop(connections);
                self.log_refusal();
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

    fn log_refusal(&self) {
        let message = format!(
            "all {CONNECTIONS} connections wait for answers: a new connection was closed; find the clients of \
             the extension's socket"
        );
        if let Some(line) = self.refused.line(&message, Instant::now()) {
            log::warn!("{line}");
        }
    }

    /// Descriptors or threads are used up, most likely.
    fn log_failure(&self, error: &io::Error) {
        let message = format!(
            "cannot take a connection: {error}; raise the limits of descriptors and tasks (in systemd: \
             LimitNOFILE, TasksMax)"
        );
        if let Some(line) = self.failed.line(&message, Instant::now()) {
            log::warn!("{line}");
        }
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
    /// Says whether there may be another request.
    fn set_idle(&self, idle: bool) -> bool {
        let mut connections = self.service.connections();
        if let Some(connection) = connections.open.get_mut(&self.id) {
            connection.idle = idle;
        }
        !connections.closed
    }

    /// Answers one request after the other, until the client closes or something is wrong.
    fn serve(&self, stream: &UnixStream) -> thrift::Result<()> {
        let timed = Timed::new(stream);
        let mut input = BinaryInput::new(BufReader::new(&timed));
        let mut output =
            TBinaryOutputProtocol::new(BufWriter::with_capacity(64 << 10, &timed), true);
        loop {
            let Limits { request, stall, answer } = self.service.limits;
            timed.set(request, request);
            if !self.set_idle(true) || is_at_end(input.reader())? {
                return Ok(());
            }
            let request = Request::read(&mut input)?;
            if !self.set_idle(false) {
                return Ok(());
            }
            timed.set(answer, stall);
            self.service.requests.answer(request, &mut output)?;
            output.flush()?;
        }
    }
}

fn is_at_end(reader: &mut impl io::BufRead) -> io::Result<bool> {
    Ok(reader.fill_buf()?.is_empty())
}

/// The socket at which a service listens, until it is dropped.
pub struct Listening {
    service: Arc<Service>,
    /// Closed to end the thread that accepts.
    stop: Option<UnixStream>,
    acceptor: Option<thread::JoinHandle<()>>,
    _file: SocketFile,
}

impl Listening {
    /// Serves at that path, for its owner alone.
    ///
    /// # Errors
    /// When the socket cannot be made: a file of that name, whosever it is, is left alone.
    pub fn start(path: &Path, service: Arc<Service>) -> io::Result<Listening> {
        let (listener, file) = bind(path)?;
        let (stop, stopped) = UnixStream::pair()?;
        let accepting = Arc::clone(&service);
        let acceptor = thread::Builder::new()
            .name("acceptor".into())
            .spawn(move || accept(&listener, &stopped, &accepting))?;
        Ok(Listening { service, stop: Some(stop), acceptor: Some(acceptor), _file: file })
    }
}

impl Drop for Listening {
    /// What is being answered is answered to its end; nothing else is read any more.
    fn drop(&mut self) {
        self.stop = None;
        let _ = self.acceptor.take().map(thread::JoinHandle::join);
        self.service.close();
    }
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
            Ok(_) => listener.accept().and_then(|(stream, _)| service.take(stream)),
            Err(Errno::INTR) => continue,
            Err(errno) => Err(errno.into()),
        };
        if let Err(error) = taken {
            service.log_failure(&error);
            // Some will be free soon.
            thread::sleep(Duration::from_millis(100));
        }
    }
}
