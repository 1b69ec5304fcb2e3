//! SQL without osquery.

use std::process::ExitCode;

use tables::process_open_sockets::Options;

/// `query`: options named as osqueryi names them.
#[derive(clap::Args, Debug)]
pub struct Query {
    /// The statements; read from standard input when there are none
    pub sql: Option<String>,
}

/// Answers the statements on standard output.
pub fn query(_query: &Query, _options: Options) -> ExitCode {
    ExitCode::FAILURE
}

/// Prints the table's CREATE TABLE.
pub fn schema() -> ExitCode {
    ExitCode::FAILURE
}
