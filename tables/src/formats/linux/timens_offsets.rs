//! `/proc/<pid>/timens_offsets` (time_namespaces(7)).

/// The offset of the boot-time clock in nanoseconds.
pub(crate) fn boottime(text: &[u8]) -> Option<i64> {
    let text = str::from_utf8(text).ok()?;
    // Older kernels print the number of the clock.
    let line = text.lines().find_map(|line| {
        let line = line.trim_start();
        line.strip_prefix("boottime").or_else(|| line.strip_prefix("7 "))
    })?;
    let mut fields = line.split_whitespace();
    let seconds: i64 = fields.next()?.parse().ok()?;
    let nanoseconds: i64 = fields.next()?.parse().ok()?;
    seconds.checked_mul(1_000_000_000)?.checked_add(nanoseconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_offset_of_the_boot_time_is_in_its_line() {
        for (text, offset) in [
            // Printed by Linux 6.18. Linux 5.6 has numbers for names.
            (&b"monotonic           0         0\nboottime            0         0\n"[..], Some(0)),
            (b"monotonic 5 0\nboottime -3 500000000\n", Some(-2_500_000_000)),
            (b"1 0 0\n7 60 1\n", Some(60_000_000_001)),
            (b"monotonic 5 0\n", None),
            (b"boottime 1\n", None),
            (b"boottime 9223372036854775807 0\n", None),
            (b"", None),
        ] {
            assert_eq!(boottime(text), offset, "{}", text.escape_ascii());
        }
    }
}
