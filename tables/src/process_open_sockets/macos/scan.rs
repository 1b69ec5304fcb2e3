//! One scan, from the first call to the snapshot.

use std::collections::{HashMap, HashSet};
use std::num::NonZeroU64;

use crate::deadline::Deadline;
use crate::formats::macos::pcblist_n::{End, Listing, Pcb, PcbList};
use crate::formats::macos::socket_fdinfo;
use crate::formats::macos::socket_fdinfo::Held;
use crate::macos::calls::{Calls, is_gone};
use crate::macos::processes::{self, ProcessReader, StartTime};
use crate::macos::{libproc, sysctl};
use crate::model::holders::{Holder, HolderCollector, HolderLimits, Holders};
use crate::model::omission::{OmissionKind, Omissions};
use crate::model::{
    Binding, DarwinDetails, Families, Presence, Processes, Snapshot, Socket, TcpDetails, Uids, Work,
};
use crate::process_open_sockets::columns::Field;
use crate::process_open_sockets::filter::Filter;
use crate::{Error, User};

/// A scan and its results so far.
pub(super) struct Scan<'a> {
    calls: &'a Calls,
    filter: &'a Filter,
    deadline: Deadline<'a>,
    /// Held sockets, by handle.
    held: HashMap<u64, Held>,
    holders: HolderCollector,
    /// Processes and lists with an omission: it is counted once, even if they are read again.
    faulty_pids: HashSet<i32>,
    faulty_lists: HashSet<PcbList>,
    /// When the processes with sockets started, if the query reads more of them. None: two had the same pid.
    start_times: HashMap<i32, Option<StartTime>>,
    omissions: Omissions,
    work: Work,
}

/// Sockets of lists, each with its list.
type Listed = Vec<(PcbList, Pcb)>;

impl<'a> Scan<'a> {
    pub(super) fn new(
        calls: &'a Calls,
        filter: &'a Filter,
        limits: HolderLimits,
        deadline: Deadline<'a>,
    ) -> Self {
        Scan {
            calls,
            filter,
            deadline,
            held: HashMap::new(),
            holders: HolderCollector::new(limits),
            faulty_pids: HashSet::new(),
            faulty_lists: HashSet::new(),
            start_times: HashMap::new(),
            omissions: Omissions::default(),
            work: Work::default(),
        }
    }

    /// Reads the lists first, for all sockets that exist, and then walks the descriptors.
    ///
    /// During the walk, sockets are closed, accepted, and passed to processes that were already read or that
    /// start later. So if a listed socket that a descriptor can refer to has no holder, the scan walks all
    /// processes again, and then reads the lists of these sockets again. If the list then lacks such a socket,
    /// the socket was closed during the scan and is shown as such. The answer has the holders of both walks: a
    /// descriptor that is closed and opened again between them can have two rows.
    pub(super) fn run(mut self) -> Result<Snapshot, Error> {
        let lists = self.selected_lists();
        let plan = self.plan(&lists);
        let (listed, _) = self.read(&lists);
        self.walk()?;
        let mut unheld = self.match_up(listed);
        unheld.retain(|(_, pcb)| self.filter.admits_unheld() && self.admits(&pcb.socket));
        if unheld.iter().any(|(_, pcb)| pcb.may_be_held()) {
            unheld = self.read_again(unheld);
        }
        self.name_raw_protocols();
        Ok(Snapshot { plan, ..self.finish(unheld) })
    }

    /// The plan of the scan, as text.
    fn plan(&self, lists: &[PcbList]) -> String {
        let scope = match self.selected_pids() {
            Some(pids) => format!("lookup of {} processes", pids.len()),
            None if self.filter.admits_unheld() => "full scan: lists, then holders".to_owned(),
            None => "held sockets of all processes".to_owned(),
        };
        let lists: Vec<String> = lists.iter().copied().map(name).collect();
        let lists = if lists.is_empty() { "none".to_owned() } else { lists.join(" ") };
        format!("{scope}; holders and their sockets from libproc; lists from sysctl: {lists}")
    }

    /// The only processes whose descriptors are read; None for all.
    fn selected_pids(&self) -> Option<Vec<i32>> {
        self.filter.listed_pids().filter(|_| !self.filter.admits_unheld())
    }

    /// The lists that report something that the query reads.
    fn selected_lists(&self) -> Vec<PcbList> {
        let only_in_lists = [
            Field::SocketUid,
            Field::LastPid,
            Field::RttUs,
            Field::RttVarianceUs,
            Field::CongestionWindow,
            Field::SendMss,
        ];
        let shows_list_details = only_in_lists.into_iter().any(|it| self.filter.shows(it));
        if !shows_list_details && !self.filter.admits_unheld() {
            return Vec::new();
        }
        PcbList::ALL.into_iter().filter(|&list| self.filter.admits_list(list)).collect()
    }

    /// The sockets of lists, each once, and the lists that were read completely.
    fn read(&mut self, lists: &[PcbList]) -> (Listed, HashSet<PcbList>) {
        let mut listed = Vec::new();
        let mut whole = HashSet::new();
        // For lists that share a count: the count, and the number of sockets that they show.
        let mut shown: Vec<(PcbList, u64, u64)> = Vec::new();
        for &list in lists {
            self.work.tables += 1;
            let mut omissions = Omissions::default();
            if self.deadline.has_passed() {
                self.omissions.add(OmissionKind::Deadline, || name(list));
                break;
            }
            let Some(listing) = self.read_one(list, &mut omissions) else {
                self.count_list_omissions(list, omissions);
                continue;
            };
            if omissions.is_empty() {
                whole.insert(list);
            }
            self.count_list_omissions(list, omissions);
            match shown.iter_mut().find(|(other, ..)| other.shares_count_with(list)) {
                Some((_, count, groups)) => {
                    *count = listing.count.max(*count);
                    *groups += listing.groups;
                }
                None => shown.push((list, listing.count, listing.groups)),
            }
            let mut seen = HashSet::new();
            let pcbs = listing.pcbs.into_iter();
            let once = pcbs.filter(|it| it.socket.inode == 0 || seen.insert(it.socket.inode));
            listed.extend(once.map(|pcb| (list, pcb)));
        }
        for (first, count, groups) in shown {
            let is_of_count = |list: &PcbList| list.shares_count_with(first);
            let all_whole =
                lists.iter().filter(|list| is_of_count(list)).all(|it| whole.contains(it));
            if all_whole && is_withheld(count, groups) {
                whole.retain(|list| !is_of_count(list));
                let mut omissions = Omissions::default();
                omissions.add(OmissionKind::Withheld, || {
                    format!("{}: {groups} of {count}", name(first))
                });
                self.count_list_omissions(first, omissions);
            }
        }
        name_peers(&mut listed);
        (listed, whole)
    }

    /// Reads a list; None if it cannot be read, or if this version of macOS does not have it.
    fn read_one(&self, list: PcbList, omissions: &mut Omissions) -> Option<Listing> {
        let value = match sysctl::value(self.calls, list.name()) {
            Ok(value) => value?,
            Err(error) => {
                omissions.add(OmissionKind::PcbList, || format!("{}: {error}", name(list)));
                return None;
            }
        };
        let Ok(listing) = list.parse(&value) else {
            omissions.add(OmissionKind::PcbList, || format!("{}: not a list", name(list)));
            return None;
        };
        for _ in 0..listing.malformed {
            omissions.add(OmissionKind::Record, || name(list));
        }
        if listing.end == End::Truncated {
            omissions.add(OmissionKind::PcbList, || format!("{}: truncated", name(list)));
        }
        Some(listing)
    }

    fn count_list_omissions(&mut self, list: PcbList, omissions: Omissions) {
        if !omissions.is_empty() && self.faulty_lists.insert(list) {
            self.omissions.extend(omissions);
        }
    }

    /// Reads the descriptors of all processes that can have a row.
    fn walk(&mut self) -> Result<(), Error> {
        self.work.walks += 1;
        let pids = match self.selected_pids() {
            Some(pids) => pids,
            None => libproc::pids(self.calls).map_err(|source| Error::Processes { source })?,
        };
        for pid in pids {
            if self.deadline.has_passed() {
                self.omissions.add(OmissionKind::Deadline, || format!("process {pid}"));
                break;
            }
            if self.filter.admits_unheld() || self.filter.admits_pid(pid) {
                let mut omissions = Omissions::default();
                self.work.walked += 1;
                self.read_process(pid, &mut omissions);
                if !omissions.is_empty() && self.faulty_pids.insert(pid) {
                    self.omissions.extend(omissions);
                }
            }
        }
        Ok(())
    }

    /// Reads the descriptors of a process.
    fn read_process(&mut self, pid: i32, omissions: &mut Omissions) {
        let fds = match libproc::sockets(self.calls, pid) {
            Ok(fds) => fds,
            Err(error) if is_gone(&error) => return,
            Err(error) => {
                omissions.add(OmissionKind::Fds, || format!("process {pid}: {error}"));
                return;
            }
        };
        if !self.filter.process_fields().is_empty() && !fds.is_empty() {
            let start = processes::start_time(self.calls, pid);
            let known = self.start_times.entry(pid).or_insert(start);
            if *known != start {
                *known = None;
            }
        }
        let mut refused = None;
        for fd in fds {
            if self.deadline.has_passed() {
                break;
            }
            match libproc::socket_fdinfo(self.calls, pid, fd) {
                Ok(answer) => match socket_fdinfo::parse(&answer) {
                    Ok(held) if held.socket.inode != 0 => {
                        let inode = held.socket.inode;
                        self.keep(held);
                        self.holders.push(Holder { inode, pid, fd, tid: None });
                        let uid = self.calls.uid;
                        self.holders.prune_if_large(|_| true, |pid| User::of_uid(uid(pid)));
                    }
                    _ => omissions.add(OmissionKind::Record, || format!("process {pid}, fd {fd}")),
                },
                Err(error) if is_gone(&error) => {}
                Err(error) => refused = Some((fd, error)),
            }
        }
        if let Some((fd, error)) = refused {
            omissions.add(OmissionKind::Fds, || format!("process {pid}, fd {fd}: {error}"));
        }
    }

    /// Keeps the latest record of a socket, with the details that only a list reports. If the handle belonged
    /// to another socket before, that socket is closed, and its holders are removed.
    fn keep(&mut self, mut held: Held) {
        let handle = held.socket.inode;
        if let Some(earlier) = self.held.get(&handle) {
            if Identity::from(earlier).is_another(&Identity::from(&held)) {
                self.holders.remove_socket(handle);
            } else {
                held.socket.details.uid = earlier.socket.details.uid;
                if let Some(tcp) = tcp(&earlier.socket) {
                    held.socket.details.extended.get_or_insert_default().tcp = Some(tcp);
                }
                held.details.last_pid = earlier.details.last_pid;
                held.details.peer = held.details.peer.or(earlier.details.peer);
            }
        }
        self.held.insert(handle, held);
    }

    /// Adds the details of the lists to held sockets; returns the unheld ones.
    fn match_up(&mut self, listed: Listed) -> Listed {
        let mut unheld = Vec::new();
        for (list, pcb) in listed {
            match self.held.get_mut(&pcb.socket.inode).filter(|_| pcb.socket.inode != 0) {
                // The list is older than the walk.
                Some(held) if Identity::from(&*held).is_another(&Identity::from(&pcb)) => {}
                Some(held) => {
                    if let Binding::Inet { protocol: held @ 0, .. } = &mut held.socket.binding {
                        *held = pcb.socket.protocol().unwrap_or_default();
                    }
                    held.socket.details.uid = pcb.socket.details.uid;
                    if let Some(tcp) = tcp(&pcb.socket) {
                        held.socket.details.extended.get_or_insert_default().tcp = Some(tcp);
                    }
                    held.details.last_pid = pcb.details.last_pid;
                    held.details.peer = held.details.peer.or(pcb.details.peer);
                }
                None => unheld.push((list, pcb)),
            }
        }
        unheld
    }

    /// Reads the processes that hold the sockets, if the query reads more of them.
    fn read_processes(&mut self, holders: &Holders) -> Processes {
        let fields = self.filter.process_fields();
        if fields.is_empty() {
            return Processes::default();
        }
        let admitted = holders.iter().filter(|holder| self.filter.admits_holder(holder));
        let mut pids: Vec<i32> = admitted.map(|holder| holder.pid).collect();
        pids.sort_unstable();
        pids.dedup();
        let mut reader = ProcessReader::new(self.calls, fields);
        let mut read = Vec::new();
        for pid in pids {
            if self.deadline.has_passed() {
                self.omissions.add(OmissionKind::Deadline, || format!("process {pid}"));
                break;
            }
            let start = self.start_times.get(&pid).copied().flatten();
            if let Some(process) = start.and_then(|start| reader.read(pid, start)) {
                read.push((pid, process));
            }
        }
        self.omissions.extend(reader.omissions);
        read.into_iter().collect()
    }

    /// The second read of [`Scan::run`]; returns the sockets that are still unheld.
    fn read_again(&mut self, unheld: Listed) -> Listed {
        if let Err(error) = self.walk() {
            self.omissions.add(OmissionKind::Fds, || error.to_string());
        }
        // With the list that shares its count: only both together show whether the kernel withholds sockets.
        let is_open = |list: &PcbList| {
            unheld.iter().any(|(of, pcb)| pcb.may_be_held() && of.shares_count_with(*list))
        };
        let lists: Vec<PcbList> = PcbList::ALL.into_iter().filter(is_open).collect();
        let (now, whole) = self.read(&lists);
        let mut now: HashMap<(PcbList, u64), Pcb> =
            now.into_iter().map(|(list, pcb)| ((list, pcb.socket.inode), pcb)).collect();
        let mut still = Vec::new();
        for (list, before) in unheld {
            let after = now.remove(&(list, before.socket.inode));
            let is_other = |after: &Pcb| Identity::from(after).is_another(&Identity::from(&before));
            match after {
                _ if !before.may_be_held() => still.push((list, before)),
                // The record with a reason is shown: the socket may be in the middle of accept(2).
                Some(after) if !is_other(&after) => {
                    let has_reason = after.details.without_fd.is_some();
                    still.push((list, if has_reason { after } else { before }));
                }
                // It may be in the part of the list that could not be read.
                None if !whole.contains(&list) => still.push((list, before)),
                _ => {
                    let mut before = before;
                    before.socket.details.presence = Presence::Closed;
                    still.push((list, before));
                }
            }
        }
        self.match_up(still)
    }

    /// Sets the protocols of held raw sockets. Mostly only the list reports them. It is read for every query,
    /// so that a row does not depend on the query.
    fn name_raw_protocols(&mut self) {
        let is_nameless =
            |held: &Held| matches!(held.socket.binding, Binding::Inet { protocol: 0, .. });
        if self.held.values().any(is_nameless) && self.filter.admits_list(PcbList::Raw) {
            let (listed, _) = self.read(&[PcbList::Raw]);
            self.match_up(listed);
        }
    }

    /// Whether the query selects the socket.
    fn admits(&self, socket: &Socket) -> bool {
        self.filter.admits_families(families(socket)) && self.filter.admits_socket(socket)
    }

    fn finish(mut self, unheld: Listed) -> Snapshot {
        let held = std::mem::take(&mut self.held).into_values();
        let held = held.map(|held| (held.socket, held.details));
        let unheld = unheld.into_iter().map(|(_, pcb)| (pcb.socket, pcb.details));
        let all = held.chain(unheld).filter(|(socket, _)| self.admits(socket));
        let mut all: Vec<(Socket, DarwinDetails)> = all.collect();
        // The lists are read one after the other, so two can have the same handle.
        all.sort_by_key(|(socket, _)| socket.inode);
        all.dedup_by(|(later, _), (earlier, _)| later.inode != 0 && later.inode == earlier.inode);
        let (sockets, darwin) = all.into_iter().unzip();
        let holders = std::mem::take(&mut self.holders).finish(|_| true);
        let processes = self.read_processes(&holders);
        let uids = Uids::new(self.calls.uid);
        Snapshot {
            sockets,
            holders,
            omissions: self.omissions,
            work: self.work,
            darwin,
            uids,
            processes,
            ..Snapshot::default()
        }
    }
}

fn name(list: PcbList) -> String {
    list.name().to_string_lossy().into_owned()
}

/// Whether the kernel withholds sockets of a list, as macOS 27 does. The count includes sockets that are being
/// torn down. So only a count far above the number of shown sockets is a sign.
fn is_withheld(count: u64, shown: u64) -> bool {
    const ROOM: u64 = 16;
    if shown == 0 { count > 0 } else { count > shown.saturating_mul(2).saturating_add(ROOM) }
}

/// The identity of a socket: a later socket can have the same handle.
struct Identity {
    family: Option<u8>,
    /// 0 if not reported: a socket that is shut down can lose it.
    pcb: u64,
    generation: Option<NonZeroU64>,
}

impl From<&Held> for Identity {
    fn from(held: &Held) -> Self {
        let Held { pcb, generation, ref socket, .. } = *held;
        Identity { family: socket.family(), pcb, generation }
    }
}

impl From<&Pcb> for Identity {
    fn from(listed: &Pcb) -> Self {
        let Pcb { pcb, generation, ref socket, .. } = *listed;
        Identity { family: socket.family(), pcb, generation }
    }
}

impl Identity {
    /// Whether they are different sockets: a field that both have differs.
    fn is_another(&self, other: &Identity) -> bool {
        let pcbs = NonZeroU64::new(self.pcb).zip(NonZeroU64::new(other.pcb));
        let numbers = [pcbs, self.generation.zip(other.generation)];
        self.family != other.family || numbers.into_iter().flatten().any(|(one, two)| one != two)
    }
}

/// Sets the peers of UNIX sockets: a list has the protocol control block of each socket and of its peer.
fn name_peers(listed: &mut [(PcbList, Pcb)]) {
    let sockets: HashMap<u64, u64> =
        listed.iter().map(|(_, pcb)| (pcb.pcb, pcb.socket.inode)).collect();
    for (_, pcb) in listed.iter_mut().filter(|(_, pcb)| pcb.peer_pcb != 0) {
        pcb.details.peer = sockets.get(&pcb.peer_pcb).and_then(|&peer| NonZeroU64::new(peer));
    }
}

/// The families that the user selects to see a socket.
fn families(socket: &Socket) -> Families {
    match socket.binding {
        Binding::Inet { .. } => Families::INET,
        Binding::Unix { .. } => Families::UNIX,
        Binding::System { .. } => Families::SYSTEM,
        Binding::Ndrv { .. } => Families::NDRV,
        Binding::Vsock { .. } => Families::VSOCK,
        Binding::Packet { .. } => Families::PACKET,
        Binding::Netlink { .. } => Families::NETLINK,
        Binding::Sctp { .. } => Families::SCTP,
        Binding::Unlisted { .. } => Families::UNLISTED,
    }
}

fn tcp(socket: &Socket) -> Option<TcpDetails> {
    socket.details.extended.as_deref()?.tcp.clone()
}
