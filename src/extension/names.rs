//! The names of the extension and of its tables in osquery.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tables::Table;

/// The extension's name in osquery, for `--extensions_require`.
pub const EXTENSION_NAME: &str = "process_open_sockets";

/// The tables by the names that they have in osquery.
pub type NamedTables = BTreeMap<String, Arc<dyn Table>>;

/// The names that each table can have, and those that osquery does not leave to it.
pub(super) struct NameChoice {
    tables: Vec<(Arc<dyn Table>, Vec<String>)>,
    /// In lower case, since names are equal in SQL whatever their case.
    taken: BTreeSet<String>,
}

/// The names of the tables that have one, and the tables that have none.
pub(super) struct Chosen {
    pub(super) tables: NamedTables,
    pub(super) left_out: Vec<LeftOut>,
}

/// A table without a name.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LeftOut {
    /// The table's own name.
    pub(super) table: String,
    /// The names that it could have had.
    pub(super) names: Vec<String>,
}

impl NameChoice {
    /// Each table can have its own name and those to fall back to. If `first` is given, the first table can
    /// have that name alone.
    pub(super) fn new(tables: &[Arc<dyn Table>], first: Option<&str>) -> NameChoice {
        let with_names = |(index, table): (usize, &Arc<dyn Table>)| {
            let names = match first {
                Some(name) if index == 0 => vec![name.to_owned()],
                _ => table.names().into_iter().map(str::to_owned).collect(),
            };
            (Arc::clone(table), names)
        };
        let tables = tables.iter().enumerate().map(with_names).collect();
        NameChoice { tables, taken: BTreeSet::new() }
    }

    /// All names that can be chosen.
    pub(super) fn candidates(&self) -> Vec<String> {
        self.tables.iter().flat_map(|(_, names)| names.iter().cloned()).collect()
    }

    /// From now on, these names are not chosen.
    pub(super) fn take(&mut self, names: impl IntoIterator<Item = String>) {
        self.taken.extend(names.into_iter().map(|name| name.to_ascii_lowercase()));
    }

    /// The first name of each table that neither osquery nor a table before it has.
    pub(super) fn choose(&self) -> Chosen {
        let mut taken = self.taken.clone();
        let mut chosen = Chosen { tables: BTreeMap::new(), left_out: Vec::new() };
        for (table, names) in &self.tables {
            match names.iter().find(|name| taken.insert(name.to_ascii_lowercase())) {
                Some(name) => {
                    chosen.tables.insert(name.clone(), Arc::clone(table));
                }
                None => chosen
                    .left_out
                    .push(LeftOut { table: table.name().to_owned(), names: names.clone() }),
            }
        }
        chosen
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tables::{Column, Error, QueryContext, Rows};

    struct Named(&'static str, &'static [&'static str]);

    impl Table for Named {
        fn name(&self) -> &str {
            self.0
        }
        fn fallback_names(&self) -> &[&str] {
            self.1
        }
        fn description(&self) -> &str {
            "None"
        }
        fn columns(&self) -> &[Column] {
            &[]
        }
        fn generate(&self, _query: &QueryContext) -> Result<Box<dyn Rows>, Error> {
            Err(Error::NotProc { path: "/".into() })
        }
    }

    fn chosen(first: Option<&str>, taken: &[&str]) -> (Vec<String>, Vec<String>) {
        let tables: [Arc<dyn Table>; 2] =
            [Arc::new(Named("a", &["alt_a"])), Arc::new(Named("b", &["alt_b"]))];
        let mut choice = NameChoice::new(&tables, first);
        choice.take(taken.iter().map(|name| (*name).to_owned()));
        let Chosen { tables, left_out } = choice.choose();
        (tables.into_keys().collect(), left_out.into_iter().map(|out| out.table).collect())
    }

    #[test]
    fn each_table_falls_back_on_its_own() {
        let names =
            |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(chosen(None, &[]), (names(&["a", "b"]), vec![]));
        assert_eq!(chosen(None, &["A"]), (names(&["alt_a", "b"]), vec![]));
        assert_eq!(chosen(None, &["b"]), (names(&["a", "alt_b"]), vec![]));
        assert_eq!(chosen(None, &["a", "alt_a"]), (names(&["b"]), names(&["a"])));
    }

    #[test]
    fn a_given_name_is_the_only_one_of_the_first_table() {
        assert_eq!(chosen(Some("mine"), &["a"]).0, ["b", "mine"]);
        assert_eq!(chosen(Some("mine"), &["mine"]).1, ["a"]);
    }

    #[test]
    fn no_two_tables_get_one_name() {
        let names = chosen(Some("B"), &[]).0;
        assert_eq!(names, ["B", "alt_b"]);
    }
}
