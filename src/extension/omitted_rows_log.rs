//! Warnings about rows that were left out of answers: for each user one in a while, since a flood of one user
//! affects every query.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tables::User;

/// For how long no other warning about the same user is logged.
const PAUSE: Duration = Duration::from_secs(10);
/// Warnings about more users at a time are not logged.
const MAX_USERS: usize = 256;

/// When a warning about each user was logged.
#[derive(Debug, Default)]
pub(super) struct OmittedRowsLog(Mutex<HashMap<User, Instant>>);

impl OmittedRowsLog {
    /// The warnings that are due at that time.
    pub(super) fn lines(&self, omitted: &[(User, u64)], now: Instant) -> Vec<String> {
        if omitted.is_empty() {
            return Vec::new();
        }
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.retain(|_, at| now.saturating_duration_since(*at) < PAUSE);
        let mut lines = Vec::new();
        for (user, rows) in omitted {
            if last.contains_key(user) || last.len() >= MAX_USERS {
                continue;
            }
            last.insert(*user, now);
            lines.push(format!(
                "answer too long for osquery: {rows} rows of {user} are left out; column rows_omitted \
                 counts them; select fewer columns, add a constraint, or find out why this user has so \
                 many sockets"
            ));
        }
        lines
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn each_user_is_warned_about_once_in_a_while() {
        let start = Instant::now();
        let log = OmittedRowsLog::default();
        let of = |uid, rows| (User::of_uid(Some(uid)), rows);
        let count = |omitted: &[(User, u64)], seconds| {
            log.lines(omitted, start + Duration::from_secs(seconds)).len()
        };
        assert_eq!(count(&[of(1000, 7)], 0), 1);
        assert_eq!(count(&[of(1000, 8), of(1001, 1)], 9), 1);
        assert_eq!(count(&[of(1000, 9), of(1001, 1)], 10), 1);
        assert_eq!(count(&[], 11), 0);
        let line = log.lines(&[of(7, 12)], start).remove(0);
        assert!(line.contains("12 rows of uid 7 are left out"), "{line}");
    }

    #[test]
    fn many_users_take_no_more_memory() {
        let start = Instant::now();
        let log = OmittedRowsLog::default();
        let of = |uid| (User::of_uid(Some(uid)), 1);
        let many: Vec<(User, u64)> = (0..10_000).map(of).collect();
        assert_eq!(log.lines(&many, start).len(), MAX_USERS);
        assert_eq!(log.0.lock().unwrap().len(), MAX_USERS);
    }
}
