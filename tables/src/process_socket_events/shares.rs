//! How many items each user has, so that a full collection evicts from the user with the most.

use std::collections::VecDeque;

use super::number_hash::NumberMap;
use crate::model::User;

/// The items of each user, oldest first.
#[derive(Debug)]
pub(super) struct Shares<K> {
    users: NumberMap<User, Share<K>>,
    /// The user with the most items, if that is known.
    heaviest: Option<User>,
    /// No other user has more items.
    others: usize,
}

#[derive(Debug)]
struct Share<K> {
    /// The number of items.
    count: usize,
    /// The items, oldest first. Items that were removed out of order are still there.
    items: VecDeque<K>,
}

impl<K> Default for Share<K> {
    fn default() -> Self {
        Share { count: 0, items: VecDeque::new() }
    }
}

impl<K> Default for Shares<K> {
    fn default() -> Self {
        Shares { users: NumberMap::default(), heaviest: None, others: 0 }
    }
}

impl<K> Shares<K> {
    /// Adds an item as the newest of the user.
    pub(super) fn add(&mut self, user: User, item: K) {
        let share = self.users.entry(user).or_default();
        share.count += 1;
        share.items.push_back(item);
        let count = share.count;
        if self.heaviest == Some(user) {
            return;
        }
        let of_heaviest = self.heaviest.map_or(0, |heaviest| self.count(heaviest));
        if self.heaviest.is_some() && count <= of_heaviest {
            self.others = self.others.max(count);
        } else if self.heaviest.is_some() {
            self.others = self.others.max(of_heaviest);
            self.heaviest = Some(user);
        }
    }

    /// The number of items of the user.
    pub(super) fn count(&self, user: User) -> usize {
        self.users.get(&user).map_or(0, |share| share.count)
    }

    /// Removes the oldest item of the user.
    pub(super) fn remove_oldest(&mut self, user: User) -> Option<K> {
        let item = self.users.get_mut(&user)?.items.pop_front();
        self.remove(user);
        item
    }

    /// Removes an item of the user that is not the oldest. `is_item` is whether the item is still one of the user.
    pub(super) fn remove_any(&mut self, user: User, is_item: impl Fn(&K) -> bool) {
        /// So many removed items may stay beside as many others.
        const SPARE: usize = 64;
        self.remove(user);
        if let Some(share) = self.users.get_mut(&user)
            && share.items.len() > 2 * share.count + SPARE
        {
            share.items.retain(is_item);
        }
    }

    /// Drops the oldest entry of the user, which was removed out of order.
    pub(super) fn drop_removed(&mut self, user: User) {
        if let Some(share) = self.users.get_mut(&user) {
            share.items.pop_front();
        }
    }

    /// The oldest item of the user.
    pub(super) fn oldest(&self, user: User) -> Option<&K> {
        self.users.get(&user)?.items.front()
    }

    /// The user with the most items.
    pub(super) fn heaviest(&mut self) -> Option<User> {
        if let Some(heaviest) = self.heaviest
            && self.count(heaviest) >= self.others
        {
            return Some(heaviest);
        }
        let (mut heaviest, mut most, mut others) = (None, 0, 0);
        for (user, share) in &self.users {
            if heaviest.is_none() || share.count > most {
                others = most;
                (heaviest, most) = (Some(*user), share.count);
            } else {
                others = others.max(share.count);
            }
        }
        (self.heaviest, self.others) = (heaviest, others);
        heaviest
    }

    fn remove(&mut self, user: User) {
        let Some(share) = self.users.get_mut(&user) else { return };
        share.count = share.count.saturating_sub(1);
        if share.count == 0 {
            self.users.remove(&user);
            if self.heaviest == Some(user) {
                self.heaviest = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn user(uid: u32) -> User {
        User::of_uid(Some(uid))
    }

    proptest! {
        #[test]
        fn the_heaviest_user_has_the_most_items(
            steps in prop::collection::vec((0..5u32, prop::bool::weighted(0.6)), 0..300),
        ) {
            let mut shares = Shares::default();
            let mut model: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
            for (number, (uid, adds)) in steps.into_iter().enumerate() {
                let items = model.entry(uid).or_default();
                if adds {
                    shares.add(user(uid), number);
                    items.push(number);
                } else if !items.is_empty() {
                    prop_assert_eq!(shares.remove_oldest(user(uid)), Some(items.remove(0)));
                }
                prop_assert_eq!(shares.count(user(uid)), items.len());
                let most = model.values().map(Vec::len).max().unwrap_or_default();
                let heaviest = shares.heaviest();
                prop_assert_eq!(heaviest.map_or(0, |user| shares.count(user)), most);
            }
        }

        #[test]
        fn removed_items_take_no_more_room_than_others(
            lives in prop::collection::vec(0..200usize, 0..1000),
        ) {
            let mut shares = Shares::default();
            let mut live = std::collections::BTreeSet::new();
            for (number, life) in lives.into_iter().enumerate() {
                shares.add(user(1), number);
                live.insert(number);
                if let Some(ended) = number.checked_sub(life)
                    && live.remove(&ended)
                {
                    shares.remove_any(user(1), |item| live.contains(item));
                }
                let share = shares.users.get(&user(1));
                let room = share.map_or(0, |share| share.items.len());
                prop_assert!(room <= 2 * live.len() + 65, "{room} for {}", live.len());
            }
        }
    }
}
