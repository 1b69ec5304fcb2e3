//! The part of a too long answer that each user keeps.

/// The highest common level to which users with these counts can be reduced so that the kept part stays
/// within the budget; None if everything fits.
///
/// A user keeps the items of the ranks below the level, so that a user with no more items than that
/// loses none. `cost` returns the cost of an item, by the index of the user in `counts` and the rank. It is called
/// at most once for each item, and only until the budget is exceeded.
pub fn water_level(
    counts: &[usize],
    budget: u64,
    mut cost: impl FnMut(usize, usize) -> u64,
) -> Option<usize> {
    // Those with the most items last, since they are the last to run out of them.
    let mut users: Vec<usize> = (0..counts.len()).collect();
    let count = |user: usize| counts.get(user).copied().unwrap_or_default();
    users.sort_by_key(|&user| count(user));
    let mut users = users.as_slice();
    let mut spent: u64 = 0;
    for rank in 0.. {
        let done = users.partition_point(|&user| count(user) <= rank);
        users = users.get(done..).unwrap_or_default();
        if users.is_empty() {
            break;
        }
        for &user in users {
            spent = spent.saturating_add(cost(user, rank));
            if spent > budget {
                return Some(rank);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The kept part at a level.
    fn kept(costs: &[Vec<u64>], level: usize) -> u64 {
        costs.iter().map(|costs| costs.iter().take(level).sum::<u64>()).sum()
    }

    proptest! {
        #[test]
        fn the_level_is_the_highest_that_fits(
            costs in prop::collection::vec(prop::collection::vec(0..10u64, 0..20), 0..8),
            budget in 0..500u64,
        ) {
            let counts: Vec<usize> = costs.iter().map(Vec::len).collect();
            let level = water_level(&counts, budget, |user, rank| costs[user][rank]);
            let all = counts.iter().copied().max().unwrap_or_default();
            match level {
                None => prop_assert!(kept(&costs, all) <= budget),
                Some(level) => {
                    prop_assert!(level < all);
                    prop_assert!(kept(&costs, level) <= budget);
                    prop_assert!(kept(&costs, level + 1) > budget);
                }
            }
        }

        #[test]
        fn costs_are_read_until_they_exceed_the_budget(
            counts in prop::collection::vec(0..50usize, 0..8),
            budget in 0..200u64,
        ) {
            let mut read = 0;
            water_level(&counts, budget, |_, _| { read += 1; 1 });
            prop_assert!(read <= budget + 1, "{read} > {budget} + 1");
        }
    }

    #[test]
    fn users_below_the_level_lose_nothing() {
        let counts = [3, 1_000_000, 7, 500];
        let level = water_level(&counts, 410, |_, _| 1).unwrap();
        assert_eq!(level, 200);
        assert_eq!(counts.map(|count| count.min(level)), [3, 200, 7, 200]);
    }
}
