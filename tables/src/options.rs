//! The settings of the tables: one row for each flag, and the options that the flags set.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::model::holders::{DEFAULT_DESCRIPTORS_PER_SOCKET, HolderLimits};
use crate::model::{Families, Source};

/// The options of the tables.
#[derive(Clone, Debug)]
pub struct Options {
    /// The mount of proc to read.
    pub procfs: PathBuf,
    /// The source of the socket list.
    pub source: Source,
    /// The minimum number of open files on the host for BPF, if the source is `Auto`: to load the program takes some
    /// milliseconds. None disables BPF for every source.
    pub bpf_from_files: Option<u64>,
    /// How long a socket table that was read for a lookup by pid is reused for others; zero disables this. The rows
    /// can be this old, but newer sockets are found.
    pub snapshot_ttl: Duration,
    /// Whether the file descriptor tables of threads (CLONE_FILES in clone(2)) are read.
    pub threads: Threads,
    /// The time limit of one scan. The omissions are counted and reported.
    pub scan_timeout: Duration,
    /// The selected kinds of sockets.
    pub families: Families,
    /// The maximum number of rows for the descriptors of a process and socket: the lowest are kept, and the column
    /// `descriptors` counts all. None keeps all.
    pub descriptors_per_socket: Option<u32>,
    /// The maximum number of file descriptors of one scan, besides one of each socket; None for all. Beyond it, the
    /// users with the most are reduced to a common level, and the column `rows_omitted` counts the rest.
    pub max_holders: Option<usize>,
    /// When socket events are collected.
    pub events: EventMode,
    /// The maximum number of socket events that are kept.
    pub events_max: usize,
    /// How long socket events are kept.
    pub events_expiry: Duration,
    /// How long events are collected without a query of them, with [`EventMode::OnDemand`].
    pub events_idle: Duration,
    /// Which events of datagram sockets are collected.
    pub event_datagrams: EventDatagrams,
    /// Whether the process ends after few queries: then it collects no events.
    pub is_one_query: bool,
}

/// When socket events are collected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventMode {
    /// From the first query of an event table on.
    OnDemand,
    /// From the start of the extension on.
    On,
    /// Never.
    Off,
}

/// Which events of UDP, raw, ping and packet sockets are collected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventDatagrams {
    /// As [`EventDatagrams::FirstUse`], from the first query of flows on as [`EventDatagrams::Count`].
    Auto,
    /// First sends; and each datagram is counted, for flows.
    Count,
    /// As [`EventDatagrams::Count`]; and the end of each UDP, raw and ping socket, with its process.
    ExactEnd,
    /// The first send of each socket.
    FirstUse,
    /// None.
    Off,
}

/// When the file descriptor tables of threads are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    /// If it costs almost nothing: with BPF on Linux 6.7 and later.
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

/// The default of `--events-max`: the largest number of rows, in thousands, whose `SELECT *` costs osquery at most
/// 50 MB. osquery 5.23 takes 1.3 KB for a row of 12 columns, so 2,708 bytes for the 25 of `process_socket_events`:
/// 50,000,000 / 2,708 = 18,463.
const DEFAULT_EVENTS: usize = 18_000;
/// The greatest value of `--events-max` that is tested.
#[cfg(target_os = "linux")]
const MAX_EVENTS: u64 = 50_000;

impl Default for Options {
    fn default() -> Self {
        Options {
            procfs: PathBuf::from("/proc"),
            source: Source::Auto,
            bpf_from_files: Some(0),
            snapshot_ttl: Duration::from_secs(1),
            threads: Threads::Auto,
            scan_timeout: Duration::from_secs(30),
            families: Families::default(),
            max_holders: None,
            descriptors_per_socket: Some(DEFAULT_DESCRIPTORS_PER_SOCKET),
            events: EventMode::OnDemand,
            events_max: DEFAULT_EVENTS,
            events_expiry: Duration::from_secs(3_600),
            events_idle: Duration::from_secs(86_400),
            event_datagrams: EventDatagrams::Auto,
            is_one_query: false,
        }
    }
}

impl Options {
    pub(crate) fn holder_limits(&self) -> HolderLimits {
        HolderLimits { per_socket: self.descriptors_per_socket, max: self.max_holders }
    }

    /// The defaults for answers to osquery, which accepts some hundred thousand rows: memory is bounded.
    #[must_use]
    pub fn for_osquery(self) -> Options {
        const MAX_HOLDERS: usize = 1_000_000;
        Options { max_holders: Some(MAX_HOLDERS), ..self }
    }

    /// The defaults for a process that ends after few queries: BPF is used only on a host with many open files.
    #[must_use]
    pub fn for_one_query(self) -> Options {
        const BUSY: u64 = 10_000;
        let bpf_from_files = self.bpf_from_files.map(|files| files.max(BUSY));
        Options { bpf_from_files, is_one_query: true, ..self }
    }
}

/// A setting of a table, as a flag of the program and as an environment variable.
#[derive(Clone, Copy, Debug)]
pub struct TableOption {
    /// The flag, without the dashes.
    pub flag: &'static str,
    /// The environment variable, since osquery passes only its own flags to an extension.
    pub variable: &'static str,
    /// What the flag does, for `--help`.
    pub help: &'static str,
    /// The argument of the flag, and the option that it sets.
    pub value: OptionValue,
}

/// The argument of a flag. Each function checks the value and sets the option.
#[derive(Clone, Copy, Debug)]
pub enum OptionValue {
    /// No argument.
    Switch(fn(&mut Options)),
    /// A path.
    Path {
        /// The value's name in the help.
        name: &'static str,
        /// The value where there is neither flag nor variable.
        default: &'static str,
        /// Sets the value.
        set: fn(&mut Options, &Path) -> Result<(), OptionError>,
    },
    /// Text.
    Text {
        /// The value's name in the help.
        name: &'static str,
        /// The value where there is neither flag nor variable.
        default: &'static str,
        /// The value of the flag alone; with one, the flag needs `=` before a value.
        alone: Option<&'static str>,
        /// The values, if there are few.
        choices: &'static [&'static str],
        /// Sets the value.
        set: fn(&mut Options, &str) -> Result<(), OptionError>,
    },
}

/// Why a value of a flag is invalid.
#[derive(Debug)]
#[non_exhaustive]
pub enum OptionError {
    /// Not a whole number in this range.
    NotInRange {
        /// The least value.
        min: u64,
        /// The greatest value.
        max: u64,
    },
    /// Not one of the names.
    UnknownName {
        /// The value.
        name: String,
        /// The allowed names.
        allowed: &'static [&'static str],
    },
    /// A directory that cannot be read.
    Unreadable(io::Error),
    /// A directory that is not a mount of proc.
    NotProc,
}

impl fmt::Display for OptionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OptionError::NotInRange { min, max } => {
                write!(f, "not a whole number from {min} to {max}")
            }
            OptionError::UnknownName { name, allowed } => {
                write!(f, "'{name}' is not one of {}", allowed.join(", "))
            }
            OptionError::Unreadable(error) => write!(f, "cannot read it: {error}"),
            OptionError::NotProc => {
                f.write_str("no proc file system is mounted there (it has no 'self')")
            }
        }
    }
}

impl std::error::Error for OptionError {}

/// The settings of `process_open_sockets`, in the order of the help.
pub(crate) const PROCESS_OPEN_SOCKETS: &[TableOption] = &[
    #[cfg(target_os = "linux")]
    TableOption {
        flag: "procfs",
        variable: "PROCESS_OPEN_SOCKETS_PROCFS",
        help: "The mount of proc to read, such as a container's view of the host's",
        value: OptionValue::Path { name: "DIR", default: "/proc", set: set_procfs },
    },
    #[cfg(target_os = "linux")]
    TableOption {
        flag: "source",
        variable: "PROCESS_OPEN_SOCKETS_SOURCE",
        help: "Source of the socket list. auto: BPF where it loads, for a single query only with 10,000 \
               files open or more; netlink; and /proc/net where neither is available. bpf: the same, with \
               BPF for a single query too, and a warning where it does not load. netlink, procfs: only \
               that source",
        value: OptionValue::Text {
            name: "SOURCE",
            default: "auto",
            alone: None,
            choices: &["auto", "procfs", "netlink", "bpf"],
            set: set_source,
        },
    },
    #[cfg(target_os = "linux")]
    TableOption {
        flag: "no-bpf",
        variable: "PROCESS_OPEN_SOCKETS_NO_BPF",
        help: "Load no BPF program, whatever the source",
        value: OptionValue::Switch(|options| options.bpf_from_files = None),
    },
    #[cfg(target_os = "linux")]
    TableOption {
        flag: "snapshot-ttl-ms",
        variable: "PROCESS_OPEN_SOCKETS_SNAPSHOT_TTL_MS",
        help: "Milliseconds for which later lookups by pid may reuse the socket tables of an earlier one, from 0 \
               (never) to 60000",
        value: OptionValue::Text {
            name: "MILLISECONDS",
            default: "1000",
            alone: None,
            choices: &[],
            set: set_snapshot_ttl,
        },
    },
    #[cfg(target_os = "linux")]
    TableOption {
        flag: "threads",
        variable: "PROCESS_OPEN_SOCKETS_THREADS",
        help: "Read the file descriptor tables of threads that do not share that of their process: auto (only \
               with BPF on Linux 6.7 and later, where it costs little), on, or off; without a value: on",
        value: OptionValue::Text {
            name: "WHEN",
            default: "auto",
            alone: Some("on"),
            choices: &[],
            set: set_threads,
        },
    },
    TableOption {
        flag: "families",
        variable: "PROCESS_OPEN_SOCKETS_FAMILIES",
        help: "Sockets that have rows, separated by commas: unix, inet, packet, netlink, vsock, mptcp, sctp, \
               unlisted (held by a process, and in no socket table of the kernel), system (kernel controls \
               and events, macOS), ndrv (frames of an interface, macOS), default (the first three) and all; \
               families that the system does not have are ignored",
        value: OptionValue::Text {
            name: "LIST",
            default: "default",
            alone: None,
            choices: &[],
            set: set_families,
        },
    },
    TableOption {
        flag: "all-descriptors",
        variable: "PROCESS_OPEN_SOCKETS_ALL_DESCRIPTORS",
        help: "Return a row for every file descriptor; by default, a process has rows for its lowest 100 \
               descriptors of one socket, and the column descriptors counts all",
        value: OptionValue::Switch(|options| options.descriptors_per_socket = None),
    },
    TableOption {
        flag: "scan-timeout",
        variable: "PROCESS_OPEN_SOCKETS_SCAN_TIMEOUT",
        help: "Time limit of one scan in seconds, from 1 to 3600; omissions after that are counted and logged",
        value: OptionValue::Text {
            name: "SECONDS",
            default: "30",
            alone: None,
            choices: &[],
            set: set_scan_timeout,
        },
    },
];

/// The settings of `process_socket_events` and `socket_event_stats`, in the order of the help.
#[cfg(target_os = "linux")]
pub(crate) const SOCKET_EVENTS: &[TableOption] = &[
    TableOption {
        flag: "events",
        variable: "PROCESS_OPEN_SOCKETS_EVENTS",
        help: "When socket events are collected. on-demand: from the first query of process_socket_events or process_socket_flows on, \
               until --events-idle after the last one. on: from the start of the extension on. off: never",
        value: OptionValue::Text {
            name: "WHEN",
            default: "on-demand",
            alone: None,
            choices: &["on-demand", "on", "off"],
            set: set_events,
        },
    },
    TableOption {
        flag: "events-max",
        variable: "PROCESS_OPEN_SOCKETS_EVENTS_MAX",
        help: "How many socket events are kept, from 1 to 50000; if there are more, the oldest of the user with the \
               most are dropped and counted. With the default, SELECT * takes osquery at most 50 MB",
        value: OptionValue::Text {
            name: "NUMBER",
            default: "18000",
            alone: None,
            choices: &[],
            set: set_events_max,
        },
    },
    TableOption {
        flag: "events-expiry",
        variable: "PROCESS_OPEN_SOCKETS_EVENTS_EXPIRY",
        help: "Seconds for which a socket event is kept, from 10 to 86400; more than the interval of the queries",
        value: OptionValue::Text {
            name: "SECONDS",
            default: "3600",
            alone: None,
            choices: &[],
            set: set_events_expiry,
        },
    },
    TableOption {
        flag: "events-idle",
        variable: "PROCESS_OPEN_SOCKETS_EVENTS_IDLE",
        help: "With --events on-demand, seconds after the last query when the collection ends and its rows are dropped, from 1 to 2592000",
        value: OptionValue::Text {
            name: "SECONDS",
            default: "86400",
            alone: None,
            choices: &[],
            set: set_events_idle,
        },
    },
    TableOption {
        flag: "events-datagrams",
        variable: "PROCESS_OPEN_SOCKETS_EVENTS_DATAGRAMS",
        help: "What is collected of UDP, raw, ping and packet sockets, on Linux 6.3 and later. first-use: the first send of \
               each socket. count: also what each process sends and receives, for process_socket_flows. exact-end: also the close of each \
               socket, which needs control groups of version 2. auto: first-use, \
               and count from the first query of process_socket_flows on. off: nothing",
        value: OptionValue::Text {
            name: "WHICH",
            default: "auto",
            alone: None,
            choices: &["auto", "count", "exact-end", "first-use", "off"],
            set: set_event_datagrams,
        },
    },
];

#[cfg(target_os = "linux")]
fn set_events(options: &mut Options, name: &str) -> Result<(), OptionError> {
    const NAMES: &[&str] = &["on-demand", "on", "off"];
    options.events = match name {
        "on-demand" => EventMode::OnDemand,
        "on" => EventMode::On,
        "off" => EventMode::Off,
        _ => return Err(OptionError::UnknownName { name: name.to_owned(), allowed: NAMES }),
    };
    Ok(())
}

#[cfg(target_os = "linux")]
fn set_events_max(options: &mut Options, text: &str) -> Result<(), OptionError> {
    let number = number(text, 1, MAX_EVENTS)?;
    options.events_max = usize::try_from(number).unwrap_or(usize::MAX);
    Ok(())
}

#[cfg(target_os = "linux")]
fn set_events_expiry(options: &mut Options, text: &str) -> Result<(), OptionError> {
    options.events_expiry = Duration::from_secs(number(text, 10, 86_400)?);
    Ok(())
}

#[cfg(target_os = "linux")]
fn set_events_idle(options: &mut Options, text: &str) -> Result<(), OptionError> {
    options.events_idle = Duration::from_secs(number(text, 1, 2_592_000)?);
    Ok(())
}

#[cfg(target_os = "linux")]
fn set_event_datagrams(options: &mut Options, name: &str) -> Result<(), OptionError> {
    const NAMES: &[&str] = &["auto", "count", "exact-end", "first-use", "off"];
    options.event_datagrams = match name {
        "auto" => EventDatagrams::Auto,
        "count" => EventDatagrams::Count,
        "exact-end" => EventDatagrams::ExactEnd,
        "first-use" => EventDatagrams::FirstUse,
        "off" => EventDatagrams::Off,
        _ => return Err(OptionError::UnknownName { name: name.to_owned(), allowed: NAMES }),
    };
    Ok(())
}

/// Checks the directory at the start, not at the first query.
#[cfg(target_os = "linux")]
fn set_procfs(options: &mut Options, path: &Path) -> Result<(), OptionError> {
    path.read_dir().map_err(OptionError::Unreadable)?;
    path.join("self").symlink_metadata().map_err(|_| OptionError::NotProc)?;
    path.clone_into(&mut options.procfs);
    Ok(())
}

#[cfg(target_os = "linux")]
fn set_source(options: &mut Options, name: &str) -> Result<(), OptionError> {
    options.source = match name {
        "auto" => Source::Auto,
        "procfs" => Source::Procfs,
        "netlink" => Source::Netlink,
        "bpf" => Source::Bpf,
        _ => {
            return Err(OptionError::UnknownName {
                name: name.to_owned(),
                allowed: &["auto", "procfs", "netlink", "bpf"],
            });
        }
    };
    Ok(())
}

#[cfg(target_os = "linux")]
fn set_snapshot_ttl(options: &mut Options, text: &str) -> Result<(), OptionError> {
    options.snapshot_ttl = Duration::from_millis(number(text, 0, 60_000)?);
    Ok(())
}

/// Accepts the words of a switch too, since an earlier version had a switch.
#[cfg(target_os = "linux")]
fn set_threads(options: &mut Options, text: &str) -> Result<(), OptionError> {
    options.threads = match &*text.to_ascii_lowercase() {
        "auto" => Threads::Auto,
        "on" | "true" | "yes" | "1" => Threads::On,
        "off" | "false" | "no" | "0" => Threads::Off,
        name => {
            return Err(OptionError::UnknownName {
                name: name.to_owned(),
                allowed: &["auto", "on", "off"],
            });
        }
    };
    Ok(())
}

fn set_families(options: &mut Options, list: &str) -> Result<(), OptionError> {
    options.families = Families::empty();
    for name in list.split(',').map(str::trim) {
        options.families |= Families::of_name(name).ok_or_else(|| OptionError::UnknownName {
            name: name.to_owned(),
            allowed: Families::NAMES,
        })?;
    }
    Ok(())
}

fn set_scan_timeout(options: &mut Options, text: &str) -> Result<(), OptionError> {
    options.scan_timeout = Duration::from_secs(number(text, 1, 3600)?);
    Ok(())
}

fn number(text: &str, min: u64, max: u64) -> Result<u64, OptionError> {
    let number = text.parse().ok().filter(|number| (min..=max).contains(number));
    number.ok_or(OptionError::NotInRange { min, max })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The settings of all tables.
    fn all() -> impl Iterator<Item = &'static TableOption> {
        #[cfg(target_os = "linux")]
        let events = SOCKET_EVENTS;
        #[cfg(not(target_os = "linux"))]
        let events: &[TableOption] = &[];
        PROCESS_OPEN_SOCKETS.iter().chain(events)
    }

    #[test]
    fn a_variable_is_named_after_its_flag() {
        for option in all() {
            let name = option.flag.replace('-', "_").to_ascii_uppercase();
            assert_eq!(option.variable, format!("PROCESS_OPEN_SOCKETS_{name}"));
        }
    }

    /// A default that must be on the host keeps the program from starting where it is not.
    #[test]
    fn only_linux_has_a_path_for_a_default() {
        let is_path = |option: &&TableOption| matches!(option.value, OptionValue::Path { .. });
        let paths: Vec<_> = all().filter(is_path).map(|option| option.flag).collect();
        assert_eq!(paths, if cfg!(target_os = "linux") { &["procfs"][..] } else { &[] });
    }

    #[test]
    fn each_default_is_the_value_without_the_flag() {
        let mut options = Options::default();
        for option in all() {
            match option.value {
                OptionValue::Switch(_) => {}
                OptionValue::Path { default, set, .. } => {
                    set(&mut options, default.as_ref()).unwrap()
                }
                OptionValue::Text { default, set, .. } => set(&mut options, default).unwrap(),
            }
        }
        assert_eq!(format!("{options:?}"), format!("{:?}", Options::default()));
    }

    #[test]
    fn a_list_of_families_is_all_of_them() {
        let mut options = Options::default();
        set_families(&mut options, "default, vsock").unwrap();
        assert_eq!(options.families, Families::default() | Families::VSOCK);
        let error = set_families(&mut options, "unix,ax25").unwrap_err().to_string();
        assert!(error.starts_with("'ax25' is not one of unix, inet, "), "{error}");
    }
}
