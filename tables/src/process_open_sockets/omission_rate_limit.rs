//! Limits the log of omissions. A logged kind is only counted for some seconds, since osquery can turn a
//! join into thousands of requests.

use std::time::{Duration, Instant};

use crate::model::omission::{Omission, OmissionKind};

/// The minimum time between two messages of a kind.
const PAUSE: Duration = Duration::from_secs(10);

/// The last message of each kind.
#[derive(Debug, Default)]
pub(super) struct OmissionRateLimit(Vec<LastReport>);

#[derive(Debug)]
struct LastReport {
    kind: OmissionKind,
    at: Instant,
    /// The number of omissions since then.
    suppressed: u64,
}

impl OmissionRateLimit {
    /// The message to log for an omission at the time `now`; None if the omission is only counted.
    pub(super) fn line(&mut self, omission: &Omission, now: Instant) -> Option<String> {
        let report = LastReport { kind: omission.kind, at: now, suppressed: 0 };
        let Some(last) = self.0.iter_mut().find(|last| last.kind == omission.kind) else {
            self.0.push(report);
            return Some(omission.to_string());
        };
        if now.saturating_duration_since(last.at) < PAUSE {
            last.suppressed = last.suppressed.saturating_add(omission.count);
            return None;
        }
        match std::mem::replace(last, report).suppressed {
            0 => Some(omission.to_string()),
            count => Some(format!("{omission}; suppressed since the last message: {count}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_logged_again_after_the_pause_with_the_count() {
        let start = Instant::now();
        let mut log = OmissionRateLimit::default();
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
            Some("; suppressed since the last message: 5")
        );
        assert_eq!(line(OmissionKind::Fds, 1, 20).as_deref(), Some(""));
    }
}
