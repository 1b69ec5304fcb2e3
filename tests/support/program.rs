//! Programs that tests start.

use std::path::Path;
use std::process::Command;

/// Copies a program. Another process writes the copy: a child that another test starts meanwhile would hold the descriptor
/// of this process for a moment, and the copy could not be executed (ETXTBSY).
pub(crate) fn copy_program(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("--").args([from, to]).status().unwrap();
    assert!(status.success());
}
