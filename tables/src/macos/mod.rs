//! Asks macOS, for any table.
//!
//! [`calls::Calls`] is the seam: below it are the system calls, in `ffi` and nowhere else, above it is nothing
//! that would not run on another system.

pub(crate) mod calls;
#[cfg(target_os = "macos")]
pub(crate) mod ffi;
pub(crate) mod libproc;
pub(crate) mod sysctl;
