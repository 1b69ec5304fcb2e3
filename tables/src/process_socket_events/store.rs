//! The stored events, oldest first.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::event::{EndedFlow, Event, TextBytes};
use super::number_hash::NumberMap;
use super::shares::Shares;
use crate::model::User;

/// Bounds of a store.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// The maximum number of events.
    pub(super) events: usize,
    /// The maximum age in nanoseconds.
    pub(super) age_ns: u64,
    /// The maximum number of bytes of texts, here and in caches.
    pub(super) text_bytes: usize,
}

/// The number of events that were evicted, by the reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Evicted {
    /// They were too old.
    pub(super) age: u64,
    /// The store was full, and they were the oldest.
    pub(super) number: u64,
    /// The store was full, and their user had the most.
    pub(super) user: u64,
    /// The texts used too much memory, most of it by their user.
    pub(super) memory: u64,
}

#[cfg(test)]
impl Evicted {
    pub(super) fn sum(self) -> u64 {
        self.age + self.number + self.user + self.memory
    }
}

/// The events of a block at most.
const BLOCK: usize = 256;

/// Events that follow each other.
#[derive(Debug)]
struct Block {
    events: VecDeque<Arc<Event>>,
    /// The least and the greatest time of the events. Evictions do not change it.
    times: (i64, i64),
    /// The greatest id of the events. Evictions do not change it.
    last_id: u64,
}

/// The events, by number, age and memory bounded.
#[derive(Debug)]
pub(super) struct Store {
    limits: Limits,
    /// Sorted by the ids of events. No block is empty.
    blocks: VecDeque<Block>,
    count: usize,
    /// The ids of the events of each user.
    shares: Shares<u64>,
    texts: TextBytes,
    last_id: u64,
    added: u64,
    evicted: Evicted,
    /// How many events of a user were evicted while others kept older ones; the users with the first such.
    evicted_of: NumberMap<User, u64>,
}

/// The most memory of a stored event without its texts.
pub(super) const EVENT_BYTES: usize =
    size_of::<Event>() + size_of::<EndedFlow>() + 2 * size_of::<usize>() * 4;

impl Store {
    /// `first_id` is the id of the first event.
    pub(super) fn new(limits: Limits, first_id: u64, texts: TextBytes) -> Store {
        Store {
            limits,
            blocks: VecDeque::new(),
            count: 0,
            shares: Shares::default(),
            texts,
            last_id: first_id.saturating_sub(1),
            added: 0,
            evicted: Evicted::default(),
            evicted_of: NumberMap::default(),
        }
    }

    /// Adds an event at that UNIX time, and evicts another one if the store is full.
    pub(super) fn add(&mut self, mut event: Event, time: i64) {
        self.last_id += 1;
        self.added += 1;
        (event.id, event.time) = (self.last_id, time);
        self.shares.add(event.user(), event.id);
        self.count += 1;
        let event = Arc::new(event);
        match self.blocks.back_mut().filter(|block| block.events.len() < BLOCK) {
            Some(block) => {
                block.times = (block.times.0.min(time), block.times.1.max(time));
                block.last_id = self.last_id;
                block.events.push_back(event);
            }
            None => {
                let mut events = VecDeque::with_capacity(BLOCK);
                events.push_back(event);
                let (times, last_id) = ((time, time), self.last_id);
                self.blocks.push_back(Block { events, times, last_id });
            }
        }
        if self.count > self.limits.events {
            self.evict_by_number();
        }
    }

    /// Evicts the oldest event of the user with the most events.
    fn evict_by_number(&mut self) {
        let Some(user) = self.shares.heaviest() else { return };
        let oldest = self.oldest().map(|event| event.id);
        let Some(id) = self.shares.remove_oldest(user) else { return };
        if oldest == Some(id) {
            self.evicted.number += 1;
        } else {
            self.evicted.user += 1;
            self.count_evicted_of(user);
        }
        self.take(id);
    }

    fn count_evicted_of(&mut self, user: User) {
        /// The users that are counted apart; the rest counts as one.
        const USERS: usize = 64;
        let is_known = self.evicted_of.contains_key(&user) || self.evicted_of.len() < USERS;
        let user = if is_known { user } else { User::of_uid(None) };
        *self.evicted_of.entry(user).or_default() += 1;
    }

    /// Evicts the events that are too old at that boot time.
    pub(super) fn expire(&mut self, now_ns: u64) {
        let Some(before) = now_ns.checked_sub(self.limits.age_ns) else { return };
        while let Some(event) = self.oldest()
            && event.boot_ns < before
        {
            let (id, user) = (event.id, event.user());
            // The oldest of all is the oldest of its user.
            self.shares.remove_oldest(user);
            self.take(id);
            self.evicted.age += 1;
        }
    }

    /// Whether texts use more memory than they may.
    pub(super) fn has_too_many_texts(&self) -> bool {
        self.texts.load(Ordering::Relaxed) > self.limits.text_bytes
    }

    /// Evicts events of the user with the most bytes of texts while there are too many.
    pub(super) fn shrink(&mut self) {
        // To find the user takes time, so more is evicted than necessary.
        let target = self.limits.text_bytes / 8 * 7;
        while self.has_too_many_texts() && self.count > 0 {
            let Some(user) = self.most_texts() else { return };
            while self.texts.load(Ordering::Relaxed) > target
                && let Some(id) = self.shares.remove_oldest(user)
            {
                self.take(id);
                self.evicted.memory += 1;
            }
        }
    }

    /// The user whose events alone have the most bytes of texts. Several events share a text.
    fn most_texts(&self) -> Option<User> {
        let mut seen = HashSet::new();
        let mut bytes: HashMap<User, usize> = HashMap::new();
        for event in self.blocks.iter().flat_map(|block| &block.events) {
            let of_user = bytes.entry(event.user()).or_default();
            let ended = event.ended.as_ref();
            let [opener, closer] = [ended.map(|it| &it.opener), ended.map(|it| &it.closer)];
            let processes = [Some(&event.process), opener, closer].into_iter().flatten().flatten();
            for process in processes {
                if seen.insert(Arc::as_ptr(&process.image)) {
                    *of_user += process.image.bytes();
                }
            }
        }
        bytes.into_iter().max_by_key(|(_, bytes)| *bytes).map(|(user, _)| user)
    }

    /// Removes the event with this id from its block.
    fn take(&mut self, id: u64) {
        let index = self.block_of(id);
        let Some(block) = self.blocks.get_mut(index) else { return };
        // Usually the oldest one: a search reads further events, which are in no cache.
        if block.events.front().is_some_and(|event| event.id == id) {
            block.events.pop_front();
        } else {
            let found = block.events.binary_search_by_key(&id, |event| event.id);
            let Ok(index) = found else { return };
            block.events.remove(index);
        }
        self.count -= 1;
        if block.events.is_empty() {
            self.blocks.remove(index);
        } else if block.events.len() <= BLOCK / 4 {
            self.merge(index);
            if let Some(previous) = index.checked_sub(1) {
                self.merge(previous);
            }
        }
    }

    /// The index of the block that has the event with this id, usually one of the first.
    fn block_of(&self, id: u64) -> usize {
        let first = self.blocks.iter().take(4).position(|block| id <= block.last_id);
        first.unwrap_or_else(|| self.blocks.partition_point(|block| block.last_id < id))
    }

    /// Moves the events of the next block to this one if they are few.
    fn merge(&mut self, index: usize) {
        let length = |index: usize| self.blocks.get(index).map(|block: &Block| block.events.len());
        let (Some(first), Some(second)) = (length(index), length(index + 1)) else { return };
        if first + second > BLOCK / 2 {
            return;
        }
        let Some(next) = self.blocks.remove(index + 1) else { return };
        let Some(block) = self.blocks.get_mut(index) else { return };
        block.events.extend(next.events);
        block.times = (block.times.0.min(next.times.0), block.times.1.max(next.times.1));
        block.last_id = next.last_id;
    }

    /// Removes all events, and counts none of them as evicted.
    pub(super) fn clear(&mut self) {
        self.blocks = VecDeque::new();
        self.shares = Shares::default();
        self.count = 0;
    }

    /// The events whose time is in this range and that match, oldest first.
    pub(super) fn select(
        &self,
        (from, to): (i64, i64),
        matches: impl Fn(&Event) -> bool,
    ) -> Vec<Arc<Event>> {
        let in_range = |time: i64| (from..=to).contains(&time);
        let mut selected = Vec::new();
        for block in self.blocks.iter().filter(|it| it.times.0 <= to && it.times.1 >= from) {
            let events = block.events.iter();
            selected.extend(events.filter(|it| in_range(it.time) && matches(it)).map(Arc::clone));
        }
        selected
    }

    /// The events with a greater id, oldest first.
    pub(super) fn after(&self, id: u64) -> Vec<Arc<Event>> {
        let blocks = self.blocks.range(self.blocks.partition_point(|block| block.last_id <= id)..);
        blocks.flat_map(|block| &block.events).filter(|event| event.id > id).cloned().collect()
    }

    pub(super) fn oldest(&self) -> Option<&Event> {
        self.blocks.front()?.events.front().map(|event| &**event)
    }

    pub(super) fn newest(&self) -> Option<&Event> {
        self.blocks.back()?.events.back().map(|event| &**event)
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// The id of the last event that was added.
    pub(super) fn last_id(&self) -> u64 {
        self.last_id
    }

    /// The number of events that were ever added.
    pub(super) fn added(&self) -> u64 {
        self.added
    }

    pub(super) fn evicted(&self) -> Evicted {
        self.evicted
    }

    /// How many events of each user were evicted while other users kept older ones.
    pub(super) fn evicted_of(&self) -> Vec<(User, u64)> {
        let mut users: Vec<(User, u64)> =
            self.evicted_of.iter().map(|(user, count)| (*user, *count)).collect();
        users.sort_unstable();
        users
    }

    /// The memory of the events and their texts, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.count * EVENT_BYTES + self.texts.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests;
