//! The ends of datagram sockets: a program at the root of the control groups, for which the user asks.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;

use super::super::calls::{self, Program};
use super::super::error::LoadError;
use super::datagrams::SocketMaps;
use super::maps::{Names, with_memory};
use super::members::Layout;
use super::release_program;
use super::writer::Variant;
use crate::linux::cgroup;
use crate::linux::proc_root::ProcRoot;

/// Where the program runs, in the words of libbpf.
pub(super) const RELEASE: &str = "cgroup/sock_release";

/// The program in the kernel.
#[derive(Debug)]
pub(super) struct Releases {
    program: OwnedFd,
    /// The program runs until this is closed.
    _link: OwnedFd,
}

/// Why the program does not run.
#[derive(Debug)]
pub(crate) enum ReleaseError {
    NotChosen,
    NotCounting,
    NoCgroups,
    NoCast,
    Load(LoadError),
}

impl fmt::Display for ReleaseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReleaseError::NotChosen => f.write_str(
                "ends of datagram sockets are reported with --events-datagrams exact-end only",
            ),
            ReleaseError::NotCounting => f.write_str("datagrams are not counted"),
            ReleaseError::NoCgroups => f.write_str(
                "no control groups of version 2 are mounted: mount the whole cgroup2 at /sys/fs/cgroup",
            ),
            ReleaseError::NoCast => {
                f.write_str("the kernel has no bpf_cast_to_kern_ctx: it needs Linux 6.2 or later")
            }
            ReleaseError::Load(LoadError::Call(error)) if error.errno == Errno::PERM => {
                f.write_str("the kernel refuses it: grant CAP_NET_ADMIN or CAP_SYS_ADMIN")
            }
            ReleaseError::Load(error) => write!(f, "{error}"),
        }
    }
}

impl<E: Into<LoadError>> From<E> for ReleaseError {
    fn from(error: E) -> ReleaseError {
        ReleaseError::Load(error.into())
    }
}

impl Releases {
    /// Loads the program, and attaches it to the root of the control groups as this process sees them.
    pub(super) fn start(
        root: &ProcRoot,
        layout: &Layout,
        variant: &Variant,
        names: &Names,
        sockets: &SocketMaps,
    ) -> Result<Releases, ReleaseError> {
        let cast = layout.cast.ok_or(ReleaseError::NoCast)?;
        let group = cgroup::hierarchy(root).ok_or(ReleaseError::NoCgroups)?;
        let code = release_program::program(layout, variant, sockets.of_program().marks, cast)?;
        let program = Program::release(names.release, &code);
        let program = with_memory(|| program.load_or_log())?;
        let link = calls::link_release(program.as_fd(), group.as_fd())?;
        Ok(Releases { program, _link: link })
    }

    /// What takes memory in the kernel.
    pub(super) fn object(&self) -> BorrowedFd<'_> {
        self.program.as_fd()
    }
}
