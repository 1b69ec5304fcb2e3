//! Writes rows as the Thrift message that answers a `call`.
//!
//! A row is a map of column name to text: every selected column, with '' for NULL, and a `rowid`. Without
//! `rowid`, osquery numbers the rows of each answer, and loses rows when it merges the branches of an
//! `OR`. The rows are written one by one: memory does not hold them all as text.

use std::collections::BTreeMap;
use std::io::{self, Write};

use tables::{Column, ColumnsUsed, Rows, User, Value, water_level};
use thrift::protocol::{
    TBinaryOutputProtocol, TFieldIdentifier, TListIdentifier, TMapIdentifier, TMessageIdentifier,
    TMessageType, TOutputProtocol, TSerializable, TStructIdentifier, TType,
};

use super::osquery::{ExtensionResponse, ExtensionStatus};

/// Longest answer in bytes. osquery's Thrift client (measured with 5.23) rejects a message of 134 to 178
/// million bytes, and only after it has read it.
pub const LONGEST_ANSWER: u64 = 128_000_000;

/// Returns the text of a cell in an answer.
pub fn text(value: Value<'_>) -> String {
    match value {
        Value::Null => String::new(),
        Value::Integer(number) => number.to_string(),
        Value::Text(text) => text.into_owned(),
    }
}

/// Returns the index and the name of each column that the query selects.
pub fn selected_columns(
    columns: &[Column],
    used: ColumnsUsed,
) -> impl Iterator<Item = (usize, &str)> {
    let used = move |(index, _): &(usize, &Column)| used.contains(*index);
    columns.iter().enumerate().filter(used).map(|(index, column)| (index, column.name))
}

/// The rows of an answer, limited to the length that osquery accepts.
pub(super) struct Answer<'a> {
    rows: Box<dyn Rows>,
    /// Index and name of each selected column.
    selected: Vec<(usize, &'a str)>,
    /// The mean length of a row in bytes, if the answer is too long for osquery.
    excess_row_length: Option<u64>,
}

impl<'a> Answer<'a> {
    /// Omits rows of the users with the most rows, until osquery accepts the answer.
    pub(super) fn new(rows: Box<dyn Rows>, columns: &'a [Column], used: ColumnsUsed) -> Self {
        let selected = selected_columns(columns, used).collect();
        let mut answer = Answer { rows, selected, excess_row_length: None };
        if answer.measure_excess().is_some() {
            answer.omit_rows();
            answer.excess_row_length = answer.measure_excess();
        }
        answer
    }

    /// Returns the number of omitted rows of each user.
    pub(super) fn omitted(&self) -> Vec<(User, u64)> {
        self.rows.omitted()
    }

    /// Writes the message that answers the request of that number: the rows, or an error if osquery does
    /// not accept so many.
    pub(super) fn write(&self, request: i32, to: &mut dyn TOutputProtocol) -> thrift::Result<()> {
        let Some(bytes) = self.excess_row_length else { return self.write_rows(request, to) };
        let count = self.rows.len();
        let message = format!(
            "{count} rows of about {bytes} bytes exceed what osquery accepts: select fewer columns \
             or add a constraint"
        );
        write_response(request, &failure(message), to)
    }

    /// Returns the mean length of a row if the message is longer than [`LONGEST_ANSWER`]. Measuring stops at
    /// that length.
    fn measure_excess(&self) -> Option<u64> {
        let (mut length, mut measured) = (self.frame_length(), 0);
        for row in 0..self.rows.len() {
            length += self.row_length(row);
            measured += 1;
            if length > LONGEST_ANSWER {
                return Some(length / measured);
            }
        }
        i32::try_from(self.rows.len()).is_err().then(|| length / measured.max(1))
    }

    /// Returns the bytes of a message without rows.
    fn frame_length(&self) -> u64 {
        let mut length = Length(0);
        let mut to = TBinaryOutputProtocol::new(&mut length, true);
        // `Length` returns no errors.
        let _ = write_frame(0, 0, &mut to, |_| Ok(()));
        length.0
    }

    /// Returns the bytes of a row.
    fn row_length(&self, row: usize) -> u64 {
        let mut length = Length(0);
        let mut to = TBinaryOutputProtocol::new(&mut length, true);
        // `Length` returns no errors.
        let _ = self.write_row(row, &mut to);
        length.0
    }

    /// Omits the excess rows of each user above a common level, which makes the answer short enough.
    fn omit_rows(&mut self) {
        /// The count of omitted rows was measured as the one digit 0; it has at most 20 digits.
        const EXTRA_DIGITS: u64 = 19;
        let Some(users) = self.rows.users() else { return };
        let mut by_user: BTreeMap<User, Vec<usize>> = BTreeMap::new();
        for (row, of) in users.iter().enumerate() {
            by_user.entry(of.user).or_default().push(row);
        }
        for rows in by_user.values_mut() {
            rows.sort_by_key(|&row| users.get(row).map(|of| of.order));
        }
        let by_user: Vec<(User, Vec<usize>)> = by_user.into_iter().collect();
        let counts: Vec<usize> = by_user.iter().map(|(_, rows)| rows.len()).collect();
        let budget = LONGEST_ANSWER.saturating_sub(self.frame_length());
        let row = |user: usize, rank: usize| Some(*by_user.get(user)?.1.get(rank)?);
        let cost =
            |user, rank| row(user, rank).map_or(0, |row| self.row_length(row) + EXTRA_DIGITS);
        let Some(level @ 1..) = water_level(&counts, budget, cost) else { return };
        let mut is_omitted = vec![false; users.len()];
        for (_, rows) in &by_user {
            for &row in rows.get(level..).unwrap_or_default() {
                if let Some(is_omitted) = is_omitted.get_mut(row) {
                    *is_omitted = true;
                }
            }
        }
        self.rows.omit(&is_omitted);
    }

    /// Writes the same bytes as [`write_response`], without a copy of all rows.
    fn write_rows(&self, request: i32, to: &mut dyn TOutputProtocol) -> thrift::Result<()> {
        let count = i32::try_from(self.rows.len()).unwrap_or(i32::MAX);
        write_frame(request, count, to, |to| {
            (0..self.rows.len()).try_for_each(|row| self.write_row(row, to))
        })
    }

    fn write_row(&self, row: usize, to: &mut dyn TOutputProtocol) -> thrift::Result<()> {
        let cells = i32::try_from(self.selected.len() + 1).unwrap_or(i32::MAX);
        to.write_map_begin(&TMapIdentifier::new(TType::String, TType::String, cells))?;
        for &(index, name) in &self.selected {
            to.write_string(name)?;
            write_cell(self.rows.cell(row, index), to)?;
        }
        to.write_string("rowid")?;
        write_cell(Value::Integer(self.rows.id(row)), to)?;
        to.write_map_end()
    }
}

/// Writes a response of so many rows; `write_rows` writes the rows.
fn write_frame(
    request: i32,
    count: i32,
    to: &mut dyn TOutputProtocol,
    write_rows: impl FnOnce(&mut dyn TOutputProtocol) -> thrift::Result<()>,
) -> thrift::Result<()> {
    reply("call", request, to, |to| {
        to.write_field_begin(&TFieldIdentifier::new("result", TType::Struct, 0))?;
        to.write_struct_begin(&TStructIdentifier::new("ExtensionResponse"))?;
        to.write_field_begin(&TFieldIdentifier::new("status", TType::Struct, 1))?;
        success().write_to_out_protocol(to)?;
        to.write_field_end()?;
        to.write_field_begin(&TFieldIdentifier::new("response", TType::List, 2))?;
        to.write_list_begin(&TListIdentifier::new(TType::Map, count))?;
        write_rows(to)?;
        to.write_list_end()?;
        to.write_field_end()?;
        to.write_field_stop()?;
        to.write_struct_end()?;
        to.write_field_end()
    })
}

/// Returns the status of a successful request.
pub(super) fn success() -> ExtensionStatus {
    ExtensionStatus::new(0, "OK".to_owned(), None)
}

/// Returns a response that makes the query fail with this message.
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

/// Writes a reply to that method and request; `result` writes its result.
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

/// Counts the bytes written to it.
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
