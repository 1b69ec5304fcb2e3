//! Formats of Linux: /proc, netlink, BTF, and the records of the BPF program.

pub(crate) mod bpf_record;
pub(crate) mod btf;
#[cfg(test)]
pub(crate) mod btf_builder;
pub(crate) mod container_cgroup;
pub(crate) mod device;
pub(crate) mod errno_name;
pub(crate) mod event_record;
pub(crate) mod mountinfo;
pub(crate) mod proc_cgroup;
pub(crate) mod proc_link;
pub(crate) mod proc_net;
pub(crate) mod proc_pid_stat;
pub(crate) mod proc_stat;
pub(crate) mod proc_status;
pub(crate) mod proto_name;
pub(crate) mod record_layout;
pub(crate) mod schedstat;
pub(crate) mod sock_diag;
pub(crate) mod sockstat;
pub(crate) mod tcp_info;
pub(crate) mod timens_offsets;
