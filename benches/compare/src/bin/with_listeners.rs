//! Every TCP and UDP socket with its process, by the crate listeners.
//!
//! It reports no remote addresses, UNIX sockets or descriptors, reads only its own namespace, and merges equal
//! records.

use std::hint::black_box;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let sockets = listeners::get_all()?;
    for socket in &sockets {
        black_box(socket);
    }
    println!("{}", sockets.len());
    Ok(())
}
