//! Held sockets in one pass of BPF: the holders and the sockets.

use std::collections::{HashMap, HashSet};

use super::Scan;
use super::listing::Listing;
use crate::linux::bpf::{Description, PassError, TaskFiles};
use crate::linux::netns::{Namespaces, NetnsKey, Sessions, SocketSource};
use crate::linux::proc_root::ProcRoot;
use crate::model::holders::{Holder, HolderCollector, HolderLimits};
use crate::model::protocol::IPPROTO_TCP;
use crate::model::report::Report;
use crate::model::socket_table::SocketTable;
use crate::model::{Binding, ExtendedDetails, ExtendedFields, NetNamespace, Socket};
use crate::process_open_sockets::columns::Field;
use crate::process_open_sockets::filter::Filter;

/// Holders, with their sockets.
#[derive(Debug)]
pub(super) struct HeldSockets {
    pub(super) holders: HolderCollector,
    pub(super) records: HashMap<(SocketTable, u64), Socket>,
    /// The numbers of namespaces without a known process.
    pub(super) numbers: HashMap<NetnsKey, NetNamespace>,
    pub(super) extended: ExtendedByInode,
}

/// Extended details of sockets without a complete record, by inode.
pub(super) type ExtendedByInode = HashMap<u64, ExtendedDetails>;

impl HeldSockets {
    pub(super) fn new(limits: HolderLimits) -> HeldSockets {
        HeldSockets::of(HolderCollector::new(limits))
    }

    /// Holders of sockets without a record.
    pub(super) fn of(holders: HolderCollector) -> HeldSockets {
        let (records, numbers, extended) = Default::default();
        HeldSockets { holders, records, numbers, extended }
    }

    pub(super) fn extend(&mut self, more: HeldSockets) {
        self.holders.append(more.holders);
        self.records.extend(more.records);
        self.numbers.extend(more.numbers);
        self.extended.extend(more.extended);
    }
}

/// One pass of BPF for a full scan.
pub(super) struct Pass {
    pub(super) held: HeldSockets,
    /// The processes that hold any socket.
    pub(super) pids: HashSet<i32>,
    /// Whether each listed socket has a holder.
    pub(super) has_all_holders: bool,
}

/// The held sockets of processes, from BPF.
#[derive(Debug)]
pub(super) struct BpfSockets {
    pub(super) holders: HolderCollector,
    /// Sockets with everything that the query reads.
    pub(super) complete: Vec<Socket>,
    /// Sockets with a field that the query reads and only a table shows.
    pub(super) partial: Vec<Socket>,
    /// Inodes of held sockets that only a table describes, or that no table lists.
    pub(super) undescribed: HashSet<u64>,
    pub(super) extended: ExtendedByInode,
    /// The processes that hold any socket.
    pub(super) pids: HashSet<i32>,
    /// The inodes of complete and partial sockets.
    seen: HashSet<u64>,
}

impl BpfSockets {
    fn new(limits: HolderLimits) -> BpfSockets {
        let (complete, partial, undescribed, extended, pids, seen) = Default::default();
        let holders = HolderCollector::new(limits);
        BpfSockets { holders, complete, partial, undescribed, extended, pids, seen }
    }

    /// Adds the socket of a record, once; returns whether the query selects it.
    fn add(
        &mut self,
        filter: &Filter,
        unlisted: bool,
        inode: u64,
        description: Description,
    ) -> bool {
        match description {
            Description::Complete { table, socket } => {
                if !filter.admits_table(table) || !filter.admits_socket(&socket) {
                    return false;
                }
                if self.seen.insert(socket.inode) {
                    let is_partial = lacks_shown_field(filter, table, &socket);
                    let sockets = if is_partial { &mut self.partial } else { &mut self.complete };
                    sockets.push(socket);
                }
                true
            }
            Description::InTables(tables) if tables.iter().any(|&it| filter.admits_table(it)) => {
                self.undescribed.insert(inode);
                true
            }
            Description::Unlisted | Description::InTables(_) => {
                if unlisted {
                    self.undescribed.insert(inode);
                }
                unlisted
            }
        }
    }
}

/// BPF shows no O_PATH handles: they refer to no socket in the kernel.
pub(super) fn push(root: &ProcRoot, holders: &mut HolderCollector, holder: Holder) {
    holders.push(holder);
    holders.prune_if_large(|_| true, |pid| root.user(pid));
}

impl Scan<'_> {
    /// Runs the program once for all processes. Keeps the holders of listed sockets, and the holders and records
    /// of admitted sockets that are not listed: they were created later, are in a namespace without a handle,
    /// or were hidden in the table. If a file of `/proc/net` lists a socket, its record is kept too, since it
    /// has more details.
    pub(super) fn pass(
        &self,
        bpf: &TaskFiles,
        listing: &Listing,
        inodes: &[u64],
        report: &mut Report,
    ) -> Result<Pass, PassError> {
        let filter = self.filter;
        let files = tables_from_files(listing);
        let unnumbered = listing.unnumbered();
        let mut held = HeldSockets::new(self.plan.limits);
        let mut is_held = vec![false; inodes.len()];
        let (mut pids, mut last) = (HashSet::new(), None);
        // Netlink has no peers, and a part of the inode numbers of files.
        let reads_unix_details =
            filter.extended_fields().intersects(ExtendedFields::PEER | ExtendedFields::BOUND_FILE);
        report.work.passes += 1;
        bpf.run(None, self.plan.threads, self.deadline, |holder, record| {
            if last.replace(holder.pid) != Some(holder.pid) {
                pids.insert(holder.pid);
            }
            let index = inodes.binary_search(&holder.inode).ok();
            if let Some(is_held) = index.and_then(|index| is_held.get_mut(index)) {
                *is_held = true;
            }
            let is_listed = index.is_some();
            if reads_unix_details
                && record.is_unix()
                && let Some(extended) = record.extended_details()
            {
                held.extended.insert(holder.inode, extended);
            }
            if let Some(namespace) = unnumbered.get(&holder.inode) {
                held.numbers.insert(*namespace, record.net_namespace());
            }
            if is_listed && files.is_empty() {
                self.note_start(holder.pid, &record);
                push(self.root, &mut held.holders, holder);
                return Ok(());
            }
            let cannot_match = |(state, local, remote)| !filter.admits_tcp(state, local, remote);
            if !is_listed && !self.plan.unlisted && record.tcp().is_some_and(cannot_match) {
                return Ok(());
            }
            let description = record.describe()?;
            if !matches!(description, Description::Complete { .. })
                && let Some(extended) = record.extended_details()
            {
                held.extended.insert(holder.inode, extended);
            }
            let is_selected = match description {
                Description::Complete { table, socket } => {
                    let is_kept = if is_listed {
                        files.contains(&(socket.net_namespace, table))
                    } else {
                        filter.admits_table(table) && filter.admits_socket(&socket)
                    };
                    if is_kept {
                        held.records.insert((table, socket.inode), socket);
                    }
                    is_kept
                }
                Description::InTables(tables) => {
                    tables.iter().any(|&table| filter.admits_table(table))
                }
                Description::Unlisted => self.plan.unlisted,
            };
            if is_listed || is_selected || self.plan.unlisted {
                self.note_start(holder.pid, &record);
                push(self.root, &mut held.holders, holder);
            }
            Ok(())
        })?;
        let has_all_holders = is_held.iter().all(|&held| held);
        Ok(Pass { held, pids, has_all_holders })
    }

    /// Runs the program for these processes, or for all.
    ///
    /// # Errors
    /// The error of the kernel; before Linux 6.7 also if a process cannot be read completely.
    pub(super) fn bpf_sockets(
        &self,
        bpf: &TaskFiles,
        pids: Option<&[i32]>,
        report: &mut Report,
    ) -> Result<BpfSockets, PassError> {
        let (root, filter) = (self.root, self.filter);
        let mut found = BpfSockets::new(self.plan.limits);
        let mut run = |pid: Option<i32>, report: &mut Report| {
            report.work.passes += u32::from(pid.is_none());
            bpf.run(pid, self.plan.threads, self.deadline, |holder, record| {
                found.pids.insert(holder.pid);
                if !filter.admits_pid(holder.pid) || !filter.admits_inode(holder.inode) {
                    return Ok(());
                }
                let description = record.describe()?;
                if !matches!(description, Description::Complete { .. })
                    && let Some(extended) = record.extended_details()
                {
                    found.extended.insert(holder.inode, extended);
                }
                if found.add(filter, self.plan.unlisted, holder.inode, description) {
                    self.note_start(holder.pid, &record);
                    push(root, &mut found.holders, holder);
                }
                Ok(())
            })
        };
        // To run the program for one process takes as long as for some tens of files.
        const FILES: u64 = 50;
        let are_few = |pids: &[i32]| pids.len() as u64 * FILES <= root.open_files();
        match pids {
            Some(pids) if are_few(pids) => {
                let mut selected = pids.iter().filter(|&&pid| filter.admits_pid(pid));
                selected.try_for_each(|&pid| run(Some(pid), report))?;
            }
            _ => {
                // A process that starts during the pass can have a lower pid than its parent.
                let list = || root.pids().map_err(PassError::Processes);
                let listed: HashSet<i32> = list()?.into_iter().collect();
                run(None, report)?;
                let mut started = list()?.into_iter().filter(|pid| !listed.contains(pid));
                if bpf.reads_all_threads() {
                    started.try_for_each(|pid| run(Some(pid), report))?;
                } else if started.next().is_some() {
                    run(None, report)?;
                }
            }
        }
        Ok(found)
    }

    /// Sets the names of the interfaces of these sockets, if the query reads them; returns whether the namespaces
    /// have that of each socket.
    pub(super) fn name_interfaces(
        &self,
        sockets: &mut [Socket],
        namespaces: &Namespaces,
        sessions: &mut Sessions,
    ) -> bool {
        if !self.filter.shows(Field::BoundInterface) {
            return true;
        }
        let is_unnamed = |socket: &&mut Socket| {
            socket.details.interface().is_some_and(|interface| interface.name.is_none())
        };
        let mut sockets: Vec<&mut Socket> = sockets.iter_mut().filter(is_unnamed).collect();
        for namespace in namespaces.iter().filter(|namespace| namespace.number().is_some()) {
            if sockets.is_empty() {
                break;
            }
            let is_its = |socket: &&mut &mut Socket| socket.net_namespace == namespace.number();
            if sockets.iter().any(|socket| socket.net_namespace == namespace.number()) {
                let its = sockets.iter_mut().filter(is_its).map(|socket| &mut **socket);
                sessions.open(namespace).name_interfaces(its);
            }
            sockets.retain(|socket| socket.net_namespace != namespace.number());
        }
        sockets.is_empty()
    }
}

/// Adds to these sockets the details that their own source lacks.
pub(super) fn extend(sockets: &mut [Socket], extended: &ExtendedByInode) {
    if extended.is_empty() {
        return;
    }
    for socket in sockets {
        // The subflows of an MPTCP connection have its inode, and cookies of their own.
        if matches!(socket.binding, Binding::Inet { protocol: IPPROTO_TCP, .. }) {
            continue;
        }
        if let Some(more) = extended.get(&socket.inode) {
            socket.details.extended.get_or_insert_default().complete_from(more.clone());
        }
    }
}

/// The tables of namespaces that files listed.
fn tables_from_files(listing: &Listing) -> HashSet<(Option<NetNamespace>, SocketTable)> {
    let is_file = |run: &&super::listing::Run| run.source == SocketSource::ProcNet;
    let runs = listing.runs.iter().filter(is_file);
    runs.filter_map(|run| {
        let first = listing.sockets.get(run.sockets.clone())?.first()?;
        Some((first.net_namespace, run.table))
    })
    .collect()
}

/// Whether the query reads a field that the record of this socket lacks and a table can have: the receive queue of
/// some UNIX sockets; before Linux 5.15, the control group; before Linux 5.12, the cookie.
fn lacks_shown_field(filter: &Filter, table: SocketTable, socket: &Socket) -> bool {
    let has_cgroup = !matches!(table, SocketTable::Unix | SocketTable::Packet);
    filter.shows(Field::RxQueue) && socket.details.receive_queue.is_none()
        || filter.shows(Field::SocketCgroupPath) && has_cgroup && socket.details.cgroup.is_none()
        || table.has_dump() && lacks_extended_details(filter.extended_fields(), table, socket)
}

/// Whether details that a dump has are missing here.
fn lacks_extended_details(fields: ExtendedFields, table: SocketTable, socket: &Socket) -> bool {
    let extended = socket.details.extended.as_deref();
    let lacks = |has: fn(&ExtendedDetails) -> bool| !extended.is_some_and(has);
    let is_tcp = matches!(table, SocketTable::Tcp | SocketTable::Tcp6);
    fields.contains(ExtendedFields::COOKIE) && lacks(|it| it.cookie.is_some())
        || fields.contains(ExtendedFields::TCP) && is_tcp && lacks(|it| it.tcp.is_some())
}
