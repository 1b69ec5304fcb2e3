//! The columns of a table, as osquery registers them.

use std::collections::BTreeMap;

use tables::Column;

use super::osquery::ExtensionPluginResponse;

/// Returns one route per column: `id` is always `column`, `op` holds the bits of its options.
pub fn routes(columns: &[Column]) -> ExtensionPluginResponse {
    let route = |column: &Column| {
        BTreeMap::from([
            ("id".to_owned(), "column".to_owned()),
            ("name".to_owned(), column.name.to_owned()),
            ("type".to_owned(), column.kind.name().to_owned()),
            ("op".to_owned(), column.options.bits().to_string()),
        ])
    };
    columns.iter().map(route).collect()
}
