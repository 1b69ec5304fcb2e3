//! Rows → the Thrift message that answers a `call`.
//!
//! A row is a map of column name to text: every asked column, with '' for what is not known, and a
//! `rowid` (osquery takes a row's position for it otherwise, and then loses rows when it merges the
//! branches of an `OR`). The rows go into the message one by one, as text that nobody keeps.

use std::collections::BTreeMap;
use std::io::{self, Write};

use tables::{Column, ColumnsUsed, Rows, User, Value, water_level};
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
    columns.iter().enumerate().filter(used).map(|(place, column)| (place, column.name))
}

/// Rows, ready to be sent.
pub(super) struct Answer<'a> {
    rows: Box<dyn Rows>,
    /// Place and name of each asked column.
    asked: Vec<(usize, &'a str)>,
    /// If the answer cannot be sent: about how long a row is, in bytes.
    too_long: Option<u64>,
}

impl<'a> Answer<'a> {
    /// Leaves out rows of the users with the most rows, as many as are too many for osquery.
    pub(super) fn new(rows: Box<dyn Rows>, columns: &'a [Column], used: ColumnsUsed) -> Self {
        let mut answer = Answer { rows, asked: asked(columns, used).collect(), too_long: None };
        if answer.is_too_long().is_some() {
            answer.omit_rows();
            answer.too_long = answer.is_too_long();
        }
        answer
    }

    /// How many rows of each user the answer lacks.
    pub(super) fn omitted(&self) -> Vec<(User, u64)> {
        self.rows.omitted()
    }

    /// Writes the message that answers the request of that number; one with an error status if the rows
    /// are more than osquery takes.
    pub(super) fn write(&self, request: i32, to: &mut dyn TOutputProtocol) -> thrift::Result<()> {
        let Some(bytes) = self.too_long else { return self.write_rows(request, to) };
        let count = self.rows.len();
        let message = format!(
            "{count} rows of about {bytes} bytes exceed what osquery accepts: select fewer columns \
             or add a constraint"
        );
        write_response(request, &failure(message), to)
    }

    /// If the message is longer than [`LONGEST_ANSWER`], the mean length of its rows, as far as they were
    /// measured to find that out.
    fn is_too_long(&self) -> Option<u64> {
        let (mut length, mut measured) = (self.frame(), 0);
        for row in 0..self.rows.len() {
            length += self.length(row);
            measured += 1;
            if length > LONGEST_ANSWER {
                return Some(length / measured);
            }
        }
        i32::try_from(self.rows.len()).is_err().then(|| length / measured.max(1))
    }

    /// The bytes of a message without rows.
    fn frame(&self) -> u64 {
        let mut length = Length(0);
        let mut to = TBinaryOutputProtocol::new(&mut length, true);
        // Counting cannot fail.
        let _ = write_frame(0, 0, &mut to, |_| Ok(()));
        length.0
    }

    /// The bytes of a row.
    fn length(&self, row: usize) -> u64 {
        let mut length = Length(0);
        let mut to = TBinaryOutputProtocol::new(&mut length, true);
        // Counting cannot fail.
        let _ = self.write_row(row, &mut to);
        length.0
    }

    /// Reduces the users with the most rows to a level at which the answer can be sent.
    fn omit_rows(&mut self) {
        /// The digits that the count of omitted rows can have more than the 0 that was measured.
        const COUNT: u64 = 19;
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
        let budget = LONGEST_ANSWER.saturating_sub(self.frame());
        let row = |user: usize, rank: usize| Some(*by_user.get(user)?.1.get(rank)?);
        let cost = |user, rank| row(user, rank).map_or(0, |row| self.length(row) + COUNT);
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

    /// The same as [`write_response`] would write of these rows, had they all been made.
    fn write_rows(&self, request: i32, to: &mut dyn TOutputProtocol) -> thrift::Result<()> {
        let count = i32::try_from(self.rows.len()).unwrap_or(i32::MAX);
        write_frame(request, count, to, |to| {
            (0..self.rows.len()).try_for_each(|row| self.write_row(row, to))
        })
    }

    fn write_row(&self, row: usize, to: &mut dyn TOutputProtocol) -> thrift::Result<()> {
        let cells = i32::try_from(self.asked.len() + 1).unwrap_or(i32::MAX);
        to.write_map_begin(&TMapIdentifier::new(TType::String, TType::String, cells))?;
        for &(place, name) in &self.asked {
            to.write_string(name)?;
            write_cell(self.rows.cell(row, place), to)?;
        }
        to.write_string("rowid")?;
        write_cell(Value::Integer(self.rows.id(row)), to)?;
        to.write_map_end()
    }
}

/// Writes what is around so many rows, and the rows by `write_rows`.
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
