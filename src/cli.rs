//! The command line: osquery's launch flags, or a subcommand for people.
//!
//! osquery passes no flag but its own to an extension, so every other one can be set by an
//! environment variable too.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use log::{Level, LevelFilter};
use tables::options::OptionError;

use crate::table_flags::TableFlags;

/// Every open socket of this host, with every process that holds it.
///
/// Without a subcommand it is an osquery extension, and takes the flags with which osquery starts
/// one.
#[derive(Debug, Parser)]
#[command(version, args_override_self = true)]
pub struct Cli {
    /// What to do instead of serving osquery.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// How to reach osquery.
    #[command(flatten)]
    pub launch: Launch,
    /// How the tables collect.
    #[command(flatten)]
    pub tables: TableFlags,
    /// Log more.
    #[arg(long, global = true, env = "PROCESS_OPEN_SOCKETS_VERBOSE", value_parser = clap::builder::FalseyValueParser::new())]
    pub verbose: bool,
}

/// A subcommand.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Answer SQL with the SQLite that is built in.
    #[cfg(feature = "shell")]
    Query(crate::shell::Query),
    /// Print the CREATE TABLE of each table.
    #[cfg(feature = "shell")]
    Schema,
}

/// The flags with which osquery launches an extension, and ours beside them.
#[derive(Args, Debug)]
pub struct Launch {
    /// The socket of osquery's extension manager
    #[arg(long, value_name = "PATH", env = "PROCESS_OPEN_SOCKETS_SOCKET")]
    pub socket: Option<PathBuf>,
    /// Seconds to wait for that socket before the extension exits, with --when-gone exit; 0 to 86400
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 3,
        allow_negative_numbers = true,
        value_parser = up_to::<DAY>,
        env = "PROCESS_OPEN_SOCKETS_TIMEOUT"
    )]
    pub timeout: u64,
    /// Seconds between two looks at whether osquery is still there; 0 to 86400, 0 is taken for 1
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 3,
        allow_negative_numbers = true,
        value_parser = up_to::<DAY>,
        env = "PROCESS_OPEN_SOCKETS_INTERVAL"
    )]
    pub interval: u64,
    /// What to do when osquery is gone, or does not come within --timeout
    ///
    /// [default: exit if osquery started the extension, otherwise wait]
    #[arg(long, value_enum, value_name = "WHAT", env = "PROCESS_OPEN_SOCKETS_WHEN_GONE")]
    pub when_gone: Option<WhenGone>,
    /// The table's name in osquery; an error if osquery has one of that name
    ///
    /// [default: process_open_sockets, or alt_process_open_sockets where osquery has that one]
    #[arg(
        long,
        value_name = "NAME",
        value_parser = identifier,
        env = "PROCESS_OPEN_SOCKETS_TABLE_NAME"
    )]
    pub table_name: Option<String>,
}

/// What to do when osquery is gone, or not there yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum WhenGone {
    /// End, so that whoever started the extension does so again.
    Exit,
    /// Wait for osquery however long it takes, and serve it.
    Wait,
}

impl Launch {
    /// Whether osquery started this process.
    pub fn by_osquery(&self) -> bool {
        std::env::var_os("OSQUERY_EXTENSION").is_some()
    }

    /// The time between two looks at osquery: a second at the least.
    pub fn interval(&self) -> Duration {
        Duration::from_secs(self.interval.max(1))
    }

    /// What to do when osquery is gone, or not there yet.
    pub fn when_gone(&self) -> WhenGone {
        let default = if self.by_osquery() { WhenGone::Exit } else { WhenGone::Wait };
        self.when_gone.unwrap_or(default)
    }
}

/// The seconds of a day: the longest time that a flag takes.
const DAY: u64 = 86_400;

fn up_to<const MAX: u64>(text: &str) -> Result<u64, OptionError> {
    let number = text.parse().ok().filter(|number| *number <= MAX);
    number.ok_or(OptionError::NotInRange { min: 0, max: MAX })
}

/// A name that SQL takes without quotes, since osquery creates its tables without them.
fn identifier(text: &str) -> Result<String, String> {
    let rest = text.trim_start_matches(|c: char| c.is_ascii_alphabetic() || c == '_');
    let plain =
        rest.len() < text.len() && rest.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if !plain {
        return Err("not a name in SQL: a letter or '_' first, then letters, digits and '_'".into());
    }
    if text.len() > 64 {
        return Err("longer than 64 characters".into());
    }
    if text.to_ascii_lowercase().starts_with("sqlite_") {
        return Err("names that begin with 'sqlite_' are SQLite's own".into());
    }
    Ok(text.to_owned())
}

impl Cli {
    /// Starts the log: warnings, or more with `--verbose` or RUST_LOG.
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
