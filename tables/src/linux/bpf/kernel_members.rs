//! The offsets of structure members of the running kernel that the program reads.
//!
//! The rows below are the only list of these members, one row each: the field with the offset, then the
//! structure, the path and the size of the member. A group of rows is what one step of the program needs.

use std::fmt;

use crate::formats::linux::btf::{Btf, BtfError};

/// A number to read from the kernel's types.
#[derive(Clone, Copy, Debug)]
pub(super) enum Member {
    /// The offset of a member that has this size in bytes.
    Sized { structure: &'static str, path: &'static str, size: u32 },
    /// The offset of a member of any size.
    Start { structure: &'static str, path: &'static str },
    /// The size of a structure.
    SizeOf { structure: &'static str },
    /// The offset of a byte with a member of a few bits,
    Byte { structure: &'static str, path: &'static str },
    /// by how many bits the member is shifted there,
    Shift { structure: &'static str, path: &'static str },
    /// and its mask after the shift.
    Mask { structure: &'static str, path: &'static str },
}

pub(super) const fn sized(structure: &'static str, path: &'static str, size: u32) -> Member {
    Member::Sized { structure, path, size }
}

pub(super) const fn start(structure: &'static str, path: &'static str) -> Member {
    Member::Start { structure, path }
}

pub(super) const fn byte(structure: &'static str, path: &'static str) -> Member {
    Member::Byte { structure, path }
}

pub(super) const fn shift(structure: &'static str, path: &'static str) -> Member {
    Member::Shift { structure, path }
}

pub(super) const fn mask(structure: &'static str, path: &'static str) -> Member {
    Member::Mask { structure, path }
}

pub(super) const fn structure_size(structure: &'static str) -> Member {
    Member::SizeOf { structure }
}

/// Declares a structure of offsets for each group of rows, and the list of all rows.
macro_rules! kernel_members {
    ($(
        $(#[$about:meta])*
        struct $group:ident {
            $($(#[$doc:meta])* $field:ident: $member:expr,)*
        }
    )*) => {
        $(
            $(#[$about])*
            #[derive(Clone, Copy, Debug, PartialEq, Eq)]
            pub(super) struct $group {
                $($(#[$doc])* pub(super) $field: i16,)*
            }

            impl $group {
                pub(super) fn of(btf: &Btf) -> Result<$group, LayoutError> {
                    Ok($group { $($field: $member.resolve(btf)?,)* })
                }

                #[cfg(test)]
                pub(super) fn made_up(next: &mut impl FnMut() -> i16) -> $group {
                    $group { $($field: next(),)* }
                }
            }
        )*

        const MEMBERS: &[Member] = &[$($($member,)*)*];
    };
}
pub(super) use kernel_members;

kernel_members! {
    /// The context of the iterator: where the descriptor comes from, and where the record goes to.
    struct Context {
        meta: sized("bpf_iter__task_file", "meta", 8),
        task: sized("bpf_iter__task_file", "task", 8),
        fd: sized("bpf_iter__task_file", "fd", 4),
        file: sized("bpf_iter__task_file", "file", 8),
        seq: sized("bpf_iter_meta", "seq", 8),
    }

    /// The task that has the descriptor.
    struct Task {
        tgid: sized("task_struct", "tgid", 4),
        pid: sized("task_struct", "pid", 4),
        files: sized("task_struct", "files", 8),
        group_leader: sized("task_struct", "group_leader", 8),
        thread_pid: sized("task_struct", "thread_pid", 8),
        /// The depth of its PID namespace; the first one has 0.
        pid_level: sized("pid", "level", 4),
        /// Its number in the first PID namespace. Those in the namespaces below follow,
        pid_number: sized("pid", "numbers.nr", 4),
        /// so far apart.
        upid_size: structure_size("upid"),
    }

    /// From a file to its socket.
    struct File {
        inode: sized("file", "f_inode", 8),
        inode_number: sized("inode", "i_ino", 8),
        sk: sized("socket", "sk", 8),
    }

    /// A socket of any family.
    struct Sock {
        family: sized("sock", "__sk_common.skc_family", 2),
        state: sized("sock", "__sk_common.skc_state", 1),
        net: sized("sock", "__sk_common.skc_net.net", 8),
        net_inum: sized("net", "ns.inum", 4),
        bound_dev_if: sized("sock", "__sk_common.skc_bound_dev_if", 4),
        node_pprev: sized("sock", "__sk_common.skc_node.pprev", 8),
        kind: sized("sock", "sk_type", 2),
        protocol: sized("sock", "sk_protocol", 2),
        uid: sized("sock", "sk_uid", 4),
        ack_backlog: sized("sock", "sk_ack_backlog", 4),
        max_ack_backlog: sized("sock", "sk_max_ack_backlog", 4),
        rmem_alloc: sized("sock", "sk_backlog.rmem_alloc", 4),
        wmem_alloc: sized("sock", "sk_wmem_alloc", 4),
    }

    /// A socket of AF_INET, and the ports of AF_INET6.
    struct Inet {
        num: sized("sock", "__sk_common.skc_num", 2),
        dport: sized("sock", "__sk_common.skc_dport", 2),
        rcv_saddr: sized("sock", "__sk_common.skc_rcv_saddr", 4),
        daddr: sized("sock", "__sk_common.skc_daddr", 4),
    }

    /// A socket of AF_INET6. A kernel without IPv6 has none of it.
    struct Inet6 {
        rcv_saddr: sized("sock", "__sk_common.skc_v6_rcv_saddr", 16),
        daddr: sized("sock", "__sk_common.skc_v6_daddr", 16),
    }

    /// From a socket to the number of its control group; since Linux 5.15.
    struct Cgroup {
        cgroup: sized("sock", "sk_cgrp_data.cgroup", 8),
        node: sized("cgroup", "kn", 8),
        id: sized("kernfs_node", "id", 8),
    }

    /// The queues of a TCP socket.
    struct Tcp {
        rcv_nxt: sized("tcp_sock", "rcv_nxt", 4),
        copied_seq: sized("tcp_sock", "copied_seq", 4),
        write_seq: sized("tcp_sock", "write_seq", 4),
        snd_una: sized("tcp_sock", "snd_una", 4),
    }

    /// The receive queue of a UDP socket.
    struct Udp {
        forward_deficit: sized("udp_sock", "forward_deficit", 4),
    }

    /// Receive queue, peer and name of a UNIX socket.
    struct Unix {
        queue_length: sized("sock", "sk_receive_queue.qlen", 4),
        queue_next: sized("sock", "sk_receive_queue.next", 8),
        sk_buff_len: sized("sk_buff", "len", 4),
        peer: sized("unix_sock", "peer", 8),
        socket: sized("sock", "sk_socket", 8),
        /// From the `struct socket` of the peer, which its allocation begins with.
        inode_number: sized("socket_alloc", "vfs_inode.i_ino", 8),
        address: sized("unix_sock", "addr", 8),
        address_len: sized("unix_address", "len", 4),
        address_name: start("unix_address", "name"),
    }

    /// The bytes in the receive queue of a UNIX stream; since Linux 6.17.
    struct UnixStream {
        inq_len: sized("unix_sock", "inq_len", 4),
    }

    /// Ethertype and interface of a packet socket. A kernel with AF_PACKET as a module has none of it.
    struct Packet {
        ethertype: sized("packet_sock", "num", 2),
        interface: sized("packet_sock", "ifindex", 4),
    }

    /// When a process started.
    struct Start {
        start_boottime: sized("task_struct", "start_boottime", 8),
    }

    /// The members of a TCP socket that `struct tcp_info` shows.
    struct TcpInfo {
        bytes_sent: sized("tcp_sock", "bytes_sent", 8),
        bytes_retrans: sized("tcp_sock", "bytes_retrans", 8),
        bytes_received: sized("tcp_sock", "bytes_received", 8),
        srtt_us: sized("tcp_sock", "srtt_us", 4),
        mdev_us: sized("tcp_sock", "mdev_us", 4),
        /// The value of the first of the samples, which is the best.
        rtt_min: sized("tcp_sock", "rtt_min.s.v", 4),
        total_retrans: sized("tcp_sock", "total_retrans", 4),
        lost_out: sized("tcp_sock", "lost_out", 4),
        snd_cwnd: sized("tcp_sock", "snd_cwnd", 4),
        mss_cache: sized("tcp_sock", "mss_cache", 4),
        lsndtime: sized("tcp_sock", "lsndtime", 4),
        lrcvtime: sized("tcp_sock", "inet_conn.icsk_ack.lrcvtime", 4),
        rate_delivered: sized("tcp_sock", "rate_delivered", 4),
        rate_interval_us: sized("tcp_sock", "rate_interval_us", 4),
        chrono_start: sized("tcp_sock", "chrono_start", 4),
        /// Three numbers of 32 bits.
        chrono_stat: sized("tcp_sock", "chrono_stat", 12),
        chrono_type: byte("tcp_sock", "chrono_type"),
        chrono_type_shift: shift("tcp_sock", "chrono_type"),
        chrono_type_mask: mask("tcp_sock", "chrono_type"),
        congestion: sized("tcp_sock", "inet_conn.icsk_ca_ops", 8),
        congestion_name: sized("tcp_congestion_ops", "name", 16),
    }

    /// The process at the other end of a UNIX socket.
    struct Peer {
        pid: sized("sock", "sk_peer_pid", 8),
        credentials: sized("sock", "sk_peer_cred", 8),
        euid: sized("cred", "euid", 4),
        /// The PID namespace of a `struct pid`'s first number.
        namespace: sized("pid", "numbers.ns", 8),
    }

    /// The file to which a UNIX socket is bound.
    struct BoundFile {
        dentry: sized("unix_sock", "path.dentry", 8),
        inode: sized("dentry", "d_inode", 8),
        super_block: sized("dentry", "d_sb", 8),
        device: sized("super_block", "s_dev", 4),
    }
}

/// The function that the program replaces.
const ITERATOR: &str = "bpf_iter_task_file";
/// A function of Linux 6.7, and of kernels with a backport of its BPF.
const OF_LINUX_6_7: &str = "bpf_iter_task_new";

/// The offsets of the members that the program reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// The BTF number of the function that the program replaces.
    pub(super) function: u32,
    /// Whether the iterator visits all threads of one process. Before Linux 6.7 it misses some that have a
    /// descriptor table of their own, and the second thread if the first has ended.
    pub(super) visits_all_threads: bool,
    pub(super) context: Context,
    pub(super) task: Task,
    pub(super) file: File,
    pub(super) sock: Sock,
    pub(super) inet: Inet,
    pub(super) inet6: Option<Inet6>,
    pub(super) cgroup: Option<Cgroup>,
    pub(super) tcp: Tcp,
    pub(super) udp: Udp,
    pub(super) unix: Unix,
    pub(super) unix_stream: Option<UnixStream>,
    pub(super) packet: Option<Packet>,
    pub(super) start: Option<Start>,
    pub(super) tcp_info: Option<TcpInfo>,
    pub(super) peer: Option<Peer>,
    pub(super) bound_file: Option<BoundFile>,
}

/// Why the program cannot be assembled for a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LayoutError {
    /// The kernel's types lack a member that the program reads.
    Btf(BtfError),
    /// An instruction has 16 bits for an offset, one of them for the sign.
    Offset { structure: &'static str, member: &'static str, offset: u64 },
}

impl From<BtfError> for LayoutError {
    fn from(error: BtfError) -> LayoutError {
        LayoutError::Btf(error)
    }
}

impl fmt::Display for LayoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LayoutError::Btf(error) => write!(f, "{error}"),
            LayoutError::Offset { structure, member, offset } => write!(
                f,
                "kernel structure offset exceeds 16 bits: {member} of struct {structure} ends at byte {offset}"
            ),
        }
    }
}

impl std::error::Error for LayoutError {}

impl Member {
    pub(super) fn structure(&self) -> &'static str {
        match self {
            Member::Sized { structure, .. }
            | Member::Start { structure, .. }
            | Member::SizeOf { structure }
            | Member::Byte { structure, .. }
            | Member::Shift { structure, .. }
            | Member::Mask { structure, .. } => structure,
        }
    }

    pub(super) fn resolve(&self, btf: &Btf) -> Result<i16, LayoutError> {
        match *self {
            Member::Sized { structure, path, size } => {
                let offset = btf.sized(structure, path, size)?;
                // The whole member is in range, not only its first byte.
                encodable(structure, path, u64::from(offset) + u64::from(size))?;
                encodable(structure, path, offset.into())
            }
            Member::Start { structure, path } => {
                encodable(structure, path, btf.member(structure, path)?.offset.into())
            }
            Member::SizeOf { structure } => {
                encodable(structure, "(all of it)", btf.size_of(structure)?.into())
            }
            Member::Byte { structure, path } => {
                let offset = btf.bits_of_byte(structure, path)?.offset.into();
                encodable(structure, path, offset)
            }
            Member::Shift { structure, path } => {
                encodable(structure, path, btf.bits_of_byte(structure, path)?.shift.into())
            }
            Member::Mask { structure, path } => {
                encodable(structure, path, btf.bits_of_byte(structure, path)?.mask.into())
            }
        }
    }
}

/// The offset, as an instruction encodes it.
pub(super) fn encodable(
    structure: &'static str,
    member: &'static str,
    offset: u64,
) -> Result<i16, LayoutError> {
    i16::try_from(offset).map_err(|_| LayoutError::Offset { structure, member, offset })
}

impl Task {
    /// The offset in a `struct pid` of its number in the PID namespace of this level.
    pub(super) fn pid_number_at(&self, level: u32) -> Result<i16, LayoutError> {
        let (first, each) = (self.pid_number.unsigned_abs(), self.upid_size.unsigned_abs());
        let offset = u64::from(first) + u64::from(level) * u64::from(each);
        encodable("pid", "numbers", offset)
    }
}

impl Layout {
    /// The structures and functions that the layout needs.
    pub(super) fn names() -> Vec<&'static str> {
        let mut names: Vec<&str> = MEMBERS.iter().map(Member::structure).collect();
        names.extend([ITERATOR, OF_LINUX_6_7]);
        names
    }

    /// # Errors
    /// The first member that is missing or has another size.
    pub(super) fn of(btf: &Btf) -> Result<Layout, LayoutError> {
        Ok(Layout {
            function: btf.function(ITERATOR)?,
            visits_all_threads: btf.function(OF_LINUX_6_7).is_ok(),
            context: Context::of(btf)?,
            task: Task::of(btf)?,
            file: File::of(btf)?,
            sock: Sock::of(btf)?,
            inet: Inet::of(btf)?,
            inet6: Inet6::of(btf).ok(),
            cgroup: Cgroup::of(btf).ok(),
            tcp: Tcp::of(btf)?,
            udp: Udp::of(btf)?,
            unix: Unix::of(btf)?,
            unix_stream: UnixStream::of(btf).ok(),
            packet: Packet::of(btf).ok(),
            start: Start::of(btf).ok(),
            tcp_info: TcpInfo::of(btf).ok(),
            peer: Peer::of(btf).ok(),
            bound_file: BoundFile::of(btf).ok(),
        })
    }
}

#[cfg(test)]
impl Layout {
    /// Offsets that no two members share, so that a test sees which is used where.
    pub(super) fn made_up() -> Layout {
        let mut last = 0;
        let next = &mut || {
            // No member here is longer.
            last += 16;
            last
        };
        Layout {
            function: 4242,
            visits_all_threads: true,
            context: Context::made_up(next),
            task: Task::made_up(next),
            file: File::made_up(next),
            sock: Sock::made_up(next),
            inet: Inet::made_up(next),
            inet6: Some(Inet6::made_up(next)),
            cgroup: Some(Cgroup::made_up(next)),
            tcp: Tcp::made_up(next),
            udp: Udp::made_up(next),
            unix: Unix::made_up(next),
            unix_stream: Some(UnixStream::made_up(next)),
            packet: Some(Packet::made_up(next)),
            start: Some(Start::made_up(next)),
            tcp_info: Some(TcpInfo::made_up(next)),
            peer: Some(Peer::made_up(next)),
            bound_file: Some(BoundFile::made_up(next)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::linux::btf_builder::Builder;

    /// The types of a kernel that has only the iterator's function and these structures.
    fn layout(structures: impl FnOnce(&mut Builder)) -> Result<Layout, LayoutError> {
        let mut builder = Builder::new();
        let int = builder.int("int", 4);
        builder.function(ITERATOR, int);
        structures(&mut builder);
        let bytes = builder.bytes();
        Layout::of(&Btf::parse(&bytes, &Layout::names()).unwrap())
    }

    #[test]
    fn a_missing_structure_is_an_error_that_names_it() {
        let error = layout(|_| {}).unwrap_err();
        assert_eq!(error, BtfError::NoStructure("bpf_iter__task_file".into()).into());
        assert_eq!(error.to_string(), "the kernel's types have no struct bpf_iter__task_file");
    }

    #[test]
    fn a_missing_member_is_an_error_that_names_it_and_its_structure() {
        let error = layout(|builder| {
            let pointer = builder.pointer();
            builder.structure("bpf_iter__task_file", 16, &[("meta", pointer, 0)]);
        });
        let (structure, member) = ("bpf_iter__task_file".into(), "task".into());
        assert_eq!(error, Err(BtfError::NoMember { structure, member }.into()));
    }

    #[test]
    fn a_member_of_another_size_is_an_error() {
        let error = layout(|builder| {
            let int = builder.int("int", 4);
            builder.structure("bpf_iter__task_file", 16, &[("meta", int, 0)]);
        });
        let (structure, member) = ("bpf_iter__task_file".into(), "meta".into());
        assert_eq!(error, Err(BtfError::Size { structure, member, size: 4 }.into()));
    }

    #[test]
    fn a_member_that_ends_beyond_16_bits_is_an_error() {
        let at = |offset: u32| {
            layout(|builder| {
                let pointer = builder.pointer();
                builder.structure("bpf_iter__task_file", 1 << 16, &[("meta", pointer, 8 * offset)]);
            })
        };
        let (structure, member) = ("bpf_iter__task_file", "meta");
        let error = at(32_760).unwrap_err();
        assert_eq!(error, LayoutError::Offset { structure, member, offset: 32_768 });
        assert_eq!(
            error.to_string(),
            "kernel structure offset exceeds 16 bits: meta of struct bpf_iter__task_file ends at byte 32768"
        );
        // The next member is missing.
        assert!(matches!(at(32_752), Err(LayoutError::Btf(BtfError::NoMember { .. }))));
    }

    #[test]
    fn pids_of_a_level_are_where_its_number_is() {
        let task = Layout::made_up().task;
        let (first, each) = (task.pid_number, task.upid_size);
        assert_eq!(task.pid_number_at(0), Ok(first));
        assert_eq!(task.pid_number_at(2), Ok(first + 2 * each));
        let level = u32::MAX;
        let offset = first as u64 + u64::from(level) * each as u64;
        let error = LayoutError::Offset { structure: "pid", member: "numbers", offset };
        assert_eq!(task.pid_number_at(level), Err(error));
    }
}
