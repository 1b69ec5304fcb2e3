//! Answers of the table under attack, source by source.

use tables::process_open_sockets::{Options, ProcessOpenSockets, Source};
use tables::{Constraint, Operator, QueryContext, Rows, Table, Value};

use crate::support::left_out::say_left_out;
use crate::support::log_capture::logged;

/// How many scans an attack has to stand.
pub(super) const SCANS: usize = 20;

/// A source and its name on the command line.
pub(super) type NamedSource = (&'static str, Source);

pub(super) const BPF: NamedSource = ("bpf", Source::Bpf);
pub(super) const NETLINK: NamedSource = ("netlink", Source::Netlink);
pub(super) const PROCFS: NamedSource = ("procfs", Source::Procfs);

/// The sources that this host has. Reports where that is not all of them.
pub(super) fn sources(test: &str) -> Vec<NamedSource> {
    let bpf = has_bpf(test).then_some(BPF);
    bpf.into_iter().chain([NETLINK, PROCFS]).collect()
}

/// Whether this host answers with BPF. If not, says that this part of the test is left out.
pub(super) fn has_bpf(test: &str) -> bool {
    let (_, warnings) = logged(|| answer(&table(Source::Bpf), &[("pid", "1")]));
    let refusal = warnings.iter().find(|line| line.contains("BPF"));
    if let Some(line) = refusal {
        say_left_out(test, &format!("needs BPF: {line}"));
    }
    refusal.is_none()
}

pub(super) fn table(source: Source) -> ProcessOpenSockets {
    ProcessOpenSockets::new(Options { source, ..Options::default() })
}

/// A row, by column.
pub(super) struct Row {
    names: std::sync::Arc<Vec<String>>,
    cells: Vec<String>,
}

impl Row {
    /// The cell as text, NULL as `NULL`. Panics if there is no such column.
    pub(super) fn cell(&self, column: &str) -> &str {
        let place = self.names.iter().position(|name| name == column);
        &self.cells[place.unwrap_or_else(|| panic!("no column {column}"))]
    }

    pub(super) fn number(&self, column: &str) -> i64 {
        self.cell(column).parse().unwrap()
    }

    pub(super) fn has(&self, cells: &[(&str, &str)]) -> bool {
        cells.iter().all(|(column, value)| self.cell(column) == *value)
    }
}

impl std::fmt::Debug for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.names.iter().zip(&self.cells)).finish()
    }
}

/// All rows of the table under `column = value` for each of these.
pub(super) fn answer(table: &ProcessOpenSockets, equals: &[(&str, &str)]) -> Vec<Row> {
    let rows = generate(table, equals);
    let names: Vec<String> = table.columns().iter().map(|column| column.name.to_string()).collect();
    let names = std::sync::Arc::new(names);
    let cell = |row, column| match rows.cell(row, column) {
        Value::Null => "NULL".to_owned(),
        Value::Integer(number) => number.to_string(),
        Value::Text(text) => text.into_owned(),
    };
    let cells = |row| (0..names.len()).map(|column| cell(row, column)).collect();
    let row = |row| Row { names: std::sync::Arc::clone(&names), cells: cells(row) };
    (0..rows.len()).map(row).collect()
}

/// The same, as the table returns it.
pub(super) fn generate(table: &ProcessOpenSockets, equals: &[(&str, &str)]) -> Box<dyn Rows> {
    let constraint = |(column, value): &(&str, &str)| Constraint {
        column: table.columns().iter().position(|known| known.name == *column).unwrap(),
        operator: Operator::Equals,
        text: (*value).to_owned(),
    };
    let constraints = equals.iter().map(constraint).collect();
    table.generate(&QueryContext { constraints, ..QueryContext::default() }).unwrap()
}
