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
use std::time::{Duration, Instant};

use self::plan::Plan;
use self::scan::Scan;
use self::snapshot_cache::SnapshotCache;
use crate::Error;
use crate::Options;
use crate::deadline::Deadline;
use crate::linux::attempts::{Attempts, Probe};
use crate::linux::bpf::{Bpf, Records, TaskFiles};
use crate::linux::netns::{OwnSockets, net_namespace_names};
use crate::linux::proc_root::ProcRoot;
use crate::linux::processes::{self, ProcessReader};
use crate::linux::start_times::StartTimes;
use crate::linux::steps::Steps;
use crate::model::omission::Omissions;
use crate::model::{NetNamespaceNames, Snapshot};
use crate::process_open_sockets::filter::Filter;

/// Collects snapshots, in scans that a process cannot stop.
pub(crate) struct Collector {
    scanner: Arc<Scanner>,
    attempts: Attempts,
    /// Reads of the processes that hold the sockets, after the scan. A process that blocks them is still scanned.
    process_attempts: Attempts,
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
        let process_attempts = Attempts::with_probe(Probe(processes::probe));
        Collector { scanner, attempts: Attempts::default(), process_attempts }
    }

    /// Whether the query needs more than the loaded BPF program.
    pub(crate) fn scans(&self, filter: &Filter) -> bool {
        let is_lookup = !filter.admits_unheld() && filter.listed_pids().is_some();
        !is_lookup || filter.admits_unlisted() || !self.has_complete_bpf(filter)
    }

    /// Collects the sockets and holders that the filter admits.
    pub(crate) fn collect(&self, filter: &Filter) -> Result<Snapshot, Error> {
        let Options { procfs, scan_timeout, .. } = &self.scanner.options;
        let begun = Instant::now();
        let (scanner, of_scan) = (Arc::clone(&self.scanner), filter.clone());
        let scan = move |steps, end| scanner.scan(&of_scan, steps, end);
        // In this thread: no other process can block these reads.
        self.scanner.bpf.load_if_needed(&ProcRoot::open(procfs)?, records(filter));
        let mut snapshot = self.attempts.run(*scan_timeout, procfs, scan)?;
        if !filter.process_fields().is_empty() {
            let timeout = scan_timeout.saturating_sub(begun.elapsed());
            self.read_processes(filter, timeout, &mut snapshot);
        }
        for (level, message) in &snapshot.messages {
            log::log!(*level, "{message}");
        }
        log::debug!("{}: {}", snapshot.plan, snapshot.work);
        Ok(snapshot)
    }

    /// Reads the processes that hold the sockets. A process that blocks this does not change the rows, only these
    /// cells of its own rows.
    fn read_processes(&self, filter: &Filter, timeout: Duration, snapshot: &mut Snapshot) {
        let fields = filter.process_fields();
        let admitted = snapshot.holders.iter().filter(|holder| filter.admits_holder(holder));
        let mut pids: Vec<i32> = admitted.map(|holder| holder.pid).collect();
        pids.sort_unstable();
        pids.dedup();
        let start_times = std::mem::take(&mut snapshot.start_times);
        let wanted = pids.into_iter().filter_map(|pid| Some((pid, *start_times.get(&pid)?)));
        let reader = Arc::new(ProcessReader::new(fields, wanted.collect()));
        let procfs = &self.scanner.options.procfs;
        let (of_read, path) = (Arc::clone(&reader), procfs.clone());
        let read = move |steps: Arc<Steps>, end| {
            let root = ProcRoot::open_for(&path, Arc::clone(&steps))?;
            of_read.read(&root, Deadline::new(end, steps.abandoned()));
            Ok(())
        };
        if let Err(error) = self.process_attempts.run(timeout, procfs, read) {
            let message = format!("Processes could not be read: {error}; their columns are NULL");
            snapshot.messages.push((log::Level::Warn, message));
        }
        let (processes, omissions) = reader.finish(procfs);
        snapshot.processes = processes;
        snapshot.omissions.extend(omissions);
        snapshot.plan += &format!("; of holders {}", processes::files(fields).join(" "));
    }

    /// Whether the loaded BPF program reads all descriptors of a process.
    fn has_complete_bpf(&self, filter: &Filter) -> bool {
        let Ok(root) = ProcRoot::open(&self.scanner.options.procfs) else { return false };
        let program = self.scanner.bpf.get(&root, records(filter));
        program.is_some_and(TaskFiles::reads_all_threads)
    }
}

/// The BPF records that the query uses.
fn records(filter: &Filter) -> Records {
    if filter.extended_fields().is_empty() { Records::Basic } else { Records::Extended }
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
        let plan = Plan::new(&self.options, filter, self.bpf.get(&root, records(filter)));
        let reads_processes = !filter.process_fields().is_empty();
        let mut scan = Scan {
            root: &root,
            filter,
            plan: &plan,
            deadline,
            own_sockets: OwnSockets::default(),
            start_times: reads_processes.then(|| StartTimes::new(&root)),
        };
        let mut snapshot = scan.run(&self.cache)?;
        let start_times = scan.start_times.take().map(StartTimes::into_known).unwrap_or_default();
        snapshot.omissions.extend(omissions);
        let net_namespace_names = filter.net_namespace_names().clone();
        Ok(Snapshot { plan: plan.to_string(), net_namespace_names, start_times, ..snapshot })
    }
}
