//! What two tasks share (kcmp(2)).

use std::ffi::c_long;

/// Whether these two tasks have one table of descriptors. False if that cannot be told: one has ended, we
/// have no right to know (PTRACE_MODE_READ_REALCREDS), or the kernel was built without the call.
///
/// The ids are those of the calling process's PID namespace.
#[allow(unsafe_code)]
pub(super) fn share_descriptors(a: i32, b: i32) -> bool {
    /// From `include/uapi/linux/kcmp.h`.
    const KCMP_FILES: c_long = 2;
    let [a, b] = [a, b].map(c_long::from);
    // SAFETY: the call takes numbers alone, and neither reads nor writes memory of ours.
    let order = unsafe { libc::syscall(libc::SYS_kcmp, a, b, KCMP_FILES, 0, 0) };
    order == 0
}
