//! Bytes → model, on any operating system: without I/O and unsafe code.

#[cfg_attr(
    not(target_os = "linux"),
    allow(dead_code, unused_imports, reason = "only Linux uses them")
)]
pub(crate) mod linux;
#[cfg_attr(not(target_os = "macos"), allow(dead_code, reason = "only macOS uses them"))]
pub(crate) mod macos;

/// Cuts N bytes off the front; None if there are not so many.
fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*taken)
}
