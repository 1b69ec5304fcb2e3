//! A set of file descriptors.

/// A set of file descriptors, as sorted words of 64 neighbours: a run of descriptors takes two bits for each, and a
/// descriptor without neighbours 16 bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FdSet(Vec<(i32, u64)>);

fn word_and_bit(fd: i32) -> (i32, u64) {
    (fd >> 6, 1 << (fd & 63))
}

/// From descriptors in ascending order.
impl FromIterator<i32> for FdSet {
    fn from_iter<I: IntoIterator<Item = i32>>(ascending: I) -> Self {
        let mut words: Vec<(i32, u64)> = Vec::new();
        for fd in ascending {
            let (index, bit) = word_and_bit(fd);
            match words.last_mut() {
                Some((last, bits)) if *last == index => *bits |= bit,
                _ => words.push((index, bit)),
            }
        }
        FdSet(words)
    }
}

impl FdSet {
    pub(crate) fn contains(&self, fd: i32) -> bool {
        let (index, bit) = word_and_bit(fd);
        let found = self.0.binary_search_by_key(&index, |(index, _)| *index).ok();
        found.and_then(|index| self.0.get(index)).is_some_and(|(_, bits)| bits & bit != 0)
    }

    /// The number of descriptors above this one.
    pub(crate) fn count_above(&self, fd: i32) -> usize {
        let (word, bit) = word_and_bit(fd);
        let above = self.0.iter().filter(|(index, _)| *index >= word).map(|&(index, bits)| {
            let greater = if index == word { bits & !(bit | (bit - 1)) } else { bits };
            greater.count_ones() as usize
        });
        above.sum()
    }

    /// Adds all descriptors of another set.
    pub(crate) fn extend(&mut self, more: &FdSet) {
        if more.0.is_empty() {
            return;
        }
        let mut all = Vec::with_capacity(self.0.len().max(more.0.len()));
        let (mut ours, mut theirs) = (self.0.iter().peekable(), more.0.iter().peekable());
        loop {
            let next = match (ours.peek(), theirs.peek()) {
                (Some(&&(our, a)), Some(&&(their, b))) if our == their => {
                    ours.next();
                    theirs.next();
                    Some((our, a | b))
                }
                (Some(our), Some(their)) if their.0 < our.0 => theirs.next().copied(),
                (Some(_), _) => ours.next().copied(),
                (None, _) => theirs.next().copied(),
            };
            let Some(word) = next else { break };
            all.push(word);
        }
        self.0 = all;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_set_of_descriptors_is_a_set(
            one in prop::collection::btree_set(0..400i32, 0..100),
            other in prop::collection::btree_set(0..400i32, 0..100),
            fd in 0..400i32,
        ) {
            let mut set: FdSet = one.iter().copied().collect();
            set.extend(&other.iter().copied().collect());
            let union: BTreeSet<i32> = one.union(&other).copied().collect();
            prop_assert_eq!(set.contains(fd), union.contains(&fd));
            prop_assert_eq!(set.count_above(fd), union.range(fd + 1..).count());
            prop_assert_eq!(&set, &union.into_iter().collect());
        }
    }

    #[test]
    fn a_run_of_64_descriptors_takes_one_word() {
        let set: FdSet = (100..20_000).collect();
        assert_eq!((set.count_above(99), set.0.len()), (19_900, 312));
    }
}
