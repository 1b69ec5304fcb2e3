//! Every TCP and UDP socket with its processes, by the crate netstat2.
//!
//! It reports no UNIX sockets or descriptors, and reads only its own namespace.

use std::hint::black_box;

use netstat2::{AddressFamilyFlags, ProtocolFlags, iterate_sockets_info};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let families = AddressFamilyFlags::IPV4 | AddressFamilyFlags::IPV6;
    let mut rows = 0;
    for socket in iterate_sockets_info(families, ProtocolFlags::TCP | ProtocolFlags::UDP)? {
        rows += black_box(&socket?).associated_pids.len().max(1);
    }
    println!("{rows}");
    Ok(())
}
