//! Bytes → model, on any operating system: no input or output, no unsafe code.

#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "only Linux has it"))]
pub(super) mod btf;
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "only Linux has it"))]
pub(super) mod mountinfo;
#[cfg_attr(not(target_os = "macos"), allow(dead_code, reason = "only macOS has these lists"))]
pub(super) mod pcblist_n;
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "only Linux has it"))]
pub(super) mod proc_link;
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "only Linux has it"))]
pub(super) mod proc_net;
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "only Linux has it"))]
pub(super) mod proc_status;
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "only Linux has it"))]
pub(super) mod proto_name;
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "only Linux has it"))]
pub(super) mod sock_diag;
#[cfg_attr(not(target_os = "macos"), allow(dead_code, reason = "only macOS answers so"))]
pub(super) mod socket_fdinfo;
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "only Linux has it"))]
pub(super) mod sockstat;
#[cfg_attr(not(target_os = "macos"), allow(dead_code, reason = "only for these two"))]
pub(super) mod xnu;
#[cfg(test)]
mod xnu_layout;
#[cfg(test)]
pub(super) mod xnu_records;

/// Cuts N bytes off the front; None if there are not so many.
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "only Linux has such forms"))]
fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*taken)
}
