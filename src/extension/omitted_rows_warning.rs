//! Warnings about rows omitted from answers. Their rate is limited per user: one user's sockets can affect
//! every query.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tables::User;

/// Time between two warnings about the same user.
const PAUSE: Duration = Duration::from_secs(10);
/// Most users to remember; warnings about others are not logged.
const MAX_USERS: usize = 256;

/// Time of the last warning about each user.
#[derive(Debug, Default)]
pub(super) struct OmittedRowsWarning(Mutex<HashMap<User, Instant>>);

impl OmittedRowsWarning {
    /// Returns the warnings to log at that time.
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
                 counts them; select fewer columns, add a constraint, or check why this user has so \
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
    fn warnings_about_a_user_are_one_pause_apart() {
        let start = Instant::now();
        let log = OmittedRowsWarning::default();
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
    fn memory_is_bounded_with_many_users() {
        let start = Instant::now();
        let log = OmittedRowsWarning::default();
        let of = |uid| (User::of_uid(Some(uid)), 1);
        let many: Vec<(User, u64)> = (0..10_000).map(of).collect();
        assert_eq!(log.lines(&many, start).len(), MAX_USERS);
        assert_eq!(log.0.lock().unwrap().len(), MAX_USERS);
    }
}
