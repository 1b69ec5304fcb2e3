//! The second read of a socket table: it shows whether the sockets without a holder are still listed, and
//! which sockets have replaced them.

use std::collections::{HashMap, HashSet};
use std::ops::{Range, RangeInclusive};

use super::Scan;
use super::endpoint_key::EndpointKey;
use super::listing::Listing;
use crate::formats::linux::sock_diag::Request;
use crate::linux::netns::{Namespace, Namespaces, Selection, Sessions};
use crate::model::holders::Holders;
use crate::model::report::Report;
use crate::model::socket_table::SocketTable;
use crate::model::{Socket, TcpState, Work};

/// The result of the second read of a table.
#[derive(Debug, Default)]
pub(super) struct SecondRead {
    /// The sockets without a holder that are still listed, and whether each has an address.
    pub(super) still_listed: HashMap<u64, bool>,
    /// The same in the other table of ping sockets, which can list the same socket.
    pub(super) in_other_table: HashMap<u64, bool>,
    /// Sockets that were not listed before and have the endpoints of one without a holder, or a holder.
    pub(super) new: Vec<Socket>,
}

/// The sockets that a second read selects.
struct Targets<'a> {
    /// Sockets without a holder.
    unheld: &'a [&'a Socket],
    inodes: HashSet<u64>,
    endpoints: HashSet<EndpointKey>,
    /// The inodes of the first read, sorted.
    listed: &'a [u64],
    holders: &'a Holders,
}

impl Scan<'_> {
    /// Reads the tables again that list a socket with a file but without a holder. Returns the result for each
    /// run of the listing; None if the run has no such socket or the table could not be read. `listed` are
    /// the inodes of the listing, sorted.
    pub(super) fn read_tables_again(
        &self,
        (listing, listed): (&Listing, &[u64]),
        ranges: &[Range<usize>],
        holders: &Holders,
        namespaces: &Namespaces,
        sessions: &mut Sessions,
        report: &mut Report,
    ) -> Vec<Option<SecondRead>> {
        let read = |run: &super::listing::Run| {
            let sockets = listing.sockets.get(run.sockets.clone())?.iter();
            let ranges = ranges.get(run.sockets.clone())?;
            let is_unheld =
                |(socket, range): &(&Socket, &Range<usize>)| socket.inode != 0 && range.is_empty();
            let unheld: Vec<&Socket> =
                sockets.zip(ranges).filter(is_unheld).map(|(socket, _)| socket).collect();
            if unheld.is_empty() || self.deadline.has_passed() {
                return None;
            }
            let targets = Targets {
                unheld: &unheld,
                inodes: unheld.iter().map(|socket| socket.inode).collect(),
                endpoints: unheld.iter().filter_map(|socket| socket.endpoint_key()).collect(),
                listed,
                holders,
            };
            let namespace = namespaces.get(run.namespace)?;
            let mut reading =
                self.read_table_again(namespace, run.table, &targets, sessions, &mut report.work)?;
            if let Some(other) = run.table.other_ping_table() {
                let other =
                    self.read_table_again(namespace, other, &targets, sessions, &mut report.work);
                reading.in_other_table = other.unwrap_or_default().still_listed;
            }
            Some(reading)
        };
        listing.runs.iter().map(read).collect()
    }

    /// None if the table could not be read to its end: then it does not show which sockets are closed.
    fn read_table_again(
        &self,
        namespace: &Namespace,
        table: SocketTable,
        targets: &Targets,
        sessions: &mut Sessions,
        work: &mut Work,
    ) -> Option<SecondRead> {
        let mut session = sessions.open(namespace);
        let mut report = Report::default();
        let mut read = |request: Option<Request>| {
            let mut reading = SecondRead::default();
            let count = targets.inodes.len();
            let SecondRead { still_listed, new, .. } = &mut reading;
            session.read(table, request.as_ref(), new, &mut report, |socket, _| {
                if targets.inodes.contains(&socket.inode) {
                    still_listed.insert(socket.inode, socket.has_address());
                    let is_last = still_listed.len() == count;
                    return if is_last { Selection::Last(false) } else { Selection::Drop };
                }
                if targets.contains(socket) { Selection::Keep } else { Selection::Drop }
            });
            reading
        };
        let (request, narrow) = self.requests_for(table, targets.unheld);
        let is_complete = |reading: &SecondRead| reading.still_listed.len() == targets.inodes.len();
        let reading = match narrow.map(|narrow| read(Some(narrow))).filter(is_complete) {
            Some(reading) => reading,
            None => read(request),
        };
        *work += report.work;
        (!report.omissions.has_missing_sockets()).then_some(reading)
    }

    /// The dump of all sockets with the local ports of these, and with their states if the table has states: the
    /// port of a socket never changes, and its state rarely.
    fn requests_for(
        &self,
        table: SocketTable,
        like: &[&Socket],
    ) -> (Option<Request>, Option<Request>) {
        let request = self.filter.full_request(table).map(|request| match local_ports(like) {
            Some(ports) => request.with_local_ports(ports),
            None => request,
        });
        let is_state = |state: TcpState| like.iter().any(|it| it.state() == state.name());
        let narrow = request.clone().and_then(|request| request.in_states_only(is_state));
        (request, narrow)
    }

    /// The sockets of a table that now have one of these endpoints.
    pub(super) fn with_endpoints(
        &self,
        namespace: &Namespace,
        table: SocketTable,
        like: &[&Socket],
        sessions: &mut Sessions,
        report: &mut Report,
    ) -> Vec<Socket> {
        let endpoints: HashSet<EndpointKey> =
            like.iter().filter_map(|socket| socket.endpoint_key()).collect();
        let (request, narrow) = self.requests_for(table, like);
        let mut found = Vec::new();
        let mut session = sessions.open(namespace);
        let request = narrow.or(request);
        session.read(table, request.as_ref(), &mut found, report, |socket, source| {
            let has_endpoint = socket.inode != 0
                && !source.is_spoofable(table)
                && socket.endpoint_key().is_some_and(|key| endpoints.contains(&key));
            if has_endpoint { Selection::Keep } else { Selection::Drop }
        });
        found
    }
}

impl Targets<'_> {
    /// Whether a socket belongs in the answer that is not one of those without a holder.
    fn contains(&self, socket: &Socket) -> bool {
        let has_endpoint = match socket.endpoint_key() {
            Some(key) => self.endpoints.contains(&key),
            None => false,
        };
        let is_new = || socket.inode == 0 || self.listed.binary_search(&socket.inode).is_err();
        // A pending UNIX connection repeats the path of its listener.
        let can_replace = socket.inode != 0 || socket.is_connected();
        (has_endpoint && can_replace && is_new())
            || (socket.inode != 0 && is_new() && !self.holders.of(socket.inode).is_empty())
    }
}

/// From the lowest local port of these sockets to the highest; None if one of them has no port.
fn local_ports(sockets: &[&Socket]) -> Option<RangeInclusive<u16>> {
    let ports: Option<Vec<u16>> =
        sockets.iter().map(|socket| socket.local().map(|local| local.port)).collect();
    let ports = ports?;
    Some(*ports.iter().min()?..=*ports.iter().max()?)
}
