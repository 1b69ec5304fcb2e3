//! The sockets that processes hold, from BPF: who and what come together, in one pass.

use std::collections::HashSet;
use std::io;
use std::mem;

use super::super::bpf::{TaskFiles, Told};
use super::super::fds;
use super::super::netns::Namespaces;
use super::super::tables::Tables;
use super::Scan;
use crate::process_open_sockets::filter::Filter;
use crate::process_open_sockets::holders::{Holder, Holders};
use crate::process_open_sockets::model::{Snapshot, Socket};
use crate::process_open_sockets::socket_table::SocketTable;
use crate::process_open_sockets::{Families, Field};

/// What BPF has told of the sockets that are asked for.
#[derive(Default)]
pub(super) struct Holdings {
    pub(super) owners: Vec<Holder>,
    /// Those of which all is known that is asked for.
    pub(super) whole: Vec<Socket>,
    /// Those of which their tables may say more.
    pub(super) part: Vec<Socket>,
}

impl Scan<'_> {
    /// Has BPF tell what these processes hold, or any process; says whether that is all that is asked for.
    pub(in super::super) fn tell(&mut self, pids: Option<&[i32]>) -> bool {
        let Some(bpf) = self.bpf else { return false };
        match self.tell_with(bpf, pids) {
            Ok(is_all) => is_all,
            Err(error) => {
                bpf.note(&error);
                // Before Linux 6.7 what was told is true, and not all.
                if error.kind() != io::ErrorKind::Unsupported {
                    self.holdings = Holdings::default();
                }
                false
            }
        }
    }

    fn tell_with(&mut self, bpf: &TaskFiles, pids: Option<&[i32]>) -> io::Result<bool> {
        let (root, filter, threads) = (self.root, self.filter, self.options.threads);
        let holdings = &mut self.holdings;
        let (mut seen, mut holders) = (HashSet::new(), HashSet::new());
        // What is in no table is told by the descriptors.
        let mut is_all = !self.options.families.contains(Families::UNLISTED);
        let mut run = |pid| {
            bpf.run(pid, threads, |owner, record| {
                holders.insert(owner.pid);
                if !filter.admits_pid(owner.pid) || !filter.admits_inode(owner.inode) {
                    return Ok(());
                }
                match record.told()? {
                    Told::Whole { table, socket }
                        if filter.admits_table(table) && filter.admits_socket(&socket) =>
                    {
                        holdings.owners.push(owner);
                        if seen.insert(socket.inode) {
                            let is_part = lacks_something_shown(filter, table, &socket);
                            is_all &= !is_part;
                            let sockets =
                                if is_part { &mut holdings.part } else { &mut holdings.whole };
                            sockets.push(socket);
                        }
                    }
                    Told::InTables(tables) => {
                        is_all &= !tables.iter().any(|&table| filter.admits_table(table));
                    }
                    Told::Whole { .. } | Told::Unlisted => {}
                }
                Ok(())
            })
        };
        // To run the program for one process takes as long as it does for some tens of files.
        const FILES: u64 = 50;
        let are_few = |pids: &[i32]| pids.len() as u64 * FILES <= root.open_files();
        let asked = match pids {
            Some(pids) if are_few(pids) => {
                let mut asked = pids.iter().filter(|&&pid| filter.admits_pid(pid));
                asked.try_for_each(|&pid| run(Some(pid)))?;
                pids.to_vec()
            }
            _ => {
                // A process that is started meanwhile may have got a lower pid than its parent.
                let pids = || root.pids().map_err(io::Error::other);
                let known: HashSet<i32> = pids()?.into_iter().collect();
                run(None)?;
                let now = pids()?;
                let mut started = now.iter().copied().filter(|pid| !known.contains(pid));
                if bpf.tells_of_any_one() {
                    started.try_for_each(|pid| run(Some(pid)))?;
                } else if started.next().is_some() {
                    run(None)?;
                }
                now
            }
        };
        // Of whom nothing was told, that may be hidden from BPF as from proc. Where the descriptors are walked
        // as well, that says it.
        let silent = asked.into_iter().filter(|pid| is_all && !holders.contains(pid));
        for pid in silent.filter(|&pid| filter.admits_pid(pid)) {
            fds::note_if_denied(root, pid, &mut self.gaps);
        }
        Ok(is_all)
    }

    /// What BPF has told, if it is all that is asked for.
    pub(in super::super) fn finish_told(mut self) -> Snapshot {
        let Holdings { owners, mut whole, .. } = mem::take(&mut self.holdings);
        let owners: Holders = owners.into_iter().collect();
        self.sockets.append(&mut whole);
        self.name_interfaces_by_holders(&owners);
        let mut namespaces = Namespaces::default();
        if self.filter.shows(Field::Scope) && namespaces.host(self.root).is_none() {
            self.find_namespaces(&mut namespaces, pids_of(&owners).into_iter());
        }
        self.finish(&namespaces, owners)
    }

    /// Adds what BPF has told and no table, and forgets the rest of it.
    pub(super) fn add_told(&mut self, holdings: Holdings, owners: &Holders) {
        let found: HashSet<u64> = self.sockets.iter().map(|socket| socket.inode).collect();
        let told = holdings.whole.into_iter().chain(holdings.part);
        self.sockets.extend(told.filter(|socket| !found.contains(&socket.inode)));
        self.name_interfaces_by_holders(owners);
    }

    /// Gets the names of interfaces, if they are asked for: in the namespaces that the holders are in, or else
    /// in all.
    fn name_interfaces_by_holders(&mut self, owners: &Holders) {
        let mut namespaces = Namespaces::default();
        if self.name_interfaces(0, &namespaces) {
            return;
        }
        self.find_namespaces(&mut namespaces, pids_of(owners).into_iter());
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

/// The processes that hold something.
fn pids_of(owners: &Holders) -> HashSet<i32> {
    owners.iter().map(|owner| owner.pid).collect()
}

/// Whether something is asked for that BPF does not tell of this socket: what waits in some UNIX sockets, or,
/// before Linux 5.15, the control group.
fn lacks_something_shown(filter: &Filter, table: SocketTable, socket: &Socket) -> bool {
    let has_cgroup = !matches!(table, SocketTable::Unix | SocketTable::Packet);
    filter.shows(Field::RxQueue) && socket.details.receive_queue.is_none()
        || filter.shows(Field::CgroupPath) && has_cgroup && socket.details.cgroup.is_none()
}
