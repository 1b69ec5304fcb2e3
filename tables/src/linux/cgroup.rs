//! The paths of control groups (cgroups(7), version 2), by the inode numbers of their directories.
//!
//! The kernel reports the number of a socket's group (INET_DIAG_CGROUP_ID since Linux 5.9). Its path is found
//! in the directory tree, which is walked if a query reads the paths. Removed groups have no path.

use std::collections::{HashMap, HashSet};
use std::num::NonZeroU64;
use std::os::fd::OwnedFd;

use rustix::fs::{FileType, Mode, OFlags, RawDir, fstat, fstatfs, openat};

use super::proc_root::ProcRoot;
use crate::formats::linux::mountinfo::mounts_of;

/// The maximum number of directories that are read or queued.
const MAX_DIRECTORIES: usize = 100_000;

/// The paths of the groups that exist, from the root of the mounted hierarchy.
pub(crate) fn paths(
    root: &ProcRoot,
    groups: impl Iterator<Item = NonZeroU64>,
) -> HashMap<NonZeroU64, Box<[u8]>> {
    let mut remaining: HashSet<NonZeroU64> = groups.collect();
    let mut paths = HashMap::new();
    let mut find = |inode: u64, path: &[u8]| {
        if let Some(group) = NonZeroU64::new(inode).and_then(|inode| remaining.take(&inode)) {
            paths.insert(group, path.into());
        }
        !remaining.is_empty()
    };
    let Some(top) = hierarchy(root) else { return paths };
    let Ok(metadata) = fstat(&top) else { return paths };
    if !find(metadata.st_ino, b"/") {
        return paths;
    }
    let mut pending = vec![Vec::new()];
    for _ in 0..MAX_DIRECTORIES {
        let Some(path) = pending.pop() else { break };
        let relative = path.strip_prefix(b"/").unwrap_or(b".");
        let Ok(directory) = openat(&top, relative, DIRECTORY, Mode::empty()) else { continue };
        let mut buffer = Vec::with_capacity(8 * 1024);
        let mut entries = RawDir::new(directory, buffer.spare_capacity_mut());
        while let Some(Ok(entry)) = entries.next() {
            let name = entry.file_name().to_bytes();
            if entry.file_type() != FileType::Directory || matches!(name, b"." | b"..") {
                continue;
            }
            let path = [&path, &b"/"[..], name].concat();
            if !find(entry.ino(), &path) {
                return paths;
            }
            if pending.len() < MAX_DIRECTORIES {
                pending.push(path);
            }
        }
    }
    paths
}

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);

/// The directory where the hierarchy is mounted, as the calling process sees it.
pub(crate) fn hierarchy(root: &ProcRoot) -> Option<OwnedFd> {
    let own = root.own_process().ok()?;
    let text = own.read("mountinfo").ok()?;
    mounts_of(&text, b"cgroup2").find_map(|mount| {
        /// From `include/uapi/linux/magic.h`.
        const CGROUP2_SUPER_MAGIC: rustix::fs::FsWord = 0x6367_7270;
        let is_whole = mount.root == b"/";
        let directory = rustix::fs::open(mount.mount_point, DIRECTORY, Mode::empty()).ok()?;
        let is_cgroup2 = fstatfs(&directory).is_ok_and(|it| it.f_type == CGROUP2_SUPER_MAGIC);
        (is_whole && is_cgroup2).then_some(directory)
    })
}
