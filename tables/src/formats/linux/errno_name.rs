//! Names of error numbers.

/// The name of an error number (`include/uapi/asm-generic/errno.h`), the same on every processor but a few old ones.
/// None if it has no name.
pub(crate) fn errno_name(number: i32) -> Option<&'static str> {
    let index = usize::try_from(number).ok()?.checked_sub(1)?;
    NAMES.get(index).copied().filter(|name| !name.is_empty())
}

/// From 1 on. 41 and 58 are other names of 11 and 35.
#[rustfmt::skip]
const NAMES: [&str; 133] = [
    "EPERM", "ENOENT", "ESRCH", "EINTR", "EIO", "ENXIO", "E2BIG", "ENOEXEC", "EBADF", "ECHILD",
    "EAGAIN", "ENOMEM", "EACCES", "EFAULT", "ENOTBLK", "EBUSY", "EEXIST", "EXDEV", "ENODEV",
    "ENOTDIR", "EISDIR", "EINVAL", "ENFILE", "EMFILE", "ENOTTY", "ETXTBSY", "EFBIG", "ENOSPC",
    "ESPIPE", "EROFS", "EMLINK", "EPIPE", "EDOM", "ERANGE", "EDEADLK", "ENAMETOOLONG", "ENOLCK",
    "ENOSYS", "ENOTEMPTY", "ELOOP", "", "ENOMSG", "EIDRM", "ECHRNG", "EL2NSYNC", "EL3HLT", "EL3RST",
    "ELNRNG", "EUNATCH", "ENOCSI", "EL2HLT", "EBADE", "EBADR", "EXFULL", "ENOANO", "EBADRQC",
    "EBADSLT", "", "EBFONT", "ENOSTR", "ENODATA", "ETIME", "ENOSR", "ENONET", "ENOPKG", "EREMOTE",
    "ENOLINK", "EADV", "ESRMNT", "ECOMM", "EPROTO", "EMULTIHOP", "EDOTDOT", "EBADMSG", "EOVERFLOW",
    "ENOTUNIQ", "EBADFD", "EREMCHG", "ELIBACC", "ELIBBAD", "ELIBSCN", "ELIBMAX", "ELIBEXEC",
    "EILSEQ", "ERESTART", "ESTRPIPE", "EUSERS", "ENOTSOCK", "EDESTADDRREQ", "EMSGSIZE",
    "EPROTOTYPE", "ENOPROTOOPT", "EPROTONOSUPPORT", "ESOCKTNOSUPPORT", "EOPNOTSUPP", "EPFNOSUPPORT",
    "EAFNOSUPPORT", "EADDRINUSE", "EADDRNOTAVAIL", "ENETDOWN", "ENETUNREACH", "ENETRESET",
    "ECONNABORTED", "ECONNRESET", "ENOBUFS", "EISCONN", "ENOTCONN", "ESHUTDOWN", "ETOOMANYREFS",
    "ETIMEDOUT", "ECONNREFUSED", "EHOSTDOWN", "EHOSTUNREACH", "EALREADY", "EINPROGRESS", "ESTALE",
    "EUCLEAN", "ENOTNAM", "ENAVAIL", "EISNAM", "EREMOTEIO", "EDQUOT", "ENOMEDIUM", "EMEDIUMTYPE",
    "ECANCELED", "ENOKEY", "EKEYEXPIRED", "EKEYREVOKED", "EKEYREJECTED", "EOWNERDEAD",
    "ENOTRECOVERABLE", "ERFKILL", "EHWPOISON",
];

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_names_are_those_of_the_system() {
        use rustix::io::Errno;
        for (errno, name) in [
            (Errno::PERM, "EPERM"),
            (Errno::AGAIN, "EAGAIN"),
            (Errno::DEADLK, "EDEADLK"),
            (Errno::ADDRNOTAVAIL, "EADDRNOTAVAIL"),
            (Errno::NETUNREACH, "ENETUNREACH"),
            (Errno::CONNABORTED, "ECONNABORTED"),
            (Errno::CONNRESET, "ECONNRESET"),
            (Errno::TIMEDOUT, "ETIMEDOUT"),
            (Errno::CONNREFUSED, "ECONNREFUSED"),
            (Errno::HOSTUNREACH, "EHOSTUNREACH"),
            (Errno::HWPOISON, "EHWPOISON"),
        ] {
            assert_eq!(errno_name(errno.raw_os_error()), Some(name));
        }
    }

    #[test]
    fn a_number_without_a_name_has_none() {
        for number in [i32::MIN, -1, 0, 41, 58, 134, i32::MAX] {
            assert_eq!(errno_name(number), None, "{number}");
        }
    }
}
