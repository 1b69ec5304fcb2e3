//! The interfaces of macOS, for any table.
//!
//! [`calls::Calls`] separates the system calls, which only `ffi` makes, from the code above, whose tests run on
//! any system.

pub(crate) mod calls;
#[cfg(target_os = "macos")]
pub(crate) mod ffi;
pub(crate) mod libproc;
pub(crate) mod processes;
pub(crate) mod sysctl;
