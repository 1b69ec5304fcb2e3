//! Any [`Table`] as a virtual table of SQLite, asked the way osquery's core asks it.
//!
//! What is passed on, and what a plan costs, follows `osquery/sql/virtual_table.cpp`; with it, joins
//! come out as they do in osquery. Where osquery's request could lose a row, this one says less:
//! - A BLOB is never passed on: as text it can be a number that it is not equal to in SQL.
//! - A real number is not passed on for a TEXT column: as text it has several forms.
//! - Text is not cut at a NUL, and a real number keeps all of its digits.

use std::borrow::Cow;
use std::ffi::{CStr, CString, c_int};
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use rusqlite::fallible_iterator::FallibleIterator;
use rusqlite::types::ValueRef;
use rusqlite::vtab::{
    Context, Filters, InValues, IndexConstraintOp, IndexInfo, Module, VTab, VTabConnection,
    VTabCursor, escape_double_quote, sqlite3_vtab, sqlite3_vtab_cursor,
};
use rusqlite::{Connection, Error, Result};
use tables::{
    Column, ColumnOptions, ColumnType, ColumnsUsed, Constraint, Operator, QueryContext, Rows,
    Table, Value,
};

use super::real;

/// Columns with one of these have their constraints passed on.
const PASSED_ON: ColumnOptions =
    ColumnOptions::INDEX.union(ColumnOptions::REQUIRED).union(ColumnOptions::ADDITIONAL);
/// What a plan costs in osquery when the table is told nothing.
const FULL_SCAN_COST: f64 = 1_000_000.0;
/// What it costs when the table is told something.
const CONSTRAINED_COST: f64 = 1.0;
/// What is added for a comparison that osquery does not pass on because of its type.
const SENSELESS_COST: f64 = 10.0;

/// Makes the table answer to this name on this connection.
///
/// An error of [`Table::generate`] becomes the error of the query, with its text.
///
/// # Errors
/// When SQLite refuses the module. A table whose columns are not valid in SQL is noticed by the
/// first query.
pub fn mount(connection: &Connection, name: &str, table: Arc<dyn Table>) -> Result<()> {
    const MODULE: Module<'static, Mounted> = Module::eponymous_only_module();
    connection.create_module(name, &MODULE, Some(table))
}

/// The table's CREATE TABLE, one column a line, without a closing semicolon.
pub fn create_table(name: &str, columns: &[Column]) -> String {
    let quoted = |name| format!("\"{}\"", escape_double_quote(name));
    let columns: Vec<String> = columns
        .iter()
        .map(|column| {
            let hidden =
                if column.options.contains(ColumnOptions::HIDDEN) { " HIDDEN" } else { "" };
            format!("  {} {}{hidden}", quoted(column.name), column.kind.name())
        })
        .collect();
    format!("CREATE TABLE {} (\n{}\n)", quoted(name), columns.join(",\n"))
}

#[repr(C)]
struct Mounted {
    base: sqlite3_vtab,
    table: Arc<dyn Table>,
}

// SAFETY: `Mounted` is repr(C) and `sqlite3_vtab` is its first field.
#[allow(unsafe_code)]
unsafe impl VTab<'_> for Mounted {
    type Aux = Arc<dyn Table>;
    type Cursor = Cursor;

    fn connect(
        _: &mut VTabConnection,
        table: Option<&Arc<dyn Table>>,
        _module_name: &[u8],
        _database_name: &[u8],
        table_name: &[u8],
        _arguments: &[&[u8]],
    ) -> Result<(Cow<'static, CStr>, Mounted)> {
        let table =
            table.ok_or_else(|| Error::ModuleError("mounted without a table".to_owned()))?;
        let statement = create_table(&String::from_utf8_lossy(table_name), table.columns());
        let mounted = Mounted { base: sqlite3_vtab::default(), table: Arc::clone(table) };
        Ok((CString::new(statement)?.into(), mounted))
    }

    fn best_index(&self, info: &mut IndexInfo) -> Result<bool> {
        let columns = self.table.columns();
        let mut cost = FULL_SCAN_COST;
        let mut passed_on = Vec::new();
        for (position, constraint) in info.constraints().enumerate() {
            // The row id is column -1, and not the table's business.
            let column = usize::try_from(constraint.column()).ok();
            let Some((index, column)) = column.and_then(|i| Some((i, columns.get(i)?))) else {
                continue;
            };
            if !constraint.is_usable() {
                continue;
            }
            let operator = operator(constraint.operator());
            if column.kind == ColumnType::Text && is_ordering(operator) {
                cost += SENSELESS_COST;
            } else if column.options.intersects(PASSED_ON) {
                cost = CONSTRAINED_COST;
                let whole_list = column.options.contains(ColumnOptions::OPTIMIZED);
                passed_on.push((position, Argument { column: index, operator, whole_list }));
            }
        }
        let unmet = |(index, column): (usize, &Column)| {
            column.options.contains(ColumnOptions::REQUIRED)
                && !passed_on.iter().any(|(_, argument)| argument.column == index)
        };
        if columns.iter().enumerate().any(unmet) {
            return Ok(false);
        }

        let mut plan = Plan { columns_used: ColumnsUsed(info.col_used()), arguments: Vec::new() };
        for (argv_index, (position, mut argument)) in (1..).zip(passed_on) {
            argument.whole_list = argument.whole_list && info.set_in_constraint(position, true)?;
            info.constraint_usage(position).set_argv_index(argv_index);
            plan.arguments.push(argument);
        }
        info.set_idx_str(&plan.encode());
        info.set_estimated_cost(cost);
        Ok(true)
    }

    fn open(&mut self) -> Result<Cursor> {
        Ok(Cursor {
            base: sqlite3_vtab_cursor::default(),
            table: Arc::clone(&self.table),
            rows: None,
            row: 0,
        })
    }
}

#[repr(C)]
struct Cursor {
    base: sqlite3_vtab_cursor,
    table: Arc<dyn Table>,
    rows: Option<Box<dyn Rows>>,
    row: usize,
}

// SAFETY: `Cursor` is repr(C) and `sqlite3_vtab_cursor` is its first field.
#[allow(unsafe_code)]
unsafe impl VTabCursor for Cursor {
    fn filter(&mut self, _: c_int, plan: Option<&str>, values: &Filters<'_>) -> Result<()> {
        let plan = plan
            .and_then(Plan::decode)
            .ok_or_else(|| Error::ModuleError("SQLite passed a plan that is not ours".into()))?;
        // A cursor may be used again, and two answers need not be held at once.
        self.rows = None;
        self.row = 0;
        let query = plan.query(self.table.columns(), values)?;
        let start = Instant::now();
        let rows = self.table.generate(&query);
        let rows = rows.map_err(|error| Error::ModuleError(error.to_string()))?;
        let asked = Asked { query: &query, columns: self.table.columns() };
        log::debug!("asked for {asked}: rows: {}, {:.1?}", rows.len(), start.elapsed());
        self.rows = Some(rows);
        Ok(())
    }

    fn next(&mut self) -> Result<()> {
        self.row += 1;
        Ok(())
    }

    fn eof(&self) -> bool {
        self.rows.as_ref().is_none_or(|rows| self.row >= rows.len())
    }

    fn column(&self, context: &mut Context, column: c_int) -> Result<()> {
        let column = usize::try_from(column).ok();
        let cell = column.zip(self.rows.as_ref()).map(|(i, rows)| rows.cell(self.row, i));
        match cell {
            None | Some(Value::Null) => context.set_result(rusqlite::types::Null),
            Some(Value::Integer(number)) => context.set_result(number),
            Some(Value::Text(text)) => context.set_result(text.as_ref()),
        }
    }

    fn rowid(&self) -> Result<i64> {
        Ok(self.rows.as_ref().map_or(0, |rows| rows.id(self.row)))
    }
}

/// What `best_index` decided; SQLite keeps it as text, and frees it with the statement.
#[derive(Debug, PartialEq)]
struct Plan {
    columns_used: ColumnsUsed,
    arguments: Vec<Argument>,
}

/// What one value that SQLite hands to `filter` is compared with.
#[derive(Debug, PartialEq)]
struct Argument {
    column: usize,
    operator: Operator,
    /// The value is a list, all of `IN (…)`.
    whole_list: bool,
}

impl Plan {
    fn encode(&self) -> String {
        let mut text = self.columns_used.0.to_string();
        for Argument { column, operator, whole_list } in &self.arguments {
            text += &format!(" {column}:{}:{whole_list}", operator.code());
        }
        text
    }

    fn decode(text: &str) -> Option<Plan> {
        let mut words = text.split(' ');
        let columns_used = ColumnsUsed(words.next()?.parse().ok()?);
        let argument = |word: &str| {
            let mut parts = word.split(':');
            Some(Argument {
                column: parts.next()?.parse().ok()?,
                operator: Operator::from_code(parts.next()?.parse().ok()?),
                whole_list: parts.next()?.parse().ok()?,
            })
        };
        Some(Plan { columns_used, arguments: words.map(argument).collect::<Option<_>>()? })
    }

    fn query(&self, columns: &[Column], values: &Filters<'_>) -> Result<QueryContext> {
        let mut constraints = Vec::new();
        for (i, (argument, value)) in self.arguments.iter().zip(values.iter()).enumerate() {
            let &Argument { column, operator, whole_list } = argument;
            let numeric = columns.get(column).is_some_and(|column| column.kind != ColumnType::Text);
            let texts = if whole_list {
                list(values.in_values(i)?, numeric)?
            } else {
                text(value, numeric).filter(|text| !text.is_empty()).into_iter().collect()
            };
            let pass_on = |text| Constraint { column, operator, text };
            constraints.extend(texts.into_iter().map(pass_on));
        }
        Ok(QueryContext { constraints, columns_used: self.columns_used })
    }
}

/// The constraints of a request, as text for people.
pub(super) struct Asked<'a> {
    pub(super) query: &'a QueryContext,
    pub(super) columns: &'a [Column],
}

impl fmt::Display for Asked<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // LIMIT and OFFSET come as constraints on no column in particular; SQLite applies them itself.
        let is_of_column = |constraint: &&Constraint| {
            let code = constraint.operator.code();
            code != Operator::LIMIT && code != Operator::OFFSET
        };
        let mut constraints = self.query.constraints.iter().filter(is_of_column).peekable();
        if constraints.peek().is_none() {
            return f.write_str("everything");
        }
        for (i, Constraint { column, operator, text }) in constraints.enumerate() {
            let name = self.columns.get(*column).map_or("?", |column| column.name);
            let comma = if i == 0 { "" } else { ", " };
            write!(f, "{comma}{name} {operator:?} {text:?}")?;
        }
        Ok(())
    }
}

/// The members of `IN (…)` that a row can equal; nothing if one of them cannot be told as text.
fn list(mut values: InValues<'_>, numeric: bool) -> Result<Vec<String>> {
    let mut texts = Vec::new();
    while let Some(value) = values.next()? {
        match (value, text(value, numeric)) {
            // No number and no text equals these.
            (ValueRef::Null | ValueRef::Blob(_), _) => {}
            (_, Some(text)) => texts.push(text),
            (_, None) => return Ok(Vec::new()),
        }
    }
    Ok(texts)
}

/// The right-hand side as text, if that says the same to a column of this kind.
fn text(value: ValueRef<'_>, numeric: bool) -> Option<String> {
    match value {
        ValueRef::Integer(number) => Some(number.to_string()),
        ValueRef::Real(number) if numeric => Some(real::text(number)),
        ValueRef::Text(bytes) => std::str::from_utf8(bytes).ok().map(str::to_owned),
        _ => None,
    }
}

fn is_ordering(operator: Operator) -> bool {
    matches!(
        operator,
        Operator::GreaterThan
            | Operator::LessThanOrEquals
            | Operator::LessThan
            | Operator::GreaterThanOrEquals
    )
}

fn operator(operator: IndexConstraintOp) -> Operator {
    use IndexConstraintOp as Op;
    match operator {
        Op::SQLITE_INDEX_CONSTRAINT_EQ => Operator::Equals,
        Op::SQLITE_INDEX_CONSTRAINT_GT => Operator::GreaterThan,
        Op::SQLITE_INDEX_CONSTRAINT_LE => Operator::LessThanOrEquals,
        Op::SQLITE_INDEX_CONSTRAINT_LT => Operator::LessThan,
        Op::SQLITE_INDEX_CONSTRAINT_GE => Operator::GreaterThanOrEquals,
        Op::SQLITE_INDEX_CONSTRAINT_MATCH => Operator::Other(64),
        Op::SQLITE_INDEX_CONSTRAINT_LIKE => Operator::Other(65),
        Op::SQLITE_INDEX_CONSTRAINT_GLOB => Operator::Other(66),
        Op::SQLITE_INDEX_CONSTRAINT_REGEXP => Operator::Other(67),
        Op::SQLITE_INDEX_CONSTRAINT_NE => Operator::NotEquals,
        Op::SQLITE_INDEX_CONSTRAINT_ISNOT => Operator::IsNot,
        Op::SQLITE_INDEX_CONSTRAINT_ISNOTNULL => Operator::Other(70),
        Op::SQLITE_INDEX_CONSTRAINT_ISNULL => Operator::Other(71),
        Op::SQLITE_INDEX_CONSTRAINT_IS => Operator::Is,
        Op::SQLITE_INDEX_CONSTRAINT_LIMIT => Operator::Other(Operator::LIMIT),
        Op::SQLITE_INDEX_CONSTRAINT_OFFSET => Operator::Other(Operator::OFFSET),
        Op::SQLITE_INDEX_CONSTRAINT_FUNCTION(code) => Operator::from_code(code),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_plan_is_unchanged_after_sqlite_passes_it() {
        let plan = Plan {
            columns_used: ColumnsUsed::ALL,
            arguments: vec![
                Argument { column: 0, operator: Operator::Equals, whole_list: true },
                Argument { column: 0, operator: Operator::Other(73), whole_list: false },
                Argument { column: 11, operator: Operator::IsNot, whole_list: false },
            ],
        };
        assert_eq!(plan.encode(), "18446744073709551615 0:2:true 0:73:false 11:69:false");
        assert_eq!(Plan::decode(&plan.encode()), Some(plan));
    }

    #[test]
    fn a_plan_of_another_origin_is_refused() {
        for text in ["", "x", "1 ", "1 0:2", "1 0:256:true", "1 0:2:maybe", "-1"] {
            assert_eq!(Plan::decode(text), None, "{text:?}");
        }
    }

    #[test]
    fn names_are_quoted_and_hidden_columns_are_marked() {
        let columns = [
            Column { name: "a\"b", kind: ColumnType::Text, options: ColumnOptions::INDEX },
            Column { name: "c", kind: ColumnType::BigInt, options: ColumnOptions::HIDDEN },
        ];
        assert_eq!(
            create_table("t", &columns),
            "CREATE TABLE \"t\" (\n  \"a\"\"b\" TEXT,\n  \"c\" BIGINT HIDDEN\n)"
        );
    }
}
