//! Which omissions are logged: a kind that was said is only counted for a while, since a join can make a
//! query of thousands of requests.

use std::time::{Duration, Instant};

use crate::model::omission::{Omission, OmissionKind};

/// For how long a kind is not said again.
const PAUSE: Duration = Duration::from_secs(10);

/// What was said of each kind.
#[derive(Debug, Default)]
pub(super) struct OmissionLog(Vec<Said>);

#[derive(Debug)]
struct Said {
    kind: OmissionKind,
    at: Instant,
    /// How many were counted since.
    since: u64,
}

impl OmissionLog {
    /// The line that is to be logged about this omission, which was seen at that time; None if it is only
    /// counted.
    pub(super) fn line(&mut self, omission: &Omission, now: Instant) -> Option<String> {
        let said = Said { kind: omission.kind, at: now, since: 0 };
        let Some(last) = self.0.iter_mut().find(|last| last.kind == omission.kind) else {
            self.0.push(said);
            return Some(omission.to_string());
        };
        if now.saturating_duration_since(last.at) < PAUSE {
            last.since = last.since.saturating_add(omission.count);
            return None;
        }
        match std::mem::replace(last, said).since {
            0 => Some(omission.to_string()),
            more => Some(format!("{omission}; {more} more since this was said last")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_logged_again_after_the_pause_with_its_count() {
        let start = Instant::now();
        let mut log = OmissionLog::default();
        let mut line = |kind, count, seconds| {
            let omission = Omission { kind, count, first: "here".to_owned() };
            let line = log.line(&omission, start + Duration::from_secs(seconds));
            line.map(|line| line.strip_prefix(&omission.to_string()).unwrap().to_owned())
        };
        assert_eq!(line(OmissionKind::Fds, 1, 0).as_deref(), Some(""));
        assert_eq!(line(OmissionKind::Fds, 2, 5), None);
        assert_eq!(line(OmissionKind::Line, 7, 5).as_deref(), Some(""));
        assert_eq!(line(OmissionKind::Fds, 3, 9), None);
        assert_eq!(
            line(OmissionKind::Fds, 1, 10).as_deref(),
            Some("; 5 more since this was said last")
        );
        assert_eq!(line(OmissionKind::Fds, 1, 20).as_deref(), Some(""));
    }
}
