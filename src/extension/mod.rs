//! The table as an osquery extension.

use std::process::ExitCode;

use tables::process_open_sockets::Options;

use crate::cli::Launch;

/// osquery's Thrift interface, generated from `osquery.thrift` beside it.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#[rustfmt::skip]
pub mod osquery;

/// Serves the table until osquery goes away.
pub fn run(_launch: &Launch, _options: Options) -> ExitCode {
    ExitCode::FAILURE
}
