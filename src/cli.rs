//! The command line: osquery's flags for an extension, or a subcommand.
//!
//! osquery passes only its own flags to an extension, so each flag has an environment variable.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use log::{Level, LevelFilter};

use crate::clap_args::{TableFlags, parse_up_to};
use crate::version::version;

/// Every open socket of this host, with every process that holds it.
///
/// Without a subcommand, the program is an osquery extension and takes the flags that osquery passes to one.
#[derive(Debug, Parser)]
#[command(version = version(), args_override_self = true)]
pub struct Cli {
    /// The subcommand; none to serve osquery.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The flags of the extension.
    #[command(flatten)]
    pub launch: Launch,
    /// The flags of the tables.
    #[command(flatten)]
    pub tables: TableFlags,
    /// Print debug messages on stderr.
    #[arg(long, global = true, env = "PROCESS_OPEN_SOCKETS_VERBOSE", value_parser = clap::builder::FalseyValueParser::new())]
    pub verbose: bool,
}

/// A subcommand.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run SQL with the built-in SQLite, without osquery.
    #[cfg(feature = "shell")]
    Query(crate::shell::Query),
    /// Print the CREATE TABLE statement of each table.
    #[cfg(feature = "shell")]
    Schema,
    /// Print TCP connections as they begin and end, and first datagrams, with their processes.
    ///
    /// With --events-datagrams exact-end, also the end of each UDP, raw and ping socket, with its bytes. Flows, as
    /// --events-datagrams count collects them, are not printed: query process_socket_flows in osquery. Of the options
    /// of tables, only --procfs, --no-bpf, --events off, --events-max, --events-expiry and --events-datagrams have an
    /// effect.
    #[cfg(target_os = "linux")]
    Events(crate::events::Events),
}

/// The flags that osquery passes to an extension, and this extension's own.
#[derive(Args, Debug)]
pub struct Launch {
    /// Path of osquery's extension manager socket (osquery's --extensions_socket)
    #[arg(long, value_name = "PATH", env = "PROCESS_OPEN_SOCKETS_SOCKET")]
    pub socket: Option<PathBuf>,
    /// Seconds to wait for osquery's socket before the extension exits, with --when-gone exit; 0 to 86400
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 3,
        allow_negative_numbers = true,
        value_parser = parse_up_to::<DAY>,
        env = "PROCESS_OPEN_SOCKETS_TIMEOUT"
    )]
    pub timeout: u64,
    /// Seconds between two checks that osquery still lists the extension; 0 to 86400, 0 means 1
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 3,
        allow_negative_numbers = true,
        value_parser = parse_up_to::<DAY>,
        env = "PROCESS_OPEN_SOCKETS_INTERVAL"
    )]
    pub interval: u64,
    /// Action if osquery exits, or does not listen within --timeout
    ///
    /// [default: exit if osquery started the extension, otherwise wait]
    #[arg(long, value_enum, value_name = "ACTION", env = "PROCESS_OPEN_SOCKETS_WHEN_GONE")]
    pub when_gone: Option<WhenGone>,
    /// Name of the table in osquery; an error if osquery has a table of that name
    ///
    /// [default: process_open_sockets, or alt_process_open_sockets if osquery has a table of that name]
    #[arg(
        long,
        value_name = "NAME",
        value_parser = identifier,
        env = "PROCESS_OPEN_SOCKETS_TABLE_NAME"
    )]
    pub table_name: Option<String>,
}

/// The action if osquery exits or does not listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum WhenGone {
    /// Exit, so that the parent process can restart the extension
    Exit,
    /// Wait for osquery without limit, and serve it
    Wait,
}

impl Launch {
    /// Returns whether osquery started this process.
    pub fn is_started_by_osquery(&self) -> bool {
        std::env::var_os("OSQUERY_EXTENSION").is_some()
    }

    /// Returns the time between two checks of osquery: at least one second.
    pub fn interval(&self) -> Duration {
        Duration::from_secs(self.interval.max(1))
    }

    /// Returns the action if osquery exits or does not listen.
    pub fn when_gone(&self) -> WhenGone {
        let default = if self.is_started_by_osquery() { WhenGone::Exit } else { WhenGone::Wait };
        self.when_gone.unwrap_or(default)
    }
}

/// One day in seconds: the largest value of a time flag.
const DAY: u64 = 86_400;

/// Parses a name that is valid in SQL without quotes: osquery creates tables without quotes.
fn identifier(text: &str) -> Result<String, String> {
    let rest = text.trim_start_matches(|c: char| c.is_ascii_alphabetic() || c == '_');
    let is_plain =
        rest.len() < text.len() && rest.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if !is_plain {
        return Err("not a name in SQL: use a letter or '_', then letters, digits and '_'".into());
    }
    if text.len() > 64 {
        return Err("longer than 64 characters".into());
    }
    if text.to_ascii_lowercase().starts_with("sqlite_") {
        return Err("SQLite reserves names that begin with 'sqlite_'".into());
    }
    Ok(text.to_owned())
}

impl Cli {
    /// Starts the log. It prints warnings; `--verbose` and RUST_LOG change the level.
    pub fn start_log(&self, target: env_logger::Target) {
        let level = if self.verbose { LevelFilter::Debug } else { LevelFilter::Warn };
        let mut log = env_logger::Builder::new();
        log.format(|out, record| {
            let level = match record.level() {
                Level::Error => "error",
                Level::Warn => "warning",
                Level::Info => "info",
                Level::Debug | Level::Trace => "debug",
            };
            writeln!(out, "{}: {level}: {}", env!("CARGO_PKG_NAME"), record.args())
        });
        log.filter_level(level).target(target);
        log.parse_default_env().init();
    }
}
