//! Rows → the Thrift message that answers a `call`.
//!
//! A row is a map of column name to text: every asked column, with '' for what is not known, and a
//! `rowid` (osquery takes a row's position for it otherwise, and then loses rows when it merges the
//! branches of an `OR`). The rows go into the message one by one, as text that nobody keeps.

use std::io::{self, Write};

use tables::{Column, ColumnsUsed, Rows, Value};
use thrift::protocol::{
    TBinaryOutputProtocol, TFieldIdentifier, TListIdentifier, TMapIdentifier, TMessageIdentifier,
    TMessageType, TOutputProtocol, TSerializable, TStructIdentifier, TType,
};

use super::osquery::{ExtensionResponse, ExtensionStatus};

/// The longest answer that is sent. osquery's Thrift client gives up on a message somewhere between
/// 134 and 178 million bytes (seen with 5.23), and says so only after it has read that much.
pub const LONGEST_ANSWER: u64 = 128_000_000;

/// What a cell is over the wire.
pub fn text(value: Value<'_>) -> String {
    match value {
        Value::Null => String::new(),
        Value::Integer(number) => number.to_string(),
        Value::Text(text) => text.into_owned(),
    }
}

/// The columns that the query reads, with their places.
pub fn asked(columns: &[Column], used: ColumnsUsed) -> impl Iterator<Item = (usize, &str)> {
    let used = move |(place, _): &(usize, &Column)| used.contains(*place);
    columns.iter().enumerate().filter(used).map(|(place, column)| (place, &*column.name))
}

/// Rows, ready to be sent.
pub(super) struct Answer<'a> {
    rows: &'a dyn Rows,
    /// Place and name of each asked column.
    asked: Vec<(usize, &'a str)>,
}

impl<'a> Answer<'a> {
    pub(super) fn new(rows: &'a dyn Rows, columns: &'a [Column], used: ColumnsUsed) -> Self {
        Answer { rows, asked: asked(columns, used).collect() }
    }

    /// Writes the message that answers the request of that number; one with an error status if the
    /// rows would be more than osquery takes.
    pub(super) fn write(&self, request: i32, to: &mut dyn TOutputProtocol) -> thrift::Result<()> {
        let mut length = Length(0);
        self.write_rows(request, &mut TBinaryOutputProtocol::new(&mut length, true))?;
        let count = self.rows.len();
        if length.0 > LONGEST_ANSWER || i32::try_from(count).is_err() {
            let message = format!(
                "{count} rows of about {} bytes exceed what osquery accepts: select fewer columns \
                 or add a constraint",
                length.0 / (count as u64).max(1)
            );
            return write_response(request, &failure(message), to);
        }
        self.write_rows(request, to)
    }

    /// The same as [`write_response`] would write of these rows, had they all been made.
    fn write_rows(&self, request: i32, to: &mut dyn TOutputProtocol) -> thrift::Result<()> {
        reply("call", request, to, |to| {
            to.write_field_begin(&TFieldIdentifier::new("result", TType::Struct, 0))?;
            to.write_struct_begin(&TStructIdentifier::new("ExtensionResponse"))?;
            to.write_field_begin(&TFieldIdentifier::new("status", TType::Struct, 1))?;
            success().write_to_out_protocol(to)?;
            to.write_field_end()?;
            to.write_field_begin(&TFieldIdentifier::new("response", TType::List, 2))?;
            let count = i32::try_from(self.rows.len()).unwrap_or(i32::MAX);
            to.write_list_begin(&TListIdentifier::new(TType::Map, count))?;
            let cells = i32::try_from(self.asked.len() + 1).unwrap_or(i32::MAX);
            for row in 0..self.rows.len() {
                to.write_map_begin(&TMapIdentifier::new(TType::String, TType::String, cells))?;
                for &(place, name) in &self.asked {
                    to.write_string(name)?;
                    write_cell(self.rows.cell(row, place), to)?;
                }
                to.write_string("rowid")?;
                write_cell(Value::Integer(self.rows.id(row)), to)?;
                to.write_map_end()?;
            }
            to.write_list_end()?;
            to.write_field_end()?;
            to.write_field_stop()?;
            to.write_struct_end()?;
            to.write_field_end()
        })
    }
}

/// The status of what went well.
pub(super) fn success() -> ExtensionStatus {
    ExtensionStatus::new(0, "OK".to_owned(), None)
}

/// An answer that makes the query fail with this message.
pub(super) fn failure(message: String) -> ExtensionResponse {
    ExtensionResponse::new(ExtensionStatus::new(1, message, None), Vec::new())
}

/// Writes the message that answers the `call` of that number.
pub(super) fn write_response(
    request: i32,
    response: &ExtensionResponse,
    to: &mut dyn TOutputProtocol,
) -> thrift::Result<()> {
    reply("call", request, to, |to| write_result(response, to))
}

/// Writes the result of a method, inside its [`reply`].
pub(super) fn write_result(
    result: &impl TSerializable,
    to: &mut dyn TOutputProtocol,
) -> thrift::Result<()> {
    to.write_field_begin(&TFieldIdentifier::new("result", TType::Struct, 0))?;
    result.write_to_out_protocol(to)?;
    to.write_field_end()
}

/// Writes a reply to that method and request around its result.
pub(super) fn reply(
    method: &str,
    request: i32,
    to: &mut dyn TOutputProtocol,
    result: impl FnOnce(&mut dyn TOutputProtocol) -> thrift::Result<()>,
) -> thrift::Result<()> {
    to.write_message_begin(&TMessageIdentifier::new(method, TMessageType::Reply, request))?;
    to.write_struct_begin(&TStructIdentifier::new("result"))?;
    result(to)?;
    to.write_field_stop()?;
    to.write_struct_end()?;
    to.write_message_end()
}

fn write_cell(cell: Value<'_>, to: &mut dyn TOutputProtocol) -> thrift::Result<()> {
    match cell {
        Value::Text(text) => to.write_string(&text),
        Value::Integer(number) => {
            let mut digits = [0; 20];
            let mut rest = &mut digits[..];
            write!(rest, "{number}")?;
            let unused = rest.len();
            to.write_bytes(digits.get(..20 - unused).unwrap_or_default())
        }
        Value::Null => to.write_bytes(b""),
    }
}

/// Counts what is written to it.
struct Length(u64);

impl Write for Length {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
