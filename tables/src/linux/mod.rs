//! The interfaces of the Linux kernel, for any table.

pub(crate) mod attempts;
mod blocked;
pub(crate) mod bpf;
pub(crate) mod cgroup;
pub(crate) mod clock;
mod dump_retry;
pub(crate) mod fds;
mod kcmp;
pub(crate) mod netns;
mod proc_net;
pub(crate) mod proc_root;
pub(crate) mod processes;
#[cfg(test)]
pub(crate) mod quiet;
mod sleep;
pub(crate) mod sock_diag;
pub(crate) mod start_times;
pub(crate) mod steps;
mod workers;

use std::num::NonZero;
use std::sync::LazyLock;
use std::thread;

/// The number of processors that this process may use.
pub(crate) fn cores() -> usize {
    static CORES: LazyLock<usize> =
        LazyLock::new(|| thread::available_parallelism().map_or(1, NonZero::get));
    *CORES
}
