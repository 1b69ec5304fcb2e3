//! One scan of the host: the sockets, and the processes that hold them.
//!
//! A [`Plan`] has all decisions. `full_scan` and `lookup` read from top to bottom: namespaces, socket tables,
//! holders; each step returns its result as a value. [`Report`] collects the omissions.

mod bpf_sockets;
mod endpoint_key;
mod full_scan;
mod listing;
mod lookup;
mod reconcile;
mod replaced_holders;
mod second_read;
#[cfg(test)]
mod tests;
mod unlisted;

use std::collections::HashMap;

use crate::model::report::Report;

use super::plan::{HolderSource, Plan, Scope};
use super::snapshot_cache::SnapshotCache;
use crate::Error;
use crate::deadline::Deadline;
use crate::formats::linux::bpf_record::Record;
use crate::formats::linux::container_cgroup::container;
use crate::linux::fds::WalkOptions;
use crate::linux::netns::{Namespaces, OwnSockets, Sessions, Visit};
use crate::linux::proc_root::ProcRoot;
use crate::linux::start_times::StartTimes;
use crate::linux::{cgroup, fds};
use crate::model::holders::{Holder, HolderCollector, Holders};
use crate::model::omission::OmissionKind;
use crate::model::socket_table::SocketTable;
use crate::model::{Snapshot, Socket, Uids};
use crate::process_open_sockets::columns::Field;
use crate::process_open_sockets::filter::Filter;

/// The context of every step of a scan.
pub(super) struct Scan<'a> {
    pub(super) root: &'a ProcRoot,
    pub(super) filter: &'a Filter,
    pub(super) plan: &'a Plan<'a>,
    pub(super) deadline: Deadline<'a>,
    pub(super) own_sockets: OwnSockets,
    /// If the query reads more of the processes that hold sockets.
    pub(super) start_times: Option<StartTimes>,
}

impl Scan<'_> {
    pub(super) fn run(&self, cache: &SnapshotCache) -> Result<Snapshot, Error> {
        match (&self.plan.scope, self.plan.holders) {
            (Scope::FullScan, _) | (Scope::AllHeld, HolderSource::Procfs) => self.full_scan(),
            (Scope::AllHeld, HolderSource::Bpf(_)) => self.all_held(cache),
            (Scope::Lookup(pids), _) => self.lookup(pids, cache),
        }
    }

    /// Notes when the holder of a record started, if the query reads more of it.
    fn note_start(&self, pid: i32, record: &Record) {
        let Some(start_times) = self.start_times.as_ref().filter(|times| times.is_next(pid)) else {
            return;
        };
        match record.start_boottime() {
            Some(start) => start_times.note_boottime(pid, start.get()),
            // 0, which no process has: what the pid has a moment later.
            None => {
                if let Ok(process) = self.root.process(pid) {
                    start_times.note_process(pid, &process);
                }
            }
        }
    }

    fn sessions(&self) -> Sessions<'_> {
        Sessions::new(self.root, self.plan.tables_from, self.deadline, &self.own_sockets)
    }

    /// Adds the namespaces of the first threads of these processes.
    fn find_namespaces(
        &self,
        pids: impl Iterator<Item = i32>,
        namespaces: &mut Namespaces,
        report: &mut Report,
        visit: Visit,
    ) {
        namespaces.add_processes(self.root, pids, self.deadline, report, visit);
    }

    /// Adds the namespaces of the other threads of these processes, and the mounted ones.
    fn find_more_namespaces(
        &self,
        pids: &[i32],
        namespaces: &mut Namespaces,
        report: &mut Report,
        visit: Visit,
    ) {
        let all = || pids.iter().copied();
        namespaces.add_threads(self.root, all(), self.deadline, report, visit);
        namespaces.add_mounted(self.root, all(), self.deadline, report, visit);
    }

    /// Walks the descriptors of these processes.
    fn walk(
        &self,
        pids: &[i32],
        admits: impl Fn(&Holder) -> bool + Sync,
        report: &mut Report,
    ) -> HolderCollector {
        self.walk_until(self.deadline, pids, admits, report)
    }

    /// The same with another deadline.
    fn walk_until(
        &self,
        deadline: Deadline<'_>,
        pids: &[i32],
        admits: impl Fn(&Holder) -> bool + Sync,
        report: &mut Report,
    ) -> HolderCollector {
        report.work.walks += 1;
        report.work.walked += pids.len() as u64;
        let omissions = &mut report.omissions;
        let Plan { threads, limits, .. } = *self.plan;
        let start_times = self.start_times.as_ref();
        let options = WalkOptions { threads, limits, deadline, start_times };
        fds::walk(self.root, pids, options, admits, omissions)
    }

    /// Makes the snapshot: adds the fields that the query reads and no socket table has.
    fn finish(
        &self,
        mut sockets: Vec<Socket>,
        holders: Holders,
        namespaces: &Namespaces,
        report: Report,
    ) -> Snapshot {
        let Report { mut omissions, work, messages } = report;
        let (root, filter) = (self.root, self.filter);
        if self.plan.tables.contains(&SocketTable::Netlink) {
            sockets.retain(|socket| !self.own_sockets.contains(socket.inode));
        }
        namespaces.count_unnumbered(root, &mut omissions);
        for _ in 0..root.without_descriptor() {
            omissions.add(OmissionKind::Descriptors, || root.path().display().to_string());
        }
        for pid in root.steps().skipped() {
            omissions.add(OmissionKind::Blocked, || {
                format!("{} of {}", root.path().join(pid.to_string()).display(), root.user(pid))
            });
        }
        if filter.admits_unheld()
            && let Some(kind) = root.hides_processes()
        {
            omissions.add(kind, || root.path().display().to_string());
        }
        if self.deadline.has_passed() {
            omissions.add(OmissionKind::Deadline, || root.path().display().to_string());
        }
        let host = if filter.shows(Field::Scope) { namespaces.host(root) } else { None };
        let cgroups = if filter.shows(Field::SocketCgroupPath) {
            cgroup::paths(root, sockets.iter().filter_map(|socket| socket.details.cgroup))
        } else if filter.shows_container() && filter.admits_unheld() {
            let held = holders.of_each(&sockets);
            let unheld = sockets.iter().zip(&held).filter(|(_, held)| held.is_empty());
            cgroup::paths(root, unheld.filter_map(|(socket, _)| socket.details.cgroup))
        } else {
            HashMap::new()
        };
        let containers = if filter.shows_container() {
            cgroups.iter().map(|(group, path)| (*group, container(path))).collect()
        } else {
            HashMap::new()
        };
        let path = root.path().to_owned();
        let uids = Uids::new(move |pid| ProcRoot::open(&path).ok()?.real_uid(pid));
        Snapshot {
            sockets,
            holders,
            omissions,
            host,
            cgroups,
            containers,
            work,
            messages,
            uids,
            ..Snapshot::default()
        }
    }
}
