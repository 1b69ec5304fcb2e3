//! Prints rows in a frame of ASCII characters, as osqueryi does.
//!
//! A frame holds all rows, because the widths of the columns are not known before the last row. Character
//! widths are Unicode's; a terminal may use others.

use std::borrow::Cow;
use std::io::{self, Read, Write};

use unicode_width::UnicodeWidthStr;

/// Rows with the same number of cells.
pub(super) struct Frame {
    has_header: bool,
    widths: Vec<usize>,
    text: String,
    /// End of each cell in `text`, row by row.
    ends: Vec<usize>,
}

impl Frame {
    /// Creates an empty frame. With a header, a rule follows the first row.
    pub(super) fn new(columns: usize, has_header: bool) -> Frame {
        Frame { has_header, widths: vec![0; columns], text: String::new(), ends: Vec::new() }
    }

    /// Adds a row: one cell for each column, without line feeds.
    pub(super) fn add<'a>(&mut self, cells: impl Iterator<Item = impl Into<Cow<'a, str>>>) {
        for (cell, width) in cells.zip(&mut self.widths) {
            let cell = cell.into();
            *width = (*width).max(cell.width());
            self.text += &cell;
            self.ends.push(self.text.len());
        }
    }

    /// Prints the rows, or nothing if there are none.
    pub(super) fn print(&self, out: &mut impl Write) -> io::Result<()> {
        if self.ends.is_empty() || self.widths.is_empty() {
            return Ok(());
        }
        let rule: Vec<String> = self.widths.iter().map(|width| "-".repeat(width + 2)).collect();
        let rule = format!("+{}+\n", rule.join("+"));
        out.write_all(rule.as_bytes())?;
        let mut start = 0;
        for (row, ends) in self.ends.chunks(self.widths.len()).enumerate() {
            for (&end, width) in ends.iter().zip(&self.widths) {
                let cell = self.text.get(start..end).unwrap_or_default();
                write!(out, "| {cell}")?;
                write_spaces(out, width - cell.width() + 1)?;
                start = end;
            }
            out.write_all(b"|\n")?;
            if row == 0 && self.has_header {
                out.write_all(rule.as_bytes())?;
            }
        }
        // The rule after a header without rows is also the last one.
        if self.ends.len() > self.widths.len() || !self.has_header {
            out.write_all(rule.as_bytes())?;
        }
        Ok(())
    }
}

/// Writes that many spaces. A width in a format string is limited to 16 bits.
pub(super) fn write_spaces(out: &mut impl Write, count: usize) -> io::Result<()> {
    io::copy(&mut io::repeat(b' ').take(count as u64), out).map(drop)
}
