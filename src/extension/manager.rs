//! A client of osquery's extension manager: the Thrift service that the core offers to extensions
//! (`ExtensionManager` in `osquery.thrift`), in the binary protocol over a buffered UNIX stream.
//!
//! Each request has its own connection, as osquery's clients do, so a request after a restart of osquery
//! needs no reconnect. The timeout covers a request from connect(2) to the last byte of the answer.

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

/// The reason why a request failed. Every message names the socket.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// No process listens at the socket.
    NotListening {
        /// The path of the socket.
        socket: PathBuf,
        /// The error of the last attempt.
        source: io::Error,
    },
    /// The connection failed.
    Connect {
        /// The path of the socket.
        socket: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// No answer arrived before the timeout.
    TimedOut {
        /// The path of the socket.
        socket: PathBuf,
        /// The timeout.
        timeout: Duration,
    },
    /// The answer does not follow the protocol.
    Protocol {
        /// The path of the socket.
        socket: PathBuf,
        /// The error of the Thrift library.
        source: thrift::Error,
    },
    /// osquery refused the request.
    Refused {
        /// The path of the socket.
        socket: PathBuf,
        /// osquery's message.
        message: String,
    },
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Error::NotListening { socket, source } => write!(
                f,
                "no osquery extension manager listens at {} ({source}); start osquery first, or set \
                 --socket to the value of osquery's --extensions_socket, or wait longer with --timeout",
                socket.display()
            ),
            Error::Connect { socket, source } => {
                write!(f, "cannot connect to osquery's socket {}: {source}", socket.display())?;
                if source.kind() == io::ErrorKind::PermissionDenied {
                    f.write_str("; run the extension as osquery's user")?;
                }
                Ok(())
            }
            Error::TimedOut { socket, timeout } => write!(
                f,
                "osquery at {} did not answer within {} s: it is busy or hangs; try again, or restart \
                 osquery",
                socket.display(),
                timeout.as_secs_f32()
            ),
            Error::Protocol { socket, source } => write!(
                f,
                "the server at {} does not follow the protocol of osquery's extension manager \
                 ({source}); check --socket",
                socket.display()
            ),
            Error::Refused { socket, message } => {
                write!(f, "osquery at {} refused a request: {message}", socket.display())
            }
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::NotListening { source, .. } | Error::Connect { source, .. } => Some(source),
            Error::Protocol { source, .. } => Some(source),
            Error::TimedOut { .. } | Error::Refused { .. } => None,
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
    /// Creates a client of the manager at that socket, with a timeout for each request. Does not connect.
    pub fn new(socket: &Path, timeout: Duration) -> Self {
        Manager { socket: socket.to_owned(), timeout }
    }

    /// Returns a client of the same manager with another timeout.
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Manager { socket: self.socket.clone(), timeout }
    }

    /// Checks that a process listens at the socket.
    ///
    /// # Errors
    /// [`Error::NotListening`] if none does: the extension can start before osquery.
    pub fn probe(&self) -> Result<(), Error> {
        self.connect().map(drop)
    }

    /// Registers an extension with these plugins, and returns its uuid.
    ///
    /// # Errors
    /// [`Error::Refused`] with osquery's message if it refuses the extension or a plugin.
    pub fn register(
        &self,
        extension: &InternalExtensionInfo,
        registry: &ExtensionRegistry,
    ) -> Result<ExtensionRouteUUID, Error> {
        let status =
            self.request(|client| client.register_extension(extension.clone(), registry.clone()))?;
        let uuid = status.uuid;
        self.check(status)?;
        uuid.ok_or_else(|| self.refused("the answer has no uuid".to_owned()))
    }

    /// Removes that extension from osquery's registry.
    ///
    /// # Errors
    /// [`Error::Refused`] if it is not registered.
    pub fn deregister(&self, uuid: ExtensionRouteUUID) -> Result<(), Error> {
        let status = self.request(|client| client.deregister_extension(uuid))?;
        self.check(status)
    }

    /// Returns the registered extensions by uuid. osquery itself has uuid 0.
    ///
    /// # Errors
    /// If the request fails.
    pub fn extensions(&self) -> Result<InternalExtensionList, Error> {
        self.request(|client| client.extensions())
    }

    /// Runs this SQL in osquery and returns the rows.
    ///
    /// # Errors
    /// If the request fails; [`Error::Refused`] if the query fails.
    pub fn query(&self, sql: &str) -> Result<Vec<BTreeMap<String, String>>, Error> {
        let answer = self.request(|client| client.query(sql.to_owned()))?;
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

    /// Returns the names among these, in lower case, that osquery has tables of, built in or an extension's.
    /// The comparison ignores case, as SQL does.
    ///
    /// # Errors
    /// As for [`Manager::query`].
    pub fn existing_tables(&self, names: &[impl AsRef<str>]) -> Result<BTreeSet<String>, Error> {
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

    /// Connects, and fails after the timeout: connect(2) blocks while the accept queue is full.
    fn connect(&self) -> Result<UnixStream, Error> {
        let end = Instant::now() + self.timeout;
        let connect = || loop {
            // A new socket for each attempt: connect(2) does not define the state after an interruption.
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
            match end.saturating_duration_since(Instant::now()) {
                Duration::ZERO => return Err(io::ErrorKind::TimedOut.into()),
                remaining => socket.set_write_timeout(Some(remaining))?,
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
                    Error::NotListening { socket, source }
                }
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                    Error::TimedOut { socket, timeout: self.timeout }
                }
                _ => Error::Connect { socket, source },
            }
        })
    }

    fn request<T>(&self, request: impl Fn(&mut Client) -> thrift::Result<T>) -> Result<T, Error> {
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
            // The thrift crate has no error kind for a timeout.
            if matches!(source, thrift::Error::Transport(_)) && start.elapsed() >= self.timeout {
                Error::TimedOut { socket, timeout: self.timeout }
            } else {
                Error::Protocol { socket, source }
            }
        })
    }
}
