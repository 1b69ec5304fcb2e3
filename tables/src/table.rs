//! A table, a query of it, and the rows of the answer.
//!
//! Types, options and operators are those of osquery (`osquery/core/tables.h`), with the same numbers.

use std::borrow::Cow;
use std::path::PathBuf;

use bitflags::bitflags;

use crate::model::User;
use crate::options::TableOption;

/// The SQL type of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnType {
    /// A number that fits 32 bits.
    Integer,
    /// A signed 64-bit number.
    BigInt,
    /// UTF-8 text.
    Text,
}

impl ColumnType {
    /// The type's name in SQL and in osquery's routes.
    pub fn name(self) -> &'static str {
        match self {
            ColumnType::Integer => "INTEGER",
            ColumnType::BigInt => "BIGINT",
            ColumnType::Text => "TEXT",
        }
    }
}

bitflags! {
    /// Properties of a column for the planner: osquery's `ColumnOptions`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct ColumnOptions: u32 {
        /// SQLite passes constraints to the table, and assumes that a value identifies one row.
        const INDEX = 1;
        /// osquery rejects a query without a constraint on this column.
        const REQUIRED = 2;
        /// SQLite passes constraints to the table.
        const ADDITIONAL = 4;
        /// SQLite passes an `IN` list in one request, instead of one request for each value.
        const OPTIMIZED = 8;
        /// `SELECT *` does not include the column.
        const HIDDEN = 16;
    }
}

/// A column of a [`Table`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// The name in SQL.
    pub name: &'static str,
    /// The type of the values.
    pub kind: ColumnType,
    /// The properties for the planner.
    pub options: ColumnOptions,
}

/// The value of a cell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// The source does not report this value.
    Null,
    /// A value of an INTEGER or BIGINT column.
    Integer(i64),
    /// A value of a TEXT column.
    Text(Cow<'a, str>),
}

/// The operator of a [`Constraint`]. The numbers are those of SQLite (`SQLITE_INDEX_CONSTRAINT_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// `=`, and each member of an `IN` list.
    Equals,
    /// `>`
    GreaterThan,
    /// `<=`
    LessThanOrEquals,
    /// `<`
    LessThan,
    /// `>=`
    GreaterThanOrEquals,
    /// `<>`
    NotEquals,
    /// `IS`
    Is,
    /// `IS NOT`
    IsNot,
    /// Any other operator: MATCH, LIKE, GLOB, REGEXP, LIMIT, OFFSET, or one of a newer SQLite.
    Other(u8),
}

impl Operator {
    /// The number of `SQLITE_INDEX_CONSTRAINT_LIMIT`.
    pub const LIMIT: u8 = 73;
    /// The number of `SQLITE_INDEX_CONSTRAINT_OFFSET`.
    pub const OFFSET: u8 = 74;

    /// The operator with this number.
    pub fn from_code(code: u8) -> Operator {
        match code {
            2 => Operator::Equals,
            4 => Operator::GreaterThan,
            8 => Operator::LessThanOrEquals,
            16 => Operator::LessThan,
            32 => Operator::GreaterThanOrEquals,
            68 => Operator::NotEquals,
            69 => Operator::IsNot,
            72 => Operator::Is,
            other => Operator::Other(other),
        }
    }

    /// The operator's number.
    pub fn code(self) -> u8 {
        match self {
            Operator::Equals => 2,
            Operator::GreaterThan => 4,
            Operator::LessThanOrEquals => 8,
            Operator::LessThan => 16,
            Operator::GreaterThanOrEquals => 32,
            Operator::NotEquals => 68,
            Operator::IsNot => 69,
            Operator::Is => 72,
            Operator::Other(code) => code,
        }
    }
}

/// A constraint of the query, as osquery passes it: the right-hand side is always text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Constraint {
    /// The column, as an index into [`Table::columns`].
    pub column: usize,
    /// The operator.
    pub operator: Operator,
    /// The right-hand side.
    pub text: String,
}

/// The columns that a query reads: SQLite's `colUsed`, where bit 63 stands for every column from
/// the 64th on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ColumnsUsed(pub u64);

impl ColumnsUsed {
    /// Every column.
    pub const ALL: ColumnsUsed = ColumnsUsed(u64::MAX);

    /// Whether the query reads this column.
    pub fn contains(self, column: usize) -> bool {
        self.0 & (1 << column.min(63)) != 0
    }
}

/// The constraints of a query, and the columns that it reads.
///
/// SQLite checks every row again. So a table may return more rows than the constraints allow, but never
/// fewer. Several [`Operator::Equals`] constraints on one column match any of their values.
///
/// ```
/// use tables::{Constraint, Operator, QueryContext};
///
/// // WHERE pid IN (1, 42)
/// let table = &tables::tables(&tables::Options::default())[0];
/// let pid = table.columns().iter().position(|column| column.name == "pid").unwrap();
/// let equals = |text: &str| Constraint { column: pid, operator: Operator::Equals, text: text.into() };
/// let query =
///     QueryContext { constraints: vec![equals("1"), equals("42")], ..QueryContext::default() };
/// assert!(query.columns_used.contains(pid));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryContext {
    /// The constraints that SQLite passed to the table.
    pub constraints: Vec<Constraint>,
    /// The columns that the query reads.
    pub columns_used: ColumnsUsed,
}

impl Default for QueryContext {
    /// A query for all rows and columns.
    fn default() -> Self {
        QueryContext { constraints: Vec::new(), columns_used: ColumnsUsed::ALL }
    }
}

/// The user that a row is charged to, and its order among the rows of that user: if an answer is too long,
/// the lowest rows of each user are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RowUser {
    /// The user.
    pub user: User,
    /// The sort key among the rows of the user, such as the pid and the file descriptor.
    pub order: (i32, i32),
}

/// How a table executed a query, as text for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Explanation {
    /// The plan: the decisions before the first read.
    pub plan: String,
    /// The work: how much was read.
    pub work: String,
}

/// The rows of an answer. A value is made when [`Rows::cell`] reads it.
///
/// ```
/// use tables::{Rows, Value};
///
/// /// Rows with one column.
/// struct Pids(Vec<i64>);
///
/// impl Rows for Pids {
///     fn len(&self) -> usize {
///         self.0.len()
///     }
///
///     fn id(&self, row: usize) -> i64 {
///         self.0[row]
///     }
///
///     fn cell(&self, row: usize, column: usize) -> Value<'_> {
///         match (self.0.get(row), column) {
///             (Some(&pid), 0) => Value::Integer(pid),
///             _ => Value::Null,
///         }
///     }
/// }
///
/// let rows = Pids(vec![1, 42]);
/// assert_eq!(rows.cell(1, 0), Value::Integer(42));
/// assert_eq!(rows.cell(2, 0), Value::Null);
/// ```
pub trait Rows {
    /// The number of rows.
    fn len(&self) -> usize;

    /// Whether there are no rows.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The id of a row: not negative, unique in this answer, and the same in every answer of this process
    /// that has the same row. osquery merges the branches of an `OR` by it.
    fn id(&self, row: usize) -> i64;

    /// The value of a cell; [`Value::Null`] if there is no such row or column.
    fn cell(&self, row: usize, column: usize) -> Value<'_>;

    /// The user of each row; None if the rows of this table have no users. Then no row may be omitted.
    fn users(&self) -> Option<Vec<RowUser>> {
        None
    }

    /// Removes the rows for which the value is true.
    fn omit(&mut self, is_omitted: &[bool]) {
        let _ = is_omitted;
    }

    /// How the table executed the query. The texts can be empty.
    fn explanation(&self) -> Explanation {
        Explanation::default()
    }

    /// The number of rows of each user that the answer lacks: rows that [`Rows::omit`] removed, and rows that
    /// the table did not make.
    fn omitted(&self) -> Vec<(User, u64)> {
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_descriptors_names_the_limit_to_raise() {
        let message = |errno| {
            let source = std::io::Error::from_raw_os_error(errno);
            Error::Read { path: "/proc".into(), source }.to_string()
        };
        assert!(message(24).ends_with("ulimit -n) to 256 or more"), "{}", message(24));
        assert!(message(23).ends_with("(fs.file-max, kern.maxfiles)"), "{}", message(23));
        assert_eq!(message(13), "cannot read /proc: Permission denied (os error 13)");
    }
}

/// A table.
///
/// ```
/// use std::net::TcpListener;
///
/// use tables::{Constraint, Operator, QueryContext, Value};
///
/// let listener = TcpListener::bind("127.0.0.1:0")?;
/// let port = Value::Integer(listener.local_addr()?.port().into());
///
/// let table = &tables::tables(&tables::Options::default())[0];
/// let index_of = |name| table.columns().iter().position(|column| column.name == name).unwrap();
///
/// // SELECT local_port FROM process_open_sockets WHERE pid = (this process)
/// let text = std::process::id().to_string();
/// let constraint = Constraint { column: index_of("pid"), operator: Operator::Equals, text };
/// let query = QueryContext { constraints: vec![constraint], ..QueryContext::default() };
/// let rows = table.generate(&query)?;
/// assert!((0..rows.len()).any(|row| rows.cell(row, index_of("local_port")) == port));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Table: Send + Sync {
    /// The name in SQL.
    fn name(&self) -> &str;

    /// The names to use instead, in this order, if osquery already has a table with the name.
    fn fallback_names(&self) -> &[&str] {
        &[]
    }

    /// All names that the table can have: [`Table::name`], then [`Table::fallback_names`].
    fn names(&self) -> Vec<&str> {
        std::iter::once(self.name()).chain(self.fallback_names().iter().copied()).collect()
    }

    /// A description of the rows: a sentence without a full stop.
    fn description(&self) -> &str;

    /// The settings. Tables may share some.
    fn options(&self) -> &'static [TableOption] {
        &[]
    }

    /// The columns, in the order of `SELECT *`.
    fn columns(&self) -> &[Column];

    /// Whether [`Table::generate`] reads processes or whole socket tables for this query. If not, the query is
    /// cheap and does not need a scan permit.
    fn scans(&self, _query: &QueryContext) -> bool {
        true
    }

    /// Collects the rows that can match.
    ///
    /// # Errors
    /// If nothing could be read. If a part could not be read, the other rows are returned, and the log
    /// reports the omission.
    fn generate(&self, query: &QueryContext) -> Result<Box<dyn Rows>, Error>;

    /// Starts the work of the table in the background. The extension calls it once, before it registers the
    /// table.
    ///
    /// # Errors
    /// If the work cannot start. The extension does not register the table then.
    fn start(&self) -> Result<(), Error> {
        Ok(())
    }

    /// Ends the work that [`Table::start`] started. The extension calls it once, before it exits.
    fn stop(&self) {}
}

/// Why a query failed.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// A required file or directory could not be read.
    Read {
        /// The path.
        path: PathBuf,
        /// The error of the kernel.
        source: std::io::Error,
    },
    /// The directory is not a mount of proc: it has no `self`.
    NotProc {
        /// The path.
        path: PathBuf,
    },
    /// A thread for the scan could not be started.
    Thread {
        /// The error of the kernel.
        source: std::io::Error,
    },
    /// Too many scans have not ended.
    Blocked {
        /// The number of scans.
        scans: usize,
    },
    /// The scan did not end some seconds after its deadline.
    Timeout {
        /// The time since the scan began.
        after: std::time::Duration,
    },
    /// The processes could not be listed.
    Processes {
        /// The error of the kernel.
        source: std::io::Error,
    },
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Error::Read { path, source } => {
                write!(f, "cannot read {}: {source}{}", path.display(), hint(source))
            }
            Error::NotProc { path } => write!(
                f,
                "{} is not a proc file system (it has no 'self'): give --procfs a directory where one is mounted",
                path.display()
            ),
            Error::Thread { source } => write!(
                f,
                "cannot start a thread for the scan: {source}: raise the limit on processes and threads"
            ),
            Error::Blocked { scans } => write!(
                f,
                "{scans} scans have not ended: reads of /proc or of socket tables are blocked; restart this \
                 process"
            ),
            Error::Timeout { after } => write!(
                f,
                "the scan did not end within {} s: a read of /proc or of a socket table is blocked",
                after.as_secs()
            ),
            Error::Processes { source } => {
                write!(f, "cannot list the processes: {source}{}", hint(source))
            }
        }
    }
}

/// A hint how to fix an error.
fn hint(source: &std::io::Error) -> &'static str {
    // The same on Linux and macOS.
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    match source.raw_os_error() {
        Some(EMFILE) => {
            "; raise the limit of open files of this process (RLIMIT_NOFILE: LimitNOFILE in systemd, \
             ulimit -n) to 256 or more"
        }
        Some(ENFILE) => "; raise the host's limit of open files (fs.file-max, kern.maxfiles)",
        _ => "",
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Read { source, .. } | Error::Processes { source } | Error::Thread { source } => {
                Some(source)
            }
            Error::NotProc { .. } | Error::Timeout { .. } | Error::Blocked { .. } => None,
        }
    }
}
