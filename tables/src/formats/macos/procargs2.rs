//! The value of the sysctl KERN_PROCARGS2 (`sysctl_procargsx` in `bsd/kern/kern_sysctl.c` of XNU): the number of
//! arguments, the path of the executable, NULs, the arguments, and the environment. The process can change all but the
//! number.

/// The arguments, each with a NUL at its end; None if the value has another form.
pub(crate) fn arguments(value: &[u8]) -> Option<&[u8]> {
    let (count, rest) = value.split_first_chunk()?;
    let count = usize::try_from(i32::from_ne_bytes(*count)).ok()?;
    let path = rest.iter().position(|&byte| byte == 0)?;
    let rest = rest.get(path..)?;
    // The kernel aligns the arguments. So empty first arguments cannot be distinguished from its NULs.
    let start = rest.iter().position(|&byte| byte != 0).unwrap_or(rest.len());
    let rest = rest.get(start..)?;
    let end = match count.checked_sub(1) {
        None => 0,
        Some(last) => {
            let mut ends = rest.iter().enumerate().filter(|(_, byte)| **byte == 0);
            ends.nth(last).map_or(rest.len(), |(end, _)| end + 1)
        }
    };
    rest.get(..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(count: i32, rest: &[u8]) -> Vec<u8> {
        [&count.to_ne_bytes(), rest].concat()
    }

    #[test]
    fn the_arguments_end_before_the_environment() {
        let rest = b"/bin/sh\0\0\0\0\0sh\0-c\0\0a b\0HOME=/\0";
        assert_eq!(arguments(&value(4, rest)), Some(&b"sh\0-c\0\0a b\0"[..]));
        assert_eq!(arguments(&value(1, rest)), Some(&b"sh\0"[..]));
        assert_eq!(arguments(&value(0, rest)), Some(&b""[..]));
    }

    #[test]
    fn a_value_with_fewer_arguments_ends_with_the_last() {
        assert_eq!(arguments(&value(9, b"/a\0a\0b\0")), Some(&b"a\0b\0"[..]));
        assert_eq!(arguments(&value(2, b"/a\0a\0cut")), Some(&b"a\0cut"[..]));
        assert_eq!(arguments(&value(i32::MAX, b"/a\0\0\0")), Some(&b""[..]));
    }

    #[test]
    fn another_form_has_no_arguments() {
        for other in [&b""[..], b"\x01\0\0", &value(-1, b"/a\0a\0"), &value(1, b"/a")] {
            assert_eq!(arguments(other), None, "{}", other.escape_ascii());
        }
    }
}
