//! Dispatch.

use std::process::ExitCode;

use clap::Parser;
use process_open_sockets::{cli, extension};

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    cli.start_log();
    match cli.command {
        None => extension::run(&cli.launch, cli.table.options()),
        #[cfg(feature = "shell")]
        Some(cli::Command::Query(query)) => {
            process_open_sockets::shell::query(&query, cli.table.options())
        }
        #[cfg(feature = "shell")]
        Some(cli::Command::Schema) => process_open_sockets::shell::schema(),
    }
}
