//! Prints result rows in osqueryi's output modes.
//!
//! `json`, `csv`, `line` and `list` write row by row; `pretty` holds all rows to compute the widths. Cells
//! are untrusted input (any user can choose a UNIX socket path): `line`, `list` and `pretty` escape them
//! (`escape.rs`), but not the texts of `--nullvalue` and `--separator`. `json` and `csv` are for programs and
//! print the cells unchanged.

use std::borrow::Cow;
use std::io::{self, Write};

use unicode_width::UnicodeWidthStr;

use super::frame::{Frame, write_spaces};
use crate::escape::escape;

/// The output mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// An array of objects; every value is a string, and NULL is the empty string.
    Json,
    /// RFC 4180, but lines end with LF.
    Csv,
    /// One line per cell, and an empty line between rows.
    Line,
    /// One line per row.
    List,
    /// A frame around the rows.
    Pretty,
}

/// The output style.
#[derive(Clone, Debug)]
pub struct Style {
    /// The output mode.
    pub mode: Mode,
    /// Print the column names first. `json` and `line` ignore it.
    pub header: bool,
    /// Separator of two cells in `csv` (one ASCII character, default `,`) and `list` (default `|`).
    pub separator: Option<String>,
    /// Text for NULL, except in `json`.
    pub null: String,
}

/// A cell; `None` is NULL.
pub type Cell<'a> = Option<Cow<'a, str>>;

/// Prints the rows of one statement.
pub struct Renderer<'a, W: Write> {
    style: &'a Style,
    columns: Vec<String>,
    form: Form<W>,
    is_started: bool,
}

enum Form<W: Write> {
    Json { out: W, rows: usize },
    Csv(Box<csv::Writer<W>>),
    Line { out: W, width: usize, rows: usize },
    List { out: W, separator: String },
    Pretty { out: W, frame: Frame },
}

impl<'a, W: Write> Renderer<'a, W> {
    /// Creates a renderer. It writes nothing before the first row or the end.
    pub fn new(out: W, style: &'a Style, columns: Vec<String>) -> Self {
        let separator = |default: &str| style.separator.clone().unwrap_or(default.to_owned());
        let form = match style.mode {
            Mode::Json => Form::Json { out, rows: 0 },
            Mode::Csv => {
                let delimiter = separator(",").bytes().next().unwrap_or(b',');
                let writer = csv::WriterBuilder::new().delimiter(delimiter).from_writer(out);
                Form::Csv(Box::new(writer))
            }
            Mode::Line => {
                let width = columns.iter().map(|name| escape(name).width()).max();
                Form::Line { out, width: width.unwrap_or(0), rows: 0 }
            }
            Mode::List => Form::List { out, separator: separator("|") },
            Mode::Pretty => Form::Pretty { out, frame: Frame::new(columns.len(), style.header) },
        };
        Renderer { style, columns, form, is_started: false }
    }

    /// Prints one row, or holds it until the end.
    ///
    /// # Errors
    /// If the output fails.
    pub fn row(&mut self, cells: &[Cell<'_>]) -> io::Result<()> {
        self.start()?;
        let Renderer { style, columns, form, .. } = self;
        let text = |cell| -> &str { Option::as_deref(cell).unwrap_or(&style.null) };
        let shown = |cell| Option::as_deref(cell).map_or(Cow::Borrowed(&*style.null), escape);
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
            Form::Csv(writer) => writer.write_record(cells.iter().map(text)).map_err(to_io_error),
            Form::Line { out, width, rows } => {
                if *rows > 0 {
                    writeln!(out)?;
                }
                *rows += 1;
                for (name, cell) in columns.iter().zip(cells) {
                    let name = escape(name);
                    write_spaces(out, *width - name.width())?;
                    writeln!(out, "{name} = {}", shown(cell))?;
                }
                Ok(())
            }
            Form::List { out, separator } => {
                let cells: Vec<_> = cells.iter().map(shown).collect();
                writeln!(out, "{}", cells.join(separator))
            }
            Form::Pretty { frame, .. } => {
                frame.add(cells.iter().map(shown));
                Ok(())
            }
        }
    }

    /// Prints the rows held so far and the end of the output.
    ///
    /// # Errors
    /// If the output fails.
    pub fn finish(mut self) -> io::Result<()> {
        self.start()?;
        match self.form {
            Form::Json { mut out, .. } => out.write_all(b"\n]\n"),
            Form::Csv(mut writer) => writer.flush(),
            Form::Line { .. } | Form::List { .. } => Ok(()),
            Form::Pretty { mut out, frame } => frame.print(&mut out),
        }
    }

    /// Ends the output after an error of the query: closes a started array or frame.
    ///
    /// # Errors
    /// If the output fails.
    pub fn abort(self) -> io::Result<()> {
        if self.is_started { self.finish() } else { Ok(()) }
    }

    fn start(&mut self) -> io::Result<()> {
        if std::mem::replace(&mut self.is_started, true) {
            return Ok(());
        }
        let header = self.style.header;
        match &mut self.form {
            Form::Json { out, .. } => out.write_all(b"["),
            Form::Csv(writer) if header => writer.write_record(&self.columns).map_err(to_io_error),
            Form::List { out, separator } if header => {
                let names: Vec<_> = self.columns.iter().map(|name| escape(name)).collect();
                writeln!(out, "{}", names.join(separator))
            }
            Form::Pretty { frame, .. } if header => {
                frame.add(self.columns.iter().map(|name| escape(name)));
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// Returns the I/O error inside an error of csv: the caller checks for a closed pipe.
fn to_io_error(error: csv::Error) -> io::Error {
    match error.into_kind() {
        csv::ErrorKind::Io(error) => error,
        other => io::Error::other(format!("{other:?}")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    const PLAIN: Style =
        Style { mode: Mode::Pretty, header: true, separator: None, null: String::new() };

    fn print(style: &Style, columns: &[&str], rows: &[&[Option<&str>]]) -> String {
        let mut out = Vec::new();
        let columns = columns.iter().map(|name| name.to_string()).collect();
        let mut renderer = Renderer::new(&mut out, style, columns);
        for row in rows {
            let cells: Vec<Cell<'_>> = row.iter().map(|cell| cell.map(Cow::Borrowed)).collect();
            renderer.row(&cells).unwrap();
        }
        renderer.finish().unwrap();
        String::from_utf8(out).unwrap()
    }

    fn print_two_rows(style: Style) -> String {
        print(&style, &["pid", "a b"], &[&[Some("1"), Some("x, \"y\" | z")], &[None, Some("")]])
    }

    #[test]
    fn json_is_an_array_of_objects_of_strings() {
        let printed = print_two_rows(Style { mode: Mode::Json, null: "-".into(), ..PLAIN });
        assert_eq!(
            printed,
            concat!(
                "[\n",
                r#"  {"pid":"1","a b":"x, \"y\" | z"},"#,
                "\n",
                r#"  {"pid":"","a b":""}"#,
                "\n]\n"
            )
        );
    }

    #[test]
    fn csv_quotes_cells_with_special_characters() {
        let printed = print_two_rows(Style { mode: Mode::Csv, ..PLAIN });
        assert_eq!(printed, "pid,a b\n1,\"x, \"\"y\"\" | z\"\n,\n");
    }

    #[test]
    fn csv_takes_another_separator_and_leaves_the_header_out() {
        let style = Style {
            mode: Mode::Csv,
            header: false,
            separator: Some("|".into()),
            null: "NULL".into(),
        };
        assert_eq!(print_two_rows(style), "1|\"x, \"\"y\"\" | z\"\nNULL|\n");
    }

    #[test]
    fn line_aligns_the_names() {
        let printed = print(
            &Style { mode: Mode::Line, ..PLAIN },
            &["pid", "local_port"],
            &[&[Some("1"), Some("22")], &[Some("2"), None]],
        );
        assert_eq!(printed, "       pid = 1\nlocal_port = 22\n\n       pid = 2\nlocal_port = \n");
    }

    #[test]
    fn list_prints_one_row_per_line() {
        let printed = print_two_rows(Style { mode: Mode::List, null: "NULL".into(), ..PLAIN });
        assert_eq!(printed, "pid|a b\n1|x, \"y\" | z\nNULL|\n");
    }

    #[test]
    fn list_takes_another_separator_and_leaves_the_header_out() {
        let style =
            Style { mode: Mode::List, header: false, separator: Some(" :: ".into()), ..PLAIN };
        assert_eq!(print_two_rows(style), "1 :: x, \"y\" | z\n :: \n");
    }

    #[test]
    fn pretty_is_as_wide_as_the_widest_cell() {
        let printed = print(
            &PLAIN,
            &["pid", "path"],
            &[&[Some("1"), Some("/run/日本")], &[Some("12345"), Some("")]],
        );
        assert_eq!(
            printed,
            "\
+-------+-----------+
| pid   | path      |
+-------+-----------+
| 1     | /run/日本 |
| 12345 |           |
+-------+-----------+
"
        );
    }

    #[test]
    fn no_rows_are_an_empty_array_or_a_header() {
        let empty = |mode, header| print(&Style { mode, header, ..PLAIN }, &["a", "b"], &[]);
        assert_eq!(empty(Mode::Json, true), "[\n]\n");
        assert_eq!(empty(Mode::Csv, true), "a,b\n");
        assert_eq!(empty(Mode::List, true), "a|b\n");
        assert_eq!(empty(Mode::Line, true), "");
        assert_eq!(empty(Mode::Pretty, true), "+---+---+\n| a | b |\n+---+---+\n");
        assert_eq!(empty(Mode::Pretty, false), "");
    }

    #[test]
    fn an_aborted_array_is_closed_if_it_was_started() {
        let aborted = |rows: usize| {
            let mut out = Vec::new();
            let style = Style { mode: Mode::Json, ..PLAIN };
            let mut renderer = Renderer::new(&mut out, &style, vec!["a".into()]);
            for _ in 0..rows {
                renderer.row(&[Some("1".into())]).unwrap();
            }
            renderer.abort().unwrap();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(aborted(0), "");
        assert_eq!(aborted(1), "[\n  {\"a\":\"1\"}\n]\n");
    }

    #[test]
    fn cells_are_escaped_except_in_json_and_csv() {
        let (hostile, shown) = ("\u{1b}[2J\n\u{200b}é日\\n", r"\u{1b}[2J\n\u{200b}é日\\n");
        let in_mode =
            |mode| print(&Style { mode, header: false, ..PLAIN }, &["a"], &[&[Some(hostile)]]);
        assert_eq!(in_mode(Mode::Csv), format!("\"{hostile}\"\n"));
        assert_eq!(in_mode(Mode::List), format!("{shown}\n"));
        assert_eq!(in_mode(Mode::Line), format!("a = {shown}\n"));
        assert_eq!(in_mode(Mode::Pretty).lines().nth(1), Some(&*format!("| {shown} |")));
    }

    #[test]
    fn the_text_for_null_is_not_escaped() {
        let in_mode = |mode| {
            let style = Style { mode, header: false, null: r"\N".into(), ..PLAIN };
            print(&style, &["a"], &[&[None], &[Some(r"\N")]])
        };
        assert_eq!(in_mode(Mode::List), "\\N\n\\\\N\n");
        assert_eq!(in_mode(Mode::Line), "a = \\N\n\na = \\\\N\n");
        assert_eq!(in_mode(Mode::Csv), "\\N\n\\N\n");
    }

    #[test]
    fn a_cell_wider_than_a_format_width_is_printed_whole() {
        let long = "x".repeat(100_000);
        let printed = print(&PLAIN, &["a"], &[&[Some(&long)], &[Some("y")]]);
        let lines: Vec<&str> = printed.lines().collect();
        assert_eq!(lines.len(), 6);
        assert!(
            lines.iter().all(|line| line.len() == 100_004),
            "a line is not as wide as the frame"
        );
    }

    proptest! {
        #[test]
        fn json_and_csv_read_back_as_the_printed_cells(
            rows in prop::collection::vec(prop::collection::vec(any::<String>(), 2), 0..5)
        ) {
            let borrowed: Vec<Vec<Option<&str>>> =
                rows.iter().map(|row| row.iter().map(|cell| Some(&**cell)).collect()).collect();
            let borrowed: Vec<&[Option<&str>]> = borrowed.iter().map(|row| &**row).collect();

            let json = print(&Style { mode: Mode::Json, ..PLAIN }, &["a", "b"], &borrowed);
            let read: Vec<std::collections::BTreeMap<String, String>> = serde_json::from_str(&json).unwrap();
            let read: Vec<Vec<String>> = read.into_iter().map(|row| row.into_values().collect()).collect();
            prop_assert_eq!(&read, &rows);

            let csv = print(&Style { mode: Mode::Csv, ..PLAIN }, &["a", "b"], &borrowed);
            let read: Vec<Vec<String>> = csv::Reader::from_reader(csv.as_bytes())
                .deserialize().collect::<Result<_, _>>().unwrap();
            prop_assert_eq!(&read, &rows);
        }

        #[test]
        fn no_cell_adds_a_line(cell in any::<String>()) {
            for (mode, lines) in [(Mode::List, 1), (Mode::Line, 1), (Mode::Pretty, 3)] {
                let printed = print(&Style { mode, header: false, ..PLAIN }, &["a"], &[&[Some(&cell)]]);
                prop_assert_eq!(printed.matches('\n').count(), lines);
                prop_assert!(!printed.contains(|c: char| c.is_control() && c != '\n'));
            }
        }
    }
}
