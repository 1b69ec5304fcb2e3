//! Answers as text, in osqueryi's output modes.
//!
//! `json`, `csv`, `line` and `list` are written row by row; `pretty` needs the widths, and holds the
//! whole answer. The cells come from strangers (any user names a UNIX socket): in the modes that
//! people read, whatever could move a terminal's cursor, start a line or turn the reading direction
//! is shown as an escape. `json` and `csv` are for programs and change nothing.

use std::borrow::Cow;
use std::io::{self, Write};

use comfy_table::{ContentLineStyle, LineStyle, Table, TableStyle};

/// The form of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// An array of objects, every value a string, NULL the empty one.
    Json,
    /// RFC 4180, but with LF at the end of a line.
    Csv,
    /// A line for each cell, an empty one between rows.
    Line,
    /// A line for each row.
    List,
    /// A frame.
    Pretty,
}

/// How answers are printed.
#[derive(Clone, Debug)]
pub struct Style {
    /// The form.
    pub mode: Mode,
    /// Whether the columns' names come first; without effect on `json` and `line`.
    pub header: bool,
    /// What stands between two cells of `csv` (one ASCII character) and `list`; `,` and `|` if none.
    pub separator: Option<String>,
    /// What stands for NULL, except in `json`.
    pub null: String,
}

/// A cell; `None` is NULL.
pub type Cell<'a> = Option<Cow<'a, str>>;

/// Prints the answer to one statement.
pub struct Renderer<'a, W: Write> {
    style: &'a Style,
    columns: Vec<String>,
    form: Form<W>,
    started: bool,
}

enum Form<W: Write> {
    Json { out: W, rows: usize },
    Csv(csv::Writer<W>),
    Line { out: W, width: usize, rows: usize },
    List { out: W, separator: String },
    Pretty { out: W, table: Table },
}

impl<'a, W: Write> Renderer<'a, W> {
    /// Nothing is written before the first row or the end.
    pub fn new(out: W, style: &'a Style, columns: Vec<String>) -> Self {
        let separator = |default: &str| style.separator.clone().unwrap_or(default.to_owned());
        let form = match style.mode {
            Mode::Json => Form::Json { out, rows: 0 },
            Mode::Csv => Form::Csv(
                csv::WriterBuilder::new()
                    .delimiter(separator(",").bytes().next().unwrap_or(b','))
                    .from_writer(out),
            ),
            Mode::Line => {
                let width = columns.iter().map(|name| visible(name).chars().count()).max();
                Form::Line { out, width: width.unwrap_or(0), rows: 0 }
            }
            Mode::List => Form::List { out, separator: separator("|") },
            Mode::Pretty => Form::Pretty { out, table: frame() },
        };
        Renderer { style, columns, form, started: false }
    }

    /// Prints one row, or keeps it for the end.
    ///
    /// # Errors
    /// Of the output.
    pub fn row(&mut self, cells: &[Cell<'_>]) -> io::Result<()> {
        self.start()?;
        let Renderer { style, columns, form, .. } = self;
        let shown = |cell: &Cell<'_>| visible(cell.as_deref().unwrap_or(&style.null)).into_owned();
        match form {
            Form::Json { out, rows } => {
                out.write_all(if *rows == 0 { b"\n  {" } else { b",\n  {" })?;
                *rows += 1;
                for (i, (name, cell)) in columns.iter().zip(cells).enumerate() {
                    if i > 0 {
                        out.write_all(b",")?;
                    }
                    serde_json::to_writer(&mut *out, name)?;
                    out.write_all(b":")?;
                    serde_json::to_writer(&mut *out, cell.as_deref().unwrap_or(""))?;
                }
                out.write_all(b"}")
            }
            Form::Csv(writer) => {
                let cells = cells.iter().map(|cell| cell.as_deref().unwrap_or(&style.null));
                writer.write_record(cells).map_err(plain)
            }
            Form::Line { out, width, rows } => {
                if *rows > 0 {
                    writeln!(out)?;
                }
                *rows += 1;
                for (name, cell) in columns.iter().zip(cells) {
                    writeln!(out, "{:>width$} = {}", visible(name), shown(cell))?;
                }
                Ok(())
            }
            Form::List { out, separator } => {
                let cells: Vec<String> = cells.iter().map(shown).collect();
                writeln!(out, "{}", cells.join(separator))
            }
            Form::Pretty { table, .. } => {
                table.add_row(cells.iter().map(shown));
                Ok(())
            }
        }
    }

    /// Prints what is left.
    ///
    /// # Errors
    /// Of the output.
    pub fn finish(mut self) -> io::Result<()> {
        self.start()?;
        match self.form {
            Form::Json { mut out, .. } => out.write_all(b"\n]\n"),
            Form::Csv(mut writer) => writer.flush(),
            Form::Line { .. } | Form::List { .. } => Ok(()),
            Form::Pretty { mut out, table } => {
                // comfy-table gives a table of nothing one empty line.
                if table.row_count() == 0 && table.header().is_none() {
                    return Ok(());
                }
                table.lines().try_for_each(|line| writeln!(out, "{line}"))
            }
        }
    }

    /// Ends the output after an error of the query: what was begun is closed.
    ///
    /// # Errors
    /// Of the output.
    pub fn cut_short(self) -> io::Result<()> {
        if self.started { self.finish() } else { Ok(()) }
    }

    fn start(&mut self) -> io::Result<()> {
        if std::mem::replace(&mut self.started, true) {
            return Ok(());
        }
        let header = self.style.header;
        match &mut self.form {
            Form::Json { out, .. } => out.write_all(b"["),
            Form::Csv(writer) if header => writer.write_record(&self.columns).map_err(plain),
            Form::List { out, separator } if header => {
                let names: Vec<_> = self.columns.iter().map(|name| visible(name)).collect();
                writeln!(out, "{}", names.join(separator))
            }
            Form::Pretty { table, .. } if header => {
                table.set_header(self.columns.iter().map(|name| visible(name)));
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

fn frame() -> Table {
    let (rule, cells) = (LineStyle::new('+', '-', '+', '+'), ContentLineStyle::new('|', '|', '|'));
    let mut table = Table::new();
    table.load_style(
        TableStyle::new()
            .top_border(rule)
            .header_lines(cells)
            .header_separator(rule)
            .content_lines(cells)
            .bottom_border(rule),
    );
    table
}

/// The error of the output itself: csv wraps it, and a closed pipe must stay recognisable.
fn plain(error: csv::Error) -> io::Error {
    match error.into_kind() {
        csv::ErrorKind::Io(error) => error,
        other => io::Error::other(format!("{other:?}")),
    }
}

/// The text with escapes in place of what a terminal would obey: control characters, line and
/// paragraph separators, and marks that turn the reading direction.
pub fn visible(text: &str) -> Cow<'_, str> {
    let obeyed = |c: char| {
        c.is_control()
            || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if !text.contains(obeyed) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if obeyed(c) { escaped.extend(c.escape_default()) } else { escaped.push(c) }
    }
    Cow::Owned(escaped)
}
