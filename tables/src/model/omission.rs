//! Omissions: what a scan could not read, counted and reported.

use std::fmt;

use crate::enum_table::enum_table;

enum_table! {
    /// The kind of an omission.
    pub(crate) enum OmissionKind: Text {
        /// The file descriptors of a process: its sockets look unheld.
        Fds = omission(
            "processes whose file descriptors could not be read",
            if cfg!(target_os = "macos") {
                "they are not shown as holders; run as root"
            } else {
                "they are not shown as holders; grant CAP_SYS_PTRACE"
            },
        ),
        /// A process that blocks reads of its directory, or is expected to.
        Blocked = omission(
            "processes skipped since reads of /proc/<pid> are blocked, most likely by an execve that waits \
             for a FUSE or network file system",
            "they are not shown as holders, unless BPF shows them; end the process or its file server",
        ),
        /// Processes of other users, in a mount of proc with hidepid (proc(5)).
        Hidepid = omission(
            "mounts of proc with hidepid, which hide the processes of other users",
            "sockets of hidden processes may have pid -1; give --procfs a mount without hidepid",
        ),
        /// Processes outside the PID namespace of the mount of proc.
        PidNamespace = omission(
            "mounts of proc that are not of the first PID namespace",
            "sockets of processes outside it may have pid -1; give --procfs a mount of the first one",
        ),
        /// The network namespace of a process.
        NetNamespace = omission(
            "processes whose network namespace could not be determined",
            "sockets of a namespace without other processes may be missing",
        ),
        /// A mounted network namespace in which no process was found. BPF or a file descriptor can still show
        /// its sockets.
        MountedNetNamespace = omission(
            "network namespaces without processes that could not be entered",
            "their sockets may be missing; grant CAP_SYS_ADMIN",
        ),
        /// A part of the mounts: namespaces that are only mounted may be missing.
        Mounts = omission(
            "lists of mounts that take too long to read",
            "sockets of network namespaces that are mounted there and have no process may be missing",
        ),
        /// The number of a network namespace: its sockets have no net_namespace.
        NetNamespaceNumber = omission(
            "network namespaces whose number could not be read",
            "their sockets have an empty net_namespace; grant CAP_SYS_PTRACE",
        ),
        /// The directory of the names of network namespaces.
        NetNamespaceNames = omission(
            "directories of names of network namespaces not read to their end",
            "net_namespace_name may be empty; run as root",
        ),
        /// A namespace that all processes left before its files were read. It may have ended with them.
        Left = omission(
            "network namespaces that all processes left during the scan",
            "if they still exist, their sockets may be missing",
        ),
        /// A socket table, or its end.
        SocketFile = omission("files of sockets not read to their end", "sockets are missing"),
        /// A table without a netlink dump, where `--source netlink` forbids its file.
        NoDump = omission(
            "socket tables without a netlink dump",
            "their sockets are missing; --source auto reads /proc/net for them",
        ),
        /// A line of a file of `/proc/net`.
        Line = omission(
            "malformed lines",
            "each may be a socket that is missing, or the rest of a UNIX path with a newline",
        ),
        /// A line about a socket of another kind, which a process wrote into the path of a UNIX socket.
        Forged = omission(
            "lines forged in the path of a UNIX socket, about a socket of another kind",
            "they are skipped",
        ),
        /// A step that the deadline of the scan prevented or cut off.
        Deadline = omission(
            "steps of a scan that its deadline cut off",
            "sockets or holders are missing; raise --scan-timeout or add a constraint on pid",
        ),
        /// A file that could not be opened since this process, or the host, had no descriptor left (EMFILE,
        /// ENFILE).
        Descriptors = omission(
            "steps of a scan for which no file descriptor was left",
            "sockets or holders are missing; raise the limit of open files (RLIMIT_NOFILE: \
             LimitNOFILE in systemd, ulimit -n) to 256 or more",
        ),
        /// A file of a process that holds a socket.
        Process = omission(
            "files of processes that could not be read",
            if cfg!(target_os = "macos") {
                "their process columns are NULL; run as root"
            } else {
                "their process or container columns are NULL; grant CAP_SYS_PTRACE"
            },
        ),
        /// A process that holds a socket and blocks a read of its files, or is expected to.
        ProcessBlocked = omission(
            "reads of stat, exe or cmdline skipped since processes block them, most likely by an execve that waits for \
             a FUSE or network file system, or by memory that is mapped from one",
            "their process or container columns are NULL",
        ),
        /// The arguments of a process, beyond a limit.
        CommandLine = omission(
            "command lines that are too long",
            "the rest of each is missing in process_cmdline",
        ),
        /// A socket list of macOS, or its end.
        PcbList = omission(
            "lists of sockets not read to their end",
            "unheld sockets, and details that only the lists report, are missing",
        ),
        /// A socket list of which the kernel shows nothing, or far less than it counts.
        Withheld = omission(
            "lists of sockets of which the kernel shows nothing, or far less than it counts",
            "sockets without a readable holder, and details that only the lists report, are missing",
        ),
        /// A record of a socket in an unknown form of macOS.
        Record = omission("sockets of an unknown form", "they are missing"),
    }
}

/// The log message of a kind.
struct Text {
    what: &'static str,
    /// The consequence, and what to do.
    effect: &'static str,
}

const fn omission(what: &'static str, effect: &'static str) -> Text {
    Text { what, effect }
}

/// All omissions of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Omission {
    pub(crate) kind: OmissionKind,
    pub(crate) count: u64,
    /// The path and the cause of the first one.
    pub(crate) first: String,
}

impl Omission {
    /// The level of the log message.
    pub(crate) fn level(&self) -> log::Level {
        match self.kind {
            // Namespaces come and go all the time.
            OmissionKind::Left => log::Level::Debug,
            // It stays the same as long as the extension runs.
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

/// Omissions, counted by kind: the size does not grow with the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Omissions(Vec<Omission>);

impl Omissions {
    /// Counts one omission. `first` returns the text of [`Omission::first`]: it is called once for a kind.
    pub(crate) fn add(&mut self, kind: OmissionKind, first: impl FnOnce() -> String) {
        match self.0.iter_mut().find(|omission| omission.kind == kind) {
            Some(omission) => omission.count += 1,
            None => self.0.push(Omission { kind, count: 1, first: first() }),
        }
    }

    pub(crate) fn extend(&mut self, more: Omissions) {
        for omission in more.0 {
            match self.0.iter_mut().find(|counted| counted.kind == omission.kind) {
                Some(counted) => counted.count += omission.count,
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
    /// Whether an omission means that sockets of a known namespace were not read.
    pub(crate) fn has_missing_sockets(&self) -> bool {
        self.has(OmissionKind::SocketFile)
            || self.has(OmissionKind::NoDump)
            || self.has(OmissionKind::Left)
    }

    /// Whether an omission means that network namespaces may not have been found.
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
    fn omissions_of_a_kind_are_counted_with_the_first_reason() {
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
