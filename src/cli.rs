//! The command line: osquery's launch flags, or a subcommand for people.
//!
//! osquery passes no flag but its own to an extension, so every other one can be set by an
//! environment variable too.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use log::LevelFilter;
use tables::process_open_sockets::Options;

/// Every open socket of this host, with every process that holds it.
///
/// Without a subcommand it is an osquery extension, and takes the flags with which osquery starts
/// one.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = false)]
pub struct Cli {
    /// What to do instead of serving osquery.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// How to reach osquery.
    #[command(flatten)]
    pub launch: Launch,
    /// Where the table looks.
    #[command(flatten)]
    pub table: TableFlags,
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
    /// Print the table's CREATE TABLE.
    #[cfg(feature = "shell")]
    Schema,
}

/// The flags with which osquery launches an extension, and ours beside them.
#[derive(Args, Debug)]
pub struct Launch {
    /// The socket of osquery's extension manager
    #[arg(long, value_name = "PATH", env = "PROCESS_OPEN_SOCKETS_SOCKET")]
    pub socket: Option<PathBuf>,
    /// Seconds to wait for that socket
    #[arg(long, value_name = "SECONDS", default_value_t = 3, env = "PROCESS_OPEN_SOCKETS_TIMEOUT")]
    pub timeout: u64,
    /// Seconds between two looks at whether osquery is still there
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 3,
        env = "PROCESS_OPEN_SOCKETS_INTERVAL"
    )]
    pub interval: u64,
    /// The table's name in osquery; an error if osquery has one of that name
    ///
    /// [default: process_open_sockets, or alt_process_open_sockets where osquery has that one]
    #[arg(long, value_name = "NAME", env = "PROCESS_OPEN_SOCKETS_TABLE_NAME")]
    pub table_name: Option<String>,
}

/// The flags that say where the table looks.
#[derive(Args, Debug)]
pub struct TableFlags {
    /// The mount of proc to read, such as a container's view of the host's
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        default_value = "/proc",
        env = "PROCESS_OPEN_SOCKETS_PROCFS"
    )]
    pub procfs: PathBuf,
}

impl TableFlags {
    /// The same as the table takes it.
    pub fn options(&self) -> Options {
        Options { procfs: self.procfs.clone() }
    }
}

impl Cli {
    /// Starts the log on stderr: warnings, or more with `--verbose` or RUST_LOG.
    pub fn start_log(&self) {
        let level = if self.verbose { LevelFilter::Debug } else { LevelFilter::Warn };
        env_logger::Builder::new().filter_level(level).parse_default_env().init();
    }
}
