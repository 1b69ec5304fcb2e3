//! The sockets that processes hold, from BPF alone: who and what come together, in one pass.

use std::collections::HashSet;

use super::super::bpf::Told;
use super::super::netns::Namespaces;
use super::Scan;
use crate::process_open_sockets::Field;
use crate::process_open_sockets::model::{Owners, Snapshot, Socket};
use crate::process_open_sockets::socket_table::SocketTable;

impl<'a> Scan<'a> {
    /// Sockets that some of these processes hold, or any, where nobody else is asked for; None if BPF cannot
    /// tell all of it.
    pub(in super::super) fn told(&self, pids: Option<&[i32]>) -> Option<Snapshot> {
        let (filter, bpf) = (self.filter, self.bpf?);
        if filter.admits_unlisted() {
            return None;
        }
        let (mut sockets, mut seen) = (Vec::new(), HashSet::new());
        let mut owners = Vec::new();
        let mut is_whole = true;
        let mut run = |pid| {
            bpf.run(pid, self.options.threads, |owner, told| {
                if !filter.admits_owner(&owner) || !filter.admits_inode(owner.inode) {
                    return;
                }
                match told {
                    Told::Whole { table, socket, lacks_queue } => {
                        if !filter.admits_table(table) || !filter.admits_socket(&socket) {
                            return;
                        }
                        is_whole &= self.shows_all_of(table, &socket, lacks_queue);
                        owners.push(owner);
                        if seen.insert(socket.inode) {
                            sockets.push(socket);
                        }
                    }
                    Told::InTables(families) => {
                        is_whole &= !self.options.families.intersects(families)
                    }
                    Told::Unlisted => {}
                }
            })
        };
        let done = match pids {
            Some(pids) => pids
                .iter()
                .filter(|&&pid| filter.admits_pid(pid))
                .try_for_each(|&pid| run(Some(pid))),
            None => {
                // A process that is started meanwhile may have got a lower pid than its parent.
                let known: HashSet<i32> = self.root.pids().ok()?.into_iter().collect();
                run(None).and_then(|()| {
                    let pids = self.root.pids().unwrap_or_default();
                    let mut started = pids.into_iter().filter(|pid| !known.contains(pid));
                    started.try_for_each(|pid| run(Some(pid)))
                })
            }
        };
        if let Err(error) = &done {
            log::debug!("BPF: {error}");
        }
        if done.is_err() || !is_whole {
            return None;
        }
        let scan = Scan { sockets, ..Scan::new(self.root, self.options, filter, self.bpf) };
        let owners: Owners = owners.into_iter().collect();
        Some(scan.finish(&Namespaces::default(), owners))
    }

    /// Whether every column that is looked at is known.
    fn shows_all_of(&self, table: SocketTable, socket: &Socket, lacks_queue: bool) -> bool {
        let (filter, details) = (self.filter, &socket.details);
        let has_cgroup = !matches!(table, SocketTable::Unix | SocketTable::Packet);
        // It has a number, and only its namespace can tell the name.
        !(filter.shows(Field::Interface) && details.interface.is_some()
            || filter.shows(Field::RxQueue) && lacks_queue
            || filter.shows(Field::CgroupPath) && has_cgroup && details.cgroup.is_none())
    }
}
