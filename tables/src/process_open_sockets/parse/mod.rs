//! Bytes → model, on any operating system: no input or output, no unsafe code.

pub(super) mod btf;
pub(super) mod mountinfo;
pub(super) mod proc_link;
pub(super) mod proc_net;
pub(super) mod proc_status;
pub(super) mod proto_name;
pub(super) mod sock_diag;
pub(super) mod sockstat;
