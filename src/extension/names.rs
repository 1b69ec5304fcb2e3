//! The names of the extension and of its tables in osquery.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tables::Table;

/// The extension's name in osquery, for `--extensions_require`.
pub const EXTENSION_NAME: &str = "process_open_sockets";

/// The tables by their names in osquery.
pub type NamedTables = BTreeMap<String, Arc<dyn Table>>;

/// The candidate names of each table, and the names that are taken.
pub(super) struct NameChoice {
    tables: Vec<(Arc<dyn Table>, Vec<String>)>,
    /// In lower case: SQL compares names without case.
    taken: BTreeSet<String>,
}

/// The tables under their chosen names, and the tables without a free name.
pub(super) struct ChosenNames {
    pub(super) tables: NamedTables,
    pub(super) unnamed: Vec<UnnamedTable>,
}

/// A table whose candidate names are all taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct UnnamedTable {
    /// The table's own name.
    pub(super) table: String,
    /// Its candidate names.
    pub(super) names: Vec<String>,
}

impl NameChoice {
    /// The candidates of a table are its own name and its fallback names. If `first` is given, it is the only
    /// candidate of the first table.
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

    /// Returns the candidate names of all tables.
    pub(super) fn candidates(&self) -> Vec<String> {
        self.tables.iter().flat_map(|(_, names)| names.iter().cloned()).collect()
    }

    /// Excludes these names.
    pub(super) fn exclude(&mut self, names: impl IntoIterator<Item = String>) {
        self.taken.extend(names.into_iter().map(|name| name.to_ascii_lowercase()));
    }

    /// Chooses for each table its first candidate that is neither excluded nor chosen for a previous table.
    pub(super) fn choose(&self) -> ChosenNames {
        let mut taken = self.taken.clone();
        let mut chosen = ChosenNames { tables: BTreeMap::new(), unnamed: Vec::new() };
        for (table, names) in &self.tables {
            match names.iter().find(|name| taken.insert(name.to_ascii_lowercase())) {
                Some(name) => {
                    chosen.tables.insert(name.clone(), Arc::clone(table));
                }
                None => chosen
                    .unnamed
                    .push(UnnamedTable { table: table.name().to_owned(), names: names.clone() }),
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
        choice.exclude(taken.iter().map(|name| (*name).to_owned()));
        let ChosenNames { tables, unnamed } = choice.choose();
        (tables.into_keys().collect(), unnamed.into_iter().map(|table| table.table).collect())
    }

    #[test]
    fn each_table_uses_its_own_fallback_name() {
        let names =
            |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(chosen(None, &[]), (names(&["a", "b"]), vec![]));
        assert_eq!(chosen(None, &["A"]), (names(&["alt_a", "b"]), vec![]));
        assert_eq!(chosen(None, &["b"]), (names(&["a", "alt_b"]), vec![]));
        assert_eq!(chosen(None, &["a", "alt_a"]), (names(&["b"]), names(&["a"])));
    }

    #[test]
    fn a_given_name_is_the_only_candidate_of_the_first_table() {
        assert_eq!(chosen(Some("mine"), &["a"]).0, ["b", "mine"]);
        assert_eq!(chosen(Some("mine"), &["mine"]).1, ["a"]);
    }

    #[test]
    fn no_two_tables_get_the_same_name() {
        let names = chosen(Some("B"), &[]).0;
        assert_eq!(names, ["B", "alt_b"]);
    }
}
