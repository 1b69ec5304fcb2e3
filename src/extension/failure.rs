//! Why the extension does not serve, in words that say what to do.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::manager;
use super::names::EXTENSION_NAME;

/// What ended the extension.
#[derive(Debug)]
pub(super) enum Failure {
    /// Started without `--socket`.
    NoSocket {
        /// A table that can be queried instead.
        table: String,
    },
    /// The extension manager cannot be asked, or refuses the extension.
    Manager(manager::Error),
    /// The core at that socket does not take the extension, in its words.
    Refused(PathBuf, String),
    /// An extension of this name stays registered at that socket.
    AlreadyRegistered(PathBuf),
    /// osquery has a table of the name that `--table-name` asks for.
    NameTaken(String),
    /// osquery has tables of all these names.
    NamesTaken(Vec<String>),
    /// The core took the extension and does not list it.
    NotListed(PathBuf),
    /// The socket at which osquery would call cannot be made.
    Listen(PathBuf, io::Error),
    /// The operating system gives no thread or no signals.
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
            Failure::Refused(socket, words) => write!(
                f,
                "osquery at {} refuses the extension: {words}; its log may say more (start osquery \
                 with --verbose)",
                socket.display()
            ),
            Failure::AlreadyRegistered(socket) => write!(
                f,
                "an extension named {EXTENSION_NAME} is already registered at {}; end that one \
                 first, or remove one of its lines from extensions.load",
                socket.display()
            ),
            Failure::NameTaken(name) => write!(
                f,
                "osquery already has a table named {name}; give --table-name another name, or leave \
                 it out"
            ),
            Failure::NamesTaken(names) => write!(
                f,
                "osquery already has tables named {}; give the table a name of its own with \
                 --table-name or PROCESS_OPEN_SOCKETS_TABLE_NAME",
                names.join(" and ")
            ),
            Failure::NotListed(socket) => write!(
                f,
                "osquery took the extension at {} and does not list it; its log says why (start \
                 osquery with --verbose)",
                socket.display()
            ),
            Failure::Listen(path, source) => write!(
                f,
                "cannot make the socket {} at which osquery calls: {source}; is its folder there, \
                 and may this user write to it?",
                path.display()
            ),
            Failure::System(source) => write!(f, "cannot start: {source}"),
        }
    }
}
