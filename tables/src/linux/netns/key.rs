//! The key of a network namespace, for a namespace whose number cannot be read.

use rustix::fs::{Stat, stat};

use super::super::proc_root::Process;

/// Device and inode number of a file in a namespace's `/proc/<pid>/net`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct NetnsKey(u64, u64);

#[cfg(test)]
impl NetnsKey {
    pub(crate) fn of_test() -> NetnsKey {
        NetnsKey(0, 1)
    }
}

impl NetnsKey {
    /// Whether both keys are of one namespace, in any two mounts of the kernel's proc: the inode numbers of the
    /// files are the same in each mount.
    pub(super) fn has_inode_of(self, other: NetnsKey) -> bool {
        self.1 == other.1
    }
}

/// The key of the namespace of a process, and the process or the thread that shows it.
pub(super) fn find_key(process: Process<'_>) -> rustix::io::Result<(NetnsKey, Process<'_>)> {
    let key = key_of(&process);
    if key.is_err()
        && let Some(tasks) = process.tasks()
    {
        for tid in tasks.others() {
            if let Ok(thread) = tasks.thread(tid)
                && let Ok(key) = key_of(&thread)
            {
                return Ok((key, thread));
            }
        }
    }
    Ok((key?, process))
}

pub(super) fn key_of(process: &Process<'_>) -> rustix::io::Result<NetnsKey> {
    key(|file| process.stat(&format!("net/{file}")))
}

/// The key of the namespace of the calling thread.
pub(super) fn own_key() -> rustix::io::Result<NetnsKey> {
    key(|file| stat(format!("/proc/thread-self/net/{file}")))
}

fn key(stat: impl Fn(&str) -> rustix::io::Result<Stat>) -> rustix::io::Result<NetnsKey> {
    // Both files are in every namespace; the second one is for kernels without IPv4.
    let stat = stat("tcp").or_else(|_| stat("unix"))?;
    Ok(NetnsKey(stat.st_dev, stat.st_ino))
}
