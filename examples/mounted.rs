//! Serves the table from another extension, as a plugin of osquery-rust-ng.
//!
//! ```sh
//! osqueryi --extension target/debug/examples/mounted --allow_unsafe \
//!     "SELECT * FROM mounted_sockets"
//! ```

use std::sync::Arc;

use clap::Parser;
use osquery_rust_ng::Server;
use osquery_rust_ng::plugin::Plugin;
use process_open_sockets::extension::plugin::TablePlugin;
use tables::Options;
use tables::process_open_sockets::ProcessOpenSockets;

/// The flags that osquery passes to an extension.
#[derive(Parser)]
struct Flags {
    #[arg(long)]
    socket: String,
    #[arg(long)]
    timeout: Option<u64>,
    #[arg(long)]
    interval: Option<u64>,
    #[arg(long)]
    verbose: bool,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let flags = Flags::parse();
    let options = Options::default();
    let table = Arc::new(ProcessOpenSockets::new(options));
    let plugin = TablePlugin::new("mounted_sockets".to_owned(), table);

    let mut server = Server::new(Some("mounted"), &flags.socket)?;
    server.register_plugin(Plugin::readonly_table(plugin));
    server.run_with_signal_handling()?;
    Ok(())
}
