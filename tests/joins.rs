//! Joins with osquery's own tables, without qualified names.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use process_open_sockets::shell::vtab;
use rusqlite::Connection;
use tables::{ColumnOptions, Options, Table};

/// The columns of osquery's tables, by table.
fn osquery() -> BTreeMap<String, Vec<String>> {
    serde_json::from_str(include_str!("../fixtures/osquery/columns.json")).unwrap()
}

fn tables() -> Vec<Arc<dyn Table>> {
    tables::tables(&Options::default())
}

/// Names of the columns whose option HIDDEN is this.
fn columns(table: &dyn Table, is_hidden: bool) -> BTreeSet<String> {
    let columns = table.columns().iter();
    let columns =
        columns.filter(|column| column.options.contains(ColumnOptions::HIDDEN) == is_hidden);
    columns.map(|column| column.name.to_string()).collect()
}

/// A database with osquery's tables, empty, and this project's.
fn database() -> Connection {
    let connection = Connection::open_in_memory().unwrap();
    for (name, columns) in osquery() {
        let sql = format!("CREATE TABLE {name} ({})", columns.join(", "));
        connection.execute_batch(&sql).unwrap();
    }
    for table in tables() {
        vtab::mount(&connection, table.name(), table.clone()).unwrap();
    }
    connection
}

#[test]
fn no_hidden_column_has_the_name_of_an_osquery_column() {
    for table in tables() {
        let hidden = columns(&*table, true);
        for (name, columns) in osquery() {
            let both: Vec<_> = columns.iter().filter(|&it| hidden.contains(it)).collect();
            assert!(both.is_empty(), "{} and {name} both have {both:?}", table.name());
        }
    }
}

#[test]
fn unqualified_names_of_osquery_columns_resolve_in_joins() {
    let connection = database();
    for table in tables() {
        let visible = columns(&*table, false);
        for (name, columns) in osquery() {
            for column in columns.iter().filter(|&it| !visible.contains(it)) {
                let sql = format!("SELECT {column} FROM {name}, {}", table.name());
                connection.prepare(&sql).unwrap();
            }
        }
    }
}

#[test]
fn the_joins_that_users_write_return_rows() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (me, uid) = (std::process::id(), rustix::process::getuid().as_raw());
    let connection = database();
    let rows = format!(
        "INSERT INTO processes (pid, name, uid) VALUES ({me}, 'joins', {uid});
         INSERT INTO users (uid, username) VALUES ({uid}, 'joins');
         INSERT INTO interface_addresses (interface, address, type) VALUES ('lo', '127.0.0.1', 'manual');"
    );
    connection.execute_batch(&rows).unwrap();
    let joins = [
        ("SELECT name, uid FROM processes JOIN process_open_sockets USING (pid)", "joins"),
        ("SELECT username, uid FROM users JOIN process_open_sockets ON uid = socket_uid", "joins"),
        (
            "SELECT interface, type FROM interface_addresses
             JOIN process_open_sockets ON address = local_address",
            "lo",
        ),
    ];
    for (sql, expected) in joins {
        let sql = format!("{sql} WHERE local_port = {port} AND pid = {me}");
        let mut statement = connection.prepare(&sql).unwrap();
        let cells = statement.query_map([], |row| row.get(0)).unwrap();
        assert_eq!(cells.collect::<Result<Vec<String>, _>>().unwrap(), [expected], "{sql}");
    }
}
