//! `/proc/<pid>/task/<tid>/schedstat` (Documentation/scheduler/sched-stats.rst).

use std::time::Duration;

/// The statistics of the scheduler about a thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SchedStat {
    /// The time in which the thread ran or waited for a processor. It slept in the rest of the time.
    pub(crate) awake: Duration,
    /// The number of times that the thread began to run.
    pub(crate) slices: u64,
}

/// None if the text has another form. All numbers are 0 if the kernel does not count.
pub(crate) fn parse(text: &[u8]) -> Option<SchedStat> {
    let mut numbers = str::from_utf8(text).ok()?.split_ascii_whitespace().map(str::parse::<u64>);
    let mut next = || numbers.next()?.ok();
    let (running, waiting, slices) = (next()?, next()?, next()?);
    Some(SchedStat { awake: Duration::from_nanos(running.saturating_add(waiting)), slices })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn running_and_waiting_are_awake() {
        // Printed by Linux 6.18.
        let stat = parse(b"2097311 71452 12\n");
        assert_eq!(stat, Some(SchedStat { awake: Duration::from_nanos(2_168_763), slices: 12 }));
        assert_eq!(parse(b"0 0 0\n"), Some(SchedStat::default()));
    }

    #[test]
    fn a_text_without_three_numbers_is_none() {
        for text in
            [&b""[..], b"1 2", b"1 2 x\n", b"-1 2 3\n", b"1 18446744073709551616 3\n", b"\xff"]
        {
            assert_eq!(parse(text), None, "{}", String::from_utf8_lossy(text));
        }
        let max = format!("{0} {0} 1", u64::MAX);
        assert_eq!(parse(max.as_bytes()).unwrap().awake, Duration::from_nanos(u64::MAX));
    }
}
