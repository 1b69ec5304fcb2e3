//! The shape of a table, of a request to it, and of its answer.
//!
//! Types, options and operators are osquery's (`osquery/core/tables.h`), with its numbers.

use std::borrow::Cow;
use std::path::PathBuf;

use bitflags::bitflags;

use crate::model::User;
use crate::options::TableOption;

/// How a column's values are typed in SQL.
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
    /// What the planner may do with a column: osquery's `ColumnOptions`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct ColumnOptions: u32 {
        /// Constraints are passed on, and a value is taken to name one row.
        const INDEX = 1;
        /// A query without a constraint on this column is refused.
        const REQUIRED = 2;
        /// Constraints are passed on.
        const ADDITIONAL = 4;
        /// A list of `IN` is passed whole instead of one request a value.
        const OPTIMIZED = 8;
        /// `SELECT *` leaves the column out.
        const HIDDEN = 16;
    }
}

/// A column of a [`Table`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name in SQL.
    pub name: &'static str,
    /// The type of its values.
    pub kind: ColumnType,
    /// What the planner may do with it.
    pub options: ColumnOptions,
}

/// A cell of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// Not known.
    Null,
    /// A value of an INTEGER or BIGINT column.
    Integer(i64),
    /// A value of a TEXT column.
    Text(Cow<'a, str>),
}

/// The comparison that a [`Constraint`] asks for. Numbers are SQLite's (`SQLITE_INDEX_CONSTRAINT_*`).
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
    /// Any other: MATCH, LIKE, GLOB, REGEXP, a LIMIT or OFFSET, or what SQLite may yet invent.
    Other(u8),
}

impl Operator {
    /// The number of `SQLITE_INDEX_CONSTRAINT_LIMIT`.
    pub const LIMIT: u8 = 73;
    /// The number of `SQLITE_INDEX_CONSTRAINT_OFFSET`.
    pub const OFFSET: u8 = 74;

    /// The operator of that number.
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

/// One comparison that the query makes, as osquery passes it: the right-hand side is always text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Constraint {
    /// Index into [`Table::columns`].
    pub column: usize,
    /// The comparison.
    pub operator: Operator,
    /// What the column is compared with.
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

/// What a query asks of a table.
///
/// SQLite checks every row again, so a table may return more rows than the constraints allow, never
/// fewer. Several [`Operator::Equals`] of one column mean any of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryContext {
    /// The comparisons that the planner passed on.
    pub constraints: Vec<Constraint>,
    /// The columns whose values will be looked at.
    pub columns_used: ColumnsUsed,
}

impl Default for QueryContext {
    /// Everything, unconstrained.
    fn default() -> Self {
        QueryContext { constraints: Vec::new(), columns_used: ColumnsUsed::ALL }
    }
}

/// Whom a row is charged to, and its place among the rows of that user: those with the lowest places are
/// kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RowUser {
    /// The user.
    pub user: User,
    /// The pid and the file descriptor, or what else orders the rows of a user.
    pub order: (i32, i32),
}

/// How a table answered a request, as text for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Explanation {
    /// What was decided before anything was read.
    pub plan: String,
    /// How much was read.
    pub work: String,
}

/// The answer to a query: rows that are made into values only when asked for.
pub trait Rows {
    /// How many rows there are.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A number that is unique in this answer, and the same in every answer of this process that
    /// holds the same row. Not negative. osquery merges the branches of an `OR` by it.
    fn id(&self, row: usize) -> i64;

    /// One cell; [`Value::Null`] outside the answer.
    fn cell(&self, row: usize, column: usize) -> Value<'_>;

    /// The user of each row. None if no row may be omitted: rows of this table have no users.
    fn users(&self) -> Option<Vec<RowUser>> {
        None
    }

    /// Leaves out the rows for which the value is true.
    fn omit(&mut self, is_omitted: &[bool]) {
        let _ = is_omitted;
    }

    /// How the table answered. A table without anything to explain returns empty texts.
    fn explanation(&self) -> Explanation {
        Explanation::default()
    }

    /// How many rows of each user the answer lacks, whether they were left out here or before they were
    /// rows.
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
pub trait Table: Send + Sync {
    /// Its name in SQL.
    fn name(&self) -> &str;

    /// The names to take instead, in this order, where osquery has a table of the name.
    fn fallback_names(&self) -> &[&str] {
        &[]
    }

    /// All names that it can have: its own, then those to fall back to.
    fn names(&self) -> Vec<&str> {
        std::iter::once(self.name()).chain(self.fallback_names().iter().copied()).collect()
    }

    /// What its rows are, in a sentence without a full stop.
    fn description(&self) -> &str;

    /// Its settings. Tables may share some.
    fn options(&self) -> &'static [TableOption] {
        &[]
    }

    /// Its columns, in the order of `SELECT *`.
    fn columns(&self) -> &[Column];

    /// Whether [`Table::generate`] reads processes or whole socket tables for this query. If not, the answer
    /// takes little, and need not wait for those that do.
    fn scans(&self, _query: &QueryContext) -> bool {
        true
    }

    /// Collects the rows that can match.
    ///
    /// # Errors
    /// Only when nothing can be said at all. What could be read in part is answered in part, and
    /// the log says what is missing.
    fn generate(&self, query: &QueryContext) -> Result<Box<dyn Rows>, Error>;

    /// Starts what the table collects in the background. The extension calls it once, before it registers the
    /// table.
    ///
    /// # Errors
    /// The table is left out then.
    fn start(&self) -> Result<(), Error> {
        Ok(())
    }

    /// Ends what [`Table::start`] started. The extension calls it once, before it ends.
    fn stop(&self) {}
}

/// Why a table could not answer.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// A file or directory without which there is no answer could not be read.
    Read {
        /// Which one.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The directory is not a mount of proc: it has no `self`.
    NotProc {
        /// Which one.
        path: PathBuf,
    },
    /// The system has no thread for the scan.
    Thread {
        /// What the kernel said.
        source: std::io::Error,
    },
    /// Too many scans did not end.
    Blocked {
        /// How many.
        scans: usize,
    },
    /// The scan did not end, although its deadline passed some seconds ago.
    Timeout {
        /// How long it was waited for.
        after: std::time::Duration,
    },
    /// The system did not list its processes.
    Processes {
        /// What the kernel said.
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
                "{} is not a proc file system (it has no 'self'): give --procfs the place where one is mounted",
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

/// What to do about an error, if that is known.
fn hint(source: &std::io::Error) -> &'static str {
    /// The same on Linux and macOS.
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
