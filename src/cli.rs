//! The command line: osquery's launch flags, or a subcommand for people.
//!
//! osquery passes no flag but its own to an extension, so every other one can be set by an
//! environment variable too.

use std::io::{Write, stderr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

#[cfg(target_os = "linux")]
use clap::builder::{PathBufValueParser, PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand};
use log::{Level, LevelFilter};
use tables::process_open_sockets::{Families, Options};
#[cfg(target_os = "linux")]
use tables::process_open_sockets::{Source, Threads};

use crate::variables;

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

fn up_to<const MOST: u64>(text: &str) -> Result<u64, String> {
    let number = text.parse().ok().filter(|number| *number <= MOST);
    number.ok_or_else(|| format!("not a whole number from 0 to {MOST}"))
}

/// A directory that can be read as a mount of proc: a wrong one is found at the start, not by the
/// first query.
#[cfg(target_os = "linux")]
fn mount_of_proc(path: PathBuf) -> Result<PathBuf, String> {
    path.read_dir().map_err(|error| format!("cannot read it: {error}"))?;
    match path.join("self").symlink_metadata() {
        Ok(_) => Ok(path),
        Err(_) => Err("no proc file system is mounted there (it has no 'self')".into()),
    }
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

/// The flags that say where the table looks on Linux: about a mount of proc, netlink, and threads that have
/// descriptors of their own. Elsewhere there is none of that to choose.
#[cfg(target_os = "linux")]
#[derive(Args, Debug)]
pub struct LinuxFlags {
    /// The mount of proc to read, such as a container's view of the host's
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        default_value = "/proc",
        value_parser = PathBufValueParser::new().try_map(mount_of_proc),
        env = "PROCESS_OPEN_SOCKETS_PROCFS"
    )]
    pub procfs: PathBuf,
    /// Who tells what sockets there are. auto: BPF where it can be had, for a single query only with 10,000
    /// files open or more; netlink; and /proc/net where there is neither. bpf: the same, with BPF for a
    /// single query too, and a warning where there is none. netlink, procfs: that one alone
    #[arg(
        long,
        global = true,
        value_name = "SOURCE",
        default_value = "auto",
        value_parser = PossibleValuesParser::new(["auto", "procfs", "netlink", "bpf"]).map(source),
        env = "PROCESS_OPEN_SOCKETS_SOURCE"
    )]
    pub source: Source,
    /// Load no BPF program, whatever the source
    #[arg(
        long,
        global = true,
        env = "PROCESS_OPEN_SOCKETS_NO_BPF",
        value_parser = clap::builder::FalseyValueParser::new()
    )]
    pub no_bpf: bool,
    /// For how many milliseconds sockets that were read for one lookup by pid may answer others: 0 to
    /// 60000, 0 to read them each time
    #[arg(
        long,
        global = true,
        value_name = "MILLISECONDS",
        default_value_t = 1000,
        allow_negative_numbers = true,
        value_parser = up_to::<60_000>,
        env = "PROCESS_OPEN_SOCKETS_SNAPSHOT_TTL_MS"
    )]
    pub snapshot_ttl_ms: u64,
    /// Read the descriptor tables that threads have of their own: auto (with BPF on Linux 6.7 and later,
    /// where it costs next to nothing), on, or off; without a value: on
    #[arg(
        long,
        global = true,
        value_name = "WHEN",
        num_args = 0..=1,
        require_equals = true,
        default_value = "auto",
        default_missing_value = "on",
        value_parser = threads,
        env = "PROCESS_OPEN_SOCKETS_THREADS"
    )]
    pub threads: Threads,
}

/// The flags that say where the table looks, and at what.
#[derive(Args, Debug)]
pub struct TableFlags {
    /// What only Linux has
    #[cfg(target_os = "linux")]
    #[command(flatten)]
    pub linux: LinuxFlags,
    /// Which sockets there are rows of: a list, with commas between, of unix, inet, packet, netlink,
    /// vsock, mptcp, sctp, unlisted (held, and in no table of the kernel's), system (kernel controls and
    /// events of macOS), ndrv (frames of an interface, macOS), default (the first three) and all; what a
    /// system lacks it has no rows of
    #[arg(
        long,
        global = true,
        value_name = "LIST",
        default_value = "default",
        value_parser = families,
        env = "PROCESS_OPEN_SOCKETS_FAMILIES"
    )]
    pub families: Families,
    /// Return a row for every file descriptor; by default, a process has rows for its lowest 100
    /// descriptors of one socket, and the column descriptors counts all
    #[arg(
        long,
        global = true,
        env = "PROCESS_OPEN_SOCKETS_ALL_DESCRIPTORS",
        value_parser = clap::builder::FalseyValueParser::new()
    )]
    pub all_descriptors: bool,
    /// Seconds that one scan may take, from 1 to 3600; what it has not read by then is counted and logged
    #[arg(
        long,
        global = true,
        value_name = "SECONDS",
        default_value_t = 30,
        value_parser = clap::value_parser!(u64).range(1..=3600),
        env = "PROCESS_OPEN_SOCKETS_SCAN_TIMEOUT"
    )]
    pub scan_timeout: u64,
}

/// The words of a switch count too, since the flag was one.
#[cfg(target_os = "linux")]
fn threads(text: &str) -> Result<Threads, String> {
    match &*text.to_ascii_lowercase() {
        "auto" => Ok(Threads::Auto),
        "on" | "true" | "yes" | "1" => Ok(Threads::On),
        "off" | "false" | "no" | "0" => Ok(Threads::Off),
        _ => Err("not one of auto, on, off".into()),
    }
}

fn families(list: &str) -> Result<Families, String> {
    let mut families = Families::empty();
    for name in list.split(',') {
        families |= match name.trim() {
            "unix" => Families::UNIX,
            "inet" => Families::INET,
            "packet" => Families::PACKET,
            "netlink" => Families::NETLINK,
            "vsock" => Families::VSOCK,
            "mptcp" => Families::MPTCP,
            "sctp" => Families::SCTP,
            "unlisted" => Families::UNLISTED,
            "system" => Families::SYSTEM,
            "ndrv" => Families::NDRV,
            "default" => Families::default(),
            "all" => Families::all(),
            other => {
                return Err(format!(
                    "'{other}' is none of unix, inet, packet, netlink, vsock, mptcp, sctp, unlisted, \
                     system, ndrv, default, all"
                ));
            }
        };
    }
    Ok(families)
}

#[cfg(target_os = "linux")]
fn source(name: String) -> Source {
    match &*name {
        "procfs" => Source::Procfs,
        "netlink" => Source::Netlink,
        "bpf" => Source::Bpf,
        _ => Source::Auto,
    }
}

#[cfg(target_os = "linux")]
impl LinuxFlags {
    fn options(&self) -> Options {
        Options {
            procfs: self.procfs.clone(),
            source: self.source,
            bpf_from_files: (!self.no_bpf).then_some(0),
            snapshot_ttl: Duration::from_millis(self.snapshot_ttl_ms),
            threads: self.threads,
            ..Options::default()
        }
    }
}

impl TableFlags {
    /// The same as the table takes it.
    pub fn options(&self) -> Options {
        let families = self.families;
        #[cfg(target_os = "linux")]
        let others = self.linux.options();
        #[cfg(not(target_os = "linux"))]
        let others = Options::default();
        let descriptors_per_socket =
            others.descriptors_per_socket.filter(|_| !self.all_descriptors);
        let scan_timeout = Duration::from_secs(self.scan_timeout);
        Options { families, descriptors_per_socket, scan_timeout, ..others }
    }
}

impl Cli {
    /// What this process was called with. If that is wrong, or asks for help, that is said, and the
    /// status to end with is returned.
    ///
    /// # Errors
    /// With status 2 when it is wrong, with 0 after the help or the version.
    pub fn read() -> Result<Cli, ExitCode> {
        let arguments: Vec<_> = std::env::args_os().collect();
        variables::parse(&arguments).map_err(|error| {
            if error.use_stderr() {
                let _ = write!(stderr(), "{}: {}", env!("CARGO_PKG_NAME"), error.render());
                return ExitCode::from(2);
            }
            let _ = error.print();
            ExitCode::SUCCESS
        })
    }

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

#[cfg(test)]
mod tests {
    use std::any::TypeId;

    use clap::CommandFactory;

    use super::*;

    /// A default that must be on the host keeps the program from starting where it is not.
    #[test]
    fn what_other_systems_have_too_has_no_path_for_a_default() {
        #[cfg(target_os = "linux")]
        let of_linux = LinuxFlags::augment_args(clap::Command::new(""));
        #[cfg(not(target_os = "linux"))]
        let of_linux = clap::Command::new("");
        let is_of_linux =
            |arg: &clap::Arg| of_linux.get_arguments().any(|it| it.get_id() == arg.get_id());
        let command = Cli::command();
        let defaults = command.get_arguments().filter(|arg| !arg.get_default_values().is_empty());
        let paths = defaults.filter(|arg| {
            !is_of_linux(arg) && arg.get_value_parser().type_id() == TypeId::of::<PathBuf>()
        });
        let ids: Vec<&str> = paths.map(|arg| arg.get_id().as_str()).collect();
        assert_eq!(ids, [""; 0]);
        assert_eq!(of_linux.get_arguments().count(), if cfg!(target_os = "linux") { 5 } else { 0 });
    }
}
