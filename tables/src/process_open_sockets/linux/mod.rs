//! Linux: holders from BPF or `/proc/<pid>/fd`; sockets from BPF, netlink or `/proc/<pid>/net`.

#[cfg(feature = "bench")]
pub(crate) mod bench;
mod filter;
mod plan;
mod scan;
mod search;
mod snapshot_cache;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Instant;

use self::plan::Plan;
use self::scan::Scan;
use self::snapshot_cache::SnapshotCache;
use crate::Error;
use crate::Options;
use crate::deadline::Deadline;
use crate::linux::attempts::Attempts;
use crate::linux::bpf::{Bpf, TaskFiles};
use crate::linux::netns::{OwnSockets, net_namespace_names};
use crate::linux::proc_root::ProcRoot;
use crate::linux::steps::Steps;
use crate::model::omission::Omissions;
use crate::model::{NetNamespaceNames, Snapshot};
use crate::process_open_sockets::filter::Filter;

/// Collects snapshots, in scans that a process cannot stop.
pub(crate) struct Collector {
    scanner: Arc<Scanner>,
    attempts: Attempts,
}

/// The state that all scans share: a loaded BPF program, and the snapshot cache.
struct Scanner {
    options: Options,
    cache: SnapshotCache,
    bpf: Bpf,
}

impl Collector {
    /// Nothing is opened yet.
    pub(crate) fn new(options: Options) -> Self {
        let cache = SnapshotCache::new(options.snapshot_ttl);
        let bpf = Bpf::new(options.source, options.bpf_from_files);
        let scanner = Arc::new(Scanner { options, cache, bpf });
        Collector { scanner, attempts: Attempts::default() }
    }

    /// Whether the query needs more than the loaded BPF program.
    pub(crate) fn scans(&self, filter: &Filter) -> bool {
        let is_lookup = !filter.admits_unheld() && filter.listed_pids().is_some();
        !is_lookup || filter.admits_unlisted() || !self.has_complete_bpf()
    }

    /// Collects the sockets and holders that the filter admits.
    pub(crate) fn collect(&self, filter: &Filter) -> Result<Snapshot, Error> {
        let Options { procfs, scan_timeout, .. } = &self.scanner.options;
        let (scanner, filter) = (Arc::clone(&self.scanner), filter.clone());
        let scan = move |steps, end| scanner.scan(&filter, steps, end);
        // In this thread: no other process can block these reads.
        self.scanner.bpf.load_if_needed(&ProcRoot::open(procfs)?);
        let snapshot = self.attempts.run(*scan_timeout, procfs, scan)?;
        for (level, message) in &snapshot.messages {
            log::log!(*level, "{message}");
        }
        log::debug!("{}: {}", snapshot.plan, snapshot.work);
        Ok(snapshot)
    }

    /// Whether the loaded BPF program reads all descriptors of a process.
    fn has_complete_bpf(&self) -> bool {
        let Ok(root) = ProcRoot::open(&self.scanner.options.procfs) else { return false };
        self.scanner.bpf.get(&root).is_some_and(TaskFiles::reads_all_threads)
    }
}

impl Scanner {
    fn scan(
        &self,
        filter: &Filter,
        steps: Arc<Steps>,
        end: Option<Instant>,
    ) -> Result<Snapshot, Error> {
        let root = ProcRoot::open_for(&self.options.procfs, Arc::clone(&steps))?;
        let deadline = Deadline::new(end, steps.abandoned());
        let mut omissions = Omissions::default();
        let names = match filter.reads_net_namespace_names() {
            true => net_namespace_names(&root, deadline, &mut omissions),
            false => NetNamespaceNames::default(),
        };
        let filter = &filter.clone().with_net_namespace_names(names);
        let plan = Plan::new(&self.options, filter, self.bpf.get(&root));
        let scan =
            Scan { root: &root, filter, plan: &plan, deadline, own_sockets: OwnSockets::default() };
        let mut snapshot = scan.run(&self.cache)?;
        snapshot.omissions.extend(omissions);
        let net_namespace_names = filter.net_namespace_names().clone();
        Ok(Snapshot { plan: plan.to_string(), net_namespace_names, ..snapshot })
    }
}
