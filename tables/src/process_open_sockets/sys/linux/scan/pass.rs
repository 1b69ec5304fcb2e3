//! What BPF tells in a full scan beside the holders. TCP sockets that somebody holds come with them; the
//! table is gone through for what nobody holds, and says of each of the others no more than that it is there.
//! Of what was read from files, the holders' records know more. And whatever is held in a namespace that
//! nothing leads to comes with its holder alone.

use std::collections::{HashMap, HashSet};
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
pub(super) const TCP_TABLES: [SocketTable; 2] = [SocketTable::Tcp, SocketTable::Tcp6];

/// What is known so far.
#[derive(Default)]
pub(super) struct Pass {
    /// The namespaces whose tables were gone through, and whose sockets come with their holders now.
    namespaces: HashSet<NetNamespace>,
    /// TCP sockets that have a file, of which not more is known than this.
    filed: Vec<Filed>,
    /// Those that came with their holders and are not among these: they are newer.
    newer: HashSet<u64>,
    /// What connections without a file were between when the table was gone through.
    fileless: HashSet<Ends>,
    /// Those of them that were accepted since: they came with their holders.
    accepted: HashSet<Ends>,
    /// Which tables were read from files.
    files: HashSet<(Option<NetNamespace>, SocketTable)>,
    /// Held sockets that stand in such a file, by table and inode.
    known: HashMap<(SocketTable, u64), Socket>,
    /// Held sockets of any kind, by inode, of namespaces that had not been found when they came.
    elsewhere: HashMap<u64, Socket>,
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

impl Pass {
    /// The inodes of those that have a file.
    pub(super) fn inodes(&self) -> impl Iterator<Item = u64> {
        self.filed.iter().map(|filed| filed.inode)
    }

    /// Notes that a table was read from a file.
    pub(super) fn note_file(&mut self, number: Option<NetNamespace>, table: SocketTable) {
        self.files.insert((number, table));
    }

    /// Keeps one that was read before, if that was from a file.
    pub(super) fn keep_known(&mut self, table: SocketTable, socket: Socket) {
        if self.files.contains(&(socket.net_namespace, table)) {
            self.known.insert((table, socket.inode), socket);
        }
    }

    /// Keeps one of a namespace that is not among those that were found.
    pub(super) fn keep_elsewhere(&mut self, socket: Socket) {
        self.elsewhere.insert(socket.inode, socket);
    }

    /// Those of them whose namespace was not found later.
    pub(super) fn take_elsewhere(&mut self, namespaces: &Namespaces) -> Vec<Socket> {
        let is_found = |number| namespaces.iter().any(|namespace| namespace.number() == number);
        let elsewhere = mem::take(&mut self.elsewhere).into_values();
        elsewhere.filter(|socket| !is_found(socket.net_namespace)).collect()
    }

    /// Whether it is of a table that was gone through, and so has to come with its holder.
    pub(super) fn expects(&self, table: SocketTable, socket: &Socket) -> bool {
        TCP_TABLES.contains(&table)
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
        self.known.clear();
        self.elsewhere.clear();
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
        pass: &mut Pass,
    ) -> bool {
        let filter = self.filter;
        let Some(bpf) = self.bpf.and_then(|bpf| bpf.tcp.as_ref()) else { return false };
        let admitted = TCP_TABLES.map(|table| is_admitted(filter, table));
        let is_admitted =
            |table| TCP_TABLES.into_iter().zip(admitted).any(|it| it == (table, true));
        // The kernel is quick to list a part of a table, as those that listen.
        let is_narrow = |table| filter.request(table) != filter.whole(table);
        if TCP_TABLES.into_iter().all(|table| !is_admitted(table) || is_narrow(table)) {
            return false;
        }
        let Some(number) = namespace.number() else { return false };
        let known = pass.filed.len();
        let [mut v4, mut v6] = [const { Vec::new() }; 2];
        let done = bpf.run(self.root, namespace, |listed| match listed {
            Listed::Filed { table, inode, state, port } if is_admitted(table) => {
                pass.filed.push(Filed { namespace: index, table, inode, state, port });
            }
            Listed::Fileless { table, socket }
                if is_admitted(table) && filter.admits_socket(&socket) =>
            {
                pass.fileless.extend(ends(&socket));
                if table == SocketTable::Tcp { v4.push(socket) } else { v6.push(socket) }
            }
            Listed::Filed { .. } | Listed::Fileless { .. } => {}
        });
        if let Err(error) = done {
            log::debug!("BPF: TCP: {error}");
            pass.filed.truncate(known);
            return false;
        }
        pass.namespaces.insert(number);
        for (table, mut sockets) in TCP_TABLES.into_iter().zip([v4, v6]) {
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
        pass: &mut Pass,
    ) {
        let untold = mem::take(&mut pass.filed);
        pass.namespaces.clear();
        for (index, namespace) in namespaces.iter().enumerate() {
            for table in TCP_TABLES {
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

    /// Replaces what files tell of held sockets by what came with the holders. What is in a queue, where
    /// that is not known, stays.
    pub(super) fn complete_from_holders(
        &mut self,
        namespaces: &Namespaces,
        runs: &[Run],
        pass: &mut Pass,
    ) {
        let mut known = mem::take(&mut pass.known);
        if known.is_empty() {
            return;
        }
        for run in runs.iter().filter(|run| run.teller == Teller::ProcNet) {
            for socket in self.sockets.get_mut(run.sockets.clone()).unwrap_or_default() {
                if let Some(mut known) = known.remove(&(run.table, socket.inode)) {
                    let queue = known.details.receive_queue.or(socket.details.receive_queue);
                    known.details.receive_queue = queue;
                    *socket = known;
                }
            }
        }
        self.name_interfaces(0, namespaces);
    }
}
