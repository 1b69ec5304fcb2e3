//! SQL without osquery: the tables in the SQLite that is built in.
//!
//! The database is in memory and no other can be attached, so a query reads this host and writes
//! nothing but its answer.

use std::borrow::Cow;
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

use explain::Answers;
use render::{Cell, Mode, Renderer, Style};

mod explain;
mod frame;
mod real;
pub mod render;
mod visible;
pub mod vtab;

/// How much SQL is read from standard input, in bytes.
const LONGEST_INPUT: u64 = 1 << 20;

/// `query`: options named as osqueryi names them.
#[derive(clap::Args, Debug)]
pub struct Query {
    /// The statements, separated by ';'; read from standard input when there are none
    pub sql: Option<String>,
    /// What is taken for more SQL, to say what is wrong with it.
    #[arg(hide = true)]
    pub rest: Vec<String>,
    /// Instead of the rows, print how the table answers each request that SQLite makes: the request's
    /// constraints, the plan, the work done, the number of rows and the time (--line is the default). The
    /// statements run
    #[arg(long)]
    pub explain: bool,
    /// The output mode.
    #[command(flatten)]
    pub mode: ModeFlags,
    /// Print the columns' names; --header=false leaves them out
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
    /// The same as --header=false
    #[arg(long, hide = true, conflicts_with = "header")]
    pub noheader: bool,
    /// What stands between two values [default: '|' in --list, ',' in --csv]
    #[arg(long, value_name = "TEXT")]
    pub separator: Option<String>,
    /// What stands for NULL, except in --json
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub nullvalue: String,
}

/// The output mode: one of these, or the last.
#[derive(clap::Args, Debug)]
#[group(multiple = false)]
pub struct ModeFlags {
    /// Print an array of JSON objects, one array for each statement that has columns
    #[arg(long)]
    pub json: bool,
    /// Print comma-separated values
    #[arg(long)]
    pub csv: bool,
    /// Print one value a line
    #[arg(long)]
    pub line: bool,
    /// Print one row a line, separated by '|'
    #[arg(long)]
    pub list: bool,
    /// Print a frame around the rows (the default)
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

/// Answers the statements on standard output. The first one that fails is the last one.
pub fn query(query: &Query, tables: &[Arc<dyn Table>]) -> ExitCode {
    exit(tables, |out| {
        check_words(query)?;
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
                "--separator: with --csv it is one ASCII character, and not {separator:?}"
            )));
        }
        let sql = match &query.sql {
            Some(sql) => Cow::Borrowed(sql.as_str()),
            None => Cow::Owned(standard_input()?),
        };
        if sql.contains('\0') {
            return Err(Failure::Input(
                "the SQL holds a NUL, where SQLite would stop reading".into(),
            ));
        }
        if query.explain {
            let answers = Answers::default();
            let print = |statement: &mut Statement<'_>| explain(statement, &answers, &style, out);
            return run(&answers.record(tables), &sql, print);
        }
        run(tables, &sql, |statement| answer(statement, &style, out))
    })
}

/// What stands alone where the SQL is looked for, and is none.
fn check_words(query: &Query) -> Result<(), Failure> {
    let Some(sql) = &query.sql else { return Ok(()) };
    if BoolishValueParser::new()
        .parse_ref(&clap::Command::new(""), None, OsStr::new(sql.trim()))
        .is_ok()
    {
        return Err(Failure::Usage(format!(
            "'{sql}' is no SQL; a value of --header stands behind '=': --header={sql}"
        )));
    }
    match query.rest.first() {
        None => Ok(()),
        Some(word) => Err(Failure::Usage(format!(
            "the SQL ends before '{word}': it is one argument, put it all between quotes"
        ))),
    }
}

/// Prints the CREATE TABLE of each table.
pub fn schema(tables: &[Arc<dyn Table>]) -> ExitCode {
    exit(tables, |out| {
        for table in tables {
            writeln!(out, "{};", vtab::create_table(table.name(), table.columns()))?;
        }
        Ok(())
    })
}

/// Why there is no answer, or only half of one.
enum Failure {
    /// The command line is wrong.
    Usage(String),
    /// What was asked cannot be read.
    Input(String),
    Sql(rusqlite::Error),
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

/// Runs it on standard output and says on stderr what went wrong. A reader who has seen enough and
/// closes the pipe is no error.
fn exit(
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
        Err(Failure::Output(error)) => format!("cannot write the answer: {error}"),
        Err(Failure::Usage(message) | Failure::Input(message)) => message,
        Err(Failure::Sql(error)) => sql_message(error, tables),
    };
    eprintln!("{}: error: {}", env!("CARGO_PKG_NAME"), visible::visible(&message));
    status
}

/// SQLite's own words, without the statement that rusqlite adds.
fn sql_message(error: rusqlite::Error, tables: &[Arc<dyn Table>]) -> String {
    let message = match error {
        rusqlite::Error::SqlInputError { msg, .. } => msg,
        rusqlite::Error::SqliteFailure(_, Some(message)) => message,
        other => other.to_string(),
    };
    if message.starts_with("too many attached databases") {
        return format!("{message}: no other database can be opened here");
    }
    if message.starts_with("no such table: ") {
        let available: Vec<String> =
            tables.iter().map(|table| table.names().join(" or ")).collect();
        return format!("{message} (available: {})", available.join(", "));
    }
    message
}

fn standard_input() -> Result<String, Failure> {
    if io::stdin().is_terminal() {
        eprintln!("Reading SQL from standard input; end it with Ctrl-D.");
    }
    let mut sql = String::new();
    io::stdin()
        .take(LONGEST_INPUT + 1)
        .read_to_string(&mut sql)
        .map_err(|error| Failure::Input(format!("cannot read SQL from standard input: {error}")))?;
    if sql.len() as u64 > LONGEST_INPUT {
        return Err(Failure::Input(format!(
            "standard input has more than {LONGEST_INPUT} bytes: give the statements in several calls"
        )));
    }
    Ok(sql)
}

/// Runs `each` with one statement after the other, until one fails.
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

/// Runs one statement and prints its rows. One without columns, such as CREATE, prints nothing.
fn answer(
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
                renderer.cut_short()?;
                return Err(error.into());
            }
        }
    }
}

/// Runs one statement and prints how the tables answered its requests, also if it fails.
fn explain(
    statement: &mut Statement<'_>,
    answers: &Answers,
    style: &Style,
    out: &mut dyn Write,
) -> Result<(), Failure> {
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
    answers.print(style, out)?;
    outcome
}

fn check_parameters(statement: &Statement<'_>) -> Result<(), Failure> {
    if statement.parameter_count() > 0 {
        return Err(Failure::Input(
            "the SQL has a parameter, such as '?', and there is no value for it: write the value"
                .into(),
        ));
    }
    Ok(())
}

fn cells<'row>(row: &'row Row<'_>, count: usize) -> rusqlite::Result<Vec<Cell<'row>>> {
    (0..count).map(|i| Ok(cell(row.get_ref(i)?))).collect()
}

/// The value as osqueryi prints it; a BLOB counts as text.
fn cell(value: ValueRef<'_>) -> Cell<'_> {
    match value {
        ValueRef::Null => None,
        ValueRef::Integer(number) => Some(number.to_string().into()),
        ValueRef::Real(number) => Some(real::text(number).into()),
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Some(String::from_utf8_lossy(bytes)),
    }
}
