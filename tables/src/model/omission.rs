//! What could not be read.

use std::fmt;

use crate::enum_table::enum_table;

enum_table! {
    /// What kind of thing could not be read.
    pub(crate) enum OmissionKind: Text {
        /// The file descriptors of a process: its sockets look as if nobody held them.
        Fds = omission(
            "processes whose file descriptors could not be read",
            "they are not shown as holders",
        ),
        /// A process that blocks reads of it, or that is expected to.
        Blocked = omission(
            "processes skipped since reads of /proc/<pid> are blocked, most likely by an execve that waits \
             for a FUSE or network file system",
            "they are not shown as holders, unless BPF shows them; end the process or its file server",
        ),
        /// Processes of others, in a mount of proc with hidepid.
        Hidepid = omission(
            "mounts of proc with hidepid, which do not show the processes of others",
            "their sockets have pid -1",
        ),
        /// Processes outside the PID namespace of the mount of proc.
        PidNamespace = omission(
            "mounts of proc that are not of the first PID namespace",
            "sockets of processes outside it have pid -1",
        ),
        /// The network namespace of a process: its sockets may be missing.
        NetNamespace = omission(
            "processes whose network namespace could not be told",
            "sockets of a namespace that no other process is in are missing",
        ),
        /// A network namespace that is mounted and that no process was seen in: its sockets are missing.
        MountedNetNamespace = omission(
            "network namespaces without processes that could not be entered",
            "their sockets are missing",
        ),
        /// Not all mounts were read: namespaces that are only mounted may be missing.
        Mounts = omission(
            "lists of mounts that take too long to read",
            "network namespaces that are mounted there and have no process may be missing",
        ),
        /// The number of a network namespace: its sockets have no net_namespace.
        NetNamespaceNumber = omission(
            "network namespaces whose number could not be read",
            "their sockets have an empty net_namespace",
        ),
        /// A namespace that all processes had left when its files were to be read, if it was not gone with
        /// them.
        Left = omission(
            "network namespaces that all processes left during the scan",
            "if they are still there, their sockets are missing",
        ),
        /// A file of sockets, or its end.
        SocketFile = omission("files of sockets not read to their end", "sockets are missing"),
        /// A table of which the kernel has no dump, where nothing else may be asked.
        NoDump = omission(
            "tables that netlink does not give",
            "their sockets are missing; --source auto reads /proc/net for them",
        ),
        /// A line of such a file.
        Line = omission(
            "malformed lines",
            "each may be a socket that is missing, or the rest of a UNIX path with a newline",
        ),
        /// A line that somebody wrote into the path of a UNIX socket, about a socket of another kind.
        Forged = omission(
            "lines forged in the path of a UNIX socket, about a socket of another kind",
            "they are left out",
        ),
        /// The scan's deadline passed before everything was read.
        Deadline = omission(
            "steps of a scan that its deadline cut off",
            "sockets or holders are missing; raise --scan-timeout or add a constraint on pid",
        ),
        /// This process, or the host, had no descriptor left for what a scan opens (EMFILE, ENFILE).
        Descriptors = omission(
            "steps of a scan for which no file descriptor was left",
            "sockets or holders are missing; raise the limit of open files (RLIMIT_NOFILE: \
             LimitNOFILE in systemd, ulimit -n) to 256 or more",
        ),
        /// A list of sockets of macOS, or its end.
        PcbList = omission(
            "lists of sockets not read to their end",
            "sockets that no process holds, and of others what only the lists tell, are missing",
        ),
        /// Such a list, of which the kernel shows nothing, or far less than it counts.
        Withheld = omission(
            "lists of sockets of which the kernel shows nothing, or far less than it counts",
            "sockets that no readable process holds, and of others what only the lists tell, are missing",
        ),
        /// What macOS tells of a socket, in a form that is not known.
        Record = omission("sockets of a form that is not known", "they are missing"),
    }
}

/// What the log says of a kind.
struct Text {
    what: &'static str,
    effect: &'static str,
}

const fn omission(what: &'static str, effect: &'static str) -> Text {
    Text { what, effect }
}

/// All that could not be read of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Omission {
    pub(crate) kind: OmissionKind,
    pub(crate) count: u64,
    /// Where it was seen first, and why.
    pub(crate) first: String,
}

impl Omission {
    /// How loud the log should be about it: sockets come and go all the time.
    pub(crate) fn level(&self) -> log::Level {
        match self.kind {
            OmissionKind::Left => log::Level::Debug,
            // It is so for as long as the extension lives.
            OmissionKind::PidNamespace => log::Level::Info,
            _ => log::Level::Warn,
        }
    }
}

impl fmt::Display for Omission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Text { what, effect } = self.kind.row();
        write!(f, "{what}: {} (first: {}); {effect}", self.count, self.first)
    }
}

/// What could not be read, counted by kind: its size does not grow with the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Omissions(Vec<Omission>);

impl Omissions {
    /// Counts one; `first` is called only for the first of its kind.
    pub(crate) fn add(&mut self, kind: OmissionKind, first: impl FnOnce() -> String) {
        match self.0.iter_mut().find(|omission| omission.kind == kind) {
            Some(omission) => omission.count += 1,
            None => self.0.push(Omission { kind, count: 1, first: first() }),
        }
    }

    pub(crate) fn extend(&mut self, more: Omissions) {
        for omission in more.0 {
            match self.0.iter_mut().find(|known| known.kind == omission.kind) {
                Some(known) => known.count += omission.count,
                None => self.0.push(omission),
            }
        }
    }

    #[cfg(any(target_os = "macos", test))]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn has(&self, kind: OmissionKind) -> bool {
        self.iter().any(|omission| omission.kind == kind)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Omission> {
        self.0.iter()
    }
}

#[cfg(target_os = "linux")]
impl Omissions {
    /// Whether some of them mean that sockets were not read.
    pub(crate) fn has_missing_sockets(&self) -> bool {
        self.has(OmissionKind::SocketFile)
            || self.has(OmissionKind::NoDump)
            || self.has(OmissionKind::Left)
    }

    /// Whether some of them mean that network namespaces may not have been found.
    pub(crate) fn has_missing_namespaces(&self) -> bool {
        let kinds = [
            OmissionKind::NetNamespace,
            OmissionKind::MountedNetNamespace,
            OmissionKind::Mounts,
            OmissionKind::Deadline,
        ];
        kinds.into_iter().any(|kind| self.has(kind))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn omissions_of_a_kind_are_one_with_count_and_first_reason() {
        let mut omissions = Omissions::default();
        omissions.add(OmissionKind::Fds, || "/proc/1/fd: denied".into());
        omissions.add(OmissionKind::Line, || "net/unix line 3".into());
        omissions.add(OmissionKind::Fds, || "/proc/2/fd: denied".into());
        let seen: Vec<_> = omissions
            .iter()
            .map(|omission| (omission.kind, omission.count, &omission.first[..]))
            .collect();
        assert_eq!(
            seen,
            [
                (OmissionKind::Fds, 2, "/proc/1/fd: denied"),
                (OmissionKind::Line, 1, "net/unix line 3")
            ]
        );
    }
}
