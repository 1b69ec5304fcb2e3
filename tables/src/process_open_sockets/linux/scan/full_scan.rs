//! All sockets, held or unheld.
//!
//! While descriptors are read, sockets are opened, closed and passed to other processes. So a full scan reads
//! the socket tables before the descriptors, and then those tables again that list a socket without a holder.
//! The answer has the sockets of all these steps.

use std::collections::HashSet;

use super::Scan;
use super::bpf_sockets::{HeldSockets, extend};
use super::listing::Listing;
use super::reconcile::Reading;
use crate::Error;
use crate::linux::fds;
use crate::linux::netns::{Namespaces, Sessions};
use crate::model::Snapshot;
use crate::model::holders::{Holder, HolderCollector, Holders};
use crate::model::report::Report;

/// The maximum number of searches for processes and namespaces that appear during a scan: a socket can be passed
/// from a process that is read later to one that starts later.
const ROUNDS: usize = 3;

impl Scan<'_> {
    pub(super) fn full_scan(&self) -> Result<Snapshot, Error> {
        let mut report = Report::default();
        let mut sessions = self.sessions();
        let mut listing = Listing::default();
        let mut namespaces = Namespaces::default();
        let mut pids = self.root.pids()?;
        self.list_processes(&pids, &mut namespaces, &mut sessions, &mut listing, &mut report);
        let mut held = HeldSockets::new(self.plan.limits);
        for round in 0..ROUNDS {
            self.list_tables(&namespaces, &mut sessions, &mut listing, &mut report);
            let mut inodes = listing.inodes();
            // An omission is counted once for a process.
            let mut holders_report = Report::default();
            let more = self.find_holders(&pids, &listing, &inodes, &mut holders_report);
            listing.set_numbers(&more.numbers);
            namespaces.set_numbers(&more.numbers);
            held.extend(more);
            report.work += holders_report.work;
            if round == 0 {
                report.omissions.extend(holders_report.omissions);
            }
            for _ in 0..ROUNDS {
                let started = self.started_since(&mut pids)?;
                if started.is_empty() {
                    break;
                }
                self.list_processes(
                    &started,
                    &mut namespaces,
                    &mut sessions,
                    &mut listing,
                    &mut report,
                );
                // Their namespaces can be listed already.
                inodes = listing.inodes();
                held.holders.append(self.walk_holders(&started, &inodes, &mut report));
            }
            if listing.has_read_all(&namespaces) || self.deadline.has_passed() {
                break;
            }
        }
        // Namespaces that appeared after the last round are listed, too.
        self.list_last_tables(&namespaces, &mut sessions, &mut listing, &mut report);
        let holders = self.without_handles(held.holders);
        let ranges = holders.of_each(&listing.sockets);
        let inodes = listing.inodes();
        let readings = self.read_tables_again(
            (&listing, &inodes),
            &ranges,
            &holders,
            &namespaces,
            &mut sessions,
            &mut report,
        );
        let reading = Reading { listing, inodes, records: held.records, readings };
        let reconciled = reading.reconcile(self, &holders, &ranges, &mut report.omissions);
        let (mut sockets, holders) = self.find_replaced_holders(
            reconciled,
            holders,
            &pids,
            &namespaces,
            &mut sessions,
            &mut report,
        );
        if self.plan.unlisted {
            let missing = holders.inodes().filter(|inode| !sockets.lists(*inode)).collect();
            let unlisted = self.unlisted(
                missing,
                &sockets.spoofable,
                &holders,
                &namespaces,
                &mut sessions,
                &mut report,
            );
            sockets.all.extend(unlisted);
        }
        extend(&mut sockets.all, &held.extended);
        self.name_interfaces(&mut sockets.all, &namespaces, &mut sessions);
        Ok(self.finish(sockets.all, holders, &namespaces, report))
    }

    /// Finds the namespaces of these processes. Namespaces that cannot be kept open are listed at once.
    fn list_processes(
        &self,
        pids: &[i32],
        namespaces: &mut Namespaces,
        sessions: &mut Sessions,
        listing: &mut Listing,
        report: &mut Report,
    ) {
        let mut visit = |namespace: &_, report: &mut _| {
            self.list_namespace(namespace, sessions, listing, report);
        };
        self.find_namespaces(pids.iter().copied(), namespaces, report, &mut visit);
        self.find_more_namespaces(pids, namespaces, report, &mut visit);
    }

    /// The holders of the sockets with these inodes, which are listed, and held sockets that are not listed.
    fn find_holders(
        &self,
        pids: &[i32],
        listing: &Listing,
        inodes: &[u64],
        report: &mut Report,
    ) -> HeldSockets {
        let Some(bpf) = self.plan.holders.bpf() else {
            return HeldSockets::of(self.walk_holders(pids, inodes, report));
        };
        let pass = match self.pass(bpf, listing, inodes, report) {
            Ok(pass) => pass,
            Err(error) => {
                report.messages.push(bpf.failure(&error));
                return HeldSockets::of(self.walk_holders(pids, inodes, report));
            }
        };
        if !pass.has_all_holders {
            // A security module can hide descriptors from BPF as from /proc.
            self.count_unreadable(pids, &pass.pids, report);
        }
        pass.held
    }

    /// Walks these processes for the holders of listed sockets, or of all sockets if the tables list every
    /// socket.
    fn walk_holders(&self, pids: &[i32], inodes: &[u64], report: &mut Report) -> HolderCollector {
        let is_listed = |holder: &Holder| inodes.binary_search(&holder.inode).is_ok();
        if inodes.is_empty() && !self.plan.lists_all {
            return HolderCollector::new(self.plan.limits);
        }
        let pids: Vec<i32> = pids.iter().copied().filter(|&pid| self.is_walked(pid)).collect();
        self.walk(&pids, |holder| self.plan.lists_all || is_listed(holder), report)
    }

    /// Whether the scan walks this process: all processes if unheld sockets are in the answer, otherwise those
    /// that the query selects.
    pub(super) fn is_walked(&self, pid: i32) -> bool {
        self.filter.admits_unheld() || self.filter.admits_pid(pid)
    }

    /// Counts unreadable processes among those without a known socket. One descriptor of each is read.
    pub(super) fn count_unreadable(&self, pids: &[i32], seen: &HashSet<i32>, report: &mut Report) {
        for &pid in pids.iter().filter(|pid| !seen.contains(pid)) {
            if self.deadline.has_passed() {
                return;
            }
            report.work.tested += 1;
            fds::note_if_denied(self.root, pid, &mut report.omissions);
        }
    }

    /// Adds the processes that have started since, and returns them.
    fn started_since(&self, pids: &mut Vec<i32>) -> Result<Vec<i32>, Error> {
        let listed: HashSet<i32> = pids.iter().copied().collect();
        let mut started = self.root.pids()?;
        started.retain(|pid| !listed.contains(pid));
        pids.extend(&started);
        Ok(started)
    }

    /// The holders in order, without O_PATH handles: another descriptor refers to the socket then.
    pub(super) fn without_handles(&self, holders: HolderCollector) -> Holders {
        let holders = holders.finish(|holder| !fds::is_handle(self.root, holder));
        let is_handle =
            |holder: &Holder, all: &[Holder]| all.len() > 1 && fds::is_handle(self.root, holder);
        holders.without(is_handle)
    }
}
