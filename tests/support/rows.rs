//! Answers of the table as text, for comparisons.

use std::path::Path;

use tables::process_open_sockets::ProcessOpenSockets;
use tables::{ColumnOptions, Constraint, Operator, Options, QueryContext, Rows, Table, Value};

pub fn table(procfs: &Path) -> ProcessOpenSockets {
    ProcessOpenSockets::new(Options { procfs: procfs.into(), ..Options::default() })
}

/// The rows of the table under `column = value` for each of these.
pub fn rows_where(table: &dyn Table, equals: &[(&str, &str)]) -> Vec<String> {
    let constraints = equals
        .iter()
        .map(|(column, value)| Constraint {
            column: table.columns().iter().position(|c| c.name == *column).unwrap(),
            operator: Operator::Equals,
            text: value.to_string(),
        })
        .collect();
    let query = QueryContext { constraints, ..Default::default() };
    texts(table, &*table.generate(&query).unwrap())
}

/// Each row as `SELECT *` shows it, with `|` between its cells, in order.
pub fn texts(table: &dyn Table, rows: &dyn Rows) -> Vec<String> {
    let is_shown = |&column: &usize| {
        let column = table.columns().get(column);
        column.is_some_and(|column| !column.options.contains(ColumnOptions::HIDDEN))
    };
    let cell = |row, column| match rows.cell(row, column) {
        Value::Null => "NULL".into(),
        Value::Integer(number) => number.to_string(),
        Value::Text(text) => text.into_owned(),
    };
    let mut texts: Vec<String> = (0..rows.len())
        .map(|row| {
            let shown = (0..table.columns().len()).filter(is_shown);
            shown.map(|column| cell(row, column)).collect::<Vec<_>>().join("|")
        })
        .collect();
    texts.sort();
    texts
}
