//! Errors that end the extension. Each message names the remedy.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::manager;
use super::names::EXTENSION_NAME;

/// An error that ends the extension.
#[derive(Debug)]
pub(super) enum Failure {
    /// The flag `--socket` is missing.
    NoSocket {
        /// A table that can be queried instead.
        table: String,
    },
    /// A request to the extension manager failed.
    Manager(manager::Error),
    /// osquery at that socket refuses the extension, with this message.
    Refused(PathBuf, String),
    /// Another process has registered an extension of this name at that socket.
    AlreadyRegistered(PathBuf),
    /// osquery has a table of the name in `--table-name`.
    NameTaken(String),
    /// osquery has tables of all these names.
    NamesTaken(Vec<String>),
    /// osquery at that socket accepted the extension but does not list it.
    NotListed(PathBuf),
    /// The socket for osquery's requests cannot be created.
    Listen(PathBuf, io::Error),
    /// The system starts no thread or installs no signal handler.
    System(io::Error),
}

impl Failure {
    pub(super) fn exit_code(&self) -> ExitCode {
        match self {
            Failure::NoSocket { .. } => ExitCode::from(2),
            _ => ExitCode::FAILURE,
        }
    }
}

impl From<manager::Error> for Failure {
    fn from(error: manager::Error) -> Self {
        Failure::Manager(error)
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::NoSocket { table } => {
                let program = std::env::current_exe();
                let program = program.as_deref().unwrap_or(Path::new(EXTENSION_NAME)).display();
                f.write_str("nothing to do: neither a subcommand nor --socket is given\n")?;
                if cfg!(feature = "shell") {
                    writeln!(f, "  without osquery:  {program} query \"SELECT * FROM {table}\"")?;
                }
                write!(
                    f,
                    "  with osquery:     osqueryi --extension {program}, which passes --socket"
                )
            }
            Failure::Manager(error) => error.fmt(f),
            Failure::Refused(socket, message) => write!(
                f,
                "osquery at {} refuses the extension: {message}; osquery's log may have details \
                 (start osquery with --verbose)",
                socket.display()
            ),
            Failure::AlreadyRegistered(socket) => write!(
                f,
                "an extension named {EXTENSION_NAME} is already registered at {}; stop that \
                 process, or remove the duplicate line from extensions.load",
                socket.display()
            ),
            Failure::NameTaken(name) => write!(
                f,
                "osquery already has a table named {name}; set --table-name to another name, or \
                 omit it"
            ),
            Failure::NamesTaken(names) => write!(
                f,
                "osquery already has tables named {}; set an unused name with --table-name \
                 or PROCESS_OPEN_SOCKETS_TABLE_NAME",
                names.join(" and ")
            ),
            Failure::NotListed(socket) => write!(
                f,
                "osquery at {} accepted the extension but does not list it; osquery's log has the \
                 reason (start osquery with --verbose)",
                socket.display()
            ),
            Failure::Listen(path, source) => write!(
                f,
                "cannot create the socket {} for osquery's requests: {source}; check that its \
                 directory exists and that this user may write to it",
                path.display()
            ),
            Failure::System(source) => {
                write!(f, "cannot start a thread or install a signal handler: {source}")
            }
        }
    }
}
