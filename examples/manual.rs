//! Writes the man pages and the completions of the shells into a directory: an example, so that the program does not
//! contain the generators.

use std::error::Error;
use std::fs;
use std::path::PathBuf;

use clap::CommandFactory;
use clap_complete::Shell;
use process_open_sockets::cli::Cli;

fn main() -> Result<(), Box<dyn Error>> {
    let directory = std::env::args_os().nth(1).ok_or("usage: manual DIRECTORY")?;
    let directory = PathBuf::from(directory);
    fs::create_dir_all(&directory)?;
    // The version alone: the page of a release must not depend on the features of this example.
    let command = Cli::command().version(env!("CARGO_PKG_VERSION"));
    // Without pages about pages.
    let mut command = command.disable_help_subcommand(true);
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut command, env!("CARGO_PKG_NAME"), &directory)?;
    }
    clap_mangen::generate_to(command, &directory)?;
    Ok(())
}
