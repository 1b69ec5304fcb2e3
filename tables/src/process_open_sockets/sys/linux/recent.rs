//! Tables of sockets that were read a moment ago, for bursts of lookups: a join asks for one process
//! after the other, and reading a table costs a thousand times what a process does.
//!
//! Whatever existed before a request came is in its answer: the descriptors of the asked processes
//! are always read anew, and a socket that is in no table here makes the tables be read anew that
//! may have it. What a table shows of a socket may be as old as the time to live.
//!
//! Many a process has sockets that are in no table, and to find nothing takes to search every network
//! namespace there is. So what a walk of all processes found is kept too: a socket that was held then is
//! in a namespace that was there then, and only these need to be searched for it.
//!
//! The first lookup keeps nothing; one that follows within the time to live does.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::netns::{Mark, Namespaces};
use super::tables::Teller;
use crate::process_open_sockets::holders::equal_range;
use crate::process_open_sockets::model::Socket;
use crate::process_open_sockets::socket_table::SocketTable;

/// What was read within the time to live.
pub(super) struct Recent {
    ttl: Duration,
    kept: Arc<Mutex<Kept>>,
}

#[derive(Default)]
struct Kept {
    last_lookup: Option<Instant>,
    tables: Vec<Arc<KeptTable>>,
    census: Option<Arc<Census>>,
    /// Whether a thread waits to forget them.
    is_watched: bool,
}

/// Sockets that somebody held, and all namespaces that there were afterwards.
pub(super) struct Census {
    /// When it was begun.
    pub(super) taken: Instant,
    /// In order.
    pub(super) inodes: Vec<u64>,
    pub(super) namespaces: Arc<Namespaces>,
}

impl Census {
    /// Whether these all were held then.
    pub(super) fn has_all(&self, inodes: &[u64]) -> bool {
        inodes.iter().all(|inode| self.inodes.binary_search(inode).is_ok())
    }
}

/// A table of a namespace.
pub(super) struct KeptTable {
    namespace: Mark,
    pub(super) table: SocketTable,
    pub(super) teller: Teller,
    /// When somebody began to read it.
    read: Instant,
    /// By inode.
    sockets: Vec<Socket>,
}

/// A lookup, with what was kept when it began.
pub(super) struct Lookup<'a> {
    recent: &'a Recent,
    tables: Vec<Arc<KeptTable>>,
    pub(super) census: Option<Arc<Census>>,
    /// Whether there was another within the time to live.
    is_one_of_many: bool,
    takes_tables: bool,
}

impl Recent {
    pub(super) fn new(ttl: Duration) -> Self {
        Recent { ttl, kept: Arc::default() }
    }

    /// Begins a lookup; None if nothing is to be kept. It may take from tables that were read before if
    /// it asks for nothing that changes.
    pub(super) fn look_up(&self, takes_tables: bool) -> Option<Lookup<'_>> {
        if self.ttl.is_zero() {
            return None;
        }
        let mut kept = lock(&self.kept);
        kept.forget(self.ttl);
        let last = kept.last_lookup.replace(Instant::now());
        let is_one_of_many = last.is_some_and(|last| last.elapsed() < self.ttl);
        let (tables, census) = (kept.tables.clone(), kept.census.clone());
        Some(Lookup { recent: self, tables, census, is_one_of_many, takes_tables })
    }

    fn keep(&self, change: impl FnOnce(&mut Kept)) {
        let mut kept = lock(&self.kept);
        change(&mut kept);
        if !kept.is_watched {
            kept.is_watched = self.watch();
        }
    }

    /// Starts a thread that forgets what nobody asks for any more; says whether there is one.
    fn watch(&self) -> bool {
        let (ttl, kept) = (self.ttl, Arc::clone(&self.kept));
        let watch = move || {
            loop {
                thread::sleep(ttl);
                let mut kept = lock(&kept);
                kept.forget(ttl);
                if kept.tables.is_empty() && kept.census.is_none() {
                    kept.is_watched = false;
                    return;
                }
            }
        };
        let thread = thread::Builder::new().name("forgetter".into()).spawn(watch);
        if let Err(error) = &thread {
            log::debug!("tables are kept until the next lookup: {error}");
        }
        thread.is_ok()
    }
}

fn lock(kept: &Mutex<Kept>) -> MutexGuard<'_, Kept> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Kept {
    fn forget(&mut self, ttl: Duration) {
        self.tables.retain(|table| table.read.elapsed() < ttl);
        if self.tables.is_empty() {
            self.tables = Vec::new();
        }
        self.census.take_if(|census| census.taken.elapsed() >= ttl);
    }
}

impl Lookup<'_> {
    pub(super) fn tables(&self) -> &[Arc<KeptTable>] {
        if self.takes_tables { &self.tables } else { &[] }
    }

    /// Whether tables that it reads are worth keeping.
    pub(super) fn keeps_tables(&self) -> bool {
        self.takes_tables && self.is_one_of_many
    }

    /// Whether a census is worth taking.
    pub(super) fn is_one_of_many(&self) -> bool {
        self.is_one_of_many
    }

    /// Keeps a table in the place of an older one; `read` is when somebody began to read it.
    pub(super) fn keep(
        &mut self,
        namespace: Mark,
        table: SocketTable,
        teller: Teller,
        read: Instant,
        mut sockets: Vec<Socket>,
    ) {
        sockets.sort_unstable_by_key(|socket| socket.inode);
        let new = Arc::new(KeptTable { namespace, table, teller, read, sockets });
        let is_other = |kept: &Arc<KeptTable>| (kept.namespace, kept.table) != (namespace, table);
        self.tables.retain(is_other);
        self.recent.keep(|kept| {
            kept.tables.retain(is_other);
            kept.tables.push(new);
        });
    }

    /// Keeps a census in the place of an older one.
    pub(super) fn keep_census(&mut self, census: Census) {
        self.recent.keep(|kept| kept.census = Some(Arc::new(census)));
    }
}

impl KeptTable {
    /// The sockets of that inode: one, or an MPTCP connection's subflows, unless a file is deceiving.
    pub(super) fn of(&self, inode: u64) -> &[Socket] {
        equal_range(&self.sockets, inode, |socket| socket.inode)
    }
}
