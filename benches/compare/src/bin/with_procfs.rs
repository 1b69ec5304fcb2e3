//! Every TCP, UDP and UNIX socket with every descriptor that holds it, by the crate procfs.
//!
//! The crate reads its own namespace. This program finds the holders with a map from inode to descriptors, as
//! the crate's example does for TCP.

use std::collections::HashMap;
use std::hint::black_box;

use procfs::process::{FDTarget, all_processes};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut owners: HashMap<u64, Vec<(i32, i32)>> = HashMap::new();
    for process in all_processes()?.flatten() {
        let Ok(fds) = process.fd() else { continue };
        for fd in fds.flatten() {
            if let FDTarget::Socket(inode) = fd.target {
                owners.entry(inode).or_default().push((process.pid, fd.fd));
            }
        }
    }
    let mut rows = 0;
    let mut row_of = |inode: u64| match owners.get(&inode) {
        Some(owners) => rows += black_box(owners).len(),
        None => rows += 1,
    };
    for socket in procfs::net::tcp()?.into_iter().chain(procfs::net::tcp6()?) {
        row_of(black_box(&socket).inode);
    }
    for socket in procfs::net::udp()?.into_iter().chain(procfs::net::udp6()?) {
        row_of(black_box(&socket).inode);
    }
    for socket in procfs::net::unix()? {
        row_of(black_box(&socket).inode);
    }
    println!("{rows}");
    Ok(())
}
