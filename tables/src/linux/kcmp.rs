//! Resources that two tasks share (kcmp(2)).

use std::cmp::Ordering;
use std::ffi::c_long;

/// Compares the file descriptor tables of two tasks, in an order of the kernel: equal if it is the same table.
/// None if they cannot be compared: a task has ended, this process lacks the right
/// (PTRACE_MODE_READ_REALCREDS), or the kernel was built without the call.
///
/// The ids are those of the calling process's PID namespace.
#[allow(unsafe_code)]
pub(crate) fn compare_descriptors(a: i32, b: i32) -> Option<Ordering> {
    /// From `include/uapi/linux/kcmp.h`.
    const KCMP_FILES: c_long = 2;
    let [a, b] = [a, b].map(c_long::from);
    // SAFETY: the call takes numbers only, and neither reads nor writes memory of this process.
    let order = unsafe { libc::syscall(libc::SYS_kcmp, a, b, KCMP_FILES, 0, 0) };
    match order {
        0 => Some(Ordering::Equal),
        1 => Some(Ordering::Less),
        2 => Some(Ordering::Greater),
        _ => None,
    }
}
