//! The kernel's tables of sockets, one namespace at a time, each from the best source that there is:
//! a dump of NETLINK_SOCK_DIAG, or the file in `/proc/<pid>/net` where the kernel has no such dump or
//! the namespace cannot be entered.

use std::collections::{HashMap, HashSet};
use std::io::{self, Read};
use std::thread;

use rustix::io::Errno;

use super::cores;
use super::netns::Namespace;
use super::proc_net;
use super::proc_root::ProcRoot;
use super::sock_diag::{Dump, Handed, SockDiag};
use crate::process_open_sockets::Source;
use crate::process_open_sockets::gap::{GapKind, Gaps};
use crate::process_open_sockets::model::Socket;
use crate::process_open_sockets::parse::sock_diag::Request;
use crate::process_open_sockets::parse::sockstat;
use crate::process_open_sockets::socket_table::SocketTable;

/// Whether a socket that was read is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    Yes,
    No,
    /// Nothing after it is: this one may be.
    Last(bool),
}

/// Who told of the sockets of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Teller {
    /// Netlink, which cannot be deceived.
    SockDiag,
    /// A file, with lines that a path may imitate.
    ProcNet,
}

impl Teller {
    /// Whether what it tells as this table's may be somebody's invention: a path in `unix` can imitate
    /// lines, so what they say ends no search.
    pub(super) fn may_be_deceived_about(self, table: SocketTable) -> bool {
        self == Teller::ProcNet && table == SocketTable::Unix
    }

    /// Whether what it tells as this table's may be about a socket of another one: see
    /// [`SocketTable::may_list_others`].
    pub(super) fn may_tell_of_others(self, table: SocketTable) -> bool {
        self == Teller::ProcNet && table.may_list_others()
    }
}

/// The tables of one namespace.
pub(super) struct Tables<'a> {
    root: &'a ProcRoot,
    namespace: &'a Namespace,
    source: Source,
    /// Why there is none, otherwise.
    diag: io::Result<SockDiag>,
}

impl<'a> Tables<'a> {
    /// Gets ready to read those of that namespace.
    pub(super) fn of(root: &'a ProcRoot, namespace: &'a Namespace, source: Source) -> Self {
        let mut tables = Tables { root, namespace, source, diag: Err(Errno::OPNOTSUPP.into()) };
        tables.open();
        tables
    }

    /// Opens a netlink socket in the namespace, if that can be done.
    fn open(&mut self) {
        self.diag = match self.source {
            Source::Procfs => return,
            Source::Auto | Source::Bpf | Source::Netlink if self.namespace.is_own(self.root) => {
                SockDiag::open()
            }
            Source::Auto | Source::Bpf | Source::Netlink => {
                self.namespace.enter(self.root, SockDiag::open).flatten()
            }
        };
        if let Err(error) = &self.diag {
            log::debug!("no sock_diag: {}: {error}", self.namespace.path(self.root, "net"));
        }
    }

    /// Adds the sockets of a table that are wanted, each once, and says who told of them. `request`
    /// is what the kernel may be asked for instead of the whole table; None if it has no dump of it.
    pub(super) fn read(
        &mut self,
        table: SocketTable,
        request: Option<&Request>,
        sockets: &mut Vec<Socket>,
        gaps: &mut Gaps,
        wanted: impl FnMut(&Socket, Teller) -> Wanted,
    ) -> Teller {
        let start = sockets.len();
        let teller = self.read_numbered(table, request, sockets, gaps, wanted);
        self.name_interfaces(sockets.get_mut(start..).unwrap_or_default().iter_mut());
        teller
    }

    /// Asks for the names of the interfaces of these sockets. Without netlink nothing here can be asked.
    pub(super) fn name_interfaces<'s>(&self, sockets: impl Iterator<Item = &'s mut Socket>) {
        let Ok(diag) = &self.diag else { return };
        let mut names: HashMap<u32, Option<String>> = HashMap::new();
        for interface in sockets.filter_map(|socket| socket.details.interface.as_deref_mut()) {
            let index = interface.index;
            let name = names.entry(index).or_insert_with(|| diag.interface_name(index));
            interface.name.clone_from(name);
        }
    }

    /// The same; interfaces have their numbers only.
    fn read_numbered(
        &mut self,
        table: SocketTable,
        request: Option<&Request>,
        sockets: &mut Vec<Socket>,
        gaps: &mut Gaps,
        mut wanted: impl FnMut(&Socket, Teller) -> Wanted,
    ) -> Teller {
        let (root, namespace) = (self.root, self.namespace);
        let place = || namespace.path(root, &format!("net/{}", table.name()));
        let broken_off = |error: &io::Error| format!("the dump that is as {}: {error}", place());
        let mut seen = HashSet::new();
        // A dump that breaks off is asked for once more, on a new socket.
        for is_last in [false, true] {
            let Some(request) = request else { break };
            let diag = match &mut self.diag {
                Ok(diag) => diag,
                Err(error) if !seen.is_empty() => {
                    gaps.add(GapKind::SocketFile, || broken_off(error));
                    return Teller::SockDiag;
                }
                Err(_) => break,
            };
            let dumped = diag.dump_more(request, &mut seen, |mut socket| {
                socket.net_namespace = namespace.number();
                take(socket, sockets, |socket| wanted(socket, Teller::SockDiag))
            });
            match dumped {
                Ok(Dump::Whole) => return Teller::SockDiag,
                Ok(Dump::Stopped) => {
                    // The rest of the dump is on its way: a new socket is cheaper than to read it.
                    self.open();
                    return Teller::SockDiag;
                }
                Ok(Dump::Torn) => {
                    gaps.add(GapKind::SocketFile, || format!("the dump that is as {}", place()));
                    return Teller::SockDiag;
                }
                Ok(Dump::Unsupported) => break,
                Err(error) => {
                    self.open();
                    if is_last {
                        gaps.add(GapKind::SocketFile, || broken_off(&error));
                        return Teller::SockDiag;
                    }
                }
            }
        }
        let is_netlink = self.source == Source::Netlink;
        match table.proc_net_path() {
            // The kernel has none of it, as Linux 7.2 has no UDP-Lite.
            Some(path) if is_netlink && matches!(namespace.open(root, &path), Ok(None)) => {}
            _ if is_netlink => {
                gaps.add(GapKind::NoDump, || match (request, &self.diag) {
                    (Some(_), Err(error)) => format!("{}: {error}", place()),
                    _ => table.name().to_owned(),
                });
            }
            Some(path) => {
                proc_net::for_each_socket(root, namespace, table, &path, gaps, |socket| {
                    take(socket, sockets, |socket| wanted(socket, Teller::ProcNet))
                });
            }
            // A kernel that has none of it has no such sockets, or tells of them in no way.
            None => {}
        }
        Teller::ProcNet
    }

    /// The same for all sockets that are admitted; a large table in two halves at once.
    pub(super) fn read_all(
        &mut self,
        table: SocketTable,
        request: Option<&Request>,
        sockets: &mut Vec<Socket>,
        gaps: &mut Gaps,
        admits: impl Fn(&Socket) -> bool + Sync,
    ) -> Teller {
        let wanted = |socket: &Socket, _| if admits(socket) { Wanted::Yes } else { Wanted::No };
        let halves = request.filter(|_| self.diag.is_ok() && cores() > 1);
        let halves = halves.and_then(Request::halves).filter(|_| self.is_large(table));
        if let Some([lower, upper]) = halves {
            let start = sockets.len();
            let (mut more, mut more_gaps) = (Vec::new(), Gaps::default());
            let mut other = Tables::of(self.root, self.namespace, self.source);
            let tellers = thread::scope(|scope| {
                let thread = thread::Builder::new().name("dump".into());
                let upper = thread.spawn_scoped(scope, || {
                    other.read(table, Some(&upper), &mut more, &mut more_gaps, wanted)
                });
                let lower = self.read(table, Some(&lower), sockets, gaps, wanted);
                [Some(lower), upper.ok().and_then(|upper| upper.join().ok())]
            });
            if tellers == [Some(Teller::SockDiag); 2] {
                sockets.append(&mut more);
                gaps.extend(more_gaps);
                return Teller::SockDiag;
            }
            // A file knows no halves.
            sockets.truncate(start);
        }
        self.read(table, request, sockets, gaps, wanted)
    }

    /// Whether the table is worth another thread.
    fn is_large(&self, table: SocketTable) -> bool {
        const LARGE: u64 = 10_000;
        let name = if table == SocketTable::Tcp6 { "net/sockstat6" } else { "net/sockstat" };
        let Ok(Some(mut sockstat)) = self.namespace.open(self.root, name) else { return false };
        let mut text = [0; 1024];
        let length = sockstat.read(&mut text).unwrap_or_default();
        sockstat::tcp_sockets(text.get(..length).unwrap_or_default()) > LARGE
    }
}

fn take(
    socket: Socket,
    sockets: &mut Vec<Socket>,
    wanted: impl FnOnce(&Socket) -> Wanted,
) -> Handed {
    let wanted = wanted(&socket);
    if let Wanted::Yes | Wanted::Last(true) = wanted {
        sockets.push(socket);
    }
    match wanted {
        Wanted::Yes => Handed::Kept,
        Wanted::No => Handed::Dropped,
        Wanted::Last(_) => Handed::Enough,
    }
}
