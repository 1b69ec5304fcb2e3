//! The kernel's minimum time for the two halves of a scan, without storing results: a walk of all
//! descriptors, and a dump of the TCP and UNIX sockets. Prints the milliseconds of each.

mod dump;
mod walk;

use std::error::Error;
use std::time::Instant;

fn main() -> Result<(), Box<dyn Error>> {
    let start = Instant::now();
    let links = walk::walk()?;
    let walked = start.elapsed();
    let datagrams = dump::dump()?;
    let both = start.elapsed();
    let [walk, dump] = [walked, both - walked].map(|time| time.as_secs_f64() * 1000.0);
    println!("walk {walk:.1} dump {dump:.1} links {links} datagrams {datagrams}");
    Ok(())
}
