//! The sockets that processes hold, from BPF alone: who and what come together, in one pass.

use std::collections::HashSet;

use super::super::bpf::{Told, open_files};
use super::super::netns::Namespaces;
use super::super::tables::Tables;
use super::Scan;
use crate::process_open_sockets::Field;
use crate::process_open_sockets::filter::Filter;
use crate::process_open_sockets::model::{Owners, Snapshot, Socket};
use crate::process_open_sockets::socket_table::SocketTable;

impl Scan<'_> {
    /// Sockets that these processes hold, or any process; None if BPF cannot tell all that is asked.
    pub(in super::super) fn told(&self, pids: Option<&[i32]>) -> Option<Snapshot> {
        let (filter, bpf) = (self.filter, self.bpf?);
        if filter.admits_unlisted() {
            return None;
        }
        let mut scan = Scan::new(self.root, self.options, filter, self.bpf);
        let mut seen = HashSet::new();
        let mut owners = Vec::new();
        let mut lacks_something = false;
        let mut run = |pid| {
            bpf.run(pid, self.options.threads, |owner, record| {
                if !filter.admits_owner(&owner) || !filter.admits_inode(owner.inode) {
                    return Ok(());
                }
                match record.told()? {
                    Told::Whole { table, socket }
                        if filter.admits_table(table) && filter.admits_socket(&socket) =>
                    {
                        lacks_something |= lacks_something_shown(filter, table, &socket);
                        owners.push(owner);
                        if seen.insert(socket.inode) {
                            scan.sockets.push(socket);
                        }
                    }
                    Told::InTables(families) => {
                        lacks_something |= self.options.families.intersects(families);
                    }
                    Told::Whole { .. } | Told::Unlisted => {}
                }
                Ok(())
            })
        };
        // To run the program for one process takes as long as it does for some tens of files.
        const FILES: u64 = 50;
        let are_few = |pids: &[i32]| pids.len() as u64 * FILES <= open_files();
        let done = match pids {
            Some(pids) if are_few(pids) => {
                let mut asked = pids.iter().filter(|&&pid| filter.admits_pid(pid));
                asked.try_for_each(|&pid| run(Some(pid)))
            }
            _ => {
                // A process that is started meanwhile may have got a lower pid than its parent.
                let known: HashSet<i32> = self.root.pids().ok()?.into_iter().collect();
                run(None).and_then(|()| {
                    let pids = self.root.pids().unwrap_or_default();
                    let mut started = pids.into_iter().filter(|pid| !known.contains(pid));
                    if bpf.tells_of_any_one() {
                        started.try_for_each(|pid| run(Some(pid)))
                    } else if started.next().is_some() {
                        run(None)
                    } else {
                        Ok(())
                    }
                })
            }
        };
        if let Err(error) = done {
            log::debug!("BPF: {error}");
            return None;
        }
        let owners: Owners = owners.into_iter().collect();
        if lacks_something {
            log::debug!("BPF does not tell all that is asked");
            return None;
        }
        scan.name_interfaces_by_holders(&owners);
        Some(scan.finish(&Namespaces::default(), owners))
    }

    /// Gets the names of interfaces, if they are asked for: in the namespaces that the holders are in, or else
    /// in all.
    fn name_interfaces_by_holders(&mut self, owners: &Owners) {
        let mut namespaces = Namespaces::default();
        if self.name_interfaces(0, &namespaces) {
            return;
        }
        let mut pids: Vec<i32> = owners.iter().map(|owner| owner.pid).collect();
        pids.sort_unstable();
        pids.dedup();
        self.find_namespaces(&mut namespaces, pids.into_iter());
        if !self.name_interfaces(0, &namespaces) {
            let pids = self.root.pids().unwrap_or_default();
            self.find_namespaces(&mut namespaces, pids.iter().copied());
            self.find_unusual_namespaces(&mut namespaces, &pids);
            self.name_interfaces(0, &namespaces);
        }
    }

    /// Gets the names of the interfaces of the sockets from that one on, if they are asked for; says whether
    /// each one's namespace is among these.
    pub(super) fn name_interfaces(&mut self, first: usize, namespaces: &Namespaces) -> bool {
        if !self.filter.shows(Field::Interface) {
            return true;
        }
        let has_interface = |socket: &&mut Socket| socket.details.interface.is_some();
        let sockets = self.sockets.get_mut(first..).unwrap_or_default().iter_mut();
        let mut sockets: Vec<&mut Socket> = sockets.filter(has_interface).collect();
        for namespace in namespaces.iter().filter(|namespace| namespace.number().is_some()) {
            let is_its = |socket: &&mut &mut Socket| socket.net_namespace == namespace.number();
            let tables = Tables::of(self.root, namespace, self.options.source);
            tables.name_interfaces(sockets.iter_mut().filter(is_its).map(|socket| &mut **socket));
            sockets.retain(|socket| socket.net_namespace != namespace.number());
        }
        sockets.is_empty()
    }
}

/// Whether something is asked for that BPF does not tell of this socket: what waits in some UNIX sockets, or,
/// before Linux 5.15, the control group.
fn lacks_something_shown(filter: &Filter, table: SocketTable, socket: &Socket) -> bool {
    let has_cgroup = !matches!(table, SocketTable::Unix | SocketTable::Packet);
    filter.shows(Field::RxQueue) && socket.details.receive_queue.is_none()
        || filter.shows(Field::CgroupPath) && has_cgroup && socket.details.cgroup.is_none()
}
