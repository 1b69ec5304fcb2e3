//! Which network namespaces there are, and who is in them (network_namespaces(7)).
//!
//! The link `/proc/<pid>/ns/net` names a namespace, but reading it needs ptrace rights
//! (PTRACE_MODE_READ_FSCREDS) that even root may lack. The files in `/proc/<pid>/net` need none, and
//! their inode numbers are one namespace's own. So these tell namespaces apart, and the name comes
//! from whichever member's link is readable.
//!
//! A namespace that no process is in is not seen.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::fs::{Stat, fstat, stat};
use rustix::io::Errno;

use super::proc_root::{ProcRoot, Process, is_gone};
use crate::process_open_sockets::model::{GapKind, Gaps, NetNamespace};
use crate::process_open_sockets::parse::proc_link;

/// Device and inode number of a file in a namespace's `/proc/<pid>/net`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Mark(u64, u64);

/// A network namespace and the processes through which it can be read.
#[derive(Debug)]
pub(super) struct Namespace {
    pub(super) mark: Mark,
    number: Option<NetNamespace>,
    members: Vec<i32>,
}

/// The namespaces seen so far.
#[derive(Debug, Default)]
pub(super) struct Namespaces {
    all: Vec<Namespace>,
    by_mark: HashMap<Mark, usize>,
}

impl Namespaces {
    /// Puts a process into its namespace.
    pub(super) fn add(&mut self, root: &ProcRoot, pid: i32, gaps: &mut Gaps) {
        let result = root.process(pid).and_then(|process| {
            let (mark, process) = find_mark(process)?;
            let index = *self.by_mark.entry(mark).or_insert_with(|| {
                self.all.push(Namespace { mark, number: None, members: Vec::new() });
                self.all.len() - 1
            });
            if let Some(namespace) = self.all.get_mut(index) {
                namespace.members.push(pid);
                if namespace.number.is_none() {
                    let number = process.link("ns/net", proc_link::net_namespace).ok().flatten();
                    // It may have moved on since.
                    namespace.number = number.filter(|_| mark_of(&process) == Ok(mark));
                }
            }
            Ok(())
        });
        match result {
            Ok(()) => {}
            // A zombie has no namespace.
            Err(errno) if is_gone(errno) || errno == Errno::INVAL => {}
            Err(errno) => gaps.add(GapKind::NetNamespace, || {
                let path = root.path().join(pid.to_string()).join("net");
                format!("{}: {}", path.display(), std::io::Error::from(errno))
            }),
        }
    }

    /// All namespaces, in the order in which they were first seen.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Namespace> {
        self.all.iter()
    }

    /// The number of the namespace that the host's first process is in, as this mount of proc shows it.
    /// Where the link of that one cannot be read, another member knows it.
    pub(super) fn host(&self, root: &ProcRoot) -> Option<NetNamespace> {
        let first = root.process(1).ok()?;
        let number = |process: &Process| process.link("ns/net", proc_link::net_namespace).ok()?;
        if let Some(number) = number(&first) {
            return Some(number);
        }
        let mark = mark_of(&first).ok()?;
        if let Some(number) = self.by_mark.get(&mark).and_then(|&index| self.all.get(index)?.number)
        {
            return Some(number);
        }
        let own = root.own_process().ok()?;
        (mark_of(&own) == Ok(mark)).then(|| number(&own)).flatten()
    }

    /// Counts those whose number no member's link gave.
    pub(super) fn note_unnumbered(&self, root: &ProcRoot, gaps: &mut Gaps) {
        for namespace in self.all.iter().filter(|namespace| namespace.number.is_none()) {
            gaps.add(GapKind::NetNamespaceNumber, || {
                let member = namespace.members.first().copied().unwrap_or_default();
                root.path().join(format!("{member}/ns/net")).display().to_string()
            });
        }
    }
}

impl Namespace {
    /// Whether the calling process is in it.
    pub(super) fn is_own(&self, root: &ProcRoot) -> bool {
        // The files are the same in every mount of proc, and their numbers with them.
        root.is_real() && own_mark().is_ok_and(|own| own.1 == self.mark.1)
    }

    /// A handle of the namespace, to enter it.
    ///
    /// # Errors
    /// ENOENT if its number is not known, or nobody is in it any more; and why its link cannot be
    /// followed.
    pub(super) fn handle(&self, root: &ProcRoot) -> rustix::io::Result<OwnedFd> {
        const MEMBERS: usize = 8;
        let mut result = Err(Errno::NOENT);
        let Some(NetNamespace(number)) = self.number else { return result };
        if !root.is_real() {
            return result;
        }
        for &pid in self.members.iter().take(MEMBERS) {
            result = root.process(pid).and_then(find_mark).and_then(|(_, process)| {
                let handle = OwnedFd::from(process.file("ns/net")?);
                let is_it = fstat(&handle)?.st_ino == number;
                if is_it { Ok(handle) } else { Err(Errno::NOENT) }
            });
            if result.is_ok() {
                break;
            }
        }
        result
    }

    /// Its number, if the link of a member was readable.
    pub(super) fn number(&self) -> Option<NetNamespace> {
        self.number
    }

    /// Where a file of it is found, for messages.
    pub(super) fn path(&self, root: &ProcRoot, file: &str) -> PathBuf {
        let member = self.members.first().copied().unwrap_or_default();
        root.path().join(member.to_string()).join("net").join(file)
    }

    /// Opens a file of the namespace's `/proc/<pid>/net`. None if the namespace has no such file,
    /// or if nobody is in it any more.
    ///
    /// A member may end or move to another namespace at any moment; so each is asked again which
    /// namespace it is in once the file is open.
    pub(super) fn open(&self, root: &ProcRoot, file: &str) -> rustix::io::Result<Option<File>> {
        let path = format!("net/{file}");
        for &pid in &self.members {
            let Ok((mark, process)) = root.process(pid).and_then(find_mark) else { continue };
            if mark != self.mark {
                continue;
            }
            let opened = process.file(&path);
            if mark_of(&process) != Ok(self.mark) {
                continue;
            }
            return match opened {
                Ok(file) => Ok(Some(file)),
                Err(errno) if is_gone(errno) => Ok(None),
                Err(errno) => Err(errno),
            };
        }
        Ok(None)
    }
}

/// The mark of the process's namespace, and the process or the thread that shows it.
fn find_mark(process: Process) -> rustix::io::Result<(Mark, Process)> {
    let mark = mark_of(&process);
    if mark.is_err() {
        for thread in process.other_threads() {
            if let Ok(mark) = mark_of(&thread) {
                return Ok((mark, thread));
            }
        }
    }
    Ok((mark?, process))
}

fn mark_of(process: &Process) -> rustix::io::Result<Mark> {
    mark(|file| process.stat(&format!("net/{file}")))
}

/// That of the calling thread's namespace.
fn own_mark() -> rustix::io::Result<Mark> {
    mark(|file| stat(format!("/proc/thread-self/net/{file}")))
}

fn mark(stat: impl Fn(&str) -> rustix::io::Result<Stat>) -> rustix::io::Result<Mark> {
    // Both are in every namespace; the second is for kernels without IPv4.
    let stat = stat("tcp").or_else(|_| stat("unix"))?;
    Ok(Mark(stat.st_dev, stat.st_ino))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_member_that_has_moved_on_does_not_show_its_old_namespace() {
        let tree = tempfile::tempdir().unwrap();
        let path = |name: &str| tree.path().join(name);
        symlink("1", path("self")).unwrap();
        for namespace in ["old", "new"] {
            fs::create_dir(path(namespace)).unwrap();
            fs::write(path(namespace).join("tcp"), namespace).unwrap();
        }
        fs::create_dir(path("1")).unwrap();
        symlink(path("old"), path("1/net")).unwrap();
        let root = ProcRoot::open(tree.path()).unwrap();
        let mut namespaces = Namespaces::default();
        namespaces.add(&root, 1, &mut Gaps::default());
        let namespace = namespaces.iter().next().unwrap();
        assert!(namespace.open(&root, "tcp").unwrap().is_some());

        fs::remove_file(path("1/net")).unwrap();
        symlink(path("new"), path("1/net")).unwrap();
        assert!(namespace.open(&root, "tcp").unwrap().is_none());
    }
}
