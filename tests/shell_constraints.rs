//! A constraint never changes the answer: a WHERE over a mounted table that uses every constraint returns the rows
//! that it returns over an ordinary table of SQLite.

#![cfg(feature = "shell")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::sync::{Arc, Mutex};

use process_open_sockets::shell::vtab;
use proptest::prelude::*;
use proptest::sample::select;
use rusqlite::Connection;
use tables::{
    Column, ColumnOptions, ColumnType, Constraint, Error, Operator, QueryContext, Rows, Table,
    Value,
};

type Row = [Value<'static>; 5];

/// A table that omits every row that does not match a constraint.
struct Strict {
    columns: [Column; 5],
    rows: Vec<Row>,
    requests: Mutex<Vec<QueryContext>>,
}

struct Kept(Vec<(i64, Row)>);

impl Rows for Kept {
    fn len(&self) -> usize {
        self.0.len()
    }
    fn id(&self, row: usize) -> i64 {
        self.0[row].0
    }
    fn cell(&self, row: usize, column: usize) -> Value<'_> {
        self.0[row].1[column].clone()
    }
}

impl Strict {
    fn new(rows: Vec<Row>) -> Arc<Strict> {
        let filterable = ColumnOptions::ADDITIONAL | ColumnOptions::OPTIMIZED;
        let column = |name: &'static str, kind, options| Column { name, kind, options };
        let columns = [
            column("a", ColumnType::Integer, filterable),
            column("b", ColumnType::BigInt, ColumnOptions::INDEX),
            column("s", ColumnType::Text, filterable),
            column("t", ColumnType::Text, ColumnOptions::ADDITIONAL),
            column("u", ColumnType::Text, ColumnOptions::OPTIMIZED),
        ];
        Arc::new(Strict { columns, rows, requests: Mutex::default() })
    }

    fn keeps(&self, row: &Row, constraints: &[Constraint]) -> bool {
        (0..row.len()).all(|column| {
            let of_column = || constraints.iter().filter(|constraint| constraint.column == column);
            let equals =
                || of_column().filter(|constraint| constraint.operator == Operator::Equals);
            let allows = |constraint: &Constraint| allows(&row[column], constraint);
            (equals().next().is_none() || equals().any(allows))
                && of_column()
                    .filter(|constraint| constraint.operator != Operator::Equals)
                    .all(allows)
        })
    }
}

impl Table for Strict {
    fn name(&self) -> &str {
        "t"
    }
    fn description(&self) -> &str {
        "Rows of a test"
    }
    fn columns(&self) -> &[Column] {
        &self.columns
    }
    fn generate(&self, query: &QueryContext) -> Result<Box<dyn Rows>, Error> {
        self.requests.lock().unwrap().push(query.clone());
        let kept = (0..).zip(&self.rows).filter(|(_, row)| self.keeps(row, &query.constraints));
        Ok(Box::new(Kept(kept.map(|(id, row)| (id, row.clone())).collect())))
    }
}

/// Whether a cell can match a constraint in SQL; true when in doubt.
fn allows(cell: &Value<'_>, constraint: &Constraint) -> bool {
    let text = &constraint.text;
    match (cell, constraint.operator) {
        (_, Operator::Other(_)) => true,
        (Value::Null, operator) => operator == Operator::IsNot,
        // Some collations ignore case or trailing spaces, and SQLite may compare the text as a number.
        (Value::Text(cell), Operator::Equals | Operator::Is) => {
            cell.trim_end_matches(' ').eq_ignore_ascii_case(text.trim_end_matches(' '))
                || number(cell).is_some_and(|cell| number(text) == Some(cell))
        }
        (Value::Text(cell), Operator::NotEquals | Operator::IsNot) => cell != text,
        (Value::Text(_), _) => panic!("TEXT columns get no ordering: {constraint:?}"),
        (Value::Integer(cell), operator) => match number(text) {
            // Only these integers are exact in a double; SQLite compares the others.
            Some(number) if number.abs() < 1e15 && cell.unsigned_abs() < 1 << 50 => {
                let cell = *cell as f64;
                match operator {
                    Operator::Equals | Operator::Is => cell == number,
                    Operator::NotEquals | Operator::IsNot => cell != number,
                    Operator::GreaterThan => cell > number,
                    Operator::GreaterThanOrEquals => cell >= number,
                    Operator::LessThan => cell < number,
                    Operator::LessThanOrEquals => cell <= number,
                    Operator::Other(_) => true,
                }
            }
            _ => true,
        },
    }
}

fn number(text: &str) -> Option<f64> {
    let text = text.trim_matches(' ');
    text.starts_with(|c: char| c.is_ascii_digit() || c == '-').then(|| text.parse().ok())?
}

const NUMBERS: [Option<i64>; 8] =
    [None, Some(0), Some(1), Some(2), Some(3), Some(-1), Some(42), Some(i64::MAX)];
const TEXTS: [Option<&str>; 11] = [
    None,
    Some(""),
    Some("LISTEN"),
    Some("listen"),
    Some("LISTEN "),
    Some("1"),
    Some("01"),
    Some("3.0"),
    Some("abc"),
    Some("-1"),
    Some("6.8636313353258256e-54"),
];
const EXPRESSIONS: [&str; 43] = [
    "NULL",
    "0",
    "1",
    "2",
    "3",
    "-1",
    "42",
    "9223372036854775807",
    "9223372036854775808",
    "1e300",
    "3.0",
    "3.5",
    "3.0000000000000004",
    "2.9999999999999996",
    "6.8636313353258256e-54",
    "9e999",
    "''",
    "' '",
    "'1'",
    "' 2 '",
    "'02'",
    "'1e0'",
    "'3.0'",
    "'0x1'",
    "'abc'",
    "'inf'",
    "'-1'",
    "'LISTEN'",
    "'listen'",
    "'LISTEN '",
    "'Listen' COLLATE NOCASE",
    "'LISTEN   ' COLLATE RTRIM",
    "x''",
    "x'31'",
    "x'4c495354454e'",
    "CAST(x'ff' AS TEXT)",
    "'LISTEN' || char(0)",
    "'1' || char(0)",
    "CAST(1 AS INTEGER)",
    "CAST(1 AS REAL)",
    "CAST(3 AS TEXT)",
    "(SELECT 1)",
    "(SELECT '2')",
];

fn row() -> impl Strategy<Value = Row> {
    let number = || select(&NUMBERS[..]).prop_map(|n| n.map_or(Value::Null, Value::Integer));
    let text = || {
        select(&TEXTS[..])
            .prop_map(|text| text.map_or(Value::Null, |text| Value::Text(text.into())))
    };
    (number(), number(), text(), text(), text()).prop_map(|(a, b, s, t, u)| [a, b, s, t, u])
}

fn condition() -> impl Strategy<Value = String> {
    let column = || select(vec!["a", "b", "s", "t", "u"]);
    let expression = || select(&EXPRESSIONS[..]);
    let operator =
        select(vec!["=", "<>", "<", "<=", ">", ">=", "IS", "IS NOT", "LIKE", "GLOB", "NOT LIKE"]);
    let leaf = prop_oneof![
        4 => (column(), operator, expression()).prop_map(|(c, o, e)| format!("v.{c} {o} {e}")),
        2 => (column(), prop::collection::vec(expression(), 0..4))
            .prop_map(|(c, list)| format!("v.{c} IN ({})", list.join(", "))),
        // Only if SQLite passes the whole list: if it passes the values of a subquery one by one, it compares them
        // with the column of a virtual table without the affinity of the subquery.
        1 => (select(vec!["a", "s", "u"]), select(vec!["n", "x", "y"]))
            .prop_map(|(c, other)| format!("v.{c} IN (SELECT {other} FROM other)")),
        1 => (column(), expression(), expression())
            .prop_map(|(c, from, to)| format!("v.{c} BETWEEN {from} AND {to}")),
        1 => (column(), select(vec!["ISNULL", "NOTNULL"])).prop_map(|(c, o)| format!("v.{c} {o}")),
        1 => (column(), column()).prop_map(|(c, d)| format!("v.{c} = v.{d}")),
    ];
    leaf.prop_recursive(3, 8, 3, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(l, r)| format!("({l} AND {r})")),
            (inner.clone(), inner.clone()).prop_map(|(l, r)| format!("({l} OR {r})")),
            inner.prop_map(|condition| format!("NOT ({condition})")),
        ]
    })
}

fn source() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => Just("{} v".to_owned()),
        1 => (
            select(vec!["JOIN", "LEFT JOIN"]),
            any::<bool>(),
            select(vec!["a", "b", "s", "t"]),
            select(vec!["n", "x", "y"]),
        )
            .prop_map(|(join, first, column, other)| {
                let (left, right) = if first { ("{} v", "other o") } else { ("other o", "{} v") };
                format!("{left} {join} {right} ON v.{column} = o.{other}")
            }),
    ]
}

/// A database with `mounted` and `plain`, which have equal rows. `other` has columns of every affinity.
fn database(rows: &[Row]) -> (Connection, Arc<Strict>) {
    let connection = Connection::open_in_memory().unwrap();
    connection
        .execute_batch(
            "CREATE TABLE plain (a INTEGER, b BIGINT, s TEXT, t TEXT, u TEXT);
             CREATE TABLE other (n INTEGER, x TEXT, y);
             INSERT INTO other VALUES
                 (1, '1', 1), (2, ' 2', x'31'), (NULL, 'LISTEN', ''), (3, '01', 3.0), (-1, NULL, 'abc'), ('abc', 'abc', NULL)",
        )
        .unwrap();
    let bound = |cell: &Value<'static>| match cell {
        Value::Null => rusqlite::types::Value::Null,
        Value::Integer(number) => (*number).into(),
        Value::Text(text) => text.to_string().into(),
    };
    for row in rows {
        connection
            .execute("INSERT INTO plain VALUES (?, ?, ?, ?, ?)", row.each_ref().map(bound))
            .unwrap();
    }
    let table = Strict::new(rows.to_vec());
    vtab::mount(&connection, "mounted", table.clone()).unwrap();
    (connection, table)
}

/// The rows as text, sorted.
fn answer(connection: &Connection, sql: &str) -> Vec<String> {
    let mut statement = connection.prepare(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
    let columns = statement.column_count();
    let row = |row: &rusqlite::Row<'_>| {
        (0..columns).map(|i| row.get_ref(i).map(|cell| format!("{cell:?} "))).collect()
    };
    let mut rows: Vec<String> =
        statement.query_map([], row).unwrap().collect::<Result<_, _>>().unwrap();
    rows.sort();
    rows
}

fn over(table: &str, sql: &str) -> String {
    sql.replace("{}", table)
}

/// The requests of the condition.
fn requests(condition: &str) -> Vec<Vec<(usize, u8, String)>> {
    let (connection, table) = database(&[]);
    answer(&connection, &format!("SELECT * FROM mounted v WHERE {condition}"));
    let requests = table.requests.lock().unwrap();
    let plain = |c: &Constraint| (c.column, c.operator.code(), c.text.clone());
    requests.iter().map(|request| request.constraints.iter().map(plain).collect()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_rows_are_those_of_an_ordinary_table(
        rows in prop::collection::vec(row(), 0..12),
        source in source(),
        condition in condition(),
    ) {
        let (connection, _) = database(&rows);
        let sql = format!("SELECT v.* FROM {source} WHERE {condition}");
        prop_assert_eq!(
            answer(&connection, &over("mounted", &sql)),
            answer(&connection, &over("plain", &sql))
        );
    }

    #[test]
    fn as_many_rows_under_limit_and_offset(
        rows in prop::collection::vec(row(), 0..12),
        condition in condition(),
        limit in -1..6,
        offset in 0..4,
    ) {
        let (connection, _) = database(&rows);
        let all = format!("SELECT * FROM {{}} v WHERE {condition}");
        let some = format!("{all} LIMIT {limit} OFFSET {offset}");
        let found = answer(&connection, &over("mounted", &some));
        prop_assert_eq!(found.len(), answer(&connection, &over("plain", &some)).len());
        let all = answer(&connection, &over("plain", &all));
        prop_assert!(found.iter().all(|row| all.contains(row)), "{:?} not all in {:?}", found, all);
    }
}

#[test]
fn a_lone_empty_or_null_right_hand_side_is_dropped() {
    assert_eq!(requests("v.a = ''"), [[]]);
    assert_eq!(requests("v.s = ''"), [[]]);
    assert_eq!(requests("v.a > NULL"), [[]]);
    assert_eq!(requests("v.a ISNULL"), [[]]);
    assert_eq!(requests("v.a NOTNULL"), [[]]);
}

#[test]
fn a_list_passes_the_empty_text_but_no_null_or_blob() {
    let text = |text: &str| (2, 2, text.to_owned());
    assert_eq!(requests("v.s IN ('x', '', NULL, x'31')"), [[text(""), text("x")]]);
    assert_eq!(requests("v.s IN (NULL, x'31')"), [[]]);
}

#[test]
fn a_blob_is_never_a_constraint() {
    assert_eq!(requests("v.a = x'31'"), [[]]);
    assert_eq!(requests("v.a < x'31'"), [[]]);
    assert_eq!(requests("v.s <> x'31'"), [[]]);
}

#[test]
fn integers_pass_as_text_and_reals_only_to_number_columns() {
    assert_eq!(requests("v.a = 1.0"), [[(0, 2, "1.0".to_owned())]]);
    assert_eq!(requests("v.a < 1e20"), [[(0, 16, "1.0e+20".to_owned())]]);
    assert_eq!(requests("v.s = 1"), [[(2, 2, "1".to_owned())]]);
    assert_eq!(requests("v.s = 1.0"), [[]]);
    // SQLite converts the members of a list to text.
    let text = |text: &str| (2, 2, text.to_owned());
    assert_eq!(requests("v.s IN ('x', 1.0)"), [[text("1.0"), text("x")]]);
}

#[test]
fn text_columns_get_no_ordering() {
    assert_eq!(requests("v.s > 'a' AND v.s <> 'b'"), [[(2, 68, "b".to_owned())]]);
}

#[test]
fn a_limit_is_filed_under_the_first_column() {
    assert_eq!(
        requests("v.b = 1 LIMIT 5 OFFSET 2"),
        [[(1, 2, "1".to_owned()), (0, 74, "2".to_owned()), (0, 73, "5".to_owned()),]]
    );
}

#[test]
fn an_error_of_the_table_is_the_error_of_the_query() {
    struct Broken;
    impl Table for Broken {
        fn name(&self) -> &str {
            "broken"
        }
        fn description(&self) -> &str {
            "Rows of a test"
        }
        fn columns(&self) -> &[Column] {
            static COLUMNS: [Column; 1] = [Column {
                name: "pid",
                kind: ColumnType::Integer,
                options: ColumnOptions::ADDITIONAL,
            }];
            &COLUMNS
        }
        fn generate(&self, _: &QueryContext) -> Result<Box<dyn Rows>, Error> {
            Err(Error::NotProc { path: "/nowhere".into() })
        }
    }
    let connection = Connection::open_in_memory().unwrap();
    vtab::mount(&connection, "broken", Arc::new(Broken)).unwrap();
    let error = connection.query_row("SELECT * FROM broken", [], |_| Ok(())).unwrap_err();
    assert_eq!(error.to_string(), Error::NotProc { path: "/nowhere".into() }.to_string());
}

#[test]
fn a_required_column_without_a_constraint_is_refused() {
    struct Demanding;
    impl Table for Demanding {
        fn name(&self) -> &str {
            "demanding"
        }
        fn description(&self) -> &str {
            "Rows of a test"
        }
        fn columns(&self) -> &[Column] {
            static COLUMNS: [Column; 1] =
                [Column { name: "path", kind: ColumnType::Text, options: ColumnOptions::REQUIRED }];
            &COLUMNS
        }
        fn generate(&self, _: &QueryContext) -> Result<Box<dyn Rows>, Error> {
            Ok(Box::new(Kept(Vec::new())))
        }
    }
    let connection = Connection::open_in_memory().unwrap();
    vtab::mount(&connection, "demanding", Arc::new(Demanding)).unwrap();
    let rows =
        |sql| connection.prepare(sql).map(|mut s| s.query([]).unwrap().next().unwrap().is_some());
    assert!(!rows("SELECT * FROM demanding WHERE path = 'x'").unwrap());
    let refused = rows("SELECT * FROM demanding").unwrap_err().to_string();
    assert!(refused.starts_with("no query solution"), "{refused}");
}
