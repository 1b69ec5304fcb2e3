//! `/proc/<pid>/status` (proc_pid_status(5)).

use super::proc_link::number;

/// The process that a thread belongs to: the value of `Tgid:`.
pub(crate) fn thread_group(status: &[u8]) -> Option<i32> {
    let mut lines = status.split(|&byte| byte == b'\n');
    number(lines.find_map(|line| line.strip_prefix(b"Tgid:"))?.trim_ascii())
}

/// Whether it runs or waits for a processor: `State:` is R.
pub(crate) fn is_running(status: &[u8]) -> bool {
    let mut lines = status.split(|&byte| byte == b'\n');
    let state = lines.find_map(|line| line.strip_prefix(b"State:"));
    state.is_some_and(|state| state.trim_ascii_start().starts_with(b"R"))
}

/// The real uid of a process: the first number of `Uid:`.
pub(crate) fn real_uid(status: &[u8]) -> Option<u32> {
    uids(status)?.next()?
}

/// The real and the effective uid of a process: the first two numbers of `Uid:`.
pub(crate) fn real_and_effective_uid(status: &[u8]) -> Option<(u32, u32)> {
    let mut uids = uids(status)?;
    Some((uids.next()??, uids.next()??))
}

fn uids(status: &[u8]) -> Option<impl Iterator<Item = Option<u32>>> {
    let mut lines = status.split(|&byte| byte == b'\n');
    let uids = lines.find_map(|line| line.strip_prefix(b"Uid:"))?;
    let fields = uids.split(u8::is_ascii_whitespace).filter(|field| !field.is_empty());
    Some(fields.map(|field| str::from_utf8(field).ok()?.parse().ok()))
}

/// The name of a process: the value of `Name:`. The kernel prints a newline in it as `\n`, and a backslash as `\\`.
pub(crate) fn name(status: &[u8]) -> Option<&[u8]> {
    let (line, _) = status.split_at(status.iter().position(|&byte| byte == b'\n')?);
    line.strip_prefix(b"Name:\t")
}

#[cfg(test)]
mod tests {
    use super::*;

    // Printed by Linux 6.18.
    const STATUS: &[u8] = b"Name:\tcat\nUmask:\t0022\nState:\tR (running)\nTgid:\t7340\nNgid:\t0\n";

    #[test]
    fn the_thread_group_is_the_number_after_tgid() {
        assert_eq!(thread_group(STATUS), Some(7340));
    }

    #[test]
    fn only_the_state_r_is_running() {
        assert!(is_running(STATUS));
        for state in ["S (sleeping)", "D (disk sleep)", "Z (zombie)"] {
            assert!(!is_running(format!("Name:\tR\nState:\t{state}\n").as_bytes()), "{state}");
        }
        assert!(!is_running(b"Name:\tR\n"));
    }

    #[test]
    fn a_name_that_imitates_the_line_is_ignored() {
        // The kernel prints a newline in a name as \n.
        assert_eq!(thread_group(b"Name:\tTgid:\\t1\nTgid:\t2\n"), Some(2));
    }

    #[test]
    fn the_real_uid_is_the_first_of_four() {
        // Printed by Linux 6.18 of a set-user-ID program.
        assert_eq!(real_uid(b"PPid:\t7\nUid:\t65534\t0\t0\t0\nGid:\t1\n"), Some(65534));
        assert_eq!(real_uid(b"Uid:\t4294967295\t0\n"), Some(u32::MAX));
        for status in [&b"Uid:\t\n"[..], b"Uid:", b"Uid:\t4294967296\t0\n", b"Uid:\t-1\t0\n"] {
            assert_eq!(real_uid(status), None, "{}", String::from_utf8_lossy(status));
        }
    }

    #[test]
    fn the_effective_uid_is_the_second_of_four() {
        let status = b"PPid:\t7\nUid:\t65534\t0\t0\t0\nGid:\t1\n";
        assert_eq!(real_and_effective_uid(status), Some((65534, 0)));
        for status in [&b"Uid:\t\n"[..], b"Uid:\t1\n", b"Uid:\t1\tx\n", b"Uid:\t-1\t0\n"] {
            assert_eq!(real_and_effective_uid(status), None);
        }
    }

    #[test]
    fn a_name_is_as_the_kernel_prints_it() {
        for (status, expected) in [
            (STATUS, Some(&b"cat"[..])),
            (b"Name:\t a b \n", Some(b" a b ")),
            (b"Name:\ta\\nUid:\t0\n", Some(b"a\\nUid:\t0")),
            (b"Name:\t\n", Some(b"")),
            (b"Name:\tcut", None),
            (b"Umask:\t0\nName:\tx\n", None),
        ] {
            assert_eq!(name(status), expected, "{}", status.escape_ascii());
        }
    }

    #[test]
    fn a_line_truncated_before_the_number_has_none() {
        for status in [&b""[..], b"Name:\tcat\n", b"Tgid:", b"Tgid:\tx\n"] {
            assert_eq!(thread_group(status), None);
        }
    }
}
