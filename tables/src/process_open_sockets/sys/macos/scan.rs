//! One scan, from the first call to the snapshot.

use std::collections::{HashMap, HashSet};
use std::num::NonZeroU64;

use super::calls::{Calls, is_gone};
use super::{libproc, sysctl};
use crate::Error;
use crate::process_open_sockets::filter::Filter;
use crate::process_open_sockets::gap::{GapKind, Gaps};
use crate::process_open_sockets::model::{Binding, DarwinDetails, FdOwner, Snapshot, Socket};
use crate::process_open_sockets::parse::pcblist_n::{End, Pcb, PcbList};
use crate::process_open_sockets::parse::socket_fdinfo::{self, Held};
use crate::process_open_sockets::{Families, Field};

/// What was found so far.
pub(super) struct Scan<'a> {
    calls: &'a Calls,
    filter: &'a Filter,
    /// Sockets that somebody holds, by handle.
    held: HashMap<u64, Held>,
    owners: Vec<FdOwner>,
    /// Processes that may not be looked into.
    denied: HashSet<i32>,
    gaps: Gaps,
}

impl<'a> Scan<'a> {
    pub(super) fn new(calls: &'a Calls, filter: &'a Filter) -> Self {
        Scan {
            calls,
            filter,
            held: HashMap::new(),
            owners: Vec::new(),
            denied: HashSet::new(),
            gaps: Gaps::default(),
        }
    }

    /// The lists come first, then the walk over the descriptors. What is in a list then and held by
    /// nobody must stand there still after the walk, or it came or went meanwhile; and the process that
    /// used it last is looked into once more, since it may have got it behind the walk's back.
    pub(super) fn run(mut self) -> Result<Snapshot, Error> {
        let unowned = self.filter.admits_unowned();
        let tells_more = [Field::Uid, Field::LastPid].into_iter();
        let lists: Vec<PcbList> =
            if unowned || tells_more.into_iter().any(|it| self.filter.shows(it)) {
                let all = PcbList::ALL.into_iter();
                all.filter(|&list| self.filter.admits_list(list)).collect()
            } else {
                Vec::new()
            };
        let mut gaps = Gaps::default();
        let listed = self.read(&lists, &mut gaps);
        self.gaps.extend(gaps);
        self.walk()?;
        let mut unheld = self.match_up(listed);
        if unowned {
            unheld = self.look_again(unheld);
        } else {
            unheld.clear();
        }
        Ok(self.finish(unheld))
    }

    /// The sockets of lists, each with its list.
    fn read(&self, lists: &[PcbList], gaps: &mut Gaps) -> Vec<(PcbList, Pcb)> {
        let mut listed = Vec::new();
        let mut withheld = Vec::new();
        for &list in lists {
            let name = || list.name().to_string_lossy();
            let value = match sysctl::value(self.calls, list.name()) {
                Ok(Some(value)) => value,
                // A list of a newer system.
                Ok(None) => continue,
                Err(error) => {
                    gaps.add(GapKind::PcbList, || format!("{}: {error}", name()));
                    continue;
                }
            };
            let Ok(listing) = list.parse(&value) else {
                gaps.add(GapKind::PcbList, || format!("{}: not a list", name()));
                continue;
            };
            for _ in 0..listing.malformed {
                gaps.add(GapKind::Record, || name().into_owned());
            }
            match listing.end {
                End::Whole => {}
                End::Cut => gaps.add(GapKind::PcbList, || format!("{}: cut", name())),
                End::Withheld { count } => withheld.push((list, count)),
            }
            listed.extend(listing.pcbs.into_iter().map(|pcb| (list, pcb)));
        }
        for (list, count) in withheld {
            // Both lists of UNIX sockets count the sockets of both.
            let is_unix = list.families() == Families::UNIX;
            let other_has_some = listed.iter().any(|(other, _)| other.families() == Families::UNIX);
            if !(is_unix && other_has_some) {
                let first = || format!("{}: {count}", list.name().to_string_lossy());
                gaps.add(GapKind::Withheld, first);
            }
        }
        name_peers(&mut listed);
        listed
    }

    /// Looks at the descriptors of all processes that can matter.
    fn walk(&mut self) -> Result<(), Error> {
        let listed = self.filter.listed_pids().filter(|_| !self.filter.admits_unowned());
        let pids = match listed {
            Some(pids) => pids,
            None => libproc::pids(self.calls).map_err(|source| Error::Processes { source })?,
        };
        for pid in pids {
            if self.filter.admits_unowned() || self.filter.admits_pid(pid) {
                self.look_into(pid);
            }
        }
        Ok(())
    }

    /// Looks at the descriptors of a process.
    fn look_into(&mut self, pid: i32) {
        let fds = match libproc::sockets(self.calls, pid) {
            Ok(fds) => fds,
            Err(error) if is_gone(&error) => return,
            Err(error) => {
                self.denied.insert(pid);
                self.gaps.add(GapKind::Fds, || format!("process {pid}: {error}"));
                return;
            }
        };
        let mut refused = None;
        for fd in fds {
            let owner = |inode| FdOwner { inode, pid, fd, tid: None };
            // Whoever asks for sockets without a holder must know of all that have one.
            if !self.filter.admits_unowned() && !self.filter.admits_owner(&owner(0)) {
                continue;
            }
            match libproc::socket_fdinfo(self.calls, pid, fd) {
                Ok(answer) => match socket_fdinfo::parse(&answer) {
                    Ok(held) if held.socket.inode != 0 => {
                        self.owners.push(owner(held.socket.inode));
                        self.keep(held);
                    }
                    _ => self.gaps.add(GapKind::Record, || format!("process {pid}, fd {fd}")),
                },
                Err(error) if is_gone(&error) => {}
                Err(error) => refused = Some((fd, error)),
            }
        }
        if let Some((fd, error)) = refused {
            self.denied.insert(pid);
            self.gaps.add(GapKind::Fds, || format!("process {pid}, fd {fd}: {error}"));
        }
    }

    /// Keeps a socket. One that has the handle of an earlier one is the same, or the earlier is gone: then
    /// those who held it have closed it.
    fn keep(&mut self, held: Held) {
        let handle = held.socket.inode;
        let earlier = self.held.insert(handle, held.clone());
        if earlier.is_some_and(|earlier| is_another(earlier.generation, held.generation)) {
            let last = self.owners.pop();
            self.owners.retain(|owner| owner.inode != handle);
            self.owners.extend(last);
        }
    }

    /// Adds what the lists tell to what is held; returns what nobody holds.
    fn match_up(&mut self, listed: Vec<(PcbList, Pcb)>) -> Vec<(PcbList, Pcb)> {
        let mut unheld = Vec::new();
        for (list, pcb) in listed {
            match self.held.get_mut(&pcb.socket.inode).filter(|_| pcb.socket.inode != 0) {
                // The list is older than the walk.
                Some(held) if is_another(held.generation, pcb.generation) => {}
                Some(held) => {
                    held.socket.details.uid = pcb.socket.details.uid;
                    held.details.last_pid = pcb.details.last_pid;
                    held.details.peer = held.details.peer.or(pcb.details.peer);
                }
                None => unheld.push((list, pcb)),
            }
        }
        unheld
    }

    /// Leaves out what is no longer there, unless it never could have a holder.
    fn look_again(&mut self, unheld: Vec<(PcbList, Pcb)>) -> Vec<(PcbList, Pcb)> {
        let (mut sure, open): (Vec<_>, Vec<_>) =
            unheld.into_iter().partition(|(_, pcb)| pcb.details.without_fd.is_some());
        let mut lists: Vec<PcbList> = open.iter().map(|&(list, _)| list).collect();
        lists.dedup();
        // What is missing in these lists was missing before, and has been said.
        let again = self.read(&lists, &mut Gaps::default());
        let mut again: HashMap<_, _> =
            again.into_iter().map(|(list, pcb)| ((list, pcb.socket.inode), pcb)).collect();
        let mut still = Vec::new();
        for (list, pcb) in open {
            match again.remove(&(list, pcb.socket.inode)) {
                Some(now) if !is_another(now.generation, pcb.generation) => still.push((list, now)),
                _ => self.gaps.add(GapKind::Vanished, || {
                    format!("{}: socket {}", list.name().to_string_lossy(), pcb.socket.inode)
                }),
            }
        }
        let users = still.iter().filter_map(|(_, pcb)| pcb.details.last_pid);
        let mut users: Vec<i32> =
            users.filter(|pid| *pid > 0 && !self.denied.contains(pid)).collect();
        users.sort_unstable();
        users.dedup();
        for pid in users {
            self.look_into(pid);
        }
        sure.extend(self.match_up(still));
        sure
    }

    fn finish(self, unheld: Vec<(PcbList, Pcb)>) -> Snapshot {
        let held = self.held.into_values().map(|held| (held.socket, held.details));
        let unheld = unheld.into_iter().map(|(_, pcb)| (pcb.socket, pcb.details));
        let asked = |(socket, _): &(Socket, DarwinDetails)| {
            self.filter.admits_families(families(socket)) && self.filter.admits_socket(socket)
        };
        let mut all: Vec<(Socket, DarwinDetails)> = held.chain(unheld).filter(asked).collect();
        // A list may have a socket twice, and one that had no holder may have found one since: what is held
        // comes first, and stays.
        all.sort_by_key(|(socket, _)| socket.inode);
        all.dedup_by(|(later, _), (earlier, _)| later.inode != 0 && later.inode == earlier.inode);
        let (sockets, darwin) = all.into_iter().unzip();
        let owners = self.owners.into_iter().collect();
        Snapshot { sockets, owners, gaps: self.gaps, darwin, ..Snapshot::default() }
    }
}

/// Whether two that have one handle are two: where both have a number of their own, and not the same.
fn is_another(one: Option<NonZeroU64>, other: Option<NonZeroU64>) -> bool {
    one.zip(other).is_some_and(|(one, other)| one != other)
}

/// Finds the peers of UNIX sockets: a list names their parts, and the socket of each part.
fn name_peers(listed: &mut [(PcbList, Pcb)]) {
    let sockets: HashMap<u64, u64> =
        listed.iter().map(|(_, pcb)| (pcb.pcb, pcb.socket.inode)).collect();
    for (_, pcb) in listed.iter_mut().filter(|(_, pcb)| pcb.peer_pcb != 0) {
        pcb.details.peer = sockets.get(&pcb.peer_pcb).and_then(|&peer| NonZeroU64::new(peer));
    }
}

/// What a user has to choose to see a socket.
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
