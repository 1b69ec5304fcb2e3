//! The plan of a scan, made once from the query and the host, before the scan reads anything.

use std::fmt;

use crate::linux::bpf::TaskFiles;
use crate::model::Source;
use crate::model::holders::HolderLimits;
use crate::model::socket_table::SocketTable;
use crate::process_open_sockets::filter::Filter;
use crate::{Options, Threads};

/// All decisions of a scan. `Display` describes what the scan does and why.
#[derive(Clone, Debug)]
pub(super) struct Plan<'a> {
    pub(super) scope: Scope,
    /// The source of holders.
    pub(super) holders: HolderSource<'a>,
    /// Whether the scan reads the file descriptor tables of threads.
    pub(super) threads: bool,
    pub(super) limits: HolderLimits,
    /// The source of socket tables. `Auto` and `Bpf`: netlink, or procfs where netlink has no table.
    pub(super) tables_from: Source,
    /// The socket tables that can list a socket of the answer.
    pub(super) tables: Vec<SocketTable>,
    /// Whether the answer has held sockets that no table lists.
    pub(super) unlisted: bool,
    /// Whether the scan reads all sockets of these tables, so that a held socket that none of them lists is new
    /// or of another kind.
    pub(super) lists_all: bool,
    /// Whether the scan uses cached tables.
    pub(super) uses_cache: bool,
}

/// The sockets that a scan collects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// All sockets, held or not.
    FullScan,
    /// The sockets that any process holds.
    AllHeld,
    /// The sockets that these processes hold.
    Lookup(Vec<i32>),
}

/// The source of holders.
#[derive(Clone, Copy, Debug)]
pub(super) enum HolderSource<'a> {
    /// A BPF program that reads the descriptors of all tasks. Sockets that it cannot describe are read from tables.
    Bpf(&'a TaskFiles),
    /// The links `/proc/<pid>/fd/N`.
    Procfs,
}

impl<'a> HolderSource<'a> {
    /// The BPF program, if it is the source.
    pub(super) fn bpf(self) -> Option<&'a TaskFiles> {
        match self {
            HolderSource::Bpf(program) => Some(program),
            HolderSource::Procfs => None,
        }
    }
}

impl<'a> Plan<'a> {
    /// Makes the plan. `bpf` is the loaded program, if one is used.
    pub(super) fn new(options: &Options, filter: &Filter, bpf: Option<&'a TaskFiles>) -> Plan<'a> {
        let scope = match filter.listed_pids() {
            _ if filter.admits_unheld() => Scope::FullScan,
            Some(pids) => Scope::Lookup(pids),
            None => Scope::AllHeld,
        };
        let unlisted = filter.admits_unlisted();
        let is_admitted = |&table: &SocketTable| {
            if unlisted { filter.admits_families_of(table) } else { filter.admits_table(table) }
        };
        Plan {
            holders: bpf.map_or(HolderSource::Procfs, HolderSource::Bpf),
            threads: match options.threads {
                Threads::On => true,
                Threads::Off => false,
                // Before Linux 6.7 a lookup with threads walks the process.
                Threads::Auto => bpf.is_some_and(TaskFiles::reads_all_threads),
            },
            limits: options.holder_limits(),
            tables_from: options.source,
            tables: SocketTable::ALL.into_iter().filter(is_admitted).collect(),
            unlisted,
            lists_all: unlisted || filter.lists_all_of_tables(),
            uses_cache: matches!(scope, Scope::Lookup(_)) && filter.is_lookup(),
            scope,
        }
    }
}

impl fmt::Display for Plan<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.scope {
            Scope::FullScan => write!(f, "full scan: socket tables, then holders")?,
            Scope::AllHeld => write!(f, "held sockets of all processes")?,
            Scope::Lookup(pids) => write!(f, "lookup of {} processes", pids.len())?,
        }
        let holders = match self.holders {
            HolderSource::Bpf(_) => "BPF",
            HolderSource::Procfs => "/proc/<pid>/fd",
        };
        let threads = if self.threads { "with" } else { "without" };
        write!(f, "; holders from {holders}, {threads} descriptor tables of threads")?;
        let from = match self.tables_from {
            Source::Procfs => "/proc/net",
            Source::Netlink => "netlink",
            Source::Auto | Source::Bpf => "netlink, else /proc/net",
        };
        let names: Vec<&str> = self.tables.iter().map(|table| table.name()).collect();
        write!(f, "; socket tables from {from}: {}", names.join(" "))?;
        if !self.lists_all {
            write!(f, ", as far as they match")?;
        }
        if self.unlisted {
            write!(f, "; sockets that no table lists")?;
        }
        if self.uses_cache {
            write!(f, "; tables read a moment ago may answer")?;
        }
        Ok(())
    }
}
