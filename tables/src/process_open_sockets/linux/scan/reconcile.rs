//! First read, holders and second read → sockets of the answer.
//!
//! The answer has every socket that one of the three showed. A socket without a holder that is not in the
//! second read is shown as the socket that replaced it, or as closed during the scan.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use super::super::search::{candidates, is_of_another_table, note_forged};
use super::Scan;
use super::endpoint_key::EndpointKey;
use super::listing::{Listing, Run};
use super::second_read::SecondRead;
use crate::formats::linux::proto_name::Candidates;
use crate::model::holders::{Holder, Holders};
use crate::model::omission::Omissions;
use crate::model::socket_table::SocketTable;
use crate::model::{Family, Presence, Socket};

/// The results of all reads of a full scan.
pub(super) struct Reading {
    pub(super) listing: Listing,
    /// The inodes of the listing, sorted.
    pub(super) inodes: Vec<u64>,
    /// Sockets that came with their holders.
    pub(super) records: HashMap<(SocketTable, u64), Socket>,
    /// The second reads, one for each run of the listing.
    pub(super) readings: Vec<Option<SecondRead>>,
}

/// The sockets of the answer.
pub(super) struct Reconciled {
    pub(super) all: Vec<Socket>,
    /// Tables with an endpoint whose socket was replaced during the scan.
    pub(super) replaced: Vec<Replaced>,
    /// The inodes of all listed sockets, in the answer or not. Empty unless the answer has unlisted sockets.
    pub(super) listed: HashSet<u64>,
    pub(super) spoofable: HashSet<u64>,
}

/// Sockets of one table that closed during the scan, and had endpoints.
pub(super) struct Replaced {
    pub(super) run: Run,
    pub(super) closed: Vec<Socket>,
}

/// What happens to a listed socket.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Kept,
    Closed,
    Dropped,
}

impl Reconciled {
    /// Whether a table lists a socket with this inode.
    pub(super) fn lists(&self, inode: u64) -> bool {
        self.listed.contains(&inode)
    }
}

impl Reading {
    /// `ranges` are the ranges of the holders of each listed socket.
    pub(super) fn reconcile(
        self,
        scan: &Scan,
        holders: &Holders,
        ranges: &[Range<usize>],
        omissions: &mut Omissions,
    ) -> Reconciled {
        let Reading { listing, inodes, mut records, readings } = self;
        let Listing { mut sockets, runs, mut listed, spoofable, .. } = listing;
        let replaced_twice = complete_from(&mut records, &mut sockets, &runs);
        let mut classifier = Classifier {
            scan,
            holders,
            become_held: become_held(&records, &runs, &readings, holders),
            recurring: recurring_inodes(scan, &inodes, holders),
            seen: HashSet::new(),
        };
        let mut outcomes = vec![Outcome::Kept; sockets.len()];
        let (mut new, mut replaced) = (Vec::new(), Vec::new());
        for (run, reading) in runs.into_iter().zip(readings) {
            let (Some(sockets), Some(ranges), Some(outcomes)) = (
                sockets.get(run.sockets.clone()),
                ranges.get(run.sockets.clone()),
                outcomes.get_mut(run.sockets.clone()),
            ) else {
                continue;
            };
            let closed =
                classifier.classify(&run, reading.as_ref(), sockets, ranges, outcomes, omissions);
            if let Some(reading) = reading {
                new.extend(classifier.opened(&run, reading, &records));
            }
            if !closed.is_empty() {
                replaced.push(Replaced { run, closed });
            }
        }
        for index in replaced_twice {
            if let Some(outcome) = outcomes.get_mut(index) {
                *outcome = Outcome::Dropped;
            }
        }
        apply_outcomes(&outcomes, &mut sockets);
        let added = records.into_values().chain(new);
        if scan.plan.unlisted {
            sockets.extend(added.inspect(|socket| {
                listed.insert(socket.inode);
            }));
        } else {
            sockets.extend(added);
        }
        Reconciled { all: sockets, replaced, listed, spoofable }
    }
}

/// Decides whether listed sockets are in the answer.
struct Classifier<'a> {
    scan: &'a Scan<'a>,
    holders: &'a Holders,
    /// Connections that now have a holder.
    become_held: HashSet<(SocketTable, EndpointKey)>,
    recurring: HashSet<u64>,
    /// Recurring sockets that are already kept.
    seen: HashSet<(u64, SocketTable)>,
}

impl Classifier<'_> {
    /// Sets the outcome of each socket of a run; returns the closed sockets without a holder and with endpoints.
    fn classify(
        &mut self,
        run: &Run,
        reading: Option<&SecondRead>,
        sockets: &[Socket],
        ranges: &[Range<usize>],
        outcomes: &mut [Outcome],
        omissions: &mut Omissions,
    ) -> Vec<Socket> {
        let without_file = new_of(reading).filter(|it| it.inode == 0);
        let become_unheld = connected_keys(without_file.map(|it| (run.table, it)));
        let mut closed = Vec::new();
        for ((socket, range), outcome) in sockets.iter().zip(ranges).zip(outcomes) {
            *outcome = match self.holders.at(range) {
                [] if socket.inode == 0 => {
                    outcome_without_file(run.table, socket, &self.become_held)
                }
                [] => {
                    let outcome =
                        outcome_without_holder(run.table, socket, reading, &become_unheld);
                    if outcome != Outcome::Kept && socket.endpoint_key().is_some() {
                        closed.push(socket.clone());
                    }
                    outcome
                }
                holders => self.outcome_with_holders(run, socket, holders, omissions),
            };
        }
        closed
    }

    fn outcome_with_holders(
        &mut self,
        run: &Run,
        socket: &Socket,
        holders: &[Holder],
        omissions: &mut Omissions,
    ) -> Outcome {
        // If one of two records can be forged, both are shown.
        let is_repeated = self.recurring.contains(&socket.inode)
            && !run.source.is_spoofable(run.table)
            && !self.seen.insert((socket.inode, run.table));
        let is_other = is_of_another_table(self.scan.root, holders, run.table, run.source);
        if is_other {
            note_forged(socket, omissions);
        }
        if is_other || is_repeated { Outcome::Dropped } else { Outcome::Kept }
    }

    /// The new sockets of the second read that are in the answer and have no record.
    fn opened(
        &self,
        run: &Run,
        reading: SecondRead,
        records: &HashMap<(SocketTable, u64), Socket>,
    ) -> impl Iterator<Item = Socket> {
        reading.new.into_iter().filter_map(|mut socket| {
            let is_record = records.contains_key(&(run.table, socket.inode));
            let holders = self.holders.of(socket.inode);
            let is_forged = run.source.is_spoofable(run.table)
                && is_of_another_table(self.scan.root, holders, run.table, run.source);
            if is_record || is_forged || !self.scan.filter.admits_socket(&socket) {
                return None;
            }
            if socket.inode != 0 {
                socket.details.presence = Presence::Opened;
            }
            Some(socket)
        })
    }
}

/// The sockets that only the second read has.
fn new_of(reading: Option<&SecondRead>) -> impl Iterator<Item = &Socket> {
    reading.map(|reading| &reading.new).into_iter().flatten()
}

/// The connections of records, and those of the second read that have a holder.
fn become_held(
    records: &HashMap<(SocketTable, u64), Socket>,
    runs: &[Run],
    readings: &[Option<SecondRead>],
    holders: &Holders,
) -> HashSet<(SocketTable, EndpointKey)> {
    let mut keys = connected_keys(records.iter().map(|((table, _), socket)| (*table, socket)));
    for (run, reading) in runs.iter().zip(readings) {
        let held = new_of(reading.as_ref()).filter(|socket| !holders.of(socket.inode).is_empty());
        keys.extend(connected_keys(held.map(|socket| (run.table, socket))));
    }
    keys
}

/// Drops sockets and marks closed ones.
fn apply_outcomes(outcomes: &[Outcome], sockets: &mut Vec<Socket>) {
    let mut outcomes = outcomes.iter();
    sockets.retain_mut(|socket| {
        let outcome = outcomes.next().unwrap_or(&Outcome::Kept);
        if *outcome == Outcome::Closed {
            socket.details.presence = Presence::Closed;
        }
        *outcome != Outcome::Dropped
    });
}

/// Replaces sockets that a file listed by the records of their holders. The remaining records are of unlisted
/// sockets. A receive queue that the record lacks is taken from the file.
///
/// Returns the indices of other lines about the same sockets, which are forged.
fn complete_from(
    records: &mut HashMap<(SocketTable, u64), Socket>,
    sockets: &mut [Socket],
    runs: &[Run],
) -> Vec<usize> {
    let mut repeated = Vec::new();
    if records.is_empty() {
        return repeated;
    }
    let mut completed = HashSet::new();
    for run in runs {
        let indexed =
            run.sockets.clone().zip(sockets.get_mut(run.sockets.clone()).into_iter().flatten());
        for (index, socket) in indexed {
            let key = (run.table, socket.inode);
            if let Some(mut record) = records.remove(&key) {
                let queue = record.details.receive_queue.or(socket.details.receive_queue);
                record.details.receive_queue = queue;
                *socket = record;
                completed.insert(key);
            } else if run.source.is_spoofable(run.table) && completed.contains(&key) {
                repeated.push(index);
            }
        }
    }
    repeated
}

/// The tables and endpoints of the connected ones of these sockets.
fn connected_keys<'a>(
    sockets: impl Iterator<Item = (SocketTable, &'a Socket)>,
) -> HashSet<(SocketTable, EndpointKey)> {
    let connected = sockets.filter(|(_, socket)| socket.is_connected());
    connected.filter_map(|(table, socket)| Some((table, socket.endpoint_key()?))).collect()
}

/// The outcome of a connection without a file: it was accepted during the scan, or another connection has its
/// endpoints.
fn outcome_without_file(
    table: SocketTable,
    socket: &Socket,
    become_held: &HashSet<(SocketTable, EndpointKey)>,
) -> Outcome {
    let is_held = !become_held.is_empty()
        && socket.is_connected()
        && socket.endpoint_key().is_some_and(|key| become_held.contains(&(table, key)));
    if is_held { Outcome::Dropped } else { Outcome::Kept }
}

/// The outcome of a socket with a file and without a holder.
fn outcome_without_holder(
    table: SocketTable,
    socket: &Socket,
    reading: Option<&SecondRead>,
    become_unheld: &HashSet<(SocketTable, EndpointKey)>,
) -> Outcome {
    let Some(reading) = reading else { return Outcome::Kept };
    if let Some(&has_address) = reading.in_other_table.get(&socket.inode)
        && is_shown_by_other_table(socket, has_address)
    {
        return Outcome::Dropped;
    }
    if reading.still_listed.contains_key(&socket.inode) {
        return Outcome::Kept;
    }
    let is_now_unheld = socket.is_connected()
        && socket.endpoint_key().is_some_and(|key| become_unheld.contains(&(table, key)));
    if is_now_unheld { Outcome::Dropped } else { Outcome::Closed }
}

/// The inodes that are listed twice since the socket was connected to another port while its table was read in
/// halves. The parts of an MPTCP connection or an SCTP socket share an inode, and do not count.
fn recurring_inodes(scan: &Scan, inodes: &[u64], holders: &Holders) -> HashSet<u64> {
    let alike = inodes.chunk_by(|a, b| a == b).filter(|alike| alike.len() > 1);
    let may_recur = |_: &[u8], candidates: Candidates| candidates.may_recur();
    let recurs = |&inode: &u64| candidates(scan.root, holders.of(inode), may_recur) == Some(false);
    alike.filter_map(<[u64]>::first).copied().filter(recurs).collect()
}

/// Whether a ping socket is shown as the other table lists it. This is for a socket that the tables of both
/// families list, and whose protocol its holder does not show. The table with an address is right; without an
/// address, the socket is shown as IPv4.
fn is_shown_by_other_table(socket: &Socket, has_address_in_other_table: bool) -> bool {
    if socket.family() == Some(Family::Inet as u8) {
        has_address_in_other_table
    } else {
        !socket.has_address()
    }
}
