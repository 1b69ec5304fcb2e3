//! Limits the rate of a message that a client can trigger at will, and counts the suppressed ones.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Time between two lines of the same message.
const PAUSE: Duration = Duration::from_secs(10);

/// Time of the last line, and the number of messages suppressed since.
#[derive(Debug, Default)]
pub(super) struct LogRateLimit(Mutex<Option<(Instant, u64)>>);

impl LogRateLimit {
    /// Returns the line to log for a message at that time; None if the message is suppressed.
    pub(super) fn line(&self, message: &str, now: Instant) -> Option<String> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, suppressed)) = last.as_mut()
            && now.saturating_duration_since(*at) < PAUSE
        {
            *suppressed += 1;
            return None;
        }
        match last.replace((now, 0)) {
            None | Some((_, 0)) => Some(message.to_owned()),
            Some((_, suppressed)) => {
                Some(format!("{message}; similar messages suppressed: {suppressed}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_after_the_pause_counts_the_suppressed_ones() {
        let start = Instant::now();
        let limit = LogRateLimit::default();
        let line = |seconds| limit.line("full", start + Duration::from_secs(seconds));
        assert_eq!(line(0).as_deref(), Some("full"));
        assert_eq!(line(1), None);
        assert_eq!(line(9), None);
        assert_eq!(line(10).as_deref(), Some("full; similar messages suppressed: 2"));
        assert_eq!(line(20).as_deref(), Some("full"));
    }
}
