//! The kernel's tables of sockets, one namespace at a time, each from the best source that there is:
//! a dump of NETLINK_SOCK_DIAG, or the file in `/proc/<pid>/net` where the kernel has no such dump or
//! the namespace cannot be entered.

use std::collections::HashMap;
use std::io::Read;
use std::thread;

use super::cores;
use super::netns::Namespace;
use super::proc_net;
use super::proc_root::ProcRoot;
use super::sock_diag::{Dump, Handed, SockDiag};
use crate::process_open_sockets::Source;
use crate::process_open_sockets::model::{GapKind, Gaps, Socket};
use crate::process_open_sockets::parse::proc_net::ProcNetFile;
use crate::process_open_sockets::parse::sock_diag::Request;
use crate::process_open_sockets::parse::sockstat;

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
    /// Whether what it tells as this file may be somebody's invention: a path in `unix` can imitate
    /// lines, so what they say ends no search.
    pub(super) fn may_be_deceived_about(self, file: ProcNetFile) -> bool {
        self == Teller::ProcNet && file == ProcNetFile::Unix
    }

    /// Whether what it tells as this file may be about a socket that is not of that file: see
    /// [`ProcNetFile::may_list_others`].
    pub(super) fn may_tell_of_others(self, file: ProcNetFile) -> bool {
        self == Teller::ProcNet && file.may_list_others()
    }
}

/// The tables of one namespace.
pub(super) struct Tables<'a> {
    root: &'a ProcRoot,
    namespace: &'a Namespace,
    source: Source,
    diag: Option<SockDiag>,
}

impl<'a> Tables<'a> {
    /// Gets ready to read those of that namespace.
    pub(super) fn of(root: &'a ProcRoot, namespace: &'a Namespace, source: Source) -> Self {
        let mut tables = Tables { root, namespace, source, diag: None };
        tables.open();
        tables
    }

    /// Opens a netlink socket in the namespace, if that can be done.
    fn open(&mut self) {
        let opened = match self.source {
            Source::Procfs => return,
            Source::Auto | Source::Netlink if self.namespace.is_own(self.root) => SockDiag::open(),
            Source::Auto | Source::Netlink => {
                self.namespace.enter(self.root, SockDiag::open).flatten()
            }
        };
        self.diag = opened
            .inspect_err(|error| {
                log::debug!("no sock_diag: {}: {error}", self.namespace.path(self.root, "net"));
            })
            .ok();
    }

    /// Adds the sockets of a table that are wanted, each once, and says who told of them. `request`
    /// is what the kernel may be asked for instead of the whole table; None if it has no dump of it.
    pub(super) fn read(
        &mut self,
        file: ProcNetFile,
        request: Option<&Request>,
        sockets: &mut Vec<Socket>,
        gaps: &mut Gaps,
        wanted: impl FnMut(&Socket, Teller) -> Wanted,
    ) -> Teller {
        let start = sockets.len();
        let teller = self.read_numbered(file, request, sockets, gaps, wanted);
        let read = sockets.get_mut(start..).unwrap_or_default().iter_mut();
        let interfaces = read.filter_map(|socket| socket.details.interface.as_deref_mut());
        // Without netlink nothing here can be asked for names.
        if let Some(diag) = &self.diag {
            let mut names: HashMap<u32, Option<String>> = HashMap::new();
            for interface in interfaces {
                let index = interface.index;
                let name = names.entry(index).or_insert_with(|| diag.interface_name(index));
                interface.name.clone_from(name);
            }
        }
        teller
    }

    /// The same; interfaces have their numbers only.
    fn read_numbered(
        &mut self,
        file: ProcNetFile,
        request: Option<&Request>,
        sockets: &mut Vec<Socket>,
        gaps: &mut Gaps,
        mut wanted: impl FnMut(&Socket, Teller) -> Wanted,
    ) -> Teller {
        let mut begun = false;
        let dumped = request.and_then(|request| Some((self.diag.as_mut()?, request))).map(
            |(diag, request)| {
                diag.dump(request, |mut socket| {
                    begun = true;
                    socket.net_namespace = self.namespace.number();
                    take(socket, sockets, |socket| wanted(socket, Teller::SockDiag))
                })
            },
        );
        let place = || self.namespace.path(self.root, &file.path());
        match dumped {
            Some(Ok(Dump::Whole)) => return Teller::SockDiag,
            Some(Ok(Dump::Stopped)) => {
                // The rest of the dump is on its way: a new socket is cheaper than to read it.
                self.diag = None;
                self.open();
                return Teller::SockDiag;
            }
            Some(Ok(Dump::Torn)) => {
                gaps.add(GapKind::SocketFile, || format!("the dump that is as {}", place()));
                return Teller::SockDiag;
            }
            None | Some(Ok(Dump::Unsupported)) => {}
            Some(Err(error)) => {
                self.diag = None;
                self.open();
                if begun {
                    gaps.add(GapKind::SocketFile, || {
                        format!("the dump that is as {}: {error}", place())
                    });
                    return Teller::SockDiag;
                }
                log::debug!("no dump that is as {}: {error}", place());
            }
        }
        if self.source == Source::Netlink {
            gaps.add(GapKind::NoDump, || file.name().to_owned());
        } else {
            proc_net::for_each_socket(self.root, self.namespace, file, gaps, |socket| {
                take(socket, sockets, |socket| wanted(socket, Teller::ProcNet))
            });
        }
        Teller::ProcNet
    }
}

impl Tables<'_> {
    /// The same for all sockets that are admitted; a large table in two halves at once.
    pub(super) fn read_all(
        &mut self,
        file: ProcNetFile,
        request: Option<&Request>,
        sockets: &mut Vec<Socket>,
        gaps: &mut Gaps,
        admits: impl Fn(&Socket) -> bool + Sync,
    ) -> Teller {
        let wanted = |socket: &Socket, _| if admits(socket) { Wanted::Yes } else { Wanted::No };
        let halves = request.filter(|_| self.diag.is_some() && cores() > 1);
        let halves = halves.and_then(Request::halves).filter(|_| self.is_large(file));
        if let Some([lower, upper]) = halves {
            let start = sockets.len();
            let (mut more, mut more_gaps) = (Vec::new(), Gaps::default());
            let mut other = Tables::of(self.root, self.namespace, self.source);
            let tellers = thread::scope(|scope| {
                let thread = thread::Builder::new().name("dump".into());
                let upper = thread.spawn_scoped(scope, || {
                    other.read(file, Some(&upper), &mut more, &mut more_gaps, wanted)
                });
                let lower = self.read(file, Some(&lower), sockets, gaps, wanted);
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
        self.read(file, request, sockets, gaps, wanted)
    }

    /// Whether the table is worth another thread.
    fn is_large(&self, file: ProcNetFile) -> bool {
        const LARGE: u64 = 10_000;
        let name = if file == ProcNetFile::Tcp6 { "net/sockstat6" } else { "net/sockstat" };
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
