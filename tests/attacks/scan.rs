//! Answers of the table under attack, for each source.

use std::rc::Rc;

use tables::process_open_sockets::ProcessOpenSockets;
use tables::{Constraint, Operator, Options, QueryContext, Rows, Source, Table, Value};

use crate::support::bpf::with_bpf;

/// The number of scans against each attack.
pub(super) const SCANS: usize = 20;

/// The name of a source on the command line, and the source.
pub(super) type NamedSource = (&'static str, Source);

pub(super) const BPF: NamedSource = ("bpf", Source::Bpf);
pub(super) const NETLINK: NamedSource = ("netlink", Source::Netlink);
pub(super) const PROCFS: NamedSource = ("procfs", Source::Procfs);

/// The name of a query in the output, and its constraints of the form `column = value`.
pub(super) type NamedQuery<'a> = (&'static str, &'a [(&'a str, &'a str)]);

/// The sources that this host has. Reports a missing source.
pub(super) fn sources(test: &str) -> Vec<NamedSource> {
    let bpf = has_bpf(test).then_some(BPF);
    bpf.into_iter().chain([NETLINK, PROCFS]).collect()
}

/// Whether BPF answers on this host. If not, the test is reported as left out, or fails if BPF is required.
pub(super) fn has_bpf(test: &str) -> bool {
    with_bpf(test, || answer(&table(Source::Bpf), &[("pid", "1")])).1
}

pub(super) fn table(source: Source) -> ProcessOpenSockets {
    ProcessOpenSockets::new(Options { source, ..Options::default() })
}

/// A row with access by column name. It reads a cell on access, since answers are long.
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
        let index = self.names.iter().position(|name| name == column);
        self.rows.cell(self.number, index.unwrap_or_else(|| panic!("no column {column}")))
    }
}

impl std::fmt::Debug for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.names.iter().map(|name| (name, self.cell(name)))).finish()
    }
}

/// The rows of the table under `column = value` for each of these.
pub(super) fn answer(table: &ProcessOpenSockets, equals: &[(&str, &str)]) -> Vec<Row> {
    let rows: Rc<dyn Rows> = generate(table, equals).into();
    let names = table.columns().iter().map(|column| column.name.to_string()).collect();
    let names = Rc::new(names);
    let row = |number| Row { rows: Rc::clone(&rows), names: Rc::clone(&names), number };
    (0..rows.len()).map(row).collect()
}

/// The rows in the type that the table returns.
pub(super) fn generate(table: &ProcessOpenSockets, equals: &[(&str, &str)]) -> Box<dyn Rows> {
    let constraint = |(column, value): &(&str, &str)| Constraint {
        column: table.columns().iter().position(|candidate| candidate.name == *column).unwrap(),
        operator: Operator::Equals,
        text: (*value).to_owned(),
    };
    let constraints = equals.iter().map(constraint).collect();
    table.generate(&QueryContext { constraints, ..QueryContext::default() }).unwrap()
}
