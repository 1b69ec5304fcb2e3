//! The walk and the dump, separately, for the benchmarks.

use crate::Error;
use crate::deadline::Deadline;
use crate::formats::linux::sock_diag::Request;
use crate::linux::fds;
use crate::linux::fds::WalkOptions;
use crate::linux::proc_root::ProcRoot;
use crate::linux::sock_diag::{ReadControl, SockDiag};
use crate::model::holders::HolderLimits;
use crate::model::omission::Omissions;
use crate::model::socket_table::SocketTable;

/// Walks the descriptors of all processes; returns how many hold a socket.
///
/// # Errors
/// If `/proc` cannot be read.
pub fn walk() -> Result<usize, Error> {
    let root = ProcRoot::open("/proc".as_ref())?;
    let pids = root.pids()?;
    let options = WalkOptions {
        threads: false,
        limits: HolderLimits::default(),
        deadline: Deadline::NEVER,
        start_times: None,
    };
    let walked = fds::walk(&root, &pids, options, |_| true, &mut Omissions::default());
    Ok(walked.finish(|_| true).iter().count())
}

/// Dumps the TCP sockets over IPv4 of this network namespace; returns how many there are.
///
/// # Errors
/// If the kernel returns an error.
pub fn dump_tcp() -> std::io::Result<usize> {
    let mut sockets = Vec::new();
    if let Some(request) = Request::of(SocketTable::Tcp) {
        let dumped = SockDiag::open()?.dump(&request, |socket| {
            sockets.push(socket);
            ReadControl::Kept
        });
        dumped.map_err(std::io::Error::other)?;
    }
    Ok(sockets.len())
}
