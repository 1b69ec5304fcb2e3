//! The numbers of the kernel functions that a program can call: `enum bpf_func_id` in `include/uapi/linux/bpf.h`.

pub(super) const MAP_LOOKUP_ELEM: i32 = 1;
pub(super) const MAP_UPDATE_ELEM: i32 = 2;
pub(super) const GET_CURRENT_PID_TGID: i32 = 14;
pub(super) const GET_CURRENT_UID_GID: i32 = 15;
pub(super) const GET_CURRENT_COMM: i32 = 16;
pub(super) const GET_CURRENT_TASK: i32 = 35;
pub(super) const GET_SOCKET_COOKIE: i32 = 46;
pub(super) const GET_CURRENT_CGROUP_ID: i32 = 80;
pub(super) const MAP_POP_ELEM: i32 = 88;
pub(super) const SK_STORAGE_GET: i32 = 107;
pub(super) const PROBE_READ_USER: i32 = 112;
pub(super) const PROBE_READ_KERNEL: i32 = 113;
pub(super) const PROBE_READ_KERNEL_STR: i32 = 115;
pub(super) const JIFFIES64: i32 = 118;
pub(super) const KTIME_GET_BOOT_NS: i32 = 125;
pub(super) const SEQ_WRITE: i32 = 127;
pub(super) const RINGBUF_RESERVE: i32 = 131;
pub(super) const RINGBUF_SUBMIT: i32 = 132;
pub(super) const RINGBUF_QUERY: i32 = 134;
pub(super) const SKC_TO_TCP_SOCK: i32 = 137;
pub(super) const GET_CURRENT_TASK_BTF: i32 = 158;
pub(super) const SOCK_FROM_FILE: i32 = 162;
pub(super) const TASK_PT_REGS: i32 = 175;
