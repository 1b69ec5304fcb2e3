//! A fast hash of numbers that no user chooses.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A map with keys that are made of a few numbers of the kernel, such as socket cookies and pids. A user cannot choose
/// them freely, so the hash need not resist that.
pub(super) type NumberMap<K, V> = HashMap<K, V, BuildHasherDefault<NumberHasher>>;

/// Mixes each number by a multiplication with an odd constant (Fibonacci hashing).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct NumberHasher(u64);

impl NumberHasher {
    fn mix(&mut self, number: u64) {
        /// 2^64 divided by the golden ratio.
        const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
        self.0 = (self.0.rotate_left(29) ^ number).wrapping_mul(FACTOR);
    }
}

impl Hasher for NumberHasher {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.mix((*byte).into()));
    }

    fn write_u32(&mut self, number: u32) {
        self.mix(number.into());
    }

    fn write_u64(&mut self, number: u64) {
        self.mix(number);
    }

    fn write_i32(&mut self, number: i32) {
        self.mix(number.cast_unsigned().into());
    }

    fn write_isize(&mut self, number: isize) {
        self.mix(number.cast_unsigned() as u64);
    }

    /// The map uses the highest and the lowest bits.
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::hash::{BuildHasher, BuildHasherDefault};

    use super::*;

    #[test]
    fn numbers_in_a_row_have_different_hashes_at_both_ends() {
        let hash = BuildHasherDefault::<NumberHasher>::default();
        for step in [1u64, 2, 4_096, 1 << 32] {
            let hashes: Vec<u64> = (0..1_024).map(|n| hash.hash_one((n * step, 7i32))).collect();
            let low: HashSet<u64> = hashes.iter().map(|hash| hash % 1_024).collect();
            let high: HashSet<u64> = hashes.iter().map(|hash| hash >> 57).collect();
            assert!(low.len() > 400 && high.len() > 100, "{step}: {} {}", low.len(), high.len());
        }
    }
}
