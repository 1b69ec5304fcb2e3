//! The holders of sockets that replaced others during a scan: a process that repeatedly binds the same port
//! holds another socket in each step of the scan.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::Scan;
use super::bpf_sockets::push;
use super::endpoint_key::EndpointKey;
use super::reconcile::{Reconciled, Replaced};
use crate::linux::bpf::{Description, TaskFiles};
use crate::linux::netns::{Namespaces, Sessions};
use crate::model::holders::{Holder, HolderCollector, Holders};
use crate::model::report::Report;
use crate::model::{Presence, Socket};

/// Without BPF, the maximum number of alternate reads of descriptors and the table,
const ATTEMPTS: usize = 8;
/// and the time for them.
const BUDGET: Duration = Duration::from_millis(100);

impl Scan<'_> {
    /// For each endpoint whose socket was replaced and without a holder, finds a socket with a holder. Returns
    /// the sockets and holders of the answer with the found ones.
    pub(super) fn find_replaced_holders(
        &self,
        mut reconciled: Reconciled,
        mut holders: Holders,
        pids: &[i32],
        namespaces: &Namespaces,
        sessions: &mut Sessions,
        report: &mut Report,
    ) -> (Reconciled, Holders) {
        let has_replaced = self.retain_without_holder(&mut reconciled, &holders);
        if !has_replaced || self.deadline.has_passed() {
            return (reconciled, holders);
        }
        // Omissions were counted before.
        let mut again = Report::default();
        let (sockets, more) = match self.plan.holders.bpf() {
            Some(bpf) => self.find_replaced_with_bpf(bpf, &reconciled.replaced, &mut again),
            None => {
                let possible_holders = self.possible_holders(&reconciled, &holders, pids);
                self.find_replaced_with_walks(
                    &reconciled.replaced,
                    &possible_holders,
                    namespaces,
                    sessions,
                    &mut again,
                )
            }
        };
        report.work += again.work;
        let listed: HashSet<u64> = reconciled.all.iter().map(|socket| socket.inode).collect();
        let new = sockets.into_iter().filter(|socket| !listed.contains(&socket.inode));
        let new: Vec<Socket> = new.filter(|socket| self.filter.admits_socket(socket)).collect();
        reconciled.listed.extend(new.iter().map(|socket| socket.inode));
        reconciled.all.extend(new);
        holders.merge(more);
        (reconciled, holders)
    }

    /// Keeps the replaced sockets whose endpoint still has a socket, but none with a holder; returns whether any
    /// is left.
    fn retain_without_holder(&self, reconciled: &mut Reconciled, holders: &Holders) -> bool {
        if reconciled.replaced.is_empty() {
            return false;
        }
        let endpoints: HashSet<EndpointKey> =
            closed(&reconciled.replaced).filter_map(|socket| socket.endpoint_key()).collect();
        let (mut there, mut held) = (HashSet::new(), HashSet::new());
        for socket in &reconciled.all {
            let Some(key) = socket.endpoint_key().filter(|key| endpoints.contains(key)) else {
                continue;
            };
            let key = (socket.net_namespace, socket.protocol(), key);
            if !holders.of(socket.inode).is_empty() {
                held.insert(key);
            } else if socket.details.presence == Presence::Opened {
                there.insert(key);
            }
        }
        for replaced in &mut reconciled.replaced {
            replaced.closed.retain(|socket| {
                let key = socket.endpoint_key();
                let key = key.map(|key| (socket.net_namespace, socket.protocol(), key));
                key.is_some_and(|key| there.contains(&key) && !held.contains(&key))
            });
        }
        reconciled.replaced.retain(|replaced| !replaced.closed.is_empty());
        !reconciled.replaced.is_empty()
    }

    /// Runs another pass, for all sockets with these endpoints.
    fn find_replaced_with_bpf(
        &self,
        bpf: &TaskFiles,
        replaced: &[Replaced],
        report: &mut Report,
    ) -> (Vec<Socket>, Holders) {
        let key =
            |table, socket: &Socket| Some((table, socket.net_namespace, socket.endpoint_key()?));
        let endpoints: HashSet<_> = replaced
            .iter()
            .flat_map(|it| it.closed.iter().filter_map(|socket| key(it.run.table, socket)))
            .collect();
        let mut sockets = HashMap::new();
        let mut holders = HolderCollector::new(self.plan.limits);
        report.work.passes += 1;
        let done = bpf.run(None, self.plan.threads, self.deadline, |holder, record| {
            if let Description::Complete { table, socket } = record.describe()?
                && key(table, &socket).is_some_and(|key| endpoints.contains(&key))
            {
                sockets.insert(socket.inode, socket);
                self.note_start(holder.pid, &record);
                push(self.root, &mut holders, holder);
            }
            Ok(())
        });
        if let Err(error) = done {
            report.messages.push(bpf.failure(&error));
        }
        (sockets.into_values().collect(), holders.finish(|_| true))
    }

    /// The processes that can hold such a socket: holders of unlisted sockets, or, if the tables were read in
    /// part, all processes of the same user.
    fn possible_holders(
        &self,
        reconciled: &Reconciled,
        holders: &Holders,
        pids: &[i32],
    ) -> Vec<i32> {
        let is_selected = |pid: &i32| self.is_walked(*pid);
        if self.plan.lists_all {
            let listed: HashSet<u64> = reconciled.all.iter().map(|socket| socket.inode).collect();
            let unlisted = holders.iter().filter(|holder| !listed.contains(&holder.inode));
            let pids: HashSet<i32> =
                unlisted.map(|holder| holder.pid).filter(is_selected).collect();
            return pids.into_iter().collect();
        }
        let uids: HashSet<u32> =
            closed(&reconciled.replaced).filter_map(|socket| socket.details.uid).collect();
        let is_of_user = |pid: &i32| {
            let directory = self.root.process(*pid).and_then(|process| process.stat("."));
            directory.is_ok_and(|directory| uids.contains(&directory.st_uid))
        };
        pids.iter().copied().filter(is_selected).filter(is_of_user).collect()
    }

    /// Walks the possible_holders and reads the tables in turn, until both show the same socket.
    fn find_replaced_with_walks(
        &self,
        replaced: &[Replaced],
        possible_holders: &[i32],
        namespaces: &Namespaces,
        sessions: &mut Sessions,
        report: &mut Report,
    ) -> (Vec<Socket>, Holders) {
        let (mut sockets, mut holders) = (Vec::new(), Holders::default());
        let deadline = self.deadline.or_after(BUDGET);
        for replaced in replaced {
            let Some(namespace) = namespaces.get(replaced.run.namespace) else { continue };
            let like: Vec<&Socket> = replaced.closed.iter().collect();
            let mut before = Vec::new();
            for _ in 0..ATTEMPTS {
                if possible_holders.is_empty() || deadline.has_passed() {
                    break;
                }
                let walked = self.walk_until(deadline, possible_holders, |_| true, report);
                let walked = self.without_handles(walked);
                let table = replaced.run.table;
                let mut after = self.with_endpoints(namespace, table, &like, sessions, report);
                let seen: Vec<Socket> = before.drain(..).chain(after.iter().cloned()).collect();
                let holds = |holder: &&Holder| seen.iter().any(|it| it.inode == holder.inode);
                let found: Vec<Holder> = walked.iter().filter(holds).copied().collect();
                if !found.is_empty() {
                    let is_held = |it: &Socket| found.iter().any(|holder| holder.inode == it.inode);
                    let mut held: Vec<Socket> = seen.into_iter().filter(is_held).collect();
                    held.sort_unstable_by_key(|socket| socket.inode);
                    held.dedup_by_key(|socket| socket.inode);
                    sockets.extend(held);
                    holders.merge(found.into_iter().collect());
                    break;
                }
                before.append(&mut after);
            }
        }
        (sockets, holders)
    }
}

/// The sockets that were closed during the scan.
fn closed(replaced: &[Replaced]) -> impl Iterator<Item = &Socket> {
    replaced.iter().flat_map(|replaced| &replaced.closed)
}
