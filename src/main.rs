//! Runs a subcommand, or serves osquery.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use env_logger::Target;
use process_open_sockets::extension::EXTENSION_NAME;
use process_open_sockets::log_queue::LogQueue;
use process_open_sockets::{cli, environment, extension};

/// Longest wait for the log at the end: stderr may be a pipe with a reader that does not read.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(200);

fn main() -> ExitCode {
    let cli = match environment::read() {
        Ok(cli) => cli,
        Err(status) => return status,
    };
    #[cfg(feature = "shell")]
    if let Some(command) = &cli.command {
        cli.start_log(Target::Stderr);
        return match command {
            cli::Command::Query(query) => {
                let options = cli.tables.options.clone().for_one_query();
                process_open_sockets::shell::query(query, &tables::tables(&options))
            }
            cli::Command::Schema => {
                process_open_sockets::shell::schema(&tables::tables(&cli.tables.options))
            }
        };
    }
    serve_osquery(&cli)
}

fn serve_osquery(cli: &cli::Cli) -> ExitCode {
    let log = match LogQueue::start(EXTENSION_NAME, io::stderr()) {
        Ok(log) => log,
        Err(error) => {
            let _ =
                writeln!(io::stderr(), "{EXTENSION_NAME}: error: cannot start a thread: {error}");
            return ExitCode::FAILURE;
        }
    };
    cli.start_log(Target::Pipe(Box::new(log.clone())));
    // The default hook writes to stderr itself: a blocked stderr would block the thread, with its scan permit.
    std::panic::set_hook(Box::new(|panic| log::error!("{panic}")));
    let options = cli.tables.options.clone().for_osquery();
    log::debug!("{:?}, {options:?}", cli.launch);
    let status = extension::run(&cli.launch, tables::tables(&options), &log);
    log.flush_within(FLUSH_TIMEOUT);
    status
}
