//! Generated conditions, and a check that the table and SQLite select equal rows by them.

use std::path::Path;
use std::sync::{Arc, LazyLock};

use process_open_sockets::shell::vtab;
use proptest::prelude::*;
use proptest::sample::select;
use rusqlite::Connection;
use tables::Table;
use tables::process_open_sockets::ProcessOpenSockets;

/// A database where `mounted` is the table, and `plain` holds a copy of all its rows.
pub(crate) fn database(table: ProcessOpenSockets) -> Connection {
    let connection = Connection::open_in_memory().unwrap();
    let table = Arc::new(table);
    let columns = vtab::create_table("plain", table.columns());
    vtab::mount(&connection, "mounted", table).unwrap();
    connection
        .execute_batch(&format!(
            "{columns}; INSERT INTO plain ({0}) SELECT {0} FROM mounted",
            COLUMNS.join(", ")
        ))
        .unwrap();
    connection
}

/// The rows that the query selects, as text. Only rows of sockets of the test count: others can change.
pub(crate) fn answer(
    connection: &Connection,
    table: &str,
    rest: &str,
    is_ours: &str,
) -> Vec<String> {
    let sql = format!("SELECT {}, {is_ours} FROM {table} t {rest}", COLUMNS.join(", "));
    let mut statement = connection.prepare(&sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
    let cells = statement.column_count() - 1;
    let mut rows = statement.query([]).unwrap();
    let mut answer = Vec::new();
    while let Some(row) = rows.next().unwrap() {
        if row.get(cells).unwrap() {
            let cells = (0..cells).map(|i| format!("{:?}", row.get_ref(i).unwrap()));
            answer.push(cells.collect::<Vec<_>>().join(" "));
        }
    }
    answer.sort();
    answer
}

/// These change while nothing happens.
const AGES: [&str; 2] = ["last_sent_ms", "last_received_ms"];

/// The table's columns, the hidden ones too, without ages.
pub(crate) static COLUMNS: LazyLock<Vec<&str>> = LazyLock::new(|| {
    let table = super::rows::table(Path::new("/proc"));
    let names = table.columns().iter().map(|column| column.name);
    names.filter(|name| !AGES.contains(name)).collect()
});

const UNRELATED_VALUES: [&str; 26] = [
    "NULL",
    "''",
    "'abc'",
    "3.5",
    "'3.5'",
    "'1.0'",
    "' 3 '",
    "-1",
    "'-1'",
    "0",
    "9223372036854775807",
    "-9223372036854775808",
    "9223372036854775808",
    "'99999999999999999999'",
    "1e300",
    "x'31'",
    "'listen'",
    "'LISTEN' COLLATE NOCASE",
    "'listen' COLLATE NOCASE",
    "'LISTEN  ' COLLATE RTRIM",
    "'none' COLLATE NOCASE",
    "CAST(4026532177.0 AS REAL)",
    "CAST('4026532177' AS INTEGER)",
    "' 4026532177'",
    "'0x1'",
    "'LISTEN' || char(0)",
];

/// A value to compare a column with: a cell of it, a cell plus or minus one, or an unrelated value.
fn value(column: &'static str) -> impl Strategy<Value = String> {
    let present = (0..1000u32).prop_map(move |n| {
        format!("(SELECT {column} FROM plain LIMIT 1 OFFSET {n} % (SELECT count(*) FROM plain))")
    });
    let beside = (present.clone(), -1..=1).prop_map(|(value, step)| format!("{value} + {step}"));
    prop_oneof![
        4 => present,
        2 => beside,
        3 => select(&UNRELATED_VALUES[..]).prop_map(str::to_owned),
    ]
}

/// A condition of a query on the table `t`, in SQL.
pub(crate) fn condition() -> impl Strategy<Value = String> {
    let operators = ["=", "<>", "<", "<=", ">", ">=", "IS", "IS NOT", "LIKE", "GLOB", "NOT LIKE"];
    let leaf = select(COLUMNS.clone()).prop_flat_map(move |column| {
        let list = prop::collection::vec(value(column), 0..4).prop_map(|list| list.join(", "));
        prop_oneof![
            6 => (select(operators.to_vec()), value(column))
                .prop_map(move |(operator, value)| format!("t.{column} {operator} {value}")),
            3 => (select(vec!["IN", "NOT IN"]), list)
                .prop_map(move |(operator, list)| format!("t.{column} {operator} ({list})")),
            1 => (value(column), value(column))
                .prop_map(move |(from, to)| format!("t.{column} BETWEEN {from} AND {to}")),
            1 => Just(format!("t.{column} IN (SELECT {column} FROM plain WHERE pid % 2)")),
            1 => select(vec!["IS NULL", "NOT NULL"]).prop_map(move |is| format!("t.{column} {is}")),
        ]
    });
    leaf.prop_recursive(3, 6, 3, |inner| {
        prop_oneof![
            2 => (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a} AND {b})")),
            1 => (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a} OR {b})")),
            1 => inner.prop_map(|condition| format!("NOT ({condition})")),
        ]
    })
}

/// Checks that the condition selects equal rows of both tables.
pub(crate) fn check(
    connection: &Connection,
    condition: &str,
    is_ours: &str,
) -> Result<(), TestCaseError> {
    let picked = |table, rest: &str| answer(connection, table, rest, is_ours);
    let filter = format!("WHERE {condition}");
    let expected = picked("plain", &filter);
    prop_assert_eq!(picked("mounted", &filter), expected, "{}", condition);
    Ok(())
}

/// A number of cases, without a file of failures.
pub(crate) fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}
