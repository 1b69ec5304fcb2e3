//! The query context: the extension reads the context of the core, and rejects every other text with an error.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "support/context.rs"]
mod encode;

use process_open_sockets::extension::context::decode;
use proptest::prelude::*;
use tables::process_open_sockets::ProcessOpenSockets;
use tables::{Column, ColumnsUsed, Constraint, Operator, Options, QueryContext, Table};

fn columns() -> Vec<Column> {
    ProcessOpenSockets::new(Options::default()).columns().to_vec()
}

fn query() -> impl Strategy<Value = QueryContext> {
    let constraint =
        (0..columns().len(), any::<u8>(), any::<String>()).prop_map(|(column, code, text)| {
            Constraint { column, operator: Operator::from_code(code), text }
        });
    let constraints = prop::collection::vec(constraint, 0..20).prop_map(|mut constraints| {
        // The context groups constraints by column.
        constraints.sort_by_key(|constraint| constraint.column);
        constraints
    });
    let used = (0..1_u64 << columns().len()).prop_map(ColumnsUsed);
    (constraints, used)
        .prop_map(|(constraints, columns_used)| QueryContext { constraints, columns_used })
}

/// JSON with the right structure and arbitrary values.
fn misshapen() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        Just("[]".to_owned()),
        Just("{}".to_owned()),
        any::<i64>().prop_map(|number| number.to_string()),
        any::<f32>().prop_map(|number| format!("{number:e}")),
        any::<String>().prop_map(|text| serde_json::Value::String(text).to_string()),
        Just("\"pid\"".to_owned()),
        Just("\"2\"".to_owned()),
    ];
    prop::collection::vec(leaf, 5).prop_map(|leaf| {
        format!(
            r#"{{"constraints":[{},{{"name":{},"list":[{{"op":{},"expr":{}}}]}}],"colsUsed":[{}]}}"#,
            leaf[0], leaf[1], leaf[2], leaf[3], leaf[4]
        )
    })
}

proptest! {
    #[test]
    fn a_context_of_the_core_is_read_unchanged(query in query()) {
        let columns = columns();
        prop_assert_eq!(decode(&encode::encode(&query, &columns), &columns).unwrap(), query);
    }

    #[test]
    fn any_text_is_read_or_refused(text in any::<String>()) {
        let _ = decode(&text, &columns());
    }

    #[test]
    fn any_values_are_read_as_constraints_of_existing_columns(text in misshapen()) {
        let columns = columns();
        if let Ok(query) = decode(&text, &columns) {
            prop_assert!(query.constraints.iter().all(|c| c.column < columns.len()));
        }
    }

    #[test]
    fn a_cut_context_is_refused(query in query(), part in 0.0..1.0) {
        let text = encode::encode(&query, &columns());
        let mut end = (text.len() as f64 * part) as usize;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        prop_assert!(decode(&text[..end], &columns()).is_err());
    }
}
