//! The names of network namespaces: `ip netns add` mounts each on a file of its name in `/run/netns` (ip-netns(8)).

use std::collections::HashMap;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, RawDir, openat, statat};
use rustix::io::Errno;

use super::super::proc_root::ProcRoot;
use crate::deadline::Deadline;
use crate::model::omission::{OmissionKind, Omissions};
use crate::model::{NetNamespace, NetNamespaceNames};

/// The directory, from the root of a process.
const DIRECTORY: &str = "run/netns";

/// Reads the names in the directory of the host's first process, or, without the right to trace it, in that of this
/// process. A namespace with several names has the first in alphabetical order.
pub(crate) fn net_namespace_names(
    root: &ProcRoot,
    deadline: Deadline<'_>,
    omissions: &mut Omissions,
) -> NetNamespaceNames {
    let mut names = HashMap::new();
    if let Err(errno) = read(root, deadline, &mut names) {
        omissions.add(OmissionKind::NetNamespaceNames, || format!("/{DIRECTORY}: {errno}"));
    }
    NetNamespaceNames::new(names)
}

fn read(
    root: &ProcRoot,
    deadline: Deadline<'_>,
    names: &mut HashMap<NetNamespace, String>,
) -> rustix::io::Result<()> {
    // Copied trees have no namespaces.
    if !root.is_real() {
        return Ok(());
    }
    let Some(directory) = open(root)? else { return Ok(()) };
    let namespaces = root.own_process()?.stat("ns/net")?.st_dev;
    let mut buffer = Vec::with_capacity(8 * 1024);
    let mut entries = RawDir::new(&directory, buffer.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        if deadline.has_passed() {
            return Err(Errno::TIMEDOUT);
        }
        let entry = entry?;
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        // Without a mount on it, the file does not name a namespace.
        let Ok(status) = statat(&directory, entry.file_name(), flags) else { continue };
        if status.st_dev != namespaces {
            continue;
        }
        let name = entry.file_name().to_string_lossy();
        let shown = names.entry(NetNamespace(status.st_ino)).or_insert_with(|| name.to_string());
        if **shown > *name {
            *shown = name.into_owned();
        }
    }
    Ok(())
}

/// None if no namespace has a name.
fn open(root: &ProcRoot) -> rustix::io::Result<Option<OwnedFd>> {
    let first = root.process(1).and_then(|first| first.directory(&format!("root/{DIRECTORY}")));
    let opened = match first {
        Err(Errno::ACCESS | Errno::PERM) => {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            root.counted(openat(CWD, format!("/{DIRECTORY}"), flags, Mode::empty()))
        }
        first => first,
    };
    match opened {
        Ok(directory) => Ok(Some(directory)),
        // Processes of the mount of proc, or the directory, do not exist.
        Err(Errno::NOENT | Errno::SRCH | Errno::NOTDIR) => Ok(None),
        Err(errno) => Err(errno),
    }
}
