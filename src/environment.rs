//! Reads the command line, and environment variables for the flags that it lacks.
//!
//! Clap reads the variables, but has no option for three rules: an empty variable counts as unset (systemd
//! units contain such), a subcommand ignores the variables of flags that it does not use, and an error names
//! the variable with the wrong value.

use std::any::TypeId;
use std::env;
use std::ffi::OsString;
use std::io::{Write, stderr};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::Resettable;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{Arg, Args, Command, CommandFactory, Error, FromArgMatches};

use crate::clap_args::TableFlags;
use crate::cli::{Cli, Launch};

/// Reads the command line of this process, and prints errors, the help or the version.
///
/// # Errors
/// The exit code: 2 if the command line is wrong, 0 after the help or the version.
pub fn read() -> Result<Cli, ExitCode> {
    let arguments: Vec<_> = env::args_os().collect();
    parse(&arguments).map_err(|error| {
        if error.use_stderr() {
            let _ = write!(stderr(), "{}: {}", env!("CARGO_PKG_NAME"), error.render());
            if cfg!(not(feature = "shell")) && is_for_the_shell(&error) {
                let message = "This program has no SQL shell: use the program of a package, or build it with the feature 'shell'.";
                let _ = writeln!(stderr(), "\n{message}");
            }
            return ExitCode::from(2);
        }
        let _ = error.print();
        ExitCode::SUCCESS
    })
}

/// Whether the command line has a subcommand of the shell, and the program does not know it.
fn is_for_the_shell(error: &Error) -> bool {
    // Without any subcommand, clap reports an argument.
    let kind = match Cli::command().has_subcommands() {
        true => ContextKind::InvalidSubcommand,
        false => ContextKind::InvalidArg,
    };
    matches!(error.get(kind), Some(ContextValue::String(it)) if it == "query" || it == "schema")
}

/// Parses the command line, and the variables of flags that it lacks.
///
/// # Errors
/// Clap's, among them the text of `--help` and `--version`.
fn parse(arguments: &[OsString]) -> Result<Cli, Error> {
    let given = match with_variables(|_| false).try_get_matches_from(arguments) {
        Ok(given) => given,
        // The help of the full command line also lists the variables.
        Err(error) if error.kind() == ErrorKind::DisplayHelp => {
            return Err(Cli::command().try_get_matches_from(arguments).err().unwrap_or(error));
        }
        Err(error) => return Err(error),
    };
    let mut command = with_variables(|arg| {
        let value = arg.get_env().and_then(env::var_os);
        value.is_some_and(|value| !value.is_empty())
            && given.value_source(arg.get_id().as_str()) != Some(ValueSource::CommandLine)
            && is_used(arg, given.subcommand_name())
    });
    let matches = command.try_get_matches_from_mut(arguments);
    Cli::from_arg_matches(&matches.map_err(|error| with_variable_name(error, &command))?)
}

/// Returns the command line with the variables of the selected flags only.
fn with_variables(is_selected: impl Fn(&Arg) -> bool) -> Command {
    Cli::command().mut_args(|arg| if is_selected(&arg) { arg } else { arg.env(Resettable::Reset) })
}

fn is_used(arg: &Arg, subcommand: Option<&str>) -> bool {
    match subcommand {
        None => true,
        Some("schema") => !is_among::<Launch>(arg) && !is_among::<TableFlags>(arg),
        Some(_) => !is_among::<Launch>(arg),
    }
}

fn is_among<Flags: Args>(arg: &Arg) -> bool {
    Flags::augment_args(Command::new("")).get_arguments().any(|flag| flag.get_id() == arg.get_id())
}

/// Replaces the flag in an error by its variable. The command line alone is valid, so a variable is wrong.
fn with_variable_name(mut error: Error, command: &Command) -> Error {
    let variables = || command.get_arguments().filter_map(|arg| Some((arg, arg.get_env()?)));
    if error.kind() == ErrorKind::InvalidUtf8 {
        let is_text = |arg: &Arg| arg.get_value_parser().type_id() != TypeId::of::<PathBuf>();
        let is_utf_8 = |name| env::var_os(name).is_some_and(|value| value.to_str().is_some());
        if let Some((_, name)) = variables().find(|&(arg, name)| is_text(arg) && !is_utf_8(name)) {
            let message = format!("{} is not UTF-8\n", name.display());
            return Error::raw(ErrorKind::InvalidUtf8, message);
        }
    }
    if let Some(ContextValue::String(flag)) = error.get(ContextKind::InvalidArg)
        && let Some((_, name)) = variables().find(|(arg, _)| arg.to_string() == *flag)
    {
        let name = ContextValue::String(name.to_string_lossy().into_owned());
        error.insert(ContextKind::InvalidArg, name);
    }
    error
}
