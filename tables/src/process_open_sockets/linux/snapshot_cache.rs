//! The snapshot cache: recent socket tables for bursts of lookups. A join looks up one process after the other, and
//! reading a table costs a thousand times as much as reading a process.
//!
//! The answer has every socket that existed before the lookup: the descriptors of the processes are always read
//! again, and for a socket in no cached table the tables that can list it are read again. The details of a cached
//! socket can be as old as the time to live (TTL).
//!
//! Many processes have unlisted sockets, and to detect one takes a search of every network namespace. So the inodes
//! that a walk of all processes found are cached too: a socket that was held then is in a namespace that existed
//! then, and only these namespaces are searched for it.
//!
//! The first lookup caches nothing; one that follows within the TTL does.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::linux::netns::{Namespaces, NetnsKey, SocketSource};
use crate::model::holders::equal_range;
use crate::model::socket_table::SocketTable;
use crate::model::{ExtendedFields, Socket};

/// What was read within the TTL.
pub(super) struct SnapshotCache {
    ttl: Duration,
    entries: Arc<Mutex<Entries>>,
}

#[derive(Default)]
struct Entries {
    last_lookup: Option<Instant>,
    tables: Vec<Arc<CachedTable>>,
    held: Option<Arc<HeldInodes>>,
    /// Whether an eviction thread runs.
    has_evictor: bool,
}

/// Sockets that some process held, and all namespaces that were found afterwards.
pub(super) struct HeldInodes {
    /// When the walk began.
    pub(super) start: Instant,
    /// Sorted.
    pub(super) inodes: Vec<u64>,
    pub(super) namespaces: Arc<Namespaces>,
}

impl HeldInodes {
    /// Whether all these sockets were held then.
    pub(super) fn contains_all(&self, inodes: &[u64]) -> bool {
        inodes.iter().all(|inode| self.inodes.binary_search(inode).is_ok())
    }
}

/// A socket table of a namespace.
pub(super) struct CachedTable {
    namespace: NetnsKey,
    pub(super) table: SocketTable,
    pub(super) source: SocketSource,
    /// When reading it began.
    start: Instant,
    /// The extended details that were requested.
    extended: ExtendedFields,
    /// Sorted by inode.
    sockets: Vec<Socket>,
}

/// One lookup, with the entries that were cached when it began.
pub(super) struct CacheLookup<'a> {
    cache: &'a SnapshotCache,
    tables: Vec<Arc<CachedTable>>,
    pub(super) held: Option<Arc<HeldInodes>>,
    /// Whether another lookup came within the TTL.
    is_in_burst: bool,
    uses_tables: bool,
    extended: ExtendedFields,
}

impl SnapshotCache {
    pub(super) fn new(ttl: Duration) -> Self {
        SnapshotCache { ttl, entries: Arc::default() }
    }

    /// Begins a lookup; None if nothing is cached. It uses cached tables only if its constraints are on
    /// columns that do not change while a socket is held; and of these only those with the extended details that it
    /// needs.
    pub(super) fn look_up(
        &self,
        uses_tables: bool,
        extended: ExtendedFields,
    ) -> Option<CacheLookup<'_>> {
        if self.ttl.is_zero() {
            return None;
        }
        let mut entries = lock(&self.entries);
        entries.evict(self.ttl);
        let last = entries.last_lookup.replace(Instant::now());
        let is_in_burst = last.is_some_and(|last| last.elapsed() < self.ttl);
        let (mut tables, held) = (entries.tables.clone(), entries.held.clone());
        tables.retain(|table| table.extended.contains(extended));
        Some(CacheLookup { cache: self, tables, held, is_in_burst, uses_tables, extended })
    }

    fn insert(&self, change: impl FnOnce(&mut Entries)) {
        let mut entries = lock(&self.entries);
        change(&mut entries);
        if !entries.has_evictor {
            entries.has_evictor = self.start_evictor();
        }
    }

    /// Starts a thread that evicts old entries when no lookup does; returns whether it runs.
    fn start_evictor(&self) -> bool {
        let (ttl, entries) = (self.ttl, Arc::clone(&self.entries));
        let evict = move || {
            loop {
                thread::sleep(ttl);
                let mut entries = lock(&entries);
                entries.evict(ttl);
                if entries.tables.is_empty() && entries.held.is_none() {
                    entries.has_evictor = false;
                    return;
                }
            }
        };
        let thread = thread::Builder::new().name("cache-evictor".into()).spawn(evict);
        if let Err(error) = &thread {
            log::debug!("cached tables stay until the next lookup: no eviction thread: {error}");
        }
        thread.is_ok()
    }
}

fn lock(entries: &Mutex<Entries>) -> MutexGuard<'_, Entries> {
    entries.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Entries {
    fn evict(&mut self, ttl: Duration) {
        self.tables.retain(|table| table.start.elapsed() < ttl);
        if self.tables.is_empty() {
            self.tables = Vec::new();
        }
        self.held.take_if(|held| held.start.elapsed() >= ttl);
    }
}

impl CacheLookup<'_> {
    pub(super) fn tables(&self) -> &[Arc<CachedTable>] {
        if self.uses_tables { &self.tables } else { &[] }
    }

    /// Whether tables that this lookup reads are worth caching.
    pub(super) fn caches_tables(&self) -> bool {
        self.uses_tables && self.is_in_burst
    }

    /// Whether it is worth walking all processes for the next lookups.
    pub(super) fn is_in_burst(&self) -> bool {
        self.is_in_burst
    }

    /// Caches a table, and evicts an older one; `start` is when reading it began.
    pub(super) fn insert(
        &mut self,
        namespace: NetnsKey,
        table: SocketTable,
        source: SocketSource,
        start: Instant,
        mut sockets: Vec<Socket>,
    ) {
        sockets.sort_unstable_by_key(|socket| socket.inode);
        let extended = self.extended;
        let new = Arc::new(CachedTable { namespace, table, source, start, extended, sockets });
        let is_other =
            |cached: &Arc<CachedTable>| (cached.namespace, cached.table) != (namespace, table);
        self.tables.retain(is_other);
        self.cache.insert(|entries| {
            entries.tables.retain(is_other);
            entries.tables.push(new);
        });
    }

    /// Caches the held inodes, and evicts an older entry.
    pub(super) fn insert_held(&mut self, held: HeldInodes) {
        self.cache.insert(|entries| entries.held = Some(Arc::new(held)));
    }
}

impl CachedTable {
    /// The sockets of that inode: one, or an MPTCP connection's subflows, unless the table is spoofed.
    pub(super) fn of(&self, inode: u64) -> &[Socket] {
        equal_range(&self.sockets, inode, |socket| socket.inode)
    }
}
