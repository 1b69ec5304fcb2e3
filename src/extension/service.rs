//! The service that osquery calls: ping, call, shutdown (`Extension` in `osquery.thrift`).
//!
//! Each connection has a thread. There are few: osquery opens one for each request and closes it. The
//! service closes a connection whose client is idle or slow for too long, and the oldest idle one when a
//! new connection exceeds the limit. Only queries wait for a permit; pings, `columns` and other requests do
//! not.

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

use super::log_rate_limit::LogRateLimit;
use super::protocol::BinaryInput;
use super::requests::{Request, Requests};
use super::socket_file::{SocketFile, bind};
use super::timed::Timed;

/// Most connections at a time.
pub const MAX_CONNECTIONS: usize = 64;
/// Stack of a connection's thread: enough because the depth of a request is limited.
const STACK_SIZE: usize = 512 << 10;

/// Time limits of a client.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// For a request, from the start of the wait to its last byte.
    pub request: Duration,
    /// For a pause in reading the answer.
    pub stall: Duration,
    /// For reading the whole answer.
    pub answer: Duration,
}

impl Default for Limits {
    /// osquery waits 300 s for an answer, and sends a request as soon as it is connected.
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
    refused: LogRateLimit,
    failed: LogRateLimit,
}

#[derive(Default)]
struct Connections {
    last: u64,
    open: BTreeMap<u64, Connection>,
    /// No further request is read.
    is_closed: bool,
}

struct Connection {
    stream: UnixStream,
    /// The service waits for a request or reads one: closing loses no answer.
    is_idle: bool,
}

impl Service {
    /// Creates a service that does not listen yet: see [`Listening`].
    pub fn new(requests: Requests, limits: Limits) -> Self {
        let (refused, failed) = (LogRateLimit::default(), LogRateLimit::default());
        Service { requests, limits, connections: Mutex::default(), refused, failed }
    }

    /// Closes all idle connections, and each other one after its answer.
    fn close(&self) {
        let mut connections = self.connections();
        connections.is_closed = true;
        for connection in connections.open.values().filter(|connection| connection.is_idle) {
            let _ = connection.stream.shutdown(Shutdown::Both);
        }
    }

    fn connections(&self) -> MutexGuard<'_, Connections> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a thread for the connection. At the limit, it closes the oldest idle connection, or this one
    /// if none is idle.
    fn add(self: &Arc<Self>, stream: UnixStream) -> io::Result<()> {
        let mut connections = self.connections();
        if connections.open.len() >= MAX_CONNECTIONS {
            let Some(id) = connections.open.iter().find(|(_, c)| c.is_idle).map(|(id, _)| *id)
            else {
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
        let connection = Connection { stream: stream.try_clone()?, is_idle: true };
        connections.open.insert(id, connection);
        drop(connections);
        let connection = OpenConnection { service: Arc::clone(self), id };
        thread::Builder::new()
            .name("connection".into())
            .stack_size(STACK_SIZE)
            .spawn(move || {
                if let Err(error) = connection.serve(&stream) {
                    log::debug!("connection ended: {error}");
                }
            })
            .map(drop)
    }

    fn log_refusal(&self) {
        let message = format!(
            "all {MAX_CONNECTIONS} connections wait for answers: a new connection was closed; find the clients of \
             the extension's socket"
        );
        if let Some(line) = self.refused.line(&message, Instant::now()) {
            log::warn!("{line}");
        }
    }

    /// The likely cause is a limit of descriptors or threads.
    fn log_failure(&self, error: &io::Error) {
        let message = format!(
            "cannot accept a connection: {error}; raise the limits of descriptors and tasks (in systemd: \
             LimitNOFILE, TasksMax)"
        );
        if let Some(line) = self.failed.line(&message, Instant::now()) {
            log::warn!("{line}");
        }
    }
}

/// An entry of the open connections; dropping removes it.
struct OpenConnection {
    service: Arc<Service>,
    id: u64,
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.service.connections().open.remove(&self.id);
    }
}

impl OpenConnection {
    /// Returns whether the service still reads requests.
    fn set_idle(&self, is_idle: bool) -> bool {
        let mut connections = self.service.connections();
        if let Some(connection) = connections.open.get_mut(&self.id) {
            connection.is_idle = is_idle;
        }
        !connections.is_closed
    }

    /// Answers requests until the client closes the connection or an error occurs.
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

/// The listening socket of a service; dropping closes it.
pub struct Listening {
    service: Arc<Service>,
    /// Closing it ends the thread that accepts connections.
    stop: Option<UnixStream>,
    acceptor: Option<thread::JoinHandle<()>>,
    _file: SocketFile,
}

impl Listening {
    /// Serves at that path; only the owner of the socket can connect.
    ///
    /// # Errors
    /// If the socket cannot be created. An existing file of that name stays unchanged.
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
    /// Requests that were read are answered; no other request is read.
    fn drop(&mut self) {
        self.stop = None;
        let _ = self.acceptor.take().map(thread::JoinHandle::join);
        self.service.close();
    }
}

/// Accepts connections until the peer of `stopped` is closed.
fn accept(listener: &UnixListener, stopped: &UnixStream, service: &Arc<Service>) {
    loop {
        let mut ready = [PollFd::new(listener, PollFlags::IN), PollFd::new(stopped, PollFlags::IN)];
        let polled = poll(&mut ready, None);
        if ready.last().is_some_and(|stop| !stop.revents().is_empty()) {
            return;
        }
        let taken = match polled {
            Ok(_) => listener.accept().and_then(|(stream, _)| service.add(stream)),
            Err(Errno::INTR) => continue,
            Err(errno) => Err(errno.into()),
        };
        if let Err(error) = taken {
            service.log_failure(&error);
            // Descriptors or threads become free when other connections end.
            thread::sleep(Duration::from_millis(100));
        }
    }
}
