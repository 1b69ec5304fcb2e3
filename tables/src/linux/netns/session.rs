//! The socket tables of one network namespace, each from the best source: a dump of NETLINK_SOCK_DIAG, or
//! the file in `/proc/<pid>/net` where the kernel has no such dump or the namespace cannot be entered.

use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::sync::{Mutex, PoisonError};
use std::thread;

use rustix::io::Errno;

use super::super::cores;
use super::super::proc_net::{self, SocketFile};
use super::super::proc_root::ProcRoot;
use super::super::sock_diag::{Dump, ReadControl, SockDiag};
use super::key::NetnsKey;
use super::namespace::Namespace;
use crate::deadline::Deadline;
use crate::formats::linux::sock_diag::Request;
use crate::formats::linux::sockstat;
use crate::model::omission::OmissionKind;
use crate::model::report::Report;
use crate::model::socket_table::SocketTable;
use crate::model::{Socket, Source};

/// Whether a socket that was read is kept, and whether the read goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Selection {
    Keep,
    Drop,
    /// No further socket is needed; this one is kept if the value is true.
    Last(bool),
}

/// The source of a socket table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SocketSource {
    /// A netlink dump, which is not spoofable.
    Netlink,
    /// A file of `/proc/net`, in which a UNIX path can imitate a line.
    ProcNet,
}

impl SocketSource {
    /// Whether an unprivileged user can forge a record of this table. In `unix` a path can imitate lines, so a
    /// record of it does not end a search.
    pub(crate) fn is_spoofable(self, table: SocketTable) -> bool {
        self == SocketSource::ProcNet && table == SocketTable::Unix
    }

    /// Whether a record of this table can describe a socket of another table: see
    /// [`SocketTable::has_foreign_records`].
    pub(crate) fn has_foreign_records(self, table: SocketTable) -> bool {
        self == SocketSource::ProcNet && table.has_foreign_records()
    }
}

/// The netlink sockets of one scan: one for each network namespace, so that each is entered once.
pub(crate) struct Sessions<'a> {
    root: &'a ProcRoot,
    source: Source,
    deadline: Deadline<'a>,
    own: &'a OwnSockets,
    diags: HashMap<NetnsKey, rustix::io::Result<SockDiag>>,
}

impl<'a> Sessions<'a> {
    pub(crate) fn new(
        root: &'a ProcRoot,
        source: Source,
        deadline: Deadline<'a>,
        own: &'a OwnSockets,
    ) -> Self {
        Sessions { root, source, deadline, own, diags: HashMap::new() }
    }

    /// The session of a namespace, opened on first use.
    pub(crate) fn open<'s>(&'s mut self, namespace: &'s Namespace) -> NetnsSession<'s> {
        /// Users can create namespaces, and each netlink socket takes a descriptor.
        const MAX_OPEN: usize = 32;
        if self.diags.len() >= MAX_OPEN && !self.diags.contains_key(&namespace.key) {
            self.diags.clear();
        }
        let Sessions { root, source, deadline, own, .. } = *self;
        let open = || open_diag(root, namespace, source, own);
        let diag = self.diags.entry(namespace.key).or_insert_with(open);
        NetnsSession { root, namespace, source, deadline, own, diag }
    }
}

/// The socket tables of one namespace.
pub(crate) struct NetnsSession<'s> {
    root: &'s ProcRoot,
    namespace: &'s Namespace,
    source: Source,
    deadline: Deadline<'s>,
    own: &'s OwnSockets,
    /// The netlink socket, or why there is none.
    diag: &'s mut rustix::io::Result<SockDiag>,
}

/// The inodes of the netlink sockets that a scan opens itself: it does not show them.
#[derive(Debug, Default)]
pub(crate) struct OwnSockets(Mutex<HashSet<u64>>);

impl OwnSockets {
    fn insert(&self, inode: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(inode);
    }

    pub(crate) fn contains(&self, inode: u64) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(&inode)
    }
}

/// Opens a netlink socket in the namespace.
fn open_diag(
    root: &ProcRoot,
    namespace: &Namespace,
    source: Source,
    own: &OwnSockets,
) -> rustix::io::Result<SockDiag> {
    let diag = match source {
        Source::Procfs => Err(Errno::OPNOTSUPP),
        Source::Auto | Source::Bpf | Source::Netlink if namespace.is_own(root) => SockDiag::open(),
        Source::Auto | Source::Bpf | Source::Netlink => {
            namespace.enter(root, SockDiag::open).flatten()
        }
    };
    let diag = root.counted(diag);
    if let (Err(errno), false) = (&diag, source == Source::Procfs) {
        log::debug!("no netlink dumps of {}: {errno}", namespace.path(root, "net"));
    }
    if let Ok(inode) = diag.as_ref().map(SockDiag::inode) {
        own.insert(inode);
    }
    diag
}

impl NetnsSession<'_> {
    /// Adds the selected sockets of a table, each once, and returns their source. `request` is the netlink
    /// request; None if the kernel has no dump of this table.
    pub(crate) fn read(
        &mut self,
        table: SocketTable,
        request: Option<&Request>,
        sockets: &mut Vec<Socket>,
        report: &mut Report,
        select: impl FnMut(&Socket, SocketSource) -> Selection,
    ) -> SocketSource {
        let start = sockets.len();
        report.work.tables += 1;
        let source = self.read_unnamed(table, request, sockets, report, select);
        self.name_interfaces(sockets.get_mut(start..).unwrap_or_default().iter_mut());
        source
    }

    /// Sets the names of the interfaces of these sockets. Without netlink they stay unnamed.
    pub(crate) fn name_interfaces<'i>(&self, sockets: impl Iterator<Item = &'i mut Socket>) {
        let Ok(diag) = &*self.diag else { return };
        let mut names: HashMap<u32, Option<String>> = HashMap::new();
        for interface in sockets.filter_map(|socket| socket.details.interface_mut()) {
            let index = interface.index;
            let name = names.entry(index).or_insert_with(|| diag.interface_name(index));
            interface.name.clone_from(name);
        }
    }

    /// The same as `read`; interfaces have their index only.
    fn read_unnamed(
        &mut self,
        table: SocketTable,
        request: Option<&Request>,
        sockets: &mut Vec<Socket>,
        report: &mut Report,
        mut select: impl FnMut(&Socket, SocketSource) -> Selection,
    ) -> SocketSource {
        if let Some(request) = request {
            let select = |socket: &Socket| select(socket, SocketSource::Netlink);
            if self.dump(table, request, sockets, report, select) {
                return SocketSource::Netlink;
            }
        }
        let (root, namespace) = (self.root, self.namespace);
        let is_netlink = self.source == Source::Netlink;
        match table.proc_net_path() {
            // The kernel has no such table, as Linux 7.2 has no UDP-Lite.
            Some(path) if is_netlink && matches!(namespace.open(root, &path), Ok(None)) => {}
            _ if is_netlink => {
                report.omissions.add(OmissionKind::NoDump, || match (request, &*self.diag) {
                    (Some(_), Err(errno)) => format!("{}: {errno}", self.path_of(table)),
                    _ => table.name().to_owned(),
                });
            }
            Some(path) => {
                let (deadline, omissions) = (self.deadline, &mut report.omissions);
                let extended = request.map(Request::extended).unwrap_or_default();
                let file = SocketFile { table, path: &path, extended };
                proc_net::for_each_socket(root, namespace, file, deadline, omissions, |socket| {
                    take(socket, sockets, |socket| select(socket, SocketSource::ProcNet))
                });
            }
            // A kernel without this table has no such sockets, or does not list them.
            None => {}
        }
        SocketSource::ProcNet
    }

    /// Dumps a table; returns false if netlink has no dump of it: then no socket was added.
    fn dump(
        &mut self,
        table: SocketTable,
        request: &Request,
        sockets: &mut Vec<Socket>,
        report: &mut Report,
        mut select: impl FnMut(&Socket) -> Selection,
    ) -> bool {
        let NetnsSession { root, namespace, source, deadline, own, .. } = *self;
        let path = self.path_of(table);
        let mut seen = HashSet::new();
        // A failed dump is requested once more, on a new socket.
        for is_last in [false, true] {
            let diag = match &mut *self.diag {
                Ok(diag) => diag,
                Err(errno) if !seen.is_empty() => {
                    report
                        .omissions
                        .add(OmissionKind::SocketFile, || format!("dump of {path}: {errno}"));
                    return true;
                }
                Err(_) => return false,
            };
            report.work.dumps += 1;
            let dumped = diag.dump_more(request, deadline, &mut seen, |mut socket| {
                socket.net_namespace = namespace.number();
                take(socket, sockets, &mut select)
            });
            match dumped {
                Ok(Dump::Complete) => return true,
                Ok(Dump::Stopped) => {
                    // To receive the rest of the dump costs more than a new socket.
                    *self.diag = open_diag(root, namespace, source, own);
                    return true;
                }
                Ok(Dump::Incomplete) => {
                    report.omissions.add(OmissionKind::SocketFile, || format!("dump of {path}"));
                    return true;
                }
                Ok(Dump::Unsupported) => return false,
                Err(error) if is_last || deadline.has_passed() => {
                    if !deadline.has_passed() {
                        *self.diag = open_diag(root, namespace, source, own);
                    }
                    report
                        .omissions
                        .add(OmissionKind::SocketFile, || format!("dump of {path}: {error}"));
                    return true;
                }
                Err(_) => *self.diag = open_diag(root, namespace, source, own),
            }
        }
        false
    }

    /// The file that lists the same table, for messages.
    fn path_of(&self, table: SocketTable) -> String {
        self.namespace.path(self.root, &format!("net/{}", table.name()))
    }

    /// The same as `read` for all sockets that `admits` accepts; reads the two halves of a large table in
    /// parallel.
    pub(crate) fn read_all(
        &mut self,
        table: SocketTable,
        request: Option<&Request>,
        sockets: &mut Vec<Socket>,
        report: &mut Report,
        admits: impl Fn(&Socket) -> bool + Sync,
    ) -> SocketSource {
        let select =
            |socket: &Socket, _| if admits(socket) { Selection::Keep } else { Selection::Drop };
        let halves = request.filter(|_| self.diag.is_ok() && cores() > 1);
        let halves = halves.and_then(Request::halves).filter(|_| self.is_large(table));
        if let Some([lower, upper]) = halves {
            let start = sockets.len();
            let (mut more, mut more_report) = (Vec::new(), Report::default());
            let NetnsSession { root, namespace, source, deadline, own, .. } = *self;
            let sources = thread::scope(|scope| {
                let thread = thread::Builder::new().name("dump".into());
                let upper = thread.spawn_scoped(scope, || {
                    let mut diag = open_diag(root, namespace, source, own);
                    let diag = &mut diag;
                    let mut other = NetnsSession { root, namespace, source, deadline, own, diag };
                    other.read(table, Some(&upper), &mut more, &mut more_report, select)
                });
                let lower = self.read(table, Some(&lower), sockets, report, select);
                [Some(lower), upper.ok().and_then(|upper| upper.join().ok())]
            });
            if sources == [Some(SocketSource::Netlink); 2] {
                sockets.append(&mut more);
                report.extend(more_report);
                return SocketSource::Netlink;
            }
            // A file has no halves.
            sockets.truncate(start);
        }
        self.read(table, request, sockets, report, select)
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
    select: impl FnOnce(&Socket) -> Selection,
) -> ReadControl {
    let selection = select(&socket);
    if let Selection::Keep | Selection::Last(true) = selection {
        sockets.push(socket);
    }
    match selection {
        Selection::Keep => ReadControl::Kept,
        Selection::Drop => ReadControl::Dropped,
        Selection::Last(_) => ReadControl::Stop,
    }
}
