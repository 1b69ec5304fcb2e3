//! All connections and their processes, with the crate lumination.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let connections =
        lumination::connections::connections().map_err(|error| format!("{error:?}"))?;
    let owned = connections.iter().filter(|connection| connection.pid != 0).count();
    println!("{} sockets, {owned} with a process", connections.len());
    Ok(())
}
