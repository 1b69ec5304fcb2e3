//! A query context as the core writes it: one entry of `constraints` for every column, the used
//! columns by name in alphabetical order and as a bit set.

use serde_json::{Value, json};
use tables::{Column, QueryContext};

pub(crate) fn encode(query: &QueryContext, columns: &[Column]) -> String {
    let constraints: Vec<Value> = columns
        .iter()
        .enumerate()
        .map(|(index, column)| {
            let list: Vec<Value> = query
                .constraints
                .iter()
                .filter(|constraint| constraint.column == index)
                .map(
                    |constraint| json!({"op": constraint.operator.code(), "expr": constraint.text}),
                )
                .collect();
            json!({"name": column.name, "list": list, "affinity": column.kind.name()})
        })
        .collect();
    let mut names: Vec<&str> = columns
        .iter()
        .enumerate()
        .filter(|(index, _)| query.columns_used.contains(*index))
        .map(|(_, column)| column.name)
        .collect();
    names.sort_unstable();
    json!({
        "constraints": constraints,
        "colsUsed": names,
        "colsUsedBitset": query.columns_used.0,
    })
    .to_string()
}
