//! `--explain`: how the table answers each request of SQLite.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tables::{Column, Error, Explanation, QueryContext, Rows, Table};

use super::render::{Cell, Renderer, Style};
use super::vtab::Asked;

/// The columns of the output.
const COLUMNS: [&str; 5] = ["request", "plan", "work", "rows", "milliseconds"];

/// A table that records how it answers.
pub(super) struct Explained {
    table: Arc<dyn Table>,
    answers: Mutex<Vec<Answer>>,
}

/// A request and how the table answered it.
struct Answer {
    request: String,
    explanation: Explanation,
    rows: usize,
    time: Duration,
}

impl Explained {
    pub(super) fn new(table: Arc<dyn Table>) -> Explained {
        Explained { table, answers: Mutex::default() }
    }

    /// Prints the answers since the last call, a row each.
    pub(super) fn print(&self, style: &Style, out: &mut dyn io::Write) -> io::Result<()> {
        let answers = std::mem::take(&mut *self.lock());
        let mut renderer = Renderer::new(out, style, COLUMNS.map(str::to_owned).to_vec());
        for Answer { request, explanation, rows, time } in &answers {
            let milliseconds = format!("{:.1}", time.as_secs_f64() * 1000.0);
            let texts = [
                request.as_str(),
                &explanation.plan,
                &explanation.work,
                &rows.to_string(),
                &milliseconds,
            ];
            renderer.row(&texts.map(|text| -> Cell<'_> { Some(text.into()) }))?;
        }
        renderer.finish()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Answer>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table for Explained {
    fn columns(&self) -> &[Column] {
        self.table.columns()
    }

    fn generate(&self, query: &QueryContext) -> Result<Box<dyn Rows>, Error> {
        let start = Instant::now();
        let rows = self.table.generate(query)?;
        let time = start.elapsed();
        let request = Asked { query, columns: self.columns() }.to_string();
        let answer = Answer { request, explanation: rows.explanation(), rows: rows.len(), time };
        self.lock().push(answer);
        Ok(rows)
    }
}
