//! Linux: BPF for who holds what, or `/proc/<pid>/fd` for who and netlink, or `/proc/<pid>/net`, for what.

#[cfg(feature = "bench")]
pub(crate) mod bench;
mod bpf;
mod cgroup;
mod deadline;
mod dump_retry;
mod fds;
mod kcmp;
mod netns;
mod plan;
mod proc_net;
mod proc_root;
#[cfg(test)]
mod quiet;
mod scan;
mod search;
mod snapshot_cache;
mod sock_diag;
#[cfg(test)]
mod tests;

use std::num::NonZero;
use std::sync::LazyLock;
use std::thread;

use self::bpf::Bpf;
use self::deadline::Deadline;
use self::netns::OwnSockets;
use self::plan::Plan;
use self::proc_root::ProcRoot;
use self::scan::Scan;
use self::snapshot_cache::SnapshotCache;
use crate::Error;
use crate::process_open_sockets::Options;
use crate::process_open_sockets::filter::Filter;
use crate::process_open_sockets::model::Snapshot;

/// How many threads the machine has, or as many of them as this process may use.
fn cores() -> usize {
    static CORES: LazyLock<usize> =
        LazyLock::new(|| thread::available_parallelism().map_or(1, NonZero::get));
    *CORES
}

/// Collects snapshots, and caches tables for a moment.
pub(crate) struct Collector {
    options: Options,
    cache: SnapshotCache,
    bpf: Bpf,
}

impl Collector {
    /// Nothing is opened yet.
    pub(crate) fn new(options: Options) -> Self {
        let cache = SnapshotCache::new(options.snapshot_ttl);
        let bpf = Bpf::new(&options);
        Collector { options, cache, bpf }
    }

    /// Collects what the filter asks for.
    pub(crate) fn collect(&self, filter: &Filter) -> Result<Snapshot, Error> {
        let deadline = Deadline::after(self.options.scan_timeout);
        let root = ProcRoot::open(&self.options.procfs)?;
        let bpf = self.bpf.get(&root);
        let plan = Plan::new(&self.options, filter, bpf);
        let scan = Scan {
            root: &root,
            filter,
            plan: &plan,
            bpf,
            deadline,
            own_sockets: OwnSockets::default(),
        };
        let snapshot = scan.run(&self.cache)?;
        log::debug!("{plan}: {}", snapshot.work);
        Ok(Snapshot { plan: plan.to_string(), ..snapshot })
    }
}
