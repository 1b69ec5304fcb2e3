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
    match &cli.command {
        None => serve_osquery(&cli),
        #[cfg(any(feature = "shell", target_os = "linux"))]
        Some(command) => run(command, &cli),
        #[cfg(not(any(feature = "shell", target_os = "linux")))]
        Some(command) => match *command {},
    }
}

#[cfg(any(feature = "shell", target_os = "linux"))]
fn run(command: &cli::Command, cli: &cli::Cli) -> ExitCode {
    cli.start_log(Target::Stderr);
    match command {
        #[cfg(feature = "shell")]
        cli::Command::Query(query) => {
            let options = cli.tables.options.clone().for_one_query();
            process_open_sockets::shell::query(query, &tables::tables(&options))
        }
        #[cfg(feature = "shell")]
        cli::Command::Schema => {
            process_open_sockets::shell::schema(&tables::tables(&cli.tables.options))
        }
        #[cfg(target_os = "linux")]
        cli::Command::Events(arguments) => {
            process_open_sockets::events::events(arguments, &cli.tables.options)
        }
    }
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
