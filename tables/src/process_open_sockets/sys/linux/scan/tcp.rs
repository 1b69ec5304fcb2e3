//! TCP sockets of a full scan, from BPF. What somebody holds is told with its holder; the table is gone
//! through for what nobody holds, and says of each of the others no more than that it is there.

use std::collections::HashSet;
use std::mem;

use super::super::bpf::Listed;
use super::super::netns::{Namespace, Namespaces};
use super::super::tables::{Tables, Teller, Wanted};
use super::all::{Run, local_ports};
use super::{Scan, is_admitted};
use crate::process_open_sockets::Field;
use crate::process_open_sockets::model::{Endpoint, NetNamespace, Socket, TcpState};
use crate::process_open_sockets::socket_table::SocketTable;

/// Both tables of TCP.
pub(super) const TABLES: [SocketTable; 2] = [SocketTable::Tcp, SocketTable::Tcp6];

/// What is known of them so far.
#[derive(Default)]
pub(super) struct Tcp {
    /// The namespaces whose tables were gone through, and whose sockets come with their holders now.
    namespaces: HashSet<NetNamespace>,
    /// Those that have a file, of which not more is known than this.
    filed: Vec<Filed>,
    /// Those that came with their holders and are not among these: they are newer.
    newer: HashSet<u64>,
    /// What connections without a file were between when the table was gone through.
    fileless: HashSet<Ends>,
    /// Those of them that were accepted since: they came with their holders.
    accepted: HashSet<Ends>,
}

struct Filed {
    namespace: usize,
    table: SocketTable,
    inode: u64,
    state: TcpState,
    port: u16,
}

type Ends = (Option<NetNamespace>, Endpoint, Endpoint);

fn ends(socket: &Socket) -> Option<Ends> {
    Some((socket.net_namespace, socket.local()?, socket.remote()?))
}

impl Tcp {
    /// The inodes of those that have a file.
    pub(super) fn inodes(&self) -> impl Iterator<Item = u64> {
        self.filed.iter().map(|filed| filed.inode)
    }

    /// Whether it is of a table that was gone through, and so has to come with its holder.
    pub(super) fn expects(&self, table: SocketTable, socket: &Socket) -> bool {
        TABLES.contains(&table)
            && socket.net_namespace.is_some_and(|number| self.namespaces.contains(&number))
    }

    /// Whether one that was not there when the table was gone through comes for the first time.
    pub(super) fn is_new(&mut self, inode: u64) -> bool {
        self.newer.insert(inode)
    }

    /// Notes that one has come with its holder: it may have had no file before.
    pub(super) fn note_accepted(&mut self, socket: &Socket) {
        if !self.fileless.is_empty() {
            self.accepted.extend(ends(socket).filter(|ends| self.fileless.contains(ends)));
        }
    }

    /// Forgets those that have come with their holders.
    pub(super) fn keep_untold(&mut self, is_untold: impl Fn(u64) -> bool) {
        self.filed.retain(|filed| is_untold(filed.inode));
    }

    /// As if none had come with its holder.
    pub(super) fn forget_told(&mut self) {
        self.newer.clear();
        self.accepted.clear();
    }

    /// Whether this one without a file has got one.
    pub(super) fn is_accepted(&self, socket: &Socket) -> bool {
        !self.accepted.is_empty() && ends(socket).is_some_and(|ends| self.accepted.contains(&ends))
    }
}

impl Scan<'_> {
    /// Goes through the tables of TCP of a namespace; false if they have to be read.
    pub(super) fn list_tcp(
        &mut self,
        (index, namespace): (usize, &Namespace),
        tables: &Tables,
        runs: &mut Vec<Run>,
        tcp: &mut Tcp,
    ) -> bool {
        let filter = self.filter;
        let Some(bpf) = self.bpf.and_then(|bpf| bpf.tcp.as_ref()) else { return false };
        let admitted = TABLES.map(|table| is_admitted(filter, table));
        let is_admitted = |table| TABLES.into_iter().zip(admitted).any(|it| it == (table, true));
        // The kernel is quick to list a part of a table, as those that listen.
        let is_narrow = |table| filter.request(table) != filter.whole(table);
        if TABLES.into_iter().all(|table| !is_admitted(table) || is_narrow(table)) {
            return false;
        }
        let Some(number) = namespace.number() else { return false };
        let known = tcp.filed.len();
        let [mut v4, mut v6] = [const { Vec::new() }; 2];
        let done = bpf.run(self.root, namespace, |listed| match listed {
            Listed::Filed { table, inode, state, port } if is_admitted(table) => {
                tcp.filed.push(Filed { namespace: index, table, inode, state, port });
            }
            Listed::Fileless { table, socket }
                if is_admitted(table) && filter.admits_socket(&socket) =>
            {
                tcp.fileless.extend(ends(&socket));
                if table == SocketTable::Tcp { v4.push(socket) } else { v6.push(socket) }
            }
            Listed::Filed { .. } | Listed::Fileless { .. } => {}
        });
        if let Err(error) = done {
            log::debug!("BPF: TCP: {error}");
            tcp.filed.truncate(known);
            return false;
        }
        tcp.namespaces.insert(number);
        for (table, mut sockets) in TABLES.into_iter().zip([v4, v6]) {
            if filter.shows(Field::Interface) {
                tables.name_interfaces(sockets.iter_mut());
            }
            let start = self.sockets.len();
            self.sockets.append(&mut sockets);
            let sockets = start..self.sockets.len();
            runs.push(Run { namespace: index, table, teller: Teller::Bpf, sockets });
        }
        true
    }

    /// Reads what has a file and did not come with a holder.
    pub(super) fn read_untold_tcp(
        &mut self,
        namespaces: &Namespaces,
        runs: &mut Vec<Run>,
        tcp: &mut Tcp,
    ) {
        let untold = mem::take(&mut tcp.filed);
        tcp.namespaces.clear();
        for (index, namespace) in namespaces.iter().enumerate() {
            for table in TABLES {
                let is_here = |filed: &&Filed| (filed.namespace, filed.table) == (index, table);
                let here: Vec<&Filed> = untold.iter().filter(is_here).collect();
                let Some(ports) = local_ports(here.iter().map(|filed| Some(filed.port))) else {
                    continue;
                };
                let inodes: HashSet<u64> = here.iter().map(|filed| filed.inode).collect();
                let is_state = |state| here.iter().any(|filed| filed.state == state);
                let request = self.filter.whole(table).map(|request| {
                    let request = request.with_local_ports(ports);
                    request.clone().in_states_only(is_state).unwrap_or(request)
                });
                let mut tables = Tables::of(self.root, namespace, self.options.source);
                let (filter, start) = (self.filter, self.sockets.len());
                let (sockets, gaps) = (&mut self.sockets, &mut self.gaps);
                let wanted = |socket: &Socket, _| {
                    let is_it = inodes.contains(&socket.inode) && filter.admits_socket(socket);
                    if is_it { Wanted::Yes } else { Wanted::No }
                };
                let teller = tables.read(table, request.as_ref(), sockets, gaps, wanted);
                let sockets = start..self.sockets.len();
                runs.push(Run { namespace: index, table, teller, sockets });
            }
        }
    }
}
