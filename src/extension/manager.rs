//! A client of osquery's extension manager: the Thrift service that the core offers to extensions
//! (`ExtensionManager` in `osquery.thrift`), in the binary protocol over a buffered UNIX stream.
//!
//! One connection a request, as the core itself does, so that a core that came back is simply
//! reached again. All of a request, from connecting to the last byte of its answer, has the timeout.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufReader, BufWriter};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, Socket, Type};
use thrift::protocol::TBinaryOutputProtocol;

use super::osquery::{
    ExtensionManagerSyncClient, ExtensionRegistry, ExtensionRouteUUID, ExtensionStatus,
    InternalExtensionInfo, InternalExtensionList, TExtensionManagerSyncClient,
};
use super::protocol::BinaryInput;
use super::timed::Timed;

type Client<'a> = ExtensionManagerSyncClient<
    BinaryInput<BufReader<&'a Timed<'a>>>,
    TBinaryOutputProtocol<BufWriter<&'a Timed<'a>>>,
>;

/// Why the manager could not be asked. Every message names the socket.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// Nobody listens at the socket.
    Absent {
        /// Which one.
        socket: PathBuf,
        /// What the last attempt met.
        source: io::Error,
    },
    /// The socket cannot be used.
    Connect {
        /// Which one.
        socket: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No answer came in time.
    Silent {
        /// Which one.
        socket: PathBuf,
        /// How long it had.
        timeout: Duration,
    },
    /// What came was no answer.
    Garbled {
        /// Which one.
        socket: PathBuf,
        /// What the Thrift library said.
        source: thrift::Error,
    },
    /// The core refused.
    Refused {
        /// Which one.
        socket: PathBuf,
        /// The core's words.
        message: String,
    },
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Error::Absent { socket, source } => write!(
                f,
                "osquery is not there: no extension manager listens at {} ({source}); start osquery \
                 first, or give --socket the path that its flag --extensions_socket has, or wait \
                 longer with --timeout",
                socket.display()
            ),
            Error::Connect { socket, source } => {
                write!(f, "cannot connect to osquery's socket {}: {source}", socket.display())?;
                if source.kind() == io::ErrorKind::PermissionDenied {
                    f.write_str("; run as the user that osquery runs as")?;
                }
                Ok(())
            }
            Error::Silent { socket, timeout } => write!(
                f,
                "osquery did not answer at {} within {} s: it may be hung, or busy; try again, or \
                 restart it",
                socket.display(),
                timeout.as_secs_f32()
            ),
            Error::Garbled { socket, source } => write!(
                f,
                "what answers at {} does not speak as osquery's extension manager does ({source}); \
                 is it the right socket?",
                socket.display()
            ),
            Error::Refused { socket, message } => {
                write!(f, "osquery refused a request at {}: {message}", socket.display())
            }
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Absent { source, .. } | Error::Connect { source, .. } => Some(source),
            Error::Garbled { source, .. } => Some(source),
            Error::Silent { .. } | Error::Refused { .. } => None,
        }
    }
}

/// osquery's extension manager at a socket.
#[derive(Clone, Debug)]
pub struct Manager {
    socket: PathBuf,
    timeout: Duration,
}

impl Manager {
    /// The manager at that socket, with the time that it has for each answer. Nothing is opened yet.
    pub fn new(socket: &Path, timeout: Duration) -> Self {
        Manager { socket: socket.to_owned(), timeout }
    }

    /// The same manager, with another time for each answer.
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Manager { socket: self.socket.clone(), timeout }
    }

    /// Whether somebody listens at the socket.
    ///
    /// # Errors
    /// [`Error::Absent`] when nobody does: an extension can be started before the core has made it.
    pub fn look(&self) -> Result<(), Error> {
        self.connect().map(drop)
    }

    /// Registers an extension with these plugins, and returns the number that it got.
    ///
    /// # Errors
    /// [`Error::Refused`] with the core's words when it does not take them.
    pub fn register(
        &self,
        extension: &InternalExtensionInfo,
        registry: &ExtensionRegistry,
    ) -> Result<ExtensionRouteUUID, Error> {
        let status =
            self.ask(|client| client.register_extension(extension.clone(), registry.clone()))?;
        let uuid = status.uuid;
        self.check(status)?;
        uuid.ok_or_else(|| self.refused("it gave no number".to_owned()))
    }

    /// Takes that extension out of the core's registry.
    ///
    /// # Errors
    /// [`Error::Refused`] when it is not in there.
    pub fn deregister(&self, uuid: ExtensionRouteUUID) -> Result<(), Error> {
        let status = self.ask(|client| client.deregister_extension(uuid))?;
        self.check(status)
    }

    /// The registered extensions by uuid; the core itself is among them as 0.
    ///
    /// # Errors
    /// When the core cannot be asked.
    pub fn extensions(&self) -> Result<InternalExtensionList, Error> {
        self.ask(|client| client.extensions())
    }

    /// The rows that the core answers this SQL with.
    ///
    /// # Errors
    /// When the core cannot be asked, and [`Error::Refused`] when the query fails.
    pub fn query(&self, sql: &str) -> Result<Vec<BTreeMap<String, String>>, Error> {
        let answer = self.ask(|client| client.query(sql.to_owned()))?;
        self.check(answer.status.unwrap_or_default())?;
        Ok(answer.response.unwrap_or_default())
    }

    fn check(&self, status: ExtensionStatus) -> Result<(), Error> {
        match status.code {
            None | Some(0) => Ok(()),
            Some(_) => Err(self.refused(status.message.unwrap_or_default())),
        }
    }

    fn refused(&self, message: String) -> Error {
        Error::Refused { socket: self.socket.clone(), message }
    }

    /// Which of these names the core has tables of, its own or an extension's, in whatever case
    /// (SQL does not tell it apart). They come back in lower case.
    ///
    /// # Errors
    /// As for [`Manager::query`].
    pub fn tables_among(&self, names: &[impl AsRef<str>]) -> Result<BTreeSet<String>, Error> {
        let list: Vec<String> = names
            .iter()
            .map(|name| format!("'{}'", name.as_ref().to_ascii_lowercase().replace('\'', "''")))
            .collect();
        let rows = self.query(&format!(
            "SELECT lower(name) AS name FROM osquery_registry \
             WHERE registry = 'table' AND lower(name) IN ({})",
            list.join(", ")
        ))?;
        Ok(rows.into_iter().filter_map(|mut row| row.remove("name")).collect())
    }

    /// Connects, or gives up after the timeout: it waits while the listener's queue is full.
    fn connect(&self) -> Result<UnixStream, Error> {
        let end = Instant::now() + self.timeout;
        let connect = || loop {
            // An interrupted attempt leaves its socket in a state of which connect(2) says little.
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
            match end.saturating_duration_since(Instant::now()) {
                Duration::ZERO => return Err(io::ErrorKind::TimedOut.into()),
                left => socket.set_write_timeout(Some(left))?,
            }
            match socket.connect(&SockAddr::unix(&self.socket)?) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                connected => return connected.map(|()| socket.into()),
            }
        };
        connect().map_err(|source: io::Error| {
            let socket = self.socket.clone();
            match source.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                    Error::Absent { socket, source }
                }
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                    Error::Silent { socket, timeout: self.timeout }
                }
                _ => Error::Connect { socket, source },
            }
        })
    }

    fn ask<T>(&self, request: impl Fn(&mut Client) -> thrift::Result<T>) -> Result<T, Error> {
        let start = Instant::now();
        let stream = self.connect()?;
        let timed = Timed::new(&stream);
        timed.set(self.timeout.saturating_sub(start.elapsed()), self.timeout);
        let mut client = Client::new(
            BinaryInput::new(BufReader::new(&timed)),
            TBinaryOutputProtocol::new(BufWriter::new(&timed), true),
        );
        request(&mut client).map_err(|source| {
            let socket = self.socket.clone();
            // The thrift crate does not tell a timeout apart.
            if matches!(source, thrift::Error::Transport(_)) && start.elapsed() >= self.timeout {
                Error::Silent { socket, timeout: self.timeout }
            } else {
                Error::Garbled { socket, source }
            }
        })
    }
}
