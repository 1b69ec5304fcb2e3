//! Texts of the symbolic links `/proc/<pid>/fd/N` and `/proc/<pid>/ns/net` (proc(5)).

use crate::model::NetNamespace;

/// The inode in `socket:[inode]`; None if the descriptor is no socket.
pub(crate) fn socket_inode(link: &[u8]) -> Option<u64> {
    bracketed_number(link, b"socket:[")
}

/// The number in `net:[number]`.
pub(crate) fn net_namespace(link: &[u8]) -> Option<NetNamespace> {
    bracketed_number(link, b"net:[").map(NetNamespace)
}

/// The number in `mnt:[number]`.
pub(crate) fn mount_namespace(link: &[u8]) -> Option<u64> {
    bracketed_number(link, b"mnt:[")
}

/// The number in `pid:[number]`.
pub(crate) fn pid_namespace(link: &[u8]) -> Option<u64> {
    bracketed_number(link, b"pid:[")
}

/// A file name that is a pid or a descriptor: decimal digits and nothing else.
pub(crate) fn number(name: &[u8]) -> Option<i32> {
    decimal(name)?.try_into().ok()
}

fn bracketed_number(link: &[u8], prefix: &[u8]) -> Option<u64> {
    decimal(link.strip_prefix(prefix)?.strip_suffix(b"]")?)
}

fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |number, &byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_link_gives_its_inode() {
        assert_eq!(socket_inode(b"socket:[1578]"), Some(1578));
        assert_eq!(socket_inode(b"socket:[18446744073709551615]"), Some(u64::MAX));
    }

    #[test]
    fn a_text_that_only_resembles_a_socket_link_is_none() {
        for link in [
            &b"socket:[]"[..],
            b"socket:[12",
            b"socket:[-1]",
            b"socket:[+1]",
            b"socket:[1 ]",
            b"socket:[18446744073709551616]",
            b"pipe:[12]",
            b"/tmp/socket:[12]",
            b"",
        ] {
            assert_eq!(socket_inode(link), None, "{}", String::from_utf8_lossy(link));
        }
    }

    #[test]
    fn a_namespace_link_gives_its_number() {
        assert_eq!(net_namespace(b"net:[4026531840]"), Some(NetNamespace(4026531840)));
        assert_eq!(net_namespace(b"mnt:[4026531840]"), None);
    }

    #[test]
    fn only_plain_numbers_are_pids_and_descriptors() {
        assert_eq!(number(b"0"), Some(0));
        assert_eq!(number(b"2147483647"), Some(i32::MAX));
        for name in [&b"2147483648"[..], b"self", b"-1", b".", b"..", b"1a", b""] {
            assert_eq!(number(name), None, "{}", String::from_utf8_lossy(name));
        }
    }
}
