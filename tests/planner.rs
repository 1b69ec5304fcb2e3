//! The virtual table makes exactly the requests of stock osquery.
//!
//! `fixtures/planner-requests.json` has the captured requests of osquery, and describes the capture. The
//! test makes up rows of its tables that lead to equal requests.

#![cfg(feature = "shell")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use process_open_sockets::shell::vtab;
use rusqlite::Connection;
use serde_json::Value as Json;
use tables::{Column, ColumnOptions, ColumnType, Error, QueryContext, Rows, Table, Value};

type Row = Vec<Value<'static>>;

/// A table that answers every request with all of its rows, and records the requests.
struct Recorder {
    columns: Vec<Column>,
    rows: Arc<Vec<Row>>,
    requests: Mutex<Vec<QueryContext>>,
}

impl Recorder {
    fn new(columns: Vec<Column>, rows: Vec<Row>) -> Arc<Recorder> {
        Arc::new(Recorder { columns, rows: Arc::new(rows), requests: Mutex::default() })
    }
}

struct AllRows(Arc<Vec<Row>>);

impl Rows for AllRows {
    fn len(&self) -> usize {
        self.0.len()
    }
    fn id(&self, row: usize) -> i64 {
        row as i64
    }
    fn cell(&self, row: usize, column: usize) -> Value<'_> {
        self.0[row][column].clone()
    }
}

impl Table for Recorder {
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
        Ok(Box::new(AllRows(Arc::clone(&self.rows))))
    }
}

/// The columns of T in osquery's core, which turns the options 0 into INDEX.
fn columns_declared(ops: &str) -> Vec<Column> {
    let filterable = ColumnOptions::ADDITIONAL | ColumnOptions::OPTIMIZED;
    [
        ("pid", ColumnType::Integer),
        ("fd", ColumnType::BigInt),
        ("socket", ColumnType::BigInt),
        ("family", ColumnType::Integer),
        ("protocol", ColumnType::Integer),
        ("local_address", ColumnType::Text),
        ("remote_address", ColumnType::Text),
        ("local_port", ColumnType::Integer),
        ("remote_port", ColumnType::Integer),
        ("path", ColumnType::Text),
        ("state", ColumnType::Text),
        ("net_namespace", ColumnType::Text),
    ]
    .map(|(name, kind)| {
        let options = match (ops, name) {
            (_, "pid") => filterable,
            ("filterable", "local_address" | "remote_address" | "path") => ColumnOptions::OPTIMIZED,
            ("filterable", _) => filterable,
            ("pid_only", _) => ColumnOptions::OPTIMIZED,
            ("default", _) => ColumnOptions::INDEX,
            _ => panic!("no capture declares the columns as {ops:?}"),
        };
        Column { name, kind, options }
    })
    .into()
}

fn text(text: &'static str) -> Value<'static> {
    Value::Text(text.into())
}

/// Rows of T: two for each pid, the second of them connected to port 443.
fn sockets(count: usize) -> Vec<Row> {
    let row = |port: i64| {
        let remote_port = if port % 2 == 1 { 443 } else { 0 };
        let mut row: Row = [port / 2, 3, port, 2, 6].map(Value::Integer).into();
        row.extend([text("127.0.0.1"), text("127.0.0.1")]);
        row.extend([port, remote_port].map(Value::Integer));
        row.extend([text(""), text("ESTABLISHED"), text("1")]);
        row
    };
    (2..count as i64 + 2).map(row).collect()
}

/// The columns of osquery's `processes` that the queries read.
fn processes(named: impl Iterator<Item = (i64, &'static str)>) -> Arc<Recorder> {
    let column = |(name, kind, options): (&'static str, _, _)| Column { name, kind, options };
    let columns = [
        ("pid", ColumnType::BigInt, ColumnOptions::INDEX),
        ("name", ColumnType::Text, ColumnOptions::empty()),
        ("parent", ColumnType::BigInt, ColumnOptions::empty()),
    ];
    let row = |(pid, name)| vec![Value::Integer(pid), text(name), Value::Integer(0)];
    Recorder::new(columns.map(column).into(), named.map(row).collect())
}

/// A request without its incidental order: SQLite sorts the members of an IN list and the constraints of a
/// column.
#[derive(Debug, PartialEq)]
struct Recorded {
    constraints: BTreeMap<String, BTreeSet<(u8, String)>>,
    columns_used: BTreeSet<String>,
}

impl Recorded {
    fn new(query: &QueryContext, columns: &[Column]) -> Recorded {
        let mut constraints = BTreeMap::<_, BTreeSet<_>>::new();
        for constraint in &query.constraints {
            let of_column = constraints.entry(columns[constraint.column].name.to_string());
            let new = of_column
                .or_default()
                .insert((constraint.operator.code(), constraint.text.clone()));
            assert!(new, "a constraint is in the request twice: {constraint:?}");
        }
        let used = columns.iter().enumerate().filter(|(i, _)| query.columns_used.contains(*i));
        let columns_used = used.map(|(_, column)| column.name.to_string()).collect();
        Recorded { constraints, columns_used }
    }

    fn captured(request: &Json) -> Recorded {
        let constraint = |constraint: &Json| {
            let code = u8::try_from(constraint["op"].as_u64()?).unwrap();
            Some((code, constraint["expr"].as_str().unwrap().to_owned()))
        };
        let of_column = |(name, list): (&String, &Json)| {
            (name.clone(), list.as_array().unwrap().iter().filter_map(constraint).collect())
        };
        let used = request["colsUsed"].as_array().unwrap().iter();
        Recorded {
            constraints: request["constraints"]
                .as_object()
                .unwrap()
                .iter()
                .map(of_column)
                .collect(),
            columns_used: used.map(|name| name.as_str().unwrap().to_owned()).collect(),
        }
    }
}

/// The number of members that the capture left out of the request's list of pids.
fn left_out(request: &Json) -> usize {
    let pids = request["constraints"]["pid"].as_array();
    let more = pids.into_iter().flatten().find_map(|constraint| constraint["more"].as_u64());
    more.unwrap_or(0) as usize
}

/// The requests of osquery for one query.
struct Captured<'a> {
    ops: &'a str,
    sql: &'a str,
    calls: usize,
    requests: &'a [Json],
}

impl Captured<'_> {
    /// The pids in the requests, in their order, with substitutes for those left out.
    fn pids(&self) -> Vec<i64> {
        let lists: Vec<&Json> =
            self.requests.iter().filter_map(|request| request["constraints"].get("pid")).collect();
        let constraints = lists.iter().flat_map(|list| list.as_array().unwrap());
        let mut pids: Vec<i64> = constraints
            .filter_map(|constraint| constraint["expr"].as_str()?.parse().ok())
            .collect();
        let mut missing: usize = self.requests.iter().map(left_out).sum();
        if lists.len() == self.requests.len() {
            missing += self.calls - self.requests.len();
        }
        pids.extend((50_000..).take(missing));
        pids
    }

    /// The requests that the virtual table makes for the same query.
    fn replay(&self) -> Arc<Recorder> {
        let pids = self.pids();
        let rows = match self.sql {
            sql if sql.contains(" join T b ") => self.calls - 1,
            sql if sql.contains(" from T b ") => 2 * pids.len(),
            _ => 4,
        };
        let recorder = Recorder::new(columns_declared(self.ops), sockets(rows));
        let connection = Connection::open_in_memory().unwrap();
        vtab::mount(&connection, "T", recorder.clone()).unwrap();
        // One row more than the request selects, if the query selects by name.
        let other = self.sql.contains("'bash'").then_some((99_999, "init"));
        let named = pids.iter().map(|&pid| (pid, "bash")).chain(other);
        vtab::mount(&connection, "processes", processes(named)).unwrap();
        let mut statement = connection.prepare(self.sql).unwrap();
        let mut rows = statement.query([]).unwrap();
        while rows.next().unwrap().is_some() {}
        recorder
    }

    /// The difference of the replay from the capture, if there is one.
    fn difference(&self) -> Option<String> {
        let recorder = self.replay();
        let made = recorder.requests.lock().unwrap();
        if made.len() != self.calls {
            return Some(format!("{} calls, in osquery {}", made.len(), self.calls));
        }
        made.iter().zip(self.requests).find_map(|(made, request)| {
            let mut made = Recorded::new(made, &recorder.columns);
            let captured = Recorded::captured(request);
            if let Some(pids) = made.constraints.get_mut("pid") {
                let listed = &captured.constraints.get("pid").cloned().unwrap_or_default();
                let beyond = pids.difference(listed).count();
                if beyond != left_out(request) {
                    return Some(format!("{beyond} pids more than the capture lists: {pids:?}"));
                }
                pids.retain(|pid| listed.contains(pid));
            }
            (made != captured).then(|| format!("made {made:?}, osquery makes {captured:?}"))
        })
    }
}

#[test]
fn every_captured_query_makes_the_requests_of_osquery() {
    let fixture: Json =
        serde_json::from_str(include_str!("../fixtures/planner-requests.json")).unwrap();
    let captured = fixture["captured"].as_array().unwrap();
    assert_eq!(captured.len(), 90, "30 queries under 3 declarations");
    let differences: Vec<String> = captured
        .iter()
        .filter_map(|captured| {
            let captured = Captured {
                ops: captured["ops"].as_str().unwrap(),
                sql: captured["sql"].as_str().unwrap(),
                calls: captured["calls"].as_u64().unwrap() as usize,
                requests: captured["requests"].as_array().unwrap(),
            };
            let difference = captured.difference()?;
            Some(format!("{}, {}\n    {difference}", captured.ops, captured.sql))
        })
        .collect();
    assert!(differences.is_empty(), "{} differ:\n{}", differences.len(), differences.join("\n"));
}
