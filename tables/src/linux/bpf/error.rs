//! Errors of loading and running the BPF program.

use std::fmt;
use std::io;
use std::path::PathBuf;

use rustix::io::Errno;

use super::assembler::AssembleError;
use super::calls::CallError;
use super::kernel_members::LayoutError;
use crate::Error;
use crate::formats::linux::bpf_record::RecordError;
use crate::formats::linux::event_record::EventRecordError;

/// The consequence of a failure of BPF, for messages.
pub(super) const FALLBACK: &str = "using netlink and /proc";

/// Why the program could not be loaded.
#[derive(Debug)]
pub(crate) enum LoadError {
    /// The directory is not a mount of the kernel's proc: its pids are not those of this host.
    NotProc {
        path: PathBuf,
    },
    /// The program visits the processes of the PID namespace of this process, but the mount shows another one.
    PidNamespace {
        path: PathBuf,
    },
    /// The file of the kernel's types cannot be read.
    ReadTypes {
        path: &'static str,
        source: io::Error,
    },
    /// The kernel's types lack a member that the program reads.
    Layout {
        path: &'static str,
        source: LayoutError,
    },
    Assemble(AssembleError),
    Call(CallError),
    /// The depth of this process's PID namespace could not be determined: no socket could be opened,
    OwnSocket(Errno),
    /// the pass over the descriptors failed,
    OwnLevel(PassError),
    /// or the pass did not show the socket.
    OwnSocketMissed,
    /// The ring buffer for events cannot be mapped or waited for.
    Ring(Errno),
    /// The kernel has no socket cookies for iterators.
    NoCookies,
}

impl From<CallError> for LoadError {
    fn from(error: CallError) -> LoadError {
        LoadError::Call(error)
    }
}

impl From<AssembleError> for LoadError {
    fn from(error: AssembleError) -> LoadError {
        LoadError::Assemble(error)
    }
}

const OWN_LEVEL: &str = "cannot determine the depth of this process's PID namespace";

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LoadError::NotProc { path } => write!(
                f,
                "{} is not a mount of this kernel's proc: give --procfs such a mount",
                path.display()
            ),
            LoadError::PidNamespace { path } => write!(
                f,
                "{} is of another PID namespace than this process: give --procfs a mount of the same one",
                path.display()
            ),
            LoadError::ReadTypes { path, source } => write!(
                f,
                "cannot read {path}: {source}: the kernel has to be built with CONFIG_DEBUG_INFO_BTF"
            ),
            LoadError::Layout { path, source } => write!(f, "{path}: {source}"),
            LoadError::Assemble(error) => write!(f, "cannot assemble the BPF program: {error}"),
            LoadError::Call(error) => write!(f, "{error}"),
            LoadError::OwnSocket(errno) => write!(f, "{OWN_LEVEL}: cannot open a socket: {errno}"),
            LoadError::OwnLevel(error) => write!(f, "{OWN_LEVEL}: {error}"),
            LoadError::OwnSocketMissed => {
                write!(f, "{OWN_LEVEL}: BPF does not show a socket of this process")
            }
            LoadError::Ring(errno) => write!(f, "cannot map the BPF ring buffer: {errno}"),
            LoadError::NoCookies => {
                write!(f, "BPF can list open sockets with their cookies only from Linux 5.12 on")
            }
        }
    }
}

impl std::error::Error for LoadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            LoadError::NotProc { .. }
            | LoadError::PidNamespace { .. }
            | LoadError::OwnSocketMissed
            | LoadError::NoCookies => None,
            LoadError::ReadTypes { source, .. } => Some(source),
            LoadError::Layout { source, .. } => Some(source),
            LoadError::Assemble(source) => Some(source),
            LoadError::Call(source) => Some(source),
            LoadError::OwnSocket(source) | LoadError::Ring(source) => Some(source),
            LoadError::OwnLevel(source) => Some(source),
        }
    }
}

/// Why a pass of the loaded program failed.
#[derive(Debug)]
pub(crate) enum PassError {
    /// The iterator could not be created.
    Call(CallError),
    /// The iterator could not be read to its end.
    Read(Errno),
    /// The program wrote a malformed record.
    Record(RecordError),
    /// Before Linux 6.7 the iterator can miss threads of this process.
    MissesThreads { pid: i32 },
    /// The processes could not be listed, so that those that start during the pass are unknown.
    Processes(Error),
    /// The program for socket events wrote a malformed record.
    EventRecord(EventRecordError),
    /// The program was not loaded, for this reason.
    NotLoaded(String),
}

impl PassError {
    /// Whether the cause is a limitation of older kernels.
    pub(super) fn is_expected(&self) -> bool {
        match self {
            PassError::MissesThreads { .. } => true,
            // Before Linux 6.1 of one process.
            PassError::Call(CallError { errno, .. }) => *errno == Errno::TOOBIG,
            PassError::Read(_)
            | PassError::Record(_)
            | PassError::Processes(_)
            | PassError::EventRecord(_)
            | PassError::NotLoaded(_) => false,
        }
    }
}

impl From<CallError> for PassError {
    fn from(error: CallError) -> PassError {
        PassError::Call(error)
    }
}

impl From<RecordError> for PassError {
    fn from(error: RecordError) -> PassError {
        PassError::Record(error)
    }
}

impl From<EventRecordError> for PassError {
    fn from(error: EventRecordError) -> PassError {
        PassError::EventRecord(error)
    }
}

impl fmt::Display for PassError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PassError::Call(error) => write!(f, "{error}"),
            PassError::Read(errno) => write!(f, "cannot read the BPF iterator: {errno}"),
            PassError::Record(error) => write!(f, "{error}"),
            PassError::MissesThreads { pid } => {
                write!(f, "the BPF iterator can miss threads of process {pid} before Linux 6.7")
            }
            PassError::Processes(error) => write!(f, "{error}"),
            PassError::EventRecord(error) => write!(f, "{error}"),
            PassError::NotLoaded(reason) => f.write_str(reason),
        }
    }
}

impl std::error::Error for PassError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            PassError::Call(source) => Some(source),
            PassError::Read(source) => Some(source),
            PassError::Record(source) => Some(source),
            PassError::MissesThreads { .. } | PassError::NotLoaded(_) => None,
            PassError::EventRecord(source) => Some(source),
            PassError::Processes(source) => Some(source),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linux::bpf::calls::Command;

    #[test]
    fn an_error_names_the_file_of_the_kernels_types() {
        let path = "/sys/kernel/btf/vmlinux";
        let source = io::Error::from(Errno::NOENT);
        assert_eq!(
            LoadError::ReadTypes { path, source }.to_string(),
            "cannot read /sys/kernel/btf/vmlinux: No such file or directory (os error 2): the kernel has to be \
             built with CONFIG_DEBUG_INFO_BTF"
        );
        let source = LayoutError::Offset { structure: "sock", member: "sk_uid", offset: 70_000 };
        assert_eq!(
            LoadError::Layout { path, source }.to_string(),
            "/sys/kernel/btf/vmlinux: kernel structure offset exceeds 16 bits: sk_uid of struct sock ends at \
             byte 70000"
        );
    }

    #[test]
    fn an_error_names_the_mount_of_another_pid_namespace() {
        let path = PathBuf::from("/host/proc");
        assert_eq!(
            LoadError::PidNamespace { path }.to_string(),
            "/host/proc is of another PID namespace than this process: give --procfs a mount of the same one"
        );
    }

    #[test]
    fn only_errors_of_older_kernels_are_expected() {
        let call = |command, errno| PassError::Call(CallError { command, errno });
        assert!(PassError::MissesThreads { pid: 7 }.is_expected());
        assert!(call(Command::LinkCreate, Errno::TOOBIG).is_expected());
        for error in [
            call(Command::LinkCreate, Errno::PERM),
            PassError::Read(Errno::NOMEM),
            PassError::Record(RecordError::Size(1)),
            PassError::Processes(Error::NotProc { path: "/proc".into() }),
        ] {
            assert!(!error.is_expected(), "{error}");
        }
    }
}
