//! The README's SQL, run over this host.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use process_open_sockets::shell::vtab;
use rusqlite::Connection;
use tables::process_open_sockets::{NAME, Options, ProcessOpenSockets};
use tables::{ColumnOptions, Table};

const README: &str = include_str!("../README.md");

/// The statements in blocks marked as SQL.
fn examples() -> Vec<&'static str> {
    let blocks = README.split("```sql\n").skip(1);
    blocks.map(|block| block.split("```").next().unwrap().trim()).collect()
}

#[test]
fn every_example_is_answered() {
    let connection = Connection::open_in_memory().unwrap();
    let table = ProcessOpenSockets::new(Options::default());
    vtab::mount(&connection, NAME, Arc::new(table)).unwrap();
    // So that there is something to answer with.
    let (_one, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    for example in examples() {
        let mut statement = connection.prepare(example).unwrap();
        let mut rows = statement.query([]).unwrap();
        let mut count = 0;
        while rows.next().unwrap().is_some() {
            count += 1;
        }
        assert!(count > 0 || !example.contains("peer_socket"), "{example}");
    }
}

#[test]
fn every_hidden_column_has_an_example_and_a_line_in_a_table() {
    let table = ProcessOpenSockets::new(Options::default());
    let hidden = table.columns().iter().filter(|it| it.options.contains(ColumnOptions::HIDDEN));
    let mut named = 0;
    for name in hidden.map(|column| &*column.name) {
        assert!(examples().iter().any(|example| example.contains(name)), "{name}");
        assert!(README.contains(&format!("| `{name}`")) || name == "tx_queue", "{name}");
        named += 1;
    }
    assert_eq!(named, 12);
}
