//! `/proc/<pid>/stat` (proc_pid_stat(5)).

use super::proc_link::number;

/// The fields that this crate reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    /// A letter: `Z` for a zombie. Newer kernels have more letters.
    pub(crate) state: u8,
    pub(crate) parent: i32,
    /// The number of threads that have not ended.
    pub(crate) threads: i32,
    /// When the process started, in clock ticks since boot. execve(2) does not change it.
    pub(crate) start_ticks: u64,
}

impl Stat {
    /// None if the text is incomplete or has another form.
    pub(crate) fn parse(text: &[u8]) -> Option<Stat> {
        // The name is whatever the process chose, with parentheses and blanks. Only fields without parentheses follow.
        let end_of_name = text.iter().rposition(|&byte| byte == b')')?;
        let mut fields = text.get(end_of_name + 1..)?.trim_ascii().split(|&byte| byte == b' ');
        // Their numbers in proc_pid_stat(5): 3, 4, 20 and 22.
        let &[state] = fields.next()? else { return None };
        let parent = number(fields.next()?)?;
        let threads = number(fields.nth(15)?)?;
        let start_ticks = str::from_utf8(fields.nth(1)?).ok()?.parse().ok()?;
        // The number is complete only if another field follows.
        fields.next()?;
        Some(Stat { state, parent, threads, start_ticks })
    }

    /// Whether the first thread has ended and others have not: what belongs to the memory of the process is shown by
    /// these only.
    pub(crate) fn has_ended_leader(&self) -> bool {
        matches!(self.state, b'Z' | b'X') && self.threads > 1
    }
}

/// The clock ticks of a time in nanoseconds, as the kernel rounds them (`nsec_to_clock_t`).
pub(crate) fn ticks_of(nanoseconds: u64, ticks_per_second: u64) -> u64 {
    nanoseconds / (1_000_000_000 / ticks_per_second.max(1)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    // Printed by Linux 6.18.
    const REST: &[u8] = b" S 1 812 812 0 -1 4194560 1201 0 0 0 3 1 0 0 20 0 4 0 93021 5873664 820 18446744073709551615 \
        1 1 0 0 0 0 0 16781312 134366722 1 0 0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 0\n";

    fn stat(name: &[u8]) -> Vec<u8> {
        [b"812 (", name, b")", REST].concat()
    }

    #[test]
    fn a_name_with_parentheses_and_blanks_is_skipped() {
        let expected = Stat { state: b'S', parent: 1, threads: 4, start_ticks: 93021 };
        for name in [&b"sh"[..], b"a b", b") Z 7 (", b"a) R 2 3", b"x\ny", b"\xff)", b""] {
            assert_eq!(Stat::parse(&stat(name)), Some(expected), "{}", name.escape_ascii());
        }
    }

    #[test]
    fn an_incomplete_text_has_no_fields() {
        let text = stat(b"a");
        let name = text.len() - REST.len();
        let start = text.windows(5).position(|digits| digits == b"93021").unwrap();
        for length in [0, 5, name, name + 2, start, start + 1, start + 5] {
            assert_eq!(Stat::parse(&text[..length]), None, "{length}");
        }
        assert_eq!(Stat::parse(b"1 (a) SS 1"), None);
        assert_eq!(Stat::parse(b"1 (a) S x 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 1 0 7 0"), None);
    }

    #[test]
    fn only_a_zombie_with_threads_has_an_ended_leader() {
        let stat = |state, threads| Stat { state, parent: 1, threads, start_ticks: 0 };
        assert!(stat(b'Z', 2).has_ended_leader());
        assert!(!stat(b'Z', 1).has_ended_leader());
        assert!(!stat(b'S', 2).has_ended_leader());
    }

    #[test]
    fn ticks_are_rounded_as_the_kernel_does() {
        assert_eq!(ticks_of(930_219_999_999, 100), 93_021);
        assert_eq!(ticks_of(930_220_000_000, 100), 93_022);
        assert_eq!(ticks_of(5, 0), 0);
    }
}
