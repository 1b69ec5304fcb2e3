//! A table in a frame of ASCII characters, as osqueryi prints it.
//!
//! The rows wait here for the widest cell of each column, as one text. Wide and zero-width
//! characters count as Unicode says; terminals may think otherwise.

use std::borrow::Cow;
use std::io::{self, Read, Write};

use unicode_width::UnicodeWidthStr;

/// Rows of a given number of cells.
pub(super) struct Frame {
    header: bool,
    widths: Vec<usize>,
    text: String,
    /// Where each cell ends in `text`, row after row.
    ends: Vec<usize>,
}

impl Frame {
    /// An empty frame. With `header`, the first row is set apart from the others.
    pub(super) fn new(columns: usize, header: bool) -> Frame {
        Frame { header, widths: vec![0; columns], text: String::new(), ends: Vec::new() }
    }

    /// Adds a row, one cell for each column, none with a line feed.
    pub(super) fn add<'a>(&mut self, cells: impl Iterator<Item = impl Into<Cow<'a, str>>>) {
        for (cell, width) in cells.zip(&mut self.widths) {
            let cell = cell.into();
            *width = (*width).max(cell.width());
            self.text += &cell;
            self.ends.push(self.text.len());
        }
    }

    /// Prints the rows; nothing when there are none.
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
                spaces(out, width - cell.width() + 1)?;
                start = end;
            }
            out.write_all(b"|\n")?;
            if row == 0 && self.header {
                out.write_all(rule.as_bytes())?;
            }
        }
        // A header alone has its second rule already.
        if self.ends.len() > self.widths.len() || !self.header {
            out.write_all(rule.as_bytes())?;
        }
        Ok(())
    }
}

/// Writes that many spaces; a width in a format string has to fit 16 bits.
pub(super) fn spaces(out: &mut impl Write, count: usize) -> io::Result<()> {
    io::copy(&mut io::repeat(b' ').take(count as u64), out).map(drop)
}
