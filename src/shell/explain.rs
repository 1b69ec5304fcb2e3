//! `--explain`: records how the tables answer the requests of SQLite.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tables::{Column, Error, Explanation, QueryContext, Rows, Table};

use super::render::{Cell, Renderer, Style};
use super::vtab::RequestText;

/// The columns of the output.
const COLUMNS: [&str; 5] = ["request", "plan", "work", "rows", "milliseconds"];

/// The recorded answers of all tables.
#[derive(Clone, Default)]
pub(super) struct Answers(Arc<Mutex<Vec<Answer>>>);

/// A table that records its answers.
struct RecordingTable {
    table: Arc<dyn Table>,
    answers: Answers,
}

/// A request and its answer.
struct Answer {
    request: String,
    explanation: Explanation,
    rows: usize,
    time: Duration,
}

impl Answers {
    /// Returns the same tables with a recording of their answers.
    pub(super) fn recording_tables(&self, tables: &[Arc<dyn Table>]) -> Vec<Arc<dyn Table>> {
        let record = |table: &Arc<dyn Table>| -> Arc<dyn Table> {
            Arc::new(RecordingTable { table: Arc::clone(table), answers: self.clone() })
        };
        tables.iter().map(record).collect()
    }

    /// Prints the answers since the last call, one row each, and returns how many there were.
    pub(super) fn print(&self, style: &Style, out: &mut dyn io::Write) -> io::Result<usize> {
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
        renderer.finish()?;
        Ok(answers.len())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Answer>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table for RecordingTable {
    fn name(&self) -> &str {
        self.table.name()
    }

    fn fallback_names(&self) -> &[&str] {
        self.table.fallback_names()
    }

    fn description(&self) -> &str {
        self.table.description()
    }

    fn columns(&self) -> &[Column] {
        self.table.columns()
    }

    fn generate(&self, query: &QueryContext) -> Result<Box<dyn Rows>, Error> {
        let start = Instant::now();
        let rows = self.table.generate(query)?;
        let time = start.elapsed();
        let request = RequestText { query, columns: self.columns() }.to_string();
        let answer = Answer { request, explanation: rows.explanation(), rows: rows.len(), time };
        self.answers.lock().push(answer);
        Ok(rows)
    }
}
