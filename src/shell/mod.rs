//! Runs SQL on the tables with the built-in SQLite, without osquery.
//!
//! The database is in memory and no other can be attached: a query cannot write to a file.

use std::borrow::Cow;
use std::env;
use std::ffi::OsStr;
use std::io::{self, BufWriter, IsTerminal, Read, Write};
use std::process::ExitCode;
use std::sync::Arc;

use clap::builder::{BoolishValueParser, TypedValueParser};
use rusqlite::fallible_iterator::FallibleIterator;
use rusqlite::limits::Limit;
use rusqlite::types::ValueRef;
use rusqlite::{Batch, Connection, Row, Statement};
use tables::Table;

use self::explain::Answers;
use self::render::{Cell, Mode, Renderer, Style};
use crate::clap_args;
use crate::escape::escape;

mod explain;
mod frame;
mod real;
pub mod render;
mod similar;
pub mod vtab;

/// Longest SQL on standard input, in bytes.
const MAX_INPUT: u64 = 1 << 20;

/// The arguments of `query`. The options have the same names as in osqueryi.
#[derive(clap::Args, Debug)]
pub struct Query {
    /// SQL statements, separated by ';' [default: read from standard input]
    pub sql: Option<String>,
    /// Further arguments, accepted to report an error with a hint.
    #[arg(hide = true)]
    pub rest: Vec<String>,
    /// Run the statements, but print no rows: print each request that SQLite sends to a table, with its
    /// constraints, the plan, the work done, the number of rows and the time (default mode: --line)
    #[arg(long)]
    pub explain: bool,
    /// The output mode.
    #[command(flatten)]
    pub mode: ModeFlags,
    /// Print the column names; --header=false omits them
    #[arg(
        long,
        value_name = "BOOL",
        default_value_t = true,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        value_parser = BoolishValueParser::new(),
        action = clap::ArgAction::Set
    )]
    pub header: bool,
    /// Same as --header=false
    #[arg(long, hide = true, conflicts_with = "header")]
    pub noheader: bool,
    /// Separator between values [default: '|' with --list, ',' with --csv]
    #[arg(long, value_name = "TEXT")]
    pub separator: Option<String>,
    /// Text to print for NULL, except with --json
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub nullvalue: String,
}

/// The flags of the output modes; at most one is set. The default is `--pretty`.
#[derive(clap::Args, Debug)]
#[group(multiple = false)]
pub struct ModeFlags {
    /// Print an array of JSON objects for each statement that returns columns
    #[arg(long)]
    pub json: bool,
    /// Print comma-separated values
    #[arg(long)]
    pub csv: bool,
    /// Print one value per line
    #[arg(long)]
    pub line: bool,
    /// Print one row per line, with values separated by '|'
    #[arg(long)]
    pub list: bool,
    /// Print a frame around the rows (default mode)
    #[arg(long)]
    pub pretty: bool,
}

impl ModeFlags {
    fn mode(&self, default: Mode) -> Mode {
        match self {
            ModeFlags { json: true, .. } => Mode::Json,
            ModeFlags { csv: true, .. } => Mode::Csv,
            ModeFlags { line: true, .. } => Mode::Line,
            ModeFlags { list: true, .. } => Mode::List,
            ModeFlags { pretty: true, .. } => Mode::Pretty,
            _ => default,
        }
    }
}

/// Returns the version of the built-in SQLite.
pub fn sqlite_version() -> &'static str {
    rusqlite::version()
}

/// Runs the statements and prints their rows on standard output. Stops at the first statement that fails.
pub fn query(query: &Query, tables: &[Arc<dyn Table>]) -> ExitCode {
    run_command(tables, |out| {
        check_arguments(query)?;
        let style = Style {
            mode: query.mode.mode(if query.explain { Mode::Line } else { Mode::Pretty }),
            header: query.header && !query.noheader,
            separator: query.separator.clone(),
            null: query.nullvalue.clone(),
        };
        if let (Mode::Csv, Some(separator)) = (style.mode, &style.separator)
            && !matches!(separator.as_bytes(), [byte] if byte.is_ascii() && !b"\"\r\n".contains(byte))
        {
            return Err(Failure::Input(format!(
                "--separator: with --csv the separator is one ASCII character, not {separator:?}"
            )));
        }
        let sql = match &query.sql {
            Some(sql) => Cow::Borrowed(sql.as_str()),
            None => Cow::Owned(read_standard_input()?),
        };
        if sql.contains('\0') {
            return Err(Failure::Input(
                "the SQL contains a NUL byte, at which SQLite stops reading".into(),
            ));
        }
        if query.explain {
            let answers = Answers::default();
            let mut requests = 0;
            run(&answers.recording_tables(tables), &sql, |statement| {
                requests += explain(statement, &answers, &style, out)?;
                Ok(())
            })?;
            if requests == 0 {
                eprintln!(
                    "{}: note: no statement sends a request to a table",
                    env!("CARGO_PKG_NAME")
                );
            }
            return Ok(());
        }
        run(tables, &sql, |statement| print_rows(statement, &style, out))
    })
}

/// Checks that the SQL is one argument, and not the value of a flag that needs '='.
fn check_arguments(query: &Query) -> Result<(), Failure> {
    let Some(sql) = &query.sql else { return Ok(()) };
    let mut flags = flags_with_value(sql);
    let is_on_command_line = |flag: &&str| env::args_os().any(|arg| arg == **flag);
    if flags.iter().any(|flag| is_on_command_line(&flag.as_str())) {
        flags.retain(|flag| is_on_command_line(&flag.as_str()));
    }
    if !flags.is_empty() {
        let flags: Vec<String> = flags.iter().map(|flag| format!("{flag}={sql}")).collect();
        return Err(Failure::Usage(format!(
            "'{sql}' is not SQL; a flag with an optional value needs '=': {}",
            flags.join(" or ")
        )));
    }
    match query.rest.first() {
        None => Ok(()),
        Some(argument) => Err(Failure::Usage(format!(
            "unexpected argument '{argument}' after the SQL: put quotes around the whole SQL"
        ))),
    }
}

/// Returns the flags, with their dashes, that accept this value, but only after '='.
fn flags_with_value(value: &str) -> Vec<String> {
    let is_boolean = BoolishValueParser::new()
        .parse_ref(&clap::Command::new(""), None, OsStr::new(value.trim()))
        .is_ok();
    let header = is_boolean.then_some("header");
    let of_tables = clap_args::flags_with_optional_value(value);
    header.into_iter().chain(of_tables).map(|flag| format!("--{flag}")).collect()
}

/// Prints the CREATE TABLE of each table.
pub fn schema(tables: &[Arc<dyn Table>]) -> ExitCode {
    run_command(tables, |out| {
        for table in tables {
            writeln!(out, "{};", vtab::create_table(table.name(), table.columns()))?;
        }
        Ok(())
    })
}

/// The reason why a command fails.
enum Failure {
    /// The command line is wrong.
    Usage(String),
    /// The SQL cannot be read or run.
    Input(String),
    /// SQLite reports an error.
    Sql(rusqlite::Error),
    /// Standard output cannot be written.
    Output(io::Error),
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Failure::Sql(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure::Output(error)
    }
}

/// Runs a command with standard output, prints its error on stderr and returns the exit code. A closed pipe is
/// not an error.
fn run_command(
    tables: &[Arc<dyn Table>],
    run: impl FnOnce(&mut dyn Write) -> Result<(), Failure>,
) -> ExitCode {
    let mut out = BufWriter::new(io::stdout().lock());
    let outcome = run(&mut out);
    let outcome = match (outcome, out.flush()) {
        (Ok(()), Err(error)) => Err(Failure::Output(error)),
        (outcome, _) => outcome,
    };
    let status =
        if let Err(Failure::Usage(_)) = outcome { ExitCode::from(2) } else { ExitCode::FAILURE };
    let message = match outcome {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            return ExitCode::SUCCESS;
        }
        Err(Failure::Output(error)) => format!("cannot write to standard output: {error}"),
        Err(Failure::Usage(message) | Failure::Input(message)) => message,
        Err(Failure::Sql(error)) => sql_message(error, tables),
    };
    eprintln!("{}: error: {}", env!("CARGO_PKG_NAME"), escape(&message));
    status
}

/// Returns SQLite's message, without the statement that rusqlite adds, and a hint where one helps.
fn sql_message(error: rusqlite::Error, tables: &[Arc<dyn Table>]) -> String {
    let message = match error {
        rusqlite::Error::SqlInputError { msg, .. } => msg,
        rusqlite::Error::SqliteFailure(_, Some(message)) => message,
        other => other.to_string(),
    };
    if message.starts_with("too many attached databases") {
        return format!("{message}: this shell opens no other database");
    }
    if message.starts_with("no such table: ") {
        let available: Vec<String> =
            tables.iter().map(|table| table.names().join(" or ")).collect();
        return format!("{message} (available: {})", available.join(", "));
    }
    if let Some(name) = missing_column(&message) {
        let columns = tables.iter().flat_map(|table| table.columns()).map(|column| column.name);
        let similar = similar::similar_names(name, columns);
        if !similar.is_empty() {
            return format!("{message} (similar: {})", similar.join(", "));
        }
    }
    message
}

/// Returns the column in SQLite's message `no such column: …`, without its table and quotes.
fn missing_column(message: &str) -> Option<&str> {
    let name = message.strip_prefix("no such column: ")?;
    // SQLite appends a hint to a name in double quotes.
    let name = name.split_once(" - ").map_or(name, |(name, _)| name).trim_matches('"');
    Some(name.rsplit_once('.').map_or(name, |(_, column)| column))
}

fn read_standard_input() -> Result<String, Failure> {
    if io::stdin().is_terminal() {
        eprintln!("Reading SQL from standard input; end it with Ctrl-D.");
    }
    let mut sql = String::new();
    io::stdin()
        .take(MAX_INPUT + 1)
        .read_to_string(&mut sql)
        .map_err(|error| Failure::Input(format!("cannot read SQL from standard input: {error}")))?;
    if sql.len() as u64 > MAX_INPUT {
        return Err(Failure::Input(format!(
            "standard input has more than {MAX_INPUT} bytes: split the statements into several calls"
        )));
    }
    Ok(sql)
}

/// Calls `each` for every statement, until one fails.
fn run(
    tables: &[Arc<dyn Table>],
    sql: &str,
    mut each: impl FnMut(&mut Statement<'_>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let connection = open(tables)?;
    let mut statements = Batch::new(&connection, sql);
    while let Some(mut statement) = statements.next()? {
        each(&mut statement)?;
    }
    Ok(())
}

fn open(tables: &[Arc<dyn Table>]) -> rusqlite::Result<Connection> {
    let connection = Connection::open_in_memory()?;
    connection.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0)?;
    for table in tables {
        for name in table.names() {
            vtab::mount(&connection, name, Arc::clone(table))?;
        }
    }
    Ok(connection)
}

/// Runs one statement and prints its rows. A statement without columns, such as CREATE, prints nothing.
fn print_rows(
    statement: &mut Statement<'_>,
    style: &Style,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let columns: Vec<String> = statement.column_names().map(str::to_owned).collect();
    let count = columns.len();
    check_parameters(statement)?;
    let mut rows = statement.query([])?;
    if count == 0 {
        while rows.next()?.is_some() {}
        return Ok(());
    }
    let mut renderer = Renderer::new(out, style, columns);
    loop {
        match rows.next() {
            Ok(Some(row)) => renderer.row(&cells(row, count)?)?,
            Ok(None) => return Ok(renderer.finish()?),
            Err(error) => {
                renderer.abort()?;
                return Err(error.into());
            }
        }
    }
}

/// Runs one statement, prints its requests to the tables, also if it fails, and returns their number.
fn explain(
    statement: &mut Statement<'_>,
    answers: &Answers,
    style: &Style,
    out: &mut dyn Write,
) -> Result<usize, Failure> {
    check_parameters(statement)?;
    let mut rows = statement.query([])?;
    let mut outcome = Ok(());
    loop {
        match rows.next() {
            Ok(Some(_)) => {}
            Ok(None) => break,
            Err(error) => {
                outcome = Err(error.into());
                break;
            }
        }
    }
    let requests = answers.print(style, out)?;
    outcome.map(|()| requests)
}

fn check_parameters(statement: &Statement<'_>) -> Result<(), Failure> {
    if statement.parameter_count() > 0 {
        return Err(Failure::Input(
            "the SQL has a parameter such as '?', which has no value here: write the value itself"
                .into(),
        ));
    }
    Ok(())
}

fn cells<'row>(row: &'row Row<'_>, count: usize) -> rusqlite::Result<Vec<Cell<'row>>> {
    (0..count).map(|i| Ok(cell(row.get_ref(i)?))).collect()
}

/// Returns the value as osqueryi prints it; a BLOB is text.
fn cell(value: ValueRef<'_>) -> Cell<'_> {
    match value {
        ValueRef::Null => None,
        ValueRef::Integer(number) => Some(number.to_string().into()),
        ValueRef::Real(number) => Some(real::to_text(number).into()),
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Some(String::from_utf8_lossy(bytes)),
    }
}
