//! The sockets that there are, held or not.

use std::collections::{HashMap, HashSet};
use std::ops::{Range, RangeInclusive};

use super::super::bpf::Told;
use super::super::fds;
use super::super::netns::{Namespace, Namespaces};
use super::super::search::{candidates, is_of_another_table, note_forged};
use super::super::tables::{Tables, Teller, Wanted};
use super::pass::Pass;
use super::{Scan, admitted_tables};
use crate::Error;
use crate::process_open_sockets::gap::{GapKind, Gaps};
use crate::process_open_sockets::holders::{Holder, Holders};
use crate::process_open_sockets::model::{Family, Snapshot, Socket, TcpState};
use crate::process_open_sockets::parse::proto_name::Candidates;
use crate::process_open_sockets::parse::sock_diag::Request;
use crate::process_open_sockets::socket_table::SocketTable;

/// Where a run of sockets was read.
pub(super) struct Run {
    pub(super) namespace: usize,
    pub(super) table: SocketTable,
    pub(super) teller: Teller,
    pub(super) sockets: Range<usize>,
}

/// What BPF has told of holders.
struct ToldOwners {
    /// The processes that hold a socket, whichever.
    pids: HashSet<i32>,
    /// Whether each socket that was asked for has a holder. Where one has none, somebody may hold it whose
    /// descriptors the kernel has hidden from BPF.
    is_all: bool,
}

impl Scan<'_> {
    /// Every socket, held or not.
    ///
    /// While the descriptors are walked, sockets come, go and change hands. So the tables are read
    /// before the walk, for all that exists; and what no walked process holds must stand there
    /// still after it, or it is left out: its holder closed it, or had not got it yet, when its
    /// descriptors were read.
    pub(in super::super) fn all(mut self) -> Result<Snapshot, Error> {
        /// A walk may come upon namespaces that were not seen before, and these may have sockets of
        /// processes that were walked.
        const ROUNDS: usize = 3;
        let filter = self.filter;
        let unlisted = filter.admits_unlisted();
        let mut pids = self.root.pids()?;
        let mut namespaces = Namespaces::default();
        self.find_namespaces(&mut namespaces, pids.iter().copied());
        self.find_unusual_namespaces(&mut namespaces, &pids);
        let (mut runs, mut listed, mut owners) = (Vec::new(), HashSet::new(), Vec::new());
        let (mut recurring, mut pass) = (HashSet::new(), Pass::default());
        let mut read = 0;
        for _ in 0..ROUNDS {
            let start = self.sockets.len();
            let all = unlisted.then_some(&mut listed);
            read = self.read_namespaces(&namespaces, read, &mut runs, all);
            let new = self.sockets.get(start..).unwrap_or_default().iter();
            let mut inodes: Vec<u64> = new.map(|socket| socket.inode).collect();
            inodes.retain(|&inode| inode != 0);
            inodes.sort_unstable();
            let alike = inodes.chunk_by(|a, b| a == b).filter(|alike| alike.len() > 1);
            recurring.extend(alike.filter_map(<[u64]>::first));
            // With BPF, a socket of another namespace may turn up.
            if inodes.is_empty() && !unlisted && self.bpf.is_none() {
                pids = self.find_more(&mut namespaces, &pids)?;
            } else {
                inodes.dedup();
                let inodes = Some(&*inodes).filter(|_| !unlisted);
                pass.begin(&namespaces, &runs);
                pids = self.walk_all(&mut namespaces, pids, inodes, &mut owners, &mut pass)?;
            }
            if namespaces.iter().count() == read {
                break;
            }
        }
        let owners: Holders = owners.into_iter().collect();
        // Who has a handle is not alone: somebody holds the socket that it is of.
        let is_handle =
            |owner: &Holder, all: &[Holder]| all.len() > 1 && fds::is_handle(self.root, owner);
        let owners = owners.without(is_handle);
        listed.extend(self.complete(&namespaces, &runs, pass));
        self.drop_untrue(&namespaces, &runs, &owners, recurring);
        if unlisted {
            let missing = owners.inodes().filter(|inode| !listed.contains(inode)).collect();
            self.add_unlisted(&namespaces, missing, &owners);
        }
        Ok(self.finish(&namespaces, owners))
    }

    /// Reads the namespaces from that one on; returns the first that it left. The inodes of all sockets
    /// that the tables have go into `listed`, if that is asked for.
    fn read_namespaces(
        &mut self,
        namespaces: &Namespaces,
        first: usize,
        runs: &mut Vec<Run>,
        mut listed: Option<&mut HashSet<u64>>,
    ) -> usize {
        let filter = self.filter;
        let mut read = first;
        for (index, namespace) in namespaces.iter().enumerate().skip(first) {
            read += 1;
            let mut admitted = admitted_tables(filter, namespace).peekable();
            if admitted.peek().is_none() {
                continue;
            }
            let mut tables = Tables::of(self.root, namespace, self.options.source);
            for table in admitted {
                let start = self.sockets.len();
                let (sockets, gaps) = (&mut self.sockets, &mut self.gaps);
                let teller = if let Some(listed) = &mut listed {
                    let request = filter.whole(table);
                    let mut all = Vec::new();
                    let teller = tables.read_all(table, request.as_ref(), &mut all, gaps, |_| true);
                    let inodes = all.iter().map(|socket| socket.inode);
                    if teller.may_be_deceived_about(table) {
                        self.claimed.extend(inodes);
                    } else {
                        listed.extend(inodes);
                    }
                    all.retain(|socket| filter.admits_socket(socket));
                    sockets.append(&mut all);
                    teller
                } else {
                    let request = filter.request(table);
                    tables.read_all(table, request.as_ref(), sockets, gaps, |socket| {
                        filter.admits_socket(socket)
                    })
                };
                let sockets = start..self.sockets.len();
                runs.push(Run { namespace: index, table, teller, sockets });
            }
        }
        read
    }

    /// Finds the holders of these sockets, in order, or of all, among these processes, as far as they are
    /// asked for, and those that were started meanwhile, since a socket may have gone from a parent that was
    /// walked too late to a child that was listed too early. Returns the pids of all.
    fn walk_all(
        &mut self,
        namespaces: &mut Namespaces,
        pids: Vec<i32>,
        inodes: Option<&[u64]>,
        owners: &mut Vec<Holder>,
        pass: &mut Pass,
    ) -> Result<Vec<i32>, Error> {
        const ROUNDS: usize = 3;
        let filter = self.filter;
        // Who holds a socket that nobody is to hold must be seen, whoever it is.
        let admits = |pid: &i32| filter.admits_unowned() || filter.admits_pid(*pid);
        let told = self.tell_owners(inodes, owners, pass);
        let mut all = pids;
        let mut walked = 0;
        for round in 0..ROUNDS {
            let listed = all.get(walked..).unwrap_or_default().iter().copied().filter(admits);
            let listed: Vec<i32> = match &told {
                Some(told) if round == 0 && told.is_all => Vec::new(),
                Some(told) => listed.filter(|pid| !told.pids.contains(pid)).collect(),
                None => listed.collect(),
            };
            let wanted = |owner: &Holder| {
                inodes.is_none_or(|inodes| inodes.binary_search(&owner.inode).is_ok())
            };
            owners.append(&mut self.walk(&listed, wanted));
            walked = all.len();
            all = self.find_more(namespaces, &all)?;
            if all.len() == walked {
                break;
            }
        }
        Ok(all)
    }

    /// Adds the holders that BPF tells, of these sockets, in order, or of all; None if it tells nothing.
    fn tell_owners(
        &self,
        inodes: Option<&[u64]>,
        owners: &mut Vec<Holder>,
        pass: &mut Pass,
    ) -> Option<ToldOwners> {
        let (filter, bpf, known) = (self.filter, self.bpf?, owners.len());
        let mut is_held = vec![false; inodes.map_or(0, <[u64]>::len)];
        let (mut pids, mut last) = (HashSet::new(), None);
        let done = bpf.run(None, self.options.threads, |owner, record| {
            if last.replace(owner.pid) != Some(owner.pid) {
                pids.insert(owner.pid);
            }
            let place = inodes.and_then(|inodes| inodes.binary_search(&owner.inode).ok());
            let is_listed = inodes.is_none() || place.is_some();
            if let Some(is_held) = place.and_then(|place| is_held.get_mut(place)) {
                *is_held = true;
            }
            let is_elsewhere = pass.is_elsewhere(record.net_namespace()?);
            let is_told = is_elsewhere || (is_listed && pass.has_files());
            if is_told
                && let Told::Whole { table, socket } = record.told()?
                && filter.admits_table(table)
                && filter.admits_socket(&socket)
            {
                if is_elsewhere {
                    pass.keep_elsewhere(socket);
                } else {
                    pass.keep_known(table, socket);
                }
            }
            if is_listed || is_elsewhere {
                owners.push(owner);
            }
            Ok(())
        });
        if let Err(error) = done {
            bpf.note(&error);
            owners.truncate(known);
            *pass = Pass::default();
            return None;
        }
        Some(ToldOwners { pids, is_all: inodes.is_some() && is_held.iter().all(|&held| held) })
    }

    /// These pids, and those of processes that were started since, with their namespaces.
    fn find_more(&mut self, namespaces: &mut Namespaces, pids: &[i32]) -> Result<Vec<i32>, Error> {
        let known: HashSet<i32> = pids.iter().copied().collect();
        let mut all = pids.to_vec();
        for pid in self.root.pids()? {
            if !known.contains(&pid) {
                namespaces.add(self.root, pid, &mut self.gaps);
                namespaces.add_threads(self.root, pid);
                all.push(pid);
            }
        }
        Ok(all)
    }

    /// Drops what stands twice, what has no holder and is no longer there, and what its holder says is
    /// something else.
    fn drop_untrue(
        &mut self,
        namespaces: &Namespaces,
        runs: &[Run],
        owners: &Holders,
        mut recurring: HashSet<u64>,
    ) {
        // Only some sockets have parts with the same inode. Any other was connected to another port
        // while its table was read in halves.
        recurring.retain(|&inode| {
            let may_recur = |_: &[u8], candidates: Candidates| candidates.may_recur();
            candidates(self.root, owners.of(inode), may_recur) == Some(false)
        });
        let mut seen = HashSet::new();
        let held = owners.of_each(&self.sockets);
        let mut untrue = vec![false; self.sockets.len()];
        for run in runs {
            let (Some(sockets), Some(held), Some(untrue)) = (
                self.sockets.get(run.sockets.clone()),
                held.get(run.sockets.clone()),
                untrue.get_mut(run.sockets.clone()),
            ) else {
                continue;
            };
            let is_unowned = |(socket, held): &(&Socket, &Range<usize>)| {
                socket.inode != 0 && held.is_empty() && self.filter.admits_unowned()
            };
            let unowned: Vec<&Socket> =
                sockets.iter().zip(held).filter(is_unowned).map(|(socket, _)| socket).collect();
            let Some(namespace) = namespaces.iter().nth(run.namespace) else { continue };
            let there = self.look_again(namespace, run.table, &unowned);
            let twin = run.table.twin();
            let in_twin = twin.and_then(|twin| self.look_again(namespace, twin, &unowned));
            for ((socket, held), untrue) in sockets.iter().zip(held).zip(untrue) {
                *untrue = match owners.at(held) {
                    [] if socket.inode == 0 => false,
                    [] => {
                        let vanished =
                            there.as_ref().is_some_and(|there| !there.contains_key(&socket.inode));
                        if vanished {
                            let socket = || format!("socket:[{}]", socket.inode);
                            self.gaps.add(GapKind::Vanished, socket);
                        }
                        let twin = in_twin.as_ref().and_then(|twin| twin.get(&socket.inode));
                        vanished || twin.is_some_and(|&twin| is_rather(socket, twin))
                    }
                    holders => {
                        let is_again = recurring.contains(&socket.inode)
                            && !seen.insert((socket.inode, run.table));
                        let is_other =
                            is_of_another_table(self.root, holders, run.table, run.teller);
                        if is_other {
                            note_forged(socket, &mut self.gaps);
                        }
                        is_other || is_again
                    }
                };
            }
        }
        let mut untrue = untrue.into_iter();
        self.sockets.retain(|_| !untrue.next().unwrap_or(false));
    }

    /// Which of these sockets of a namespace the table has now, and whether each has an address there;
    /// None if there are none, or it cannot be told.
    fn look_again(
        &self,
        namespace: &Namespace,
        table: SocketTable,
        sockets: &[&Socket],
    ) -> Option<HashMap<u64, bool>> {
        let inodes: HashSet<u64> = sockets.iter().map(|socket| socket.inode).collect();
        if inodes.is_empty() {
            return None;
        }
        let mut tables = Tables::of(self.root, namespace, self.options.source);
        let mut there = HashMap::new();
        let mut gaps = Gaps::default();
        let mut look = |request: Option<Request>| {
            tables.read(table, request.as_ref(), &mut Vec::new(), &mut gaps, |socket, _| {
                if inodes.contains(&socket.inode) {
                    there.insert(socket.inode, socket.has_address());
                }
                if there.len() == inodes.len() { Wanted::Last(false) } else { Wanted::No }
            });
            there.len() == inodes.len()
        };
        // A port stays the same whatever becomes of the socket, and a state mostly does.
        let request = self.filter.whole(table).map(|request| match local_ports(sockets) {
            Some(ports) => request.with_local_ports(ports),
            None => request,
        });
        let is_state = |state: TcpState| sockets.iter().any(|it| it.state() == state.name());
        let narrow = request.clone().and_then(|request| request.in_states_only(is_state));
        if !(narrow.is_some() && look(narrow)) {
            look(request);
        }
        // A table that was not read to its end says nothing about what is not in it.
        (!gaps.has_missing_sockets()).then_some(there)
    }
}

/// From the lowest port of these to the highest; None if one of them has no port.
fn local_ports(sockets: &[&Socket]) -> Option<RangeInclusive<u16>> {
    let ports: Option<Vec<u16>> =
        sockets.iter().map(|socket| socket.local().map(|local| local.port)).collect();
    let ports = ports?;
    Some(*ports.iter().min()?..=*ports.iter().max()?)
}

/// Whether a ping socket that stands in the tables of both families, and whose holder does not say
/// which it is of, is shown as the other table has it: the one in which it has an address is right,
/// and where neither has, it is taken for one of IPv4.
fn is_rather(socket: &Socket, has_address_in_twin: bool) -> bool {
    if socket.family() == Some(Family::Inet as u8) {
        has_address_in_twin
    } else {
        !socket.has_address()
    }
}
