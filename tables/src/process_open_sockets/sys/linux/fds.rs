//! Who holds what: the links `/proc/<pid>/fd/N` → `socket:[inode]` (proc_pid_fd(5)).
//!
//! Sees the descriptors of the process as a whole, not those of threads that have a table of their
//! own. Reading another user's needs PTRACE_MODE_READ_FSCREDS (ptrace(2)).

use std::os::fd::{AsFd, AsRawFd};

use rustix::fs::{fstat, getxattr};

use super::proc_root::{ProcRoot, Process, for_each_number, is_gone, read_link};
use crate::process_open_sockets::model::{FdOwner, GapKind, Gaps};
use crate::process_open_sockets::parse::proc_link;
use crate::process_open_sockets::parse::proc_net::ProcNetFile;

/// Adds the descriptors of one process that hold a socket and that `wanted` says yes to.
pub(super) fn walk(
    root: &ProcRoot,
    pid: i32,
    wanted: impl Fn(&FdOwner) -> bool,
    owners: &mut Vec<FdOwner>,
    gaps: &mut Gaps,
) {
    let mut holds = |fd, inode| {
        let owner = FdOwner { inode, pid, fd };
        if wanted(&owner) {
            owners.push(owner);
        }
    };
    let result = root.process(pid).and_then(|process| {
        let own = for_each_descriptor(&process, &mut holds);
        if own == Ok(true) {
            return own;
        }
        // The descriptors of a zombie are none, or root's; a thread of it that lives has them all.
        for thread in process.other_threads() {
            match for_each_descriptor(&thread, &mut holds) {
                Ok(true) => return Ok(true),
                Ok(false) => {}
                Err(errno) if is_gone(errno) => {}
                Err(_) => break,
            }
        }
        own
    });
    match result {
        Ok(_) => {}
        Err(errno) if is_gone(errno) => {}
        Err(errno) => gaps.add(GapKind::Fds, || {
            let path = root.path().join(pid.to_string()).join("fd");
            format!("{}: {}", path.display(), std::io::Error::from(errno))
        }),
    }
}

/// Whether the holder's descriptor says that its socket is of another kind than this file lists; None
/// if it says nothing, or is no longer of that socket.
pub(super) fn is_of_another_file(
    root: &ProcRoot,
    owner: &FdOwner,
    file: ProcNetFile,
) -> Option<bool> {
    let process = root.process(owner.pid).ok()?;
    let socket = process.pin(&format!("fd/{}", owner.fd)).ok()?;
    if fstat(&socket).ok()?.st_ino != owner.inode {
        return None;
    }
    // An attribute is read by path only: here the path is that of our own descriptor.
    let path = format!("/proc/self/fd/{}", socket.as_raw_fd());
    let mut name = [0; 32];
    let length = getxattr(path, "system.sockprotoname", &mut name[..]).ok()?;
    let name = name.get(..length)?.split(|&byte| byte == 0).next()?;
    Some(!file.lists_protocol(name))
}

/// Calls `holds` with fd and inode of each socket; says whether there was any descriptor at all.
fn for_each_descriptor(
    process: &Process,
    mut holds: impl FnMut(i32, u64),
) -> rustix::io::Result<bool> {
    let directory = process.directory("fd")?;
    let mut any = false;
    let mut denied = None;
    for_each_number(directory.as_fd(), |fd, name| {
        any = true;
        match read_link(directory.as_fd(), name, proc_link::socket_inode) {
            Ok(Some(inode)) => holds(fd, inode),
            Ok(None) => {}
            Err(errno) if is_gone(errno) => {}
            Err(errno) => denied = Some(errno),
        }
    })?;
    denied.map_or(Ok(any), Err)
}
