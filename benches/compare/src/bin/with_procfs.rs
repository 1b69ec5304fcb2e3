//! All TCP, UDP and UNIX sockets and their processes, with the crate procfs, the way its documentation
//! goes about it: a map from inode to process, then the tables.

use std::collections::HashMap;

use procfs::process::{FDTarget, all_processes};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut owners = HashMap::new();
    for process in all_processes()? {
        let Ok(process) = process else { continue };
        let Ok(fds) = process.fd() else { continue };
        for fd in fds.flatten() {
            if let FDTarget::Socket(inode) = fd.target {
                owners.insert(inode, process.pid);
            }
        }
    }
    let tcp = procfs::net::tcp()?.into_iter().chain(procfs::net::tcp6()?).map(|entry| entry.inode);
    let udp = procfs::net::udp()?.into_iter().chain(procfs::net::udp6()?).map(|entry| entry.inode);
    let unix = procfs::net::unix()?.into_iter().map(|entry| entry.inode);
    let sockets: Vec<u64> = tcp.chain(udp).chain(unix).collect();
    let owned = sockets.iter().filter(|inode| owners.contains_key(inode)).count();
    println!("{} sockets, {owned} with a process", sockets.len());
    Ok(())
}
