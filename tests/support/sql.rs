//! The stand-in core's SQL: SQLite over the tables of the core and of its extensions.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use process_open_sockets::extension::osquery::{ExtensionPluginRequest, ExtensionPluginResponse};
use process_open_sockets::shell::vtab;
use rusqlite::Connection;
use rusqlite::types::ValueRef;
use tables::{Column, ColumnOptions, ColumnType, Error, QueryContext, Rows, Table, Value};

use super::context;
use super::core::{Busy, Row, Shared};
use super::native;

impl Shared {
    /// The rows of a query, NULL as ''.
    pub(crate) fn query(self: &Arc<Self>, sql: &str) -> Result<Vec<Row>, String> {
        let is_first = self.running.load(Ordering::SeqCst) == 0;
        let _busy = Busy::new(self);
        let connection = self.connection(sql, is_first)?;
        rows(&connection, sql).map_err(|error| sqlite_message(&error))
    }

    /// The name of each column of a query's answer, one row per column. The type is always UNKNOWN.
    pub(crate) fn query_columns(self: &Arc<Self>, sql: &str) -> Result<Vec<Row>, String> {
        let connection = self.connection(sql, true)?;
        let statement = connection.prepare(sql).map_err(|error| sqlite_message(&error))?;
        let row = |name: &str| [(name.to_owned(), "UNKNOWN".to_owned())].into();
        Ok(statement.column_names().map(row).collect())
    }

    /// A database with every table. While another query runs, the core creates a new database for the
    /// next query, and requests the columns from the extensions again.
    fn connection(self: &Arc<Self>, sql: &str, is_first: bool) -> Result<Connection, String> {
        let connection = Connection::open_in_memory().map_err(|error| error.to_string())?;
        let mount = |name: &str, table: Arc<dyn Table>| {
            vtab::mount(&connection, name, table).map_err(|error| error.to_string())
        };
        let mut listed: Vec<(String, i64)> =
            self.own_tables.iter().map(|name| (name.clone(), 0)).collect();
        for (uuid, extension) in self.extensions() {
            for (name, routes) in extension.tables {
                listed.push((name.clone(), uuid));
                let routes = if is_first || !sql.contains(&name) {
                    routes
                } else {
                    self.call(uuid, &name, request([("action", "columns")]))
                        .ok()
                        .filter(|routes| !routes.is_empty())
                        .ok_or_else(|| format!("vtable constructor failed: {name}"))?
                };
                let columns = columns(&routes);
                let core = Arc::clone(self);
                mount(&name, Arc::new(Remote { core, uuid, name: name.clone(), columns }))?;
            }
        }
        for name in &self.own_tables {
            match name.as_str() {
                "osquery_registry" => mount(name, Arc::new(native::registry(listed.clone())))?,
                "processes" => mount(name, Arc::new(native::processes()))?,
                _ => mount(name, Arc::new(native::empty()))?,
            }
        }
        Ok(connection)
    }
}

/// The message of SQLite, as osquery returns it.
fn sqlite_message(error: &rusqlite::Error) -> String {
    match error {
        rusqlite::Error::SqlInputError { msg, .. } => msg.clone(),
        rusqlite::Error::SqliteFailure(_, Some(message)) => message.clone(),
        other => other.to_string(),
    }
}

fn rows(connection: &Connection, sql: &str) -> rusqlite::Result<Vec<Row>> {
    let mut statement = connection.prepare(sql)?;
    let names: Vec<String> = statement.column_names().map(str::to_owned).collect();
    let mut rows = statement.query([])?;
    let mut answer = Vec::new();
    while let Some(row) = rows.next()? {
        let mut cells = Row::new();
        for (index, name) in names.iter().enumerate() {
            cells.insert(name.clone(), text(row.get_ref(index)?));
        }
        answer.push(cells);
    }
    Ok(answer)
}

fn text(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Null => String::new(),
        ValueRef::Integer(number) => number.to_string(),
        ValueRef::Real(number) => number.to_string(),
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => {
            String::from_utf8_lossy(bytes).into_owned()
        }
    }
}

pub(crate) fn request<const N: usize>(pairs: [(&str, &str); N]) -> ExtensionPluginRequest {
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
}

/// The columns of these routes. With the default `--extensions_default_index`, a column without options
/// is an index.
fn columns(routes: &ExtensionPluginResponse) -> Vec<Column> {
    routes
        .iter()
        .filter(|route| route["id"] == "column")
        .map(|route| Column {
            name: route["name"].clone().leak(),
            kind: match route["type"].as_str() {
                "INTEGER" => ColumnType::Integer,
                "BIGINT" => ColumnType::BigInt,
                "TEXT" => ColumnType::Text,
                other => panic!("a column of type {other}"),
            },
            options: match route["op"].parse().expect("a number") {
                0 => ColumnOptions::INDEX,
                bits => ColumnOptions::from_bits_retain(bits),
            },
        })
        .collect()
}

/// A table of an extension.
struct Remote {
    core: Arc<Shared>,
    uuid: i64,
    name: String,
    columns: Vec<Column>,
}

impl Table for Remote {
    fn name(&self) -> &str {
        &self.name
    }
    fn description(&self) -> &str {
        "Rows of a test"
    }
    fn columns(&self) -> &[Column] {
        &self.columns
    }

    fn generate(&self, query: &QueryContext) -> Result<Box<dyn Rows>, Error> {
        let context = context::encode(query, &self.columns);
        let request = request([("action", "generate"), ("context", &context)]);
        let rows = self.core.call(self.uuid, &self.name, request).map_err(|message| {
            Error::Read { path: self.name.clone().into(), source: std::io::Error::other(message) }
        })?;
        Ok(Box::new(Received { rows, columns: self.columns.clone() }))
    }
}

/// Rows as received from the extension.
struct Received {
    rows: Vec<Row>,
    columns: Vec<Column>,
}

impl Rows for Received {
    fn len(&self) -> usize {
        self.rows.len()
    }

    /// The key `rowid`, or else the position.
    fn id(&self, row: usize) -> i64 {
        match self.rows[row].get("rowid") {
            Some(id) => id.parse().expect("a number"),
            None => i64::try_from(row).expect("a row number"),
        }
    }

    fn cell(&self, row: usize, column: usize) -> Value<'_> {
        let column = &self.columns[column];
        let text = self.rows[row].get(column.name).map_or("", String::as_str);
        match column.kind {
            ColumnType::Text => Value::Text(text.into()),
            ColumnType::BigInt => number(text).map_or(Value::Null, Value::Integer),
            ColumnType::Integer => match number(text).map(i32::try_from) {
                Some(Ok(number)) => Value::Integer(number.into()),
                _ => Value::Null,
            },
        }
    }
}

/// Parses a number as strtoll(3) does with base 0.
fn number(text: &str) -> Option<i64> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", text),
    };
    let (digits, base) = if let Some(digits) = digits.strip_prefix("0x") {
        (digits, 16)
    } else if digits.len() > 1 && digits.starts_with('0') {
        (digits, 8)
    } else {
        (digits, 10)
    };
    i64::from_str_radix(&format!("{sign}{digits}"), base).ok()
}
