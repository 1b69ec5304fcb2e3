//! The file descriptors that refer to sockets, collected in bounded memory.

mod fd_set;

use std::collections::HashMap;
use std::ops::Range;

use self::fd_set::FdSet;
use super::socket::Socket;
use crate::model::user::User;
use crate::water_level::water_level;

/// The default maximum number of rows for the descriptors of a process and socket.
pub(crate) const DEFAULT_DESCRIPTORS_PER_SOCKET: u32 = 100;

/// A file descriptor that refers to a socket.
///
/// Ordered by socket, so that the holders of a socket are adjacent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Holder {
    pub(crate) inode: u64,
    pub(crate) pid: i32,
    pub(crate) fd: i32,
    /// The thread with its own file descriptor table; None for the table of the process.
    pub(crate) tid: Option<i32>,
}

impl Holder {
    fn group(&self) -> Group {
        Group { inode: self.inode, pid: self.pid, tid: self.tid }
    }
}

/// The descriptors of one file descriptor table that refer to one socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Group {
    inode: u64,
    pid: i32,
    tid: Option<i32>,
}

/// The maximum numbers of kept holders.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct HolderLimits {
    /// The number of lowest descriptors of each group (pid, tid, socket), at least one; None: all.
    pub(crate) per_socket: Option<u32>,
    /// The total, besides one holder of each socket; None: all. Beyond it, the users with the most holders are
    /// reduced to a common level.
    pub(crate) max: Option<usize>,
}

/// Collects holders in bounded memory: it keeps the `per_socket` lowest descriptors of each group (pid, tid, socket),
/// and counts the others.
///
/// The result does not depend on the order of the calls, nor on repeated holders. A counted descriptor takes one bit
/// of a word for 64 neighbouring descriptors; the table of the kernel has 512 bytes for these.
#[derive(Debug)]
pub(crate) struct HolderCollector {
    per_socket: Option<usize>,
    list: Vec<Holder>,
    /// The groups with more than `per_socket` descriptors.
    beyond: HashMap<Group, Beyond>,
    /// The length of the list at which it is pruned.
    prune_at: usize,
    /// The maximum number of kept holders, besides one of each socket; None: all.
    max: Option<usize>,
    omitted: HashMap<User, u64>,
    /// The users of processes, each read once.
    users: HashMap<i32, User>,
}

/// The descriptors of a group besides the list.
#[derive(Debug, Default)]
struct Beyond {
    /// Checked descriptors in the list that refer to the socket. They stay if the process replaces a descriptor later.
    real: FdSet,
    /// Descriptors above those in the list.
    counted: FdSet,
    /// Checked descriptors that do not refer to the socket.
    unreal: FdSet,
}

impl Default for HolderCollector {
    fn default() -> Self {
        HolderCollector::new(HolderLimits {
            per_socket: Some(DEFAULT_DESCRIPTORS_PER_SOCKET),
            max: None,
        })
    }
}

impl HolderCollector {
    /// The length (6 MB) at which a list is pruned for the first time.
    const FIRST_PRUNE: usize = 1 << 18;

    pub(crate) fn new(limits: HolderLimits) -> Self {
        let HolderLimits { per_socket, max } = limits;
        let per_socket = per_socket.map(|most| usize::try_from(most).unwrap_or(usize::MAX).max(1));
        let prune_at = Self::FIRST_PRUNE;
        let (list, beyond, omitted, users) = Default::default();
        HolderCollector { per_socket, list, beyond, prune_at, max, omitted, users }
    }

    pub(crate) fn push(&mut self, holder: Holder) {
        self.list.push(holder);
    }

    /// Prunes the list if it has doubled since the last time, so that it is never longer than the larger of
    /// [`Self::FIRST_PRUNE`] and twice `per_socket` for each group.
    ///
    /// `is_real` returns whether the descriptor refers to the socket: an O_PATH handle does not. It is called for
    /// members of groups larger than `per_socket`, from the lowest descriptor on, until it has found `per_socket`.
    ///
    /// `user_of` reads the user of a process; it is called only above the maximum.
    pub(crate) fn prune_if_large(
        &mut self,
        is_real: impl FnMut(&Holder) -> bool,
        user_of: impl FnMut(i32) -> User,
    ) {
        let can_prune = self.per_socket.is_some() || self.max.is_some();
        if !can_prune || self.list.len() < self.prune_at {
            return;
        }
        self.prune(is_real);
        self.prune_at = self.list.len().saturating_mul(2).max(self.prune_at);
        if let Some(max) = self.max {
            self.omit_above(max, user_of);
            let room = max.saturating_add(max / 4).max(self.list.len() + Self::FIRST_PRUNE);
            self.prune_at = self.prune_at.min(room);
        }
    }

    /// Reduces the users with the most holders. The list must be pruned, so it is in the order of sockets.
    fn omit_above(&mut self, max: usize, mut user_of: impl FnMut(i32) -> User) {
        if self.list.len() <= max {
            return;
        }
        // A socket without any of its holders would look unheld.
        let mut last = None;
        let mut is_first = |holder: &Holder| last.replace(holder.inode) != Some(holder.inode);
        let mut by_user: HashMap<User, usize> = HashMap::new();
        let mut protected = 0;
        for holder in &self.list {
            if is_first(holder) {
                protected += 1;
                continue;
            }
            let user = *self.users.entry(holder.pid).or_insert_with(|| user_of(holder.pid));
            *by_user.entry(user).or_default() += 1;
        }
        let counts: Vec<usize> = by_user.values().copied().collect();
        let budget = max.saturating_sub(protected) as u64;
        let Some(level) = water_level(&counts, budget, |_, _| 1) else { return };
        let mut kept: HashMap<User, usize> = HashMap::new();
        last = None;
        let mut is_first = |holder: &Holder| last.replace(holder.inode) != Some(holder.inode);
        let (users, omitted) = (&self.users, &mut self.omitted);
        self.list.retain(|holder| {
            if is_first(holder) {
                return true;
            }
            let Some(&user) = users.get(&holder.pid) else { return true };
            let kept = kept.entry(user).or_default();
            *kept += 1;
            if *kept > level {
                *omitted.entry(user).or_default() += 1;
            }
            *kept <= level
        });
    }

    /// Removes the holders of a socket: macOS reuses handles.
    #[cfg(any(target_os = "macos", test))]
    pub(crate) fn remove_socket(&mut self, inode: u64) {
        self.list.retain(|holder| holder.inode != inode);
        self.beyond.retain(|group, _| group.inode != inode);
    }

    /// Adds the holders of another collector with the same `per_socket`.
    #[cfg(any(target_os = "linux", test))]
    pub(crate) fn append(&mut self, mut other: HolderCollector) {
        if self.list.is_empty() {
            self.list = other.list;
        } else {
            self.list.append(&mut other.list);
        }
        self.prune_at = self.prune_at.max(other.prune_at);
        self.users.extend(other.users);
        for (user, count) in other.omitted {
            *self.omitted.entry(user).or_default() += count;
        }
        for (group, more) in other.beyond {
            let total = self.beyond.entry(group).or_default();
            total.real.extend(&more.real);
            total.counted.extend(&more.counted);
            total.unreal.extend(&more.unreal);
        }
    }

    /// Sorts the list, and removes duplicates and counted descriptors. Afterwards the list is in the order of the
    /// groups.
    fn prune(&mut self, mut is_real: impl FnMut(&Holder) -> bool) {
        self.list.sort_unstable_by_key(|holder| (holder.group(), holder.fd));
        self.list.dedup();
        let Some(per_socket) = self.per_socket else { return };
        let is_large = |group: &[Holder]| group.len() > per_socket;
        let has_large = self.list.chunk_by(|a, b| a.group() == b.group()).any(is_large);
        if !has_large && self.beyond.is_empty() {
            return;
        }
        let mut kept = Vec::new();
        for members in self.list.chunk_by(|a, b| a.group() == b.group()) {
            let Some(group) = members.first().map(Holder::group) else { continue };
            if members.len() <= per_socket && !self.beyond.contains_key(&group) {
                kept.extend_from_slice(members);
                continue;
            }
            let beyond = self.beyond.entry(group).or_default();
            let (mut real, mut unreal) = (Vec::new(), Vec::new());
            for holder in members {
                if real.len() == per_socket {
                    break;
                }
                if beyond.real.contains(holder.fd) || is_real(holder) {
                    real.push(holder.fd);
                    kept.push(*holder);
                } else {
                    unreal.push(holder.fd);
                }
            }
            let checked = real.len() + unreal.len();
            beyond.real = real.into_iter().collect();
            beyond.unreal.extend(&unreal.into_iter().collect());
            let rest = members.get(checked..).unwrap_or_default().iter();
            beyond.counted.extend(&rest.map(|holder| holder.fd).collect());
        }
        self.list = kept;
    }

    /// The kept holders. Copies of the process's descriptors in the tables of threads are removed. Of all tables of a
    /// process, the `per_socket` lowest descriptors of a socket are kept.
    pub(crate) fn finish(mut self, is_real: impl FnMut(&Holder) -> bool) -> Holders {
        self.prune(is_real);
        let HolderCollector { per_socket, mut list, beyond, omitted, .. } = self;
        let has_threads = list.iter().any(|holder| holder.tid.is_some());
        let has_counts = has_threads || !beyond.is_empty();
        let counts = if has_counts { count(&list, &beyond, per_socket) } else { HashMap::new() };
        if has_threads {
            list.sort_unstable();
            drop_copies(&mut list, &beyond);
            if let Some(per_socket) = per_socket {
                keep_lowest(&mut list, per_socket);
            }
        }
        Holders { list, counts, has_threads, omitted }
    }
}

/// Counts the descriptors of each group that can be incomplete in the final list.
fn count(
    list: &[Holder],
    beyond: &HashMap<Group, Beyond>,
    per_socket: Option<usize>,
) -> HashMap<Group, u32> {
    let mut counts = HashMap::new();
    for of_process in list.chunk_by(|a, b| (a.inode, a.pid) == (b.inode, b.pid)) {
        let has_threads = of_process.last().is_some_and(|last| last.tid.is_some());
        for members in of_process.chunk_by(|a, b| a.tid == b.tid) {
            let Some(last) = members.last() else { continue };
            let more = beyond.get(&last.group()).map_or(0, |beyond| {
                // Some descriptors above the highest kept one were checked while there was room for more. They count
                // like the others.
                let mut above = beyond.counted.clone();
                if Some(members.len()) == per_socket {
                    above.extend(&beyond.unreal);
                }
                above.count_above(last.fd)
            });
            if has_threads || more > 0 {
                let count = u32::try_from(members.len() + more).unwrap_or(u32::MAX);
                counts.insert(last.group(), count);
            }
        }
    }
    counts
}

/// Removes the descriptors that a thread's table shares with that of its process: it begins as a copy.
fn drop_copies(list: &mut Vec<Holder>, beyond: &HashMap<Group, Beyond>) {
    let mut of_process: Option<Holder> = None;
    list.retain(|holder| {
        if holder.tid.is_none() {
            of_process = Some(*holder);
            return true;
        }
        let original = Holder { tid: None, ..*holder };
        let is_beyond = |beyond: &Beyond| {
            beyond.counted.contains(holder.fd) || beyond.unreal.contains(holder.fd)
        };
        of_process != Some(original) && !beyond.get(&original.group()).is_some_and(is_beyond)
    });
}

/// Keeps this many holders of each socket and process.
fn keep_lowest(list: &mut Vec<Holder>, per_socket: usize) {
    let (mut current, mut kept) = (None, 0);
    list.retain(|holder| {
        let of = Some((holder.inode, holder.pid));
        if current != of {
            (current, kept) = (of, 0);
        }
        kept += 1;
        kept <= per_socket
    });
}

/// The file descriptors that refer to sockets: sorted, each once.
#[derive(Debug, Default)]
pub(crate) struct Holders {
    list: Vec<Holder>,
    /// The number of descriptors of each group that can be incomplete in the list.
    counts: HashMap<Group, u32>,
    has_threads: bool,
    /// The number of holders of a user that were removed because of the total maximum.
    omitted: HashMap<User, u64>,
}

/// Keeps all holders.
impl FromIterator<Holder> for Holders {
    fn from_iter<I: IntoIterator<Item = Holder>>(holders: I) -> Self {
        let list = holders.into_iter().collect();
        HolderCollector { list, ..HolderCollector::new(HolderLimits::default()) }.finish(|_| true)
    }
}

impl Holders {
    /// The number of holders of each user that were removed because of the total maximum.
    pub(crate) fn omitted(&self) -> &HashMap<User, u64> {
        &self.omitted
    }

    /// For each of these sockets the range of all its holders, by pid and fd.
    pub(crate) fn of_each(&self, sockets: &[Socket]) -> Vec<Range<usize>> {
        let mut order: Vec<(u64, usize)> =
            sockets.iter().enumerate().map(|(index, socket)| (socket.inode, index)).collect();
        order.sort_unstable();
        let mut held = vec![0..0; sockets.len()];
        let mut rest = 0;
        for alike in order.chunk_by(|a, b| a.0 == b.0) {
            let Some(&(socket, _)) = alike.first() else { continue };
            let count = |from: usize, is: fn(&u64, &u64) -> bool| {
                let holders = self.list.get(from..).unwrap_or_default().iter();
                holders.take_while(|holder| is(&holder.inode, &socket)).count()
            };
            let start = rest + count(rest, u64::lt);
            rest = start + count(start, u64::eq);
            for (_, index) in alike.iter().filter(|_| socket != 0) {
                if let Some(held) = held.get_mut(*index) {
                    *held = start..rest;
                }
            }
        }
        held
    }

    /// The holders in this range.
    pub(crate) fn at(&self, range: &Range<usize>) -> &[Holder] {
        self.list.get(range.clone()).unwrap_or_default()
    }

    /// All holders of this socket, by pid and fd.
    pub(crate) fn of(&self, inode: u64) -> &[Holder] {
        if inode == 0 {
            return &[];
        }
        equal_range(&self.list, inode, |holder| holder.inode)
    }

    /// The number of descriptors in the holder's file descriptor table that refer to its socket, kept or not.
    pub(crate) fn descriptors(&self, holder: &Holder) -> u32 {
        if let Some(&count) = self.counts.get(&holder.group()) {
            return count;
        }
        let of_process = equal_range(self.of(holder.inode), holder.pid, |holder| holder.pid);
        let count = if self.has_threads {
            of_process.iter().filter(|other| other.tid == holder.tid).count()
        } else {
            of_process.len()
        };
        u32::try_from(count).unwrap_or(u32::MAX)
    }
}

#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "macOS uses one collector"))]
impl Holders {
    /// Removes the holders for which `is_out` returns true: it gets each holder, and all holders of its socket.
    pub(crate) fn without(self, is_out: impl Fn(&Holder, &[Holder]) -> bool) -> Holders {
        let Holders { list, mut counts, has_threads, omitted } = self;
        let alike = list.chunk_by(|a, b| a.inode == b.inode);
        let mut kept = Vec::with_capacity(list.len());
        for all in alike {
            for holder in all {
                if !is_out(holder, all) {
                    kept.push(*holder);
                } else if let Some(count) = counts.get_mut(&holder.group()) {
                    *count = count.saturating_sub(1);
                }
            }
        }
        Holders { list: kept, counts, has_threads, omitted }
    }

    /// Adds holders of other sockets.
    pub(crate) fn merge(&mut self, more: Holders) {
        if self.list.is_empty() {
            *self = more;
            return;
        }
        self.list.extend(more.list);
        self.list.sort_unstable();
        self.list.dedup();
        self.counts.extend(more.counts);
        self.has_threads |= more.has_threads;
        for (user, count) in more.omitted {
            *self.omitted.entry(user).or_default() += count;
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Holder> {
        self.list.iter()
    }

    /// The held sockets, each once.
    pub(crate) fn inodes(&self) -> impl Iterator<Item = u64> {
        let alike = self.list.chunk_by(|a, b| a.inode == b.inode);
        alike.filter_map(<[_]>::first).map(|holder| holder.inode)
    }
}

/// The items with this key; `items` are sorted by it.
pub(crate) fn equal_range<T, K: Ord>(sorted: &[T], key: K, key_of: impl Fn(&T) -> K) -> &[T] {
    let start = sorted.partition_point(|item| key_of(item) < key);
    let from_start = sorted.get(start..).unwrap_or_default();
    let length = from_start.partition_point(|item| key_of(item) == key);
    from_start.get(..length).unwrap_or_default()
}

#[cfg(test)]
mod tests;
