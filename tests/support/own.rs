//! Expected rows of sockets of this process.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketType};

use super::rows::{rows_where, table};

/// The rows of this socket, selected by its inode.
pub fn rows_of(socket: &impl AsFd) -> Vec<String> {
    let inode = inode(socket);
    let rows = rows_where(&table(Path::new("/proc")), &[("socket", &inode)]);
    let by_pid = rows_where(&table(Path::new("/proc")), &[("pid", &pid()), ("socket", &inode)]);
    let prefix = format!("{}|", pid());
    let own: Vec<_> = rows.iter().filter(|row| row.starts_with(&prefix)).cloned().collect();
    assert_eq!(by_pid, own, "pid = this process changes the answer");
    rows
}

/// `pid|fd|socket|` of this process's descriptor, the rest of the row, and this namespace.
pub fn row(socket: &(impl AsFd + AsRawFd), rest: &str) -> String {
    format!("{}|{}|{}|{rest}|{}", pid(), socket.as_raw_fd(), inode(socket), net_namespace("self"))
}

pub fn pid() -> String {
    std::process::id().to_string()
}

pub fn inode(socket: &impl AsFd) -> String {
    rustix::fs::fstat(socket).unwrap().st_ino.to_string()
}

/// The number in `/proc/<pid>/ns/net`.
pub fn net_namespace(pid: impl std::fmt::Display) -> String {
    let link = std::fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
    let link = link.to_str().unwrap();
    link.strip_prefix("net:[").unwrap().strip_suffix(']').unwrap().to_owned()
}

/// A socket with a name that imitates a line of `/proc/net/unix` about a socket of that inode.
pub fn forge_line_of(inode: &str) -> OwnedFd {
    let socket = net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
    let line = "0000000000000000: 00000002 00000000 00010000 0001 01";
    let name = format!("x\n{line} {inode} /forged");
    net::bind(&socket, &SocketAddrUnix::new_abstract_name(name.as_bytes()).unwrap()).unwrap();
    socket
}
