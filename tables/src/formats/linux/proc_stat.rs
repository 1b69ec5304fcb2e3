//! `/proc/stat` (proc_stat(5)).

/// When the host started, in seconds since 1970: the value of `btime`.
pub(crate) fn boot_time(text: &[u8]) -> Option<i64> {
    let mut lines = text.split(|&byte| byte == b'\n');
    let value = lines.find_map(|line| line.strip_prefix(b"btime "))?;
    str::from_utf8(value.trim_ascii()).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boot_time_is_the_number_after_btime() {
        // Printed by Linux 6.18.
        let text = b"cpu  1 2 3\nintr 7 0\nctxt 99\nbtime 1790000000\nprocesses 812\n";
        assert_eq!(boot_time(text), Some(1_790_000_000));
        for text in [&b""[..], b"cpu 1\n", b"btime \n", b"btime x\n"] {
            assert_eq!(boot_time(text), None);
        }
    }
}
