//! osquery's query context → [`QueryContext`].
//!
//! The context is the JSON text that the core's `QueryContext` serializes to
//! (`osquery/core/tables.cpp`): `constraints`, one object for every column with its `name`, its
//! `affinity` and a `list` of `{op, expr}`; `colsUsed`, an array of names; `colsUsedBitset`, the
//! same as bits.
//!
//! What cannot be read is left out in the direction that asks for more rows or columns, never for
//! fewer. One unreadable entry lifts all constraints of its column, because it may be a member of
//! an `IN` list, which arrives as several `=`.
//!
//! Only one member of a list is made into a [`Value`] at a time: of a list of 20,000 they take 16 MB, the
//! constraints 1.5 MB.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;
use serde_json::value::RawValue;
use tables::{Column, ColumnsUsed, Constraint, Operator, QueryContext};

use super::osquery::ExtensionPluginRequest;

/// The longest context that is read, in bytes: some 50,000 members of an `IN` list.
pub const MAX_BYTES: usize = 1 << 20;

/// Why a context could not be read at all.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// It has that many bytes, more than [`MAX_BYTES`].
    TooLong(usize),
    /// It is not JSON.
    NotJson(serde_json::Error),
    /// It is JSON, but not an object.
    NotAnObject,
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Error::TooLong(bytes) => {
                write!(f, "the query context has {bytes} bytes, more than {MAX_BYTES}")
            }
            Error::NotJson(source) => write!(f, "the query context is not JSON: {source}"),
            Error::NotAnObject => f.write_str("the query context is not a JSON object"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::NotJson(source) => Some(source),
            Error::TooLong(_) | Error::NotAnObject => None,
        }
    }
}

/// Reads a context for a table of these columns.
///
/// # Errors
/// When nothing of it can be read; [`QueryContext::default`], which asks for everything, is then
/// the right thing to answer.
pub fn decode(text: &str, columns: &[Column]) -> Result<QueryContext, Error> {
    if text.len() > MAX_BYTES {
        return Err(Error::TooLong(text.len()));
    }
    let context: Object = serde_json::from_str(text).map_err(|error| {
        if error.is_data() { Error::NotAnObject } else { Error::NotJson(error) }
    })?;
    Ok(QueryContext {
        constraints: constraints(context.get("constraints").copied(), columns),
        columns_used: columns_used(context.get("colsUsed").copied(), columns),
    })
}

/// A JSON object whose members are still text.
type Object<'a> = BTreeMap<String, &'a RawValue>;
/// A JSON array, likewise.
type Array<'a> = Vec<&'a RawValue>;

/// What a `generate` request asks of a table of these columns: everything, when its context cannot
/// be read, which the log says once.
pub fn of_request(request: &ExtensionPluginRequest, columns: &[Column]) -> QueryContext {
    static SAID: AtomicBool = AtomicBool::new(false);
    let Some(text) = request.get("context") else { return QueryContext::default() };
    decode(text, columns).unwrap_or_else(|error| {
        if !SAID.swap(true, Ordering::Relaxed) {
            log::warn!("{error}; such queries are answered with every row (said once)");
        }
        QueryContext::default()
    })
}

fn constraints(value: Option<&RawValue>, columns: &[Column]) -> Vec<Constraint> {
    let entries: Array = value.and_then(parse).unwrap_or_default();
    entries.into_iter().filter_map(|entry| column_constraints(entry, columns)).flatten().collect()
}

/// None if it is JSON of another kind.
fn parse<'a, T: serde::Deserialize<'a>>(value: &'a RawValue) -> Option<T> {
    serde_json::from_str(value.get()).ok()
}

/// The constraints of one column, or none of them when one of them cannot be read.
fn column_constraints(entry: &RawValue, columns: &[Column]) -> Option<Vec<Constraint>> {
    let entry: Object = parse(entry)?;
    let name: String = parse(entry.get("name")?)?;
    let column = position(&name, columns)?;
    let list: Array = parse(entry.get("list")?)?;
    list.into_iter()
        .map(|item| {
            let item: Value = parse(item)?;
            let operator = Operator::from_code(code(item.get("op")?)?);
            Some(Constraint { column, operator, text: expression(item.get("expr")?)? })
        })
        .collect()
}

fn position(name: &str, columns: &[Column]) -> Option<usize> {
    columns.iter().position(|column| column.name == name)
}

/// The operator's number, which some cores write as text.
fn code(value: &Value) -> Option<u8> {
    match value {
        Value::Number(number) => number.as_u64()?.try_into().ok(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
}

fn expression(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// No array, or an entry that is not a name, asks for every column; an empty array for none.
fn columns_used(value: Option<&RawValue>, columns: &[Column]) -> ColumnsUsed {
    let Some(names) = value.and_then(parse::<Vec<String>>) else { return ColumnsUsed::ALL };
    let mut bits = 0;
    for name in names {
        if let Some(column) = position(&name, columns) {
            bits |= 1 << column.min(63);
        }
    }
    ColumnsUsed(bits)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use tables::{ColumnOptions, ColumnType};

    fn columns(count: usize) -> Vec<Column> {
        (0..count)
            .map(|index| Column {
                name: format!("c{index}").leak(),
                kind: ColumnType::Integer,
                options: ColumnOptions::ADDITIONAL,
            })
            .collect()
    }

    fn read(text: &str) -> QueryContext {
        decode(text, &columns(3)).unwrap()
    }

    fn constraint(column: usize, operator: Operator, text: &str) -> Constraint {
        Constraint { column, operator, text: text.to_owned() }
    }

    #[test]
    fn a_context_as_the_core_sends_it_is_read() {
        let context = read(
            r#"{"constraints":[
                {"name":"c0","list":[{"op":2,"expr":"1"},{"op":2,"expr":"22"}],"affinity":"INTEGER"},
                {"name":"c1","list":[],"affinity":"BIGINT"},
                {"name":"c2","list":[{"op":68,"expr":"LISTEN"}],"affinity":"TEXT"}],
                "colsUsed":["c0","c2"],"colsUsedBitset":5}"#,
        );
        let expected = vec![
            constraint(0, Operator::Equals, "1"),
            constraint(0, Operator::Equals, "22"),
            constraint(2, Operator::NotEquals, "LISTEN"),
        ];
        assert_eq!(
            context,
            QueryContext { constraints: expected, columns_used: ColumnsUsed(0b101) }
        );
    }

    #[test]
    fn an_operator_may_be_text() {
        let context = read(r#"{"constraints":[{"name":"c1","list":[{"op":"32","expr":"1024"}]}]}"#);
        assert_eq!(context.constraints, [constraint(1, Operator::GreaterThanOrEquals, "1024")]);
    }

    #[test]
    fn a_limit_is_read_unchanged() {
        let context = read(
            r#"{"constraints":[{"name":"c0","list":[{"op":73,"expr":"5"},{"op":74,"expr":"2"}]}]}"#,
        );
        let expected = [
            constraint(0, Operator::Other(Operator::LIMIT), "5"),
            constraint(0, Operator::Other(Operator::OFFSET), "2"),
        ];
        assert_eq!(context.constraints, expected);
    }

    #[test]
    fn an_unknown_column_is_ignored() {
        let context = read(
            r#"{"constraints":[{"name":"nobody","list":[{"op":2,"expr":"1"}]}],
                "colsUsed":["nobody","c1"]}"#,
        );
        assert_eq!(context, QueryContext { constraints: vec![], columns_used: ColumnsUsed(0b10) });
    }

    #[test]
    fn a_list_that_is_no_array_is_empty() {
        for list in [r#""""#, "{}", "null", "7", r#"{"op":2,"expr":"1"}"#] {
            let context = read(&format!(r#"{{"constraints":[{{"name":"c0","list":{list}}}]}}"#));
            assert_eq!(context.constraints, [], "{list}");
        }
    }

    #[test]
    fn an_unreadable_member_lifts_its_whole_list_and_no_other() {
        for member in [
            r#"{"op":2}"#,
            r#"{"op":2,"expr":null}"#,
            r#"{"op":2,"expr":["1"]}"#,
            r#"{"op":256,"expr":"1"}"#,
            r#"{"op":-2,"expr":"1"}"#,
            r#"{"op":"=","expr":"1"}"#,
            r#"{"expr":"1"}"#,
            "2",
        ] {
            let context = read(&format!(
                r#"{{"constraints":[
                    {{"name":"c0","list":[{{"op":2,"expr":"1"}},{member}]}},
                    {{"name":"c1","list":[{{"op":4,"expr":7}}]}}]}}"#
            ));
            assert_eq!(
                context.constraints,
                [constraint(1, Operator::GreaterThan, "7")],
                "{member}"
            );
        }
    }

    #[test]
    fn an_empty_list_is_no_column_and_a_missing_list_is_all() {
        assert_eq!(read(r#"{"colsUsed":[]}"#).columns_used, ColumnsUsed(0));
        assert_eq!(read("{}").columns_used, ColumnsUsed::ALL);
        assert_eq!(read(r#"{"colsUsed":"c0"}"#).columns_used, ColumnsUsed::ALL);
        assert_eq!(read(r#"{"colsUsed":["c0",3]}"#).columns_used, ColumnsUsed::ALL);
    }

    #[test]
    fn columns_from_the_64th_on_share_bit_63() {
        let columns = columns(70);
        let used = |name: &str| {
            decode(&format!(r#"{{"colsUsed":["{name}"]}}"#), &columns).unwrap().columns_used
        };
        assert_eq!(used("c62"), ColumnsUsed(1 << 62));
        assert_eq!(used("c63"), ColumnsUsed(1 << 63));
        assert_eq!(used("c69"), ColumnsUsed(1 << 63));
    }

    #[test]
    fn a_context_that_is_no_object_is_an_error() {
        let message = |text: &str| decode(text, &columns(1)).unwrap_err().to_string();
        assert_eq!(message("[]"), "the query context is not a JSON object");
        assert_eq!(
            message(""),
            "the query context is not JSON: EOF while parsing a value at line 1 column 0"
        );
        assert_eq!(
            message(&" ".repeat(MAX_BYTES + 1)),
            "the query context has 1048577 bytes, more than 1048576"
        );
        assert!(matches!(decode(&"[".repeat(100_000), &[]), Err(Error::NotAnObject)));
        let nested = format!(r#"{{"constraints":{}"#, "[".repeat(100_000));
        assert!(matches!(decode(&nested, &[]), Err(Error::NotJson(_))));
    }
}
