//! Linux: BPF for who holds what, or `/proc/<pid>/fd` for who and netlink, or `/proc/<pid>/net`, for what.

mod attempts;
#[cfg(feature = "bench")]
pub(crate) mod bench;
mod bpf;
mod cgroup;
mod door;
mod fds;
mod kcmp;
mod netns;
mod proc_net;
mod proc_root;
#[cfg(test)]
mod quiet;
mod recent;
mod scan;
mod search;
mod sock_diag;
mod tables;
#[cfg(test)]
mod tests;

use std::num::NonZero;
use std::sync::LazyLock;
use std::thread;

use self::bpf::Bpf;
use self::proc_root::ProcRoot;
use self::recent::Recent;
use self::scan::Scan;
use crate::Error;
use crate::process_open_sockets::Options;
use crate::process_open_sockets::filter::Filter;
use crate::process_open_sockets::model::Snapshot;

/// How many threads the machine has, or as many as we are given of them.
fn cores() -> usize {
    static CORES: LazyLock<usize> =
        LazyLock::new(|| thread::available_parallelism().map_or(1, NonZero::get));
    *CORES
}

/// Collects, and remembers for a moment.
pub(crate) struct Collector {
    options: Options,
    recent: Recent,
    bpf: Bpf,
}

impl Collector {
    /// Nothing is opened yet.
    pub(crate) fn new(options: Options) -> Self {
        let recent = Recent::new(options.snapshot_ttl);
        let bpf = Bpf::new(&options);
        Collector { options, recent, bpf }
    }

    /// Collects what the filter asks for.
    pub(crate) fn collect(&self, filter: &Filter) -> Result<Snapshot, Error> {
        let root = ProcRoot::open(&self.options.procfs)?;
        let bpf = self.bpf.get(&root);
        let mut scan = Scan::new(&root, &self.options, filter, bpf);
        if filter.admits_unowned() {
            return scan.all();
        }
        let pids = filter.listed_pids();
        if scan.tell(pids.as_deref()) {
            return Ok(scan.finish_told());
        }
        match pids {
            Some(pids) => scan.held(pids, &self.recent),
            None => scan.all(),
        }
    }
}
