//! Formats of macOS: sysctl and libproc.

pub(crate) mod pcblist_n;
pub(crate) mod proc_bsdinfo;
pub(crate) mod procargs2;
pub(crate) mod socket_fdinfo;
pub(crate) mod xnu;
#[cfg(test)]
mod xnu_layout;
#[cfg(test)]
pub(crate) mod xnu_records;
