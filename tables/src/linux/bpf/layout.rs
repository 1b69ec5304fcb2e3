//! Where this kernel keeps what the program reads.

use crate::formats::linux::btf::{Btf, BtfError};

/// Offsets of members, each from the beginning of the structure that its name begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// The number of the function that the program takes the place of.
    pub(super) function: u32,
    /// Whether it goes rightly through the threads of one process. Before Linux 6.7 it passes over some that
    /// have a table of their own, and over the second where the first has ended.
    pub(super) tells_threads: bool,
    pub(super) context_meta: i16,
    pub(super) context_task: i16,
    pub(super) context_fd: i16,
    pub(super) context_file: i16,
    pub(super) meta_seq: i16,
    pub(super) task_tgid: i16,
    pub(super) task_pid: i16,
    pub(super) task_files: i16,
    pub(super) task_group_leader: i16,
    pub(super) task_thread_pid: i16,
    /// In how deep a PID namespace it is; the first has level 0.
    pub(super) pid_level: i16,
    /// Its pids in all namespaces from the first one on, and how far they are apart.
    pub(super) pid_numbers: i16,
    pub(super) upid_size: i16,
    pub(super) file_inode: i16,
    pub(super) inode_number: i16,
    pub(super) socket_sk: i16,
    /// From a socket to the number of its inode.
    pub(super) socket_inode_number: i16,
    pub(super) net_inum: i16,
    pub(super) sock_family: i16,
    pub(super) sock_state: i16,
    pub(super) sock_num: i16,
    pub(super) sock_dport: i16,
    pub(super) sock_rcv_saddr: i16,
    pub(super) sock_daddr: i16,
    /// Local and remote; None if the kernel has no IPv6.
    pub(super) sock_v6: Option<(i16, i16)>,
    pub(super) sock_net: i16,
    pub(super) sock_bound_dev_if: i16,
    pub(super) sock_node_pprev: i16,
    pub(super) sock_type: i16,
    pub(super) sock_protocol: i16,
    pub(super) sock_uid: i16,
    pub(super) sock_socket: i16,
    pub(super) sock_ack_backlog: i16,
    pub(super) sock_max_ack_backlog: i16,
    pub(super) sock_rmem_alloc: i16,
    pub(super) sock_wmem_alloc: i16,
    pub(super) sock_queue_length: i16,
    pub(super) sock_queue_next: i16,
    pub(super) sk_buff_len: i16,
    /// From a socket to its control group, from there to the node, and to that one's number; None before
    /// Linux 5.15.
    pub(super) cgroup: Option<(i16, i16, i16)>,
    pub(super) tcp_rcv_nxt: i16,
    pub(super) tcp_copied_seq: i16,
    pub(super) tcp_write_seq: i16,
    pub(super) tcp_snd_una: i16,
    pub(super) udp_forward_deficit: i16,
    pub(super) unix_addr: i16,
    pub(super) unix_peer: i16,
    /// None before Linux 6.17.
    pub(super) unix_inq_len: Option<i16>,
    pub(super) unix_address_len: i16,
    pub(super) unix_address_name: i16,
    /// Of a packet socket the ethertype and the interface; None if that is a module's.
    pub(super) packet: Option<(i16, i16)>,
}

/// The structures and the functions that tell it.
pub(super) const NAMES: [&str; 21] = [
    "bpf_iter__task_file",
    "bpf_iter_meta",
    "bpf_iter_task_file",
    "bpf_iter_task_new",
    "cgroup",
    "file",
    "inode",
    "kernfs_node",
    "net",
    "packet_sock",
    "pid",
    "sk_buff",
    "sock",
    "socket",
    "socket_alloc",
    "task_struct",
    "tcp_sock",
    "udp_sock",
    "unix_address",
    "unix_sock",
    "upid",
];

impl Layout {
    /// # Errors
    /// The first member that is not as the program needs it.
    pub(super) fn of(btf: &Btf) -> Result<Layout, BtfError> {
        let offset = |structure: &str, member: &str, offset: u32| {
            i16::try_from(offset).map_err(|_| BtfError::NoMember {
                structure: structure.into(),
                member: member.into(),
            })
        };
        let at = |structure: &str, member: &str, size: u32| {
            offset(structure, member, btf.sized(structure, member, size)?)
        };
        let start = |structure: &str, member: &str| {
            offset(structure, member, btf.member(structure, member)?.offset)
        };
        let inode_number = at("inode", "i_ino", 8)?;
        let cgroup = || {
            let cgroup = at("sock", "sk_cgrp_data.cgroup", 8)?;
            Ok::<_, BtfError>((cgroup, at("cgroup", "kn", 8)?, at("kernfs_node", "id", 8)?))
        };
        let v6 = || {
            let local = at("sock", "__sk_common.skc_v6_rcv_saddr", 16)?;
            Ok::<_, BtfError>((local, at("sock", "__sk_common.skc_v6_daddr", 16)?))
        };
        let packet =
            || Ok::<_, BtfError>((at("packet_sock", "num", 2)?, at("packet_sock", "ifindex", 4)?));
        Ok(Layout {
            function: btf.function("bpf_iter_task_file")?,
            // It came with the same release, and to other kernels with all of BPF.
            tells_threads: btf.function("bpf_iter_task_new").is_ok(),
            context_meta: at("bpf_iter__task_file", "meta", 8)?,
            context_task: at("bpf_iter__task_file", "task", 8)?,
            context_fd: at("bpf_iter__task_file", "fd", 4)?,
            context_file: at("bpf_iter__task_file", "file", 8)?,
            meta_seq: at("bpf_iter_meta", "seq", 8)?,
            task_tgid: at("task_struct", "tgid", 4)?,
            task_pid: at("task_struct", "pid", 4)?,
            task_files: at("task_struct", "files", 8)?,
            task_group_leader: at("task_struct", "group_leader", 8)?,
            task_thread_pid: at("task_struct", "thread_pid", 8)?,
            pid_level: at("pid", "level", 4)?,
            pid_numbers: start("pid", "numbers")?.saturating_add(at("upid", "nr", 4)?),
            upid_size: offset("upid", "", btf.size_of("upid")?)?,
            file_inode: at("file", "f_inode", 8)?,
            inode_number,
            socket_sk: at("socket", "sk", 8)?,
            socket_inode_number: start("socket_alloc", "vfs_inode")?.saturating_add(inode_number),
            net_inum: at("net", "ns.inum", 4)?,
            sock_family: at("sock", "__sk_common.skc_family", 2)?,
            sock_state: at("sock", "__sk_common.skc_state", 1)?,
            sock_num: at("sock", "__sk_common.skc_num", 2)?,
            sock_dport: at("sock", "__sk_common.skc_dport", 2)?,
            sock_rcv_saddr: at("sock", "__sk_common.skc_rcv_saddr", 4)?,
            sock_daddr: at("sock", "__sk_common.skc_daddr", 4)?,
            sock_v6: v6().ok(),
            sock_net: at("sock", "__sk_common.skc_net.net", 8)?,
            sock_bound_dev_if: at("sock", "__sk_common.skc_bound_dev_if", 4)?,
            sock_node_pprev: at("sock", "__sk_common.skc_node.pprev", 8)?,
            sock_type: at("sock", "sk_type", 2)?,
            sock_protocol: at("sock", "sk_protocol", 2)?,
            sock_uid: at("sock", "sk_uid", 4)?,
            sock_socket: at("sock", "sk_socket", 8)?,
            sock_ack_backlog: at("sock", "sk_ack_backlog", 4)?,
            sock_max_ack_backlog: at("sock", "sk_max_ack_backlog", 4)?,
            sock_rmem_alloc: at("sock", "sk_backlog.rmem_alloc", 4)?,
            sock_wmem_alloc: at("sock", "sk_wmem_alloc", 4)?,
            sock_queue_length: at("sock", "sk_receive_queue.qlen", 4)?,
            sock_queue_next: at("sock", "sk_receive_queue.next", 8)?,
            sk_buff_len: at("sk_buff", "len", 4)?,
            cgroup: cgroup().ok(),
            tcp_rcv_nxt: at("tcp_sock", "rcv_nxt", 4)?,
            tcp_copied_seq: at("tcp_sock", "copied_seq", 4)?,
            tcp_write_seq: at("tcp_sock", "write_seq", 4)?,
            tcp_snd_una: at("tcp_sock", "snd_una", 4)?,
            udp_forward_deficit: at("udp_sock", "forward_deficit", 4)?,
            unix_addr: at("unix_sock", "addr", 8)?,
            unix_peer: at("unix_sock", "peer", 8)?,
            unix_inq_len: at("unix_sock", "inq_len", 4).ok(),
            unix_address_len: at("unix_address", "len", 4)?,
            unix_address_name: start("unix_address", "name")?,
            packet: packet().ok(),
        })
    }
}

#[cfg(test)]
impl Layout {
    /// Offsets that no two members share, so that a test sees which is used where.
    pub(super) fn made_up() -> Layout {
        let mut last = 24;
        let mut next = || {
            last += 8;
            last
        };
        Layout {
            function: 4242,
            tells_threads: true,
            context_meta: 0,
            context_task: 8,
            context_fd: 16,
            context_file: 24,
            meta_seq: next(),
            task_tgid: next(),
            task_pid: next(),
            task_files: next(),
            task_group_leader: next(),
            task_thread_pid: next(),
            pid_level: next(),
            pid_numbers: next(),
            upid_size: 20,
            file_inode: next(),
            inode_number: next(),
            socket_sk: next(),
            socket_inode_number: next(),
            net_inum: next(),
            sock_family: next(),
            sock_state: next(),
            sock_num: next(),
            sock_dport: next(),
            sock_rcv_saddr: next(),
            sock_daddr: next(),
            sock_v6: Some((next(), next())),
            sock_net: next(),
            sock_bound_dev_if: next(),
            sock_node_pprev: next(),
            sock_type: next(),
            sock_protocol: next(),
            sock_uid: next(),
            sock_socket: next(),
            sock_ack_backlog: next(),
            sock_max_ack_backlog: next(),
            sock_rmem_alloc: next(),
            sock_wmem_alloc: next(),
            sock_queue_length: next(),
            sock_queue_next: next(),
            sk_buff_len: next(),
            cgroup: Some((next(), next(), next())),
            tcp_rcv_nxt: next(),
            tcp_copied_seq: next(),
            tcp_write_seq: next(),
            tcp_snd_una: next(),
            udp_forward_deficit: next(),
            unix_addr: next(),
            unix_peer: next(),
            unix_inq_len: Some(next()),
            unix_address_len: next(),
            unix_address_name: next(),
            packet: Some((next(), next())),
        }
    }
}
