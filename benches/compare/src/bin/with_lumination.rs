//! Every TCP, UDP and ICMP socket with its process, by the crate lumination.
//!
//! It reports no UNIX sockets or descriptors, reads only its own namespace, and compares each descriptor with
//! each socket: its time grows with the square of their number.

use std::hint::black_box;

fn main() -> Result<(), String> {
    let sockets = lumination::connections::connections().map_err(|error| format!("{error:?}"))?;
    for socket in &sockets {
        black_box(socket);
    }
    println!("{}", sockets.len());
    Ok(())
}
