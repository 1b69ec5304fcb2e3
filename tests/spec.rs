//! The code matches the table specification `tables/process_open_sockets.table`.

#![allow(clippy::unwrap_used, clippy::panic)]

use tables::process_open_sockets::ProcessOpenSockets;
use tables::{ColumnOptions, Options, Table};

const SPEC: &str = include_str!("../tables/process_open_sockets.table");

/// The lines for all platforms and for this one.
fn lines() -> impl Iterator<Item = &'static str> {
    let this = if cfg!(target_os = "macos") { "DARWIN" } else { "LINUX" };
    let mut is_meant = true;
    SPEC.lines().filter(move |line| {
        if let Some(extended) = line.strip_prefix("extended_schema(") {
            is_meant = extended.starts_with(this);
        } else if line.starts_with(|first: char| first.is_ascii_alphabetic()) {
            is_meant = true;
        }
        is_meant
    })
}

/// Name, type and options of each `Column(…)` line, in order.
fn stated_columns() -> Vec<(String, String, ColumnOptions)> {
    let column = |line: &str| {
        let (name, rest) = line.split_once("\", ").unwrap();
        let (kind, rest) = rest.split_once(", \"").unwrap();
        let (description, flags) = rest.rsplit_once("\", ").unwrap();
        assert!(!description.is_empty(), "{name} is not described");
        let mut options = ColumnOptions::empty();
        for flag in flags.trim_end_matches("),").split(", ") {
            options |= match flag {
                "additional=True" => ColumnOptions::ADDITIONAL,
                "optimized=True" => ColumnOptions::OPTIMIZED,
                "hidden=True" => ColumnOptions::HIDDEN,
                other => panic!("{name}: {other}"),
            };
        }
        (name.to_owned(), kind.to_owned(), options)
    };
    lines().filter_map(|line| line.trim().strip_prefix("Column(\"")).map(column).collect()
}

#[test]
fn the_code_has_the_columns_that_are_stated() {
    let table = ProcessOpenSockets::new(Options::default());
    let coded: Vec<_> = table
        .columns()
        .iter()
        .map(|column| (column.name.to_string(), column.kind.name().to_owned(), column.options))
        .collect();
    assert_eq!(coded, stated_columns());
}

#[test]
#[cfg(target_os = "linux")]
fn the_tables_of_events_are_as_stated() {
    let specifications = [
        include_str!("../tables/process_socket_events.table"),
        include_str!("../tables/process_socket_flows.table"),
        include_str!("../tables/socket_event_stats.table"),
    ];
    let tables = tables::tables(&Options::default());
    let events: Vec<_> =
        tables.iter().filter(|table| table.name() != "process_open_sockets").collect();
    assert_eq!(events.len(), specifications.len());
    for (table, specification) in events.into_iter().zip(specifications) {
        let has = |line: String| assert!(specification.lines().any(|it| it == line), "{line}");
        has(format!("table_name(\"{}\")", table.name()));
        has(format!("description(\"{}.\")", table.description()));
        let stated = specification.lines().filter_map(|line| line.trim().strip_prefix("Column(\""));
        let stated = stated.map(|line| {
            let (name, rest) = line.split_once("\", ").unwrap();
            (name.to_owned(), rest.split_once(',').unwrap().0.to_owned())
        });
        let coded = table.columns().iter();
        let coded = coded.map(|column| (column.name.to_string(), column.kind.name().to_owned()));
        assert_eq!(coded.collect::<Vec<_>>(), stated.collect::<Vec<_>>());
    }
}

#[test]
fn the_code_has_the_names_that_are_stated() {
    let table = ProcessOpenSockets::new(Options::default());
    let (name, aliases) = (table.name(), table.fallback_names().join("\", \""));
    let stated = format!("table_name(\"{name}\", aliases=[\"{aliases}\"])");
    assert!(lines().any(|line| line == stated), "{stated}");
}

#[test]
fn the_code_has_the_description_that_is_stated() {
    let table = ProcessOpenSockets::new(Options::default());
    let stated = format!("description(\"{}.\")", table.description());
    assert!(lines().any(|line| line == stated), "{stated}");
}
