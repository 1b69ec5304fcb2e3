//! Answers of the table under attack, source by source.

use std::rc::Rc;

use tables::process_open_sockets::ProcessOpenSockets;
use tables::{Constraint, Operator, Options, QueryContext, Rows, Source, Table, Value};

use crate::support::bpf::with_bpf;

/// How many scans an attack has to stand.
pub(super) const SCANS: usize = 20;

/// A source and its name on the command line.
pub(super) type NamedSource = (&'static str, Source);

pub(super) const BPF: NamedSource = ("bpf", Source::Bpf);
pub(super) const NETLINK: NamedSource = ("netlink", Source::Netlink);
pub(super) const PROCFS: NamedSource = ("procfs", Source::Procfs);

/// Constraints of the form `column = value`, and how a line of the output names them.
pub(super) type NamedQuery<'a> = (&'static str, &'a [(&'a str, &'a str)]);

/// The sources that this host has. Reports where that is not all of them.
pub(super) fn sources(test: &str) -> Vec<NamedSource> {
    let bpf = has_bpf(test).then_some(BPF);
    bpf.into_iter().chain([NETLINK, PROCFS]).collect()
}

/// Whether this host answers with BPF. If not, the test is reported as left out, or fails where BPF is
/// required.
pub(super) fn has_bpf(test: &str) -> bool {
    with_bpf(test, || answer(&table(Source::Bpf), &[("pid", "1")])).1
}

pub(super) fn table(source: Source) -> ProcessOpenSockets {
    ProcessOpenSockets::new(Options { source, ..Options::default() })
}

/// A row, by column. Cells are read when they are asked for: answers are long.
pub(super) struct Row {
    rows: Rc<dyn Rows>,
    names: Rc<Vec<String>>,
    number: usize,
}

impl Row {
    /// The cell as text, NULL as `NULL`. Panics if there is no such column.
    pub(super) fn cell(&self, column: &str) -> String {
        match self.value(column) {
            Value::Null => "NULL".to_owned(),
            Value::Integer(number) => number.to_string(),
            Value::Text(text) => text.into_owned(),
        }
    }

    pub(super) fn number(&self, column: &str) -> i64 {
        match self.value(column) {
            Value::Integer(number) => number,
            other => panic!("{column} is {other:?}"),
        }
    }

    pub(super) fn has(&self, cells: &[(&str, &str)]) -> bool {
        cells.iter().all(|(column, value)| match self.value(column) {
            Value::Text(text) => text == *value,
            Value::Integer(number) => value.parse() == Ok(number),
            Value::Null => false,
        })
    }

    fn value(&self, column: &str) -> Value<'_> {
        let place = self.names.iter().position(|name| name == column);
        self.rows.cell(self.number, place.unwrap_or_else(|| panic!("no column {column}")))
    }
}

impl std::fmt::Debug for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.names.iter().map(|name| (name, self.cell(name)))).finish()
    }
}

/// All rows of the table under `column = value` for each of these.
pub(super) fn answer(table: &ProcessOpenSockets, equals: &[(&str, &str)]) -> Vec<Row> {
    let rows: Rc<dyn Rows> = generate(table, equals).into();
    let names = table.columns().iter().map(|column| column.name.to_string()).collect();
    let names = Rc::new(names);
    let row = |number| Row { rows: Rc::clone(&rows), names: Rc::clone(&names), number };
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
