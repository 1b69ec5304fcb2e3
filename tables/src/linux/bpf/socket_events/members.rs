//! The offsets of structure members of the running kernel that the programs for socket events read.

use super::super::kernel_members::{
    LayoutError, Member, byte, encodable, kernel_members, mask, shift, sized, start, structure_size,
};
use crate::formats::linux::btf::Btf;

kernel_members! {
    /// A TCP socket of any family.
    struct Sock {
        family: sized("sock", "__sk_common.skc_family", 2),
        state: sized("sock", "__sk_common.skc_state", 1),
        net: sized("sock", "__sk_common.skc_net.net", 8),
        net_inum: sized("net", "ns.inum", 4),
        num: sized("sock", "__sk_common.skc_num", 2),
        dport: sized("sock", "__sk_common.skc_dport", 2),
        rcv_saddr: sized("sock", "__sk_common.skc_rcv_saddr", 4),
        daddr: sized("sock", "__sk_common.skc_daddr", 4),
        flags: sized("sock", "__sk_common.skc_flags", 8),
        kind: sized("sock", "sk_type", 2),
        protocol: sized("sock", "sk_protocol", 2),
        error: sized("sock", "sk_err", 4),
        uid: sized("sock", "sk_uid", 4),
        /// 1 while a task holds the socket lock.
        owned: sized("sock", "sk_lock.owned", 4),
        socket: sized("sock", "sk_socket", 8),
        file: sized("socket", "file", 8),
        sk: sized("socket", "sk", 8),
        inode: sized("file", "f_inode", 8),
        inode_number: sized("inode", "i_ino", 8),
    }

    /// The addresses of AF_INET6. A kernel without IPv6 has none of it.
    struct Inet6 {
        rcv_saddr: sized("sock", "__sk_common.skc_v6_rcv_saddr", 16),
        daddr: sized("sock", "__sk_common.skc_v6_daddr", 16),
    }

    /// The counters of a TCP socket, and the port that it keeps when it is closed.
    struct Tcp {
        sent: sized("tcp_sock", "bytes_sent", 8),
        retransmitted: sized("tcp_sock", "bytes_retrans", 8),
        received: sized("tcp_sock", "bytes_received", 8),
        sport: sized("tcp_sock", "inet_conn.icsk_inet.inet_sport", 2),
        srtt: sized("tcp_sock", "srtt_us", 4),
        /// The value of the first of the samples, which is the best.
        min_rtt: sized("tcp_sock", "rtt_min.s.v", 4),
    }

    /// A task and its process.
    struct Task {
        tgid: sized("task_struct", "tgid", 4),
        tid: sized("task_struct", "pid", 4),
        parent: sized("task_struct", "real_parent", 8),
        leader: sized("task_struct", "group_leader", 8),
        start: sized("task_struct", "start_boottime", 8),
        mm: sized("task_struct", "mm", 8),
        executable: sized("mm_struct", "exe_file", 8),
        cred: sized("task_struct", "cred", 8),
        uid: sized("cred", "uid", 4),
        gid: sized("cred", "gid", 4),
    }

    /// From a task to the number of its cgroup (version 2).
    struct Cgroup {
        set: sized("task_struct", "cgroups", 8),
        cgroup: sized("css_set", "dfl_cgrp", 8),
        node: sized("cgroup", "kn", 8),
        id: sized("kernfs_node", "id", 8),
    }

    /// The numbers of a task in PID namespaces.
    struct Pid {
        pid: sized("task_struct", "thread_pid", 8),
        /// The depth of its PID namespace; the first one has 0.
        level: sized("pid", "level", 4),
        /// Its number and namespace for the first PID namespace. Those for the namespaces below follow,
        number: sized("pid", "numbers.nr", 4),
        namespace: sized("pid", "numbers.ns", 8),
        /// so far apart.
        upid_size: structure_size("upid"),
        namespace_inum: sized("pid_namespace", "ns.inum", 4),
    }

    /// From a file up to the root of its mount namespace.
    struct Path {
        file_mount: sized("file", "f_path.mnt", 8),
        file_dentry: sized("file", "f_path.dentry", 8),
        mount: start("mount", "mnt"),
        mount_root: sized("vfsmount", "mnt_root", 8),
        mount_parent: sized("mount", "mnt_parent", 8),
        mountpoint: sized("mount", "mnt_mountpoint", 8),
        parent: sized("dentry", "d_parent", 8),
        name: sized("dentry", "d_name.name", 8),
        /// 0 if the file is deleted.
        hashed: sized("dentry", "d_hash.pprev", 8),
    }

    /// The registers of a task when it began its system call: the call's number, some arguments, and where the result
    /// will be. See [`Registers::arguments`] for the later ones.
    struct Registers {
        call: start("pt_regs", CALL),
        argument: sized("pt_regs", ARGUMENT, 8),
        second: start("pt_regs", SECOND),
        fifth: start("pt_regs", FIFTH),
        sixth: start("pt_regs", SIXTH),
        result: start("pt_regs", RESULT),
    }

    /// Whether a socket belongs to the kernel: a bit in a byte.
    struct KernelSocket {
        byte: byte("sock", "sk_kern_sock"),
        shift: shift("sock", "sk_kern_sock"),
        mask: mask("sock", "sk_kern_sock"),
    }

    /// The context of the iterator: where the descriptor comes from, and where the record goes to.
    struct Context {
        meta: sized("bpf_iter__task_file", "meta", 8),
        task: sized("bpf_iter__task_file", "task", 8),
        fd: sized("bpf_iter__task_file", "fd", 4),
        file: sized("bpf_iter__task_file", "file", 8),
        seq: sized("bpf_iter_meta", "seq", 8),
    }

    /// The context of the iterator over the sockets that have storage in a map.
    struct StorageContext {
        meta: sized("bpf_iter__bpf_sk_storage_map", "meta", 8),
        sk: sized("bpf_iter__bpf_sk_storage_map", "sk", 8),
        value: sized("bpf_iter__bpf_sk_storage_map", "value", 8),
        seq: sized("bpf_iter_meta", "seq", 8),
    }
}

// On other processors the registers have other names: there no descriptor is reported.
#[cfg(target_arch = "aarch64")]
const CALL: &str = "syscallno";
#[cfg(target_arch = "aarch64")]
const ARGUMENT: &str = "orig_x0";
#[cfg(target_arch = "aarch64")]
const SECOND: &str = "regs";
#[cfg(target_arch = "aarch64")]
const FIFTH: &str = "regs";
#[cfg(target_arch = "aarch64")]
const SIXTH: &str = "regs";
#[cfg(target_arch = "aarch64")]
const RESULT: &str = "regs";
#[cfg(not(target_arch = "aarch64"))]
const CALL: &str = "orig_ax";
#[cfg(not(target_arch = "aarch64"))]
const ARGUMENT: &str = "di";
#[cfg(not(target_arch = "aarch64"))]
const SECOND: &str = "si";
#[cfg(not(target_arch = "aarch64"))]
const FIFTH: &str = "r8";
#[cfg(not(target_arch = "aarch64"))]
const SIXTH: &str = "r9";
#[cfg(not(target_arch = "aarch64"))]
const RESULT: &str = "ax";

impl Registers {
    /// Where the second, the fifth and the sixth argument are: on arm64 in an array of all registers.
    pub(super) fn arguments(&self) -> [i16; 3] {
        let indexes = if cfg!(target_arch = "aarch64") { [1, 4, 5] } else { [0; 3] };
        let [second, fifth, sixth] = indexes.map(|index| index * size_of::<u64>() as i16);
        [self.second + second, self.fifth + fifth, self.sixth + sixth]
    }
}

/// The tracepoint's type: the program gets its arguments `sk`, `oldstate` and `newstate`.
const TRACEPOINT: &str = "btf_trace_inet_sock_set_state";
/// The same of the tracepoint after a send, with `sk`, `ret` and `flags`: since Linux 6.3.
const SEND: &str = "btf_trace_sock_send_length";
/// The same of the tracepoint after a receive.
const RECEIVE: &str = "btf_trace_sock_recv_length";
/// The function that the program of the iterator over sockets with storage replaces: since Linux 5.9.
const STORAGE_ITERATOR: &str = "bpf_iter_bpf_sk_storage_map";
/// The function that the iterator's program replaces.
const ITERATOR: &str = "bpf_iter_task_file";
/// Helpers that not every kernel has: of Linux 5.11,
const CURRENT_TASK: &str = "bpf_get_current_task_btf";
const SOCK_FROM_FILE: &str = "bpf_sock_from_file";
/// 5.12,
const SOCKET_COOKIE: &str = "bpf_get_socket_ptr_cookie";
/// 6.2,
const CAST: &str = "bpf_cast_to_kern_ctx";
/// 5.15,
const TASK_REGISTERS: &str = "bpf_task_pt_regs";
/// and with CONFIG_CGROUPS.
const CGROUP_ID: &str = "bpf_get_current_cgroup_id";

/// What the programs read, and how the running kernel lets them read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// The BTF number of the tracepoint's type.
    pub(super) tracepoint: u32,
    /// The same of the tracepoint after a send; None before Linux 6.3.
    pub(super) send: Option<u32>,
    /// What counting needs besides it; None before Linux 6.3.
    pub(super) counting: Option<Counting>,
    /// The BTF number of the function that makes a typed pointer of a program's context; None before Linux 6.2.
    pub(super) cast: Option<u32>,
    pub(super) kernel_socket: Option<KernelSocket>,
    pub(super) sock: Sock,
    pub(super) inet6: Option<Inet6>,
    pub(super) tcp: Tcp,
    pub(super) task: Task,
    pub(super) pid: Pid,
    pub(super) path: Path,
    /// None: no system call is reported.
    pub(super) registers: Option<Registers>,
    /// Whether members of the current task can be loaded; otherwise they are copied.
    pub(super) has_typed_task: bool,
    /// Whether sockets are identified by their cookies; otherwise by their addresses.
    pub(super) has_cookies: bool,
    /// None: it has to be asked for, or there are no cgroups.
    pub(super) cgroup: Option<Cgroup>,
    pub(super) has_cgroup_ids: bool,
    /// None: open sockets cannot be listed.
    pub(super) iterator: Option<Iterator>,
}

/// What the programs that count datagrams need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Counting {
    /// The BTF number of the type of the tracepoint after a receive.
    pub(super) receive: u32,
    /// The BTF number of the function that the program of the iterator replaces.
    pub(super) function: u32,
    pub(super) context: StorageContext,
}

/// What the iterator over descriptors needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Iterator {
    /// The BTF number of the function that the program replaces.
    pub(super) function: u32,
    pub(super) context: Context,
}

impl Pid {
    /// The offsets in a `struct pid` of its number and namespace at this depth.
    pub(super) fn at(&self, level: u32) -> Result<(i16, i16), LayoutError> {
        let each = u64::from(self.upid_size.unsigned_abs());
        let offset = |first: i16| {
            let offset = u64::from(first.unsigned_abs()) + u64::from(level) * each;
            encodable("pid", "numbers", offset)
        };
        Ok((offset(self.number)?, offset(self.namespace)?))
    }
}

impl Layout {
    /// The structures, functions and typedefs that the layout needs.
    pub(super) fn names() -> Vec<&'static str> {
        let mut names: Vec<&str> = MEMBERS.iter().map(Member::structure).collect();
        names.extend([TRACEPOINT, SEND, RECEIVE, STORAGE_ITERATOR, ITERATOR]);
        names.extend([CURRENT_TASK, SOCK_FROM_FILE]);
        names.extend([SOCKET_COOKIE, CAST, TASK_REGISTERS, CGROUP_ID]);
        names
    }

    /// # Errors
    /// The first member that is missing or has another size.
    pub(super) fn of(btf: &Btf) -> Result<Layout, LayoutError> {
        let has = |function| btf.function(function).is_ok();
        let has_cookies = has(SOCKET_COOKIE);
        let iterator = || {
            let function = btf.function(ITERATOR).ok()?;
            let context = Context::of(btf).ok()?;
            (has_cookies && has(SOCK_FROM_FILE)).then_some(Iterator { function, context })
        };
        let registers = || Registers::of(btf).ok().filter(|_| has(TASK_REGISTERS));
        let has_typed_task = has(CURRENT_TASK);
        let counting = || {
            let receive = btf.typedef(RECEIVE).ok()?;
            let function = btf.function(STORAGE_ITERATOR).ok()?;
            let context = StorageContext::of(btf).ok()?;
            (has_cookies && has_typed_task).then_some(Counting { receive, function, context })
        };
        Ok(Layout {
            tracepoint: btf.typedef(TRACEPOINT)?,
            send: btf.typedef(SEND).ok(),
            counting: counting(),
            cast: btf.function(CAST).ok(),
            kernel_socket: KernelSocket::of(btf).ok(),
            sock: Sock::of(btf)?,
            inet6: Inet6::of(btf).ok(),
            tcp: Tcp::of(btf)?,
            task: Task::of(btf)?,
            pid: Pid::of(btf)?,
            path: Path::of(btf)?,
            registers: if has_typed_task { registers() } else { None },
            has_typed_task,
            has_cookies,
            cgroup: Cgroup::of(btf).ok().filter(|_| has_typed_task),
            has_cgroup_ids: has(CGROUP_ID),
            iterator: iterator(),
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
            tracepoint: 4242,
            send: Some(4244),
            counting: Some(Counting {
                receive: 4245,
                function: 4246,
                context: StorageContext::made_up(next),
            }),
            cast: Some(4247),
            kernel_socket: Some(KernelSocket::made_up(next)),
            sock: Sock::made_up(next),
            inet6: Some(Inet6::made_up(next)),
            tcp: Tcp::made_up(next),
            task: Task::made_up(next),
            pid: Pid::made_up(next),
            path: Path::made_up(next),
            registers: Some(Registers::made_up(next)),
            has_typed_task: true,
            has_cookies: true,
            cgroup: Some(Cgroup::made_up(next)),
            has_cgroup_ids: true,
            iterator: Some(Iterator { function: 4343, context: Context::made_up(next) }),
        }
    }
}
