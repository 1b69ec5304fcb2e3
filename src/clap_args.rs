//! Command-line flags for the [`TableOption`]s of the tables.

use clap::builder::{
    FalseyValueParser, PathBufValueParser, PossibleValuesParser, StringValueParser,
    TypedValueParser, ValueParser,
};
use clap::{Arg, ArgAction, ArgMatches, Args, Command, Error, FromArgMatches};
use tables::options::{OptionError, OptionValue};
use tables::{Options, TableOption};

/// The settings of all tables.
#[derive(Clone, Debug)]
pub struct TableFlags {
    /// The options for the tables.
    pub options: Options,
}

/// Returns the options of all tables, each flag once, with the name of the first table that has it.
fn options_by_table() -> Vec<(String, &'static TableOption)> {
    let mut options: Vec<(String, &TableOption)> = Vec::new();
    for table in tables::tables(&Options::default()) {
        for option in table.options() {
            if options.iter().all(|(_, other)| other.flag != option.flag) {
                options.push((table.name().to_owned(), option));
            }
        }
    }
    options
}

fn table_options() -> impl Iterator<Item = &'static TableOption> {
    options_by_table().into_iter().map(|(_, option)| option)
}

fn arg((table, option): (String, &'static TableOption)) -> Arg {
    let arg = Arg::new(option.flag)
        .long(option.flag)
        .env(option.variable)
        .help(option.help)
        .help_heading(format!("Options of {table}"))
        .global(true);
    match option.value {
        OptionValue::Switch(_) => {
            arg.action(ArgAction::SetTrue).value_parser(FalseyValueParser::new())
        }
        OptionValue::Path { name, default, set } => {
            let parser = PathBufValueParser::new()
                .try_map(move |path| set(&mut Options::default(), &path).map(|()| path));
            arg.value_name(name).default_value(default).value_parser(parser)
        }
        OptionValue::Text { name, default, alone, choices, set } => {
            let arg = arg
                .value_name(name)
                .default_value(default)
                .allow_negative_numbers(true)
                .value_parser(text_parser(choices, set));
            match alone {
                Some(value) => {
                    arg.num_args(0..=1).require_equals(true).default_missing_value(value)
                }
                None => arg,
            }
        }
    }
}

fn text_parser(
    choices: &'static [&'static str],
    set: fn(&mut Options, &str) -> Result<(), OptionError>,
) -> ValueParser {
    let check = move |text: String| set(&mut Options::default(), &text).map(|()| text);
    if choices.is_empty() {
        StringValueParser::new().try_map(check).into()
    } else {
        PossibleValuesParser::new(choices).try_map(check).into()
    }
}

/// Returns the flags with an optional value that accept this one. On the command line, it needs an `=`.
#[cfg(feature = "shell")]
pub(crate) fn flags_with_optional_value(text: &str) -> impl Iterator<Item = &'static str> {
    table_options().filter_map(move |option| match option.value {
        OptionValue::Text { alone: Some(_), set, .. } => {
            set(&mut Options::default(), text).is_ok().then_some(option.flag)
        }
        _ => None,
    })
}

impl Args for TableFlags {
    fn augment_args(command: Command) -> Command {
        command.args(options_by_table().into_iter().map(arg))
    }

    fn augment_args_for_update(command: Command) -> Command {
        TableFlags::augment_args(command)
    }
}

impl FromArgMatches for TableFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let mut flags = TableFlags { options: Options::default() };
        flags.update_from_arg_matches(matches)?;
        Ok(flags)
    }

    /// The parsers have checked each value, so an error here is unexpected.
    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        for TableOption { flag, value, .. } in table_options() {
            let set = match value {
                OptionValue::Switch(set) => {
                    if matches.get_flag(flag) {
                        set(&mut self.options);
                    }
                    Ok(())
                }
                OptionValue::Path { set, .. } => {
                    let path = matches.get_one::<std::path::PathBuf>(flag);
                    path.map_or(Ok(()), |path| set(&mut self.options, path))
                }
                OptionValue::Text { set, .. } => {
                    let text = matches.get_one::<String>(flag);
                    text.map_or(Ok(()), |text| set(&mut self.options, text))
                }
            };
            set.map_err(|error| {
                Error::raw(clap::error::ErrorKind::ValueValidation, format!("--{flag}: {error}\n"))
            })?;
        }
        Ok(())
    }
}

/// Parses a number from 0 to MAX.
pub(crate) fn parse_up_to<const MAX: u64>(text: &str) -> Result<u64, OptionError> {
    let number = text.parse().ok().filter(|number| *number <= MAX);
    number.ok_or(OptionError::NotInRange { min: 0, max: MAX })
}
