//! The table as a plugin of osquery's `table` registry, with rows as [`super::answer`] describes them.

use std::collections::BTreeMap;
use std::sync::Arc;

use osquery_rust_ng::plugin::{ColumnDef, ColumnOptions, ColumnType, ReadOnlyTable};
use osquery_rust_ng::{ExtensionPluginRequest, ExtensionResponse, ExtensionStatus};
use tables::{QueryContext, Rows, Table};

use super::answer::{asked, text};
use super::context;

/// A table under the name that it has in osquery.
pub struct TablePlugin {
    name: String,
    table: Arc<dyn Table>,
}

impl TablePlugin {
    /// That table under that name.
    pub fn new(name: String, table: Arc<dyn Table>) -> Self {
        TablePlugin { name, table }
    }

    fn rows(&self, query: &QueryContext, rows: &dyn Rows) -> Vec<BTreeMap<String, String>> {
        let asked: Vec<(usize, &str)> = asked(self.table.columns(), query.columns_used).collect();
        (0..rows.len())
            .map(|row| {
                let cells = asked
                    .iter()
                    .map(|&(place, name)| (name.to_owned(), text(rows.cell(row, place))));
                cells.chain([("rowid".to_owned(), rows.id(row).to_string())]).collect()
            })
            .collect()
    }
}

impl ReadOnlyTable for TablePlugin {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn columns(&self) -> Vec<ColumnDef> {
        let column = |column: &tables::Column| {
            let kind = match column.kind {
                tables::ColumnType::Integer => ColumnType::Integer,
                tables::ColumnType::BigInt => ColumnType::BigInt,
                tables::ColumnType::Text => ColumnType::Text,
            };
            let options = ColumnOptions::from_bits_retain(column.options.bits());
            ColumnDef::new(column.name, kind, options)
        };
        self.table.columns().iter().map(column).collect()
    }

    fn generate(&self, request: ExtensionPluginRequest) -> ExtensionResponse {
        let query = context::of_request(&request, self.table.columns());
        match self.table.generate(&query) {
            Ok(rows) => ExtensionResponse::new(
                ExtensionStatus::new(0, "OK".to_owned(), None),
                self.rows(&query, &*rows),
            ),
            Err(error) => {
                log::error!("{}: {error}", self.name);
                ExtensionResponse::new(ExtensionStatus::new(1, error.to_string(), None), Vec::new())
            }
        }
    }

    fn shutdown(&self) {}
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use osquery_rust_ng::plugin::{OsqueryPlugin, Plugin};
    use std::path::PathBuf;
    use tables::{Column, ColumnOptions, Error, Value};

    /// One row: -1, 2^53 + 1, not known, 'a b'. Constrained in any way, it cannot be read.
    struct Sample(Vec<Column>);

    struct OneRow;

    impl Rows for OneRow {
        fn len(&self) -> usize {
            1
        }
        fn id(&self, _row: usize) -> i64 {
            i64::MAX
        }
        fn cell(&self, _row: usize, column: usize) -> Value<'_> {
            match column {
                0 => Value::Integer(-1),
                1 => Value::Integer(9_007_199_254_740_993),
                3 => Value::Text("a b".into()),
                _ => Value::Null,
            }
        }
    }

    impl Table for Sample {
        fn name(&self) -> &str {
            "sample"
        }
        fn description(&self) -> &str {
            "Rows of a test"
        }
        fn columns(&self) -> &[Column] {
            &self.0
        }
        fn generate(&self, query: &QueryContext) -> Result<Box<dyn Rows>, Error> {
            if query.constraints.is_empty() {
                Ok(Box::new(OneRow))
            } else {
                Err(Error::NotProc { path: PathBuf::from("/nowhere") })
            }
        }
    }

    fn sample() -> Plugin {
        use tables::ColumnType::{BigInt, Integer, Text};
        let filterable = ColumnOptions::ADDITIONAL | ColumnOptions::OPTIMIZED;
        let columns = [
            ("pid", Integer, filterable),
            ("socket", BigInt, filterable),
            ("port", Integer, ColumnOptions::empty()),
            ("path", Text, ColumnOptions::OPTIMIZED | ColumnOptions::HIDDEN),
        ]
        .map(|(name, kind, options)| Column { name, kind, options });
        Plugin::readonly_table(TablePlugin::new(
            "sample".to_owned(),
            Arc::new(Sample(columns.into())),
        ))
    }

    fn map<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, String> {
        pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
    }

    fn call(context: &str) -> ExtensionResponse {
        sample().handle_call(map([("action", "generate"), ("context", context)]))
    }

    #[test]
    fn routes_state_types_and_options() {
        let route =
            |name, kind, op| map([("id", "column"), ("name", name), ("type", kind), ("op", op)]);
        let expected = vec![
            route("pid", "INTEGER", "12"),
            route("socket", "BIGINT", "12"),
            route("port", "INTEGER", "0"),
            route("path", "TEXT", "24"),
        ];
        assert_eq!(sample().routes(), expected);
        assert_eq!(sample().handle_call(map([("action", "columns")])).response, Some(expected));
    }

    #[test]
    fn a_row_has_every_column_and_its_rowid() {
        let expected = map([
            ("pid", "-1"),
            ("socket", "9007199254740993"),
            ("port", ""),
            ("path", "a b"),
            ("rowid", "9223372036854775807"),
        ]);
        let answer = sample().handle_call(map([("action", "generate")]));
        assert_eq!(answer.status.unwrap().code, Some(0));
        assert_eq!(answer.response, Some(vec![expected]));
    }

    #[test]
    fn only_requested_columns_are_sent() {
        let answer = call(r#"{"constraints":[],"colsUsed":["path"]}"#);
        let expected = map([("path", "a b"), ("rowid", "9223372036854775807")]);
        assert_eq!(answer.response, Some(vec![expected]));
        let answer = call(r#"{"constraints":[],"colsUsed":[]}"#);
        assert_eq!(answer.response, Some(vec![map([("rowid", "9223372036854775807")])]));
    }

    #[test]
    fn an_unreadable_context_is_answered_with_everything() {
        let answer = call("{");
        assert_eq!(answer.status.unwrap().code, Some(0));
        assert_eq!(answer.response.unwrap()[0].len(), 5);
    }

    #[test]
    fn a_table_that_cannot_answer_fails_the_query_with_its_message() {
        let answer = call(r#"{"constraints":[{"name":"pid","list":[{"op":2,"expr":"1"}]}]}"#);
        let status = answer.status.unwrap();
        assert_eq!(status.code, Some(1));
        assert_eq!(
            status.message.unwrap(),
            Error::NotProc { path: PathBuf::from("/nowhere") }.to_string()
        );
        assert_eq!(answer.response, Some(vec![]));
    }
}
