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
        None => extension::run(&cli.launch, cli.table.options()),
        #[cfg(feature = "shell")]
        Some(cli::Command::Query(query)) => {
            process_open_sockets::shell::query(&query, cli.table.options().for_one_query())
        }
        #[cfg(feature = "shell")]
        Some(cli::Command::Schema) => process_open_sockets::shell::schema(),
    }
}
