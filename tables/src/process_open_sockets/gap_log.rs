//! Which gaps are logged: a kind that was said is only counted for a while, since a join can make a
//! query of thousands of requests.

use std::time::{Duration, Instant};

use crate::model::gap::{Gap, GapKind};

/// For how long a kind is not said again.
const PAUSE: Duration = Duration::from_secs(10);

/// What was said of each kind.
#[derive(Debug, Default)]
pub(super) struct GapLog(Vec<Said>);

#[derive(Debug)]
struct Said {
    kind: GapKind,
    at: Instant,
    /// How many were counted since.
    since: u64,
}

impl GapLog {
    /// The line that is to be logged about this gap, which was seen at that time; None if it is only
    /// counted.
    pub(super) fn line(&mut self, gap: &Gap, now: Instant) -> Option<String> {
        let said = Said { kind: gap.kind, at: now, since: 0 };
        let Some(last) = self.0.iter_mut().find(|last| last.kind == gap.kind) else {
            self.0.push(said);
            return Some(gap.to_string());
        };
        if now.saturating_duration_since(last.at) < PAUSE {
            last.since = last.since.saturating_add(gap.count);
            return None;
        }
        match std::mem::replace(last, said).since {
            0 => Some(gap.to_string()),
            more => Some(format!("{gap}; {more} more since this was said last")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_said_again_after_the_pause_with_the_count_of_those_between() {
        let start = Instant::now();
        let mut log = GapLog::default();
        let mut line = |kind, count, seconds| {
            let gap = Gap { kind, count, first: "here".to_owned() };
            let line = log.line(&gap, start + Duration::from_secs(seconds));
            line.map(|line| line.strip_prefix(&gap.to_string()).unwrap().to_owned())
        };
        assert_eq!(line(GapKind::Fds, 1, 0).as_deref(), Some(""));
        assert_eq!(line(GapKind::Fds, 2, 5), None);
        assert_eq!(line(GapKind::Line, 7, 5).as_deref(), Some(""));
        assert_eq!(line(GapKind::Fds, 3, 9), None);
        assert_eq!(line(GapKind::Fds, 1, 10).as_deref(), Some("; 5 more since this was said last"));
        assert_eq!(line(GapKind::Fds, 1, 20).as_deref(), Some(""));
    }
}
