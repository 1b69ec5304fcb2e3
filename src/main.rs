//! Dispatch.

use std::process::ExitCode;

use process_open_sockets::{cli, extension};

fn main() -> ExitCode {
    let cli = match cli::Cli::read() {
        Ok(cli) => cli,
        Err(status) => return status,
    };
    cli.start_log();
    match cli.command {
        None => extension::run(&cli.launch, cli.table.options(0)),
        #[cfg(feature = "shell")]
        Some(cli::Command::Query(query)) => {
            process_open_sockets::shell::query(&query, cli.table.options(cli::BUSY))
        }
        #[cfg(feature = "shell")]
        Some(cli::Command::Schema) => process_open_sockets::shell::schema(),
    }
}
