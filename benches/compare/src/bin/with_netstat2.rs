//! All TCP and UDP sockets and their processes, with the crate netstat2.

use netstat2::{AddressFamilyFlags, ProtocolFlags, get_sockets_info};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let families = AddressFamilyFlags::IPV4 | AddressFamilyFlags::IPV6;
    let sockets = get_sockets_info(families, ProtocolFlags::TCP | ProtocolFlags::UDP)?;
    let owned = sockets.iter().filter(|socket| !socket.associated_pids.is_empty()).count();
    println!("{} sockets, {owned} with a process", sockets.len());
    Ok(())
}
