//! `--explain`: how the table answers each request of SQLite.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tables::{Column, Error, Explanation, QueryContext, Rows, Table};

use super::render::{Cell, Renderer, Style};
use super::vtab::Asked;

/// The columns of the output.
const COLUMNS: [&str; 5] = ["request", "plan", "work", "rows", "milliseconds"];

/// How the tables answered.
#[derive(Clone, Default)]
pub(super) struct Answers(Arc<Mutex<Vec<Answer>>>);

/// A table that records how it answers.
struct Explained {
    table: Arc<dyn Table>,
    answers: Answers,
}

/// A request and how the table answered it.
struct Answer {
    request: String,
    explanation: Explanation,
    rows: usize,
    time: Duration,
}

impl Answers {
    /// The same tables, whose answers are recorded here.
    pub(super) fn record(&self, tables: &[Arc<dyn Table>]) -> Vec<Arc<dyn Table>> {
        let record = |table: &Arc<dyn Table>| -> Arc<dyn Table> {
            Arc::new(Explained { table: Arc::clone(table), answers: self.clone() })
        };
        tables.iter().map(record).collect()
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
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table for Explained {
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
        let request = Asked { query, columns: self.columns() }.to_string();
        let answer = Answer { request, explanation: rows.explanation(), rows: rows.len(), time };
        self.answers.lock().push(answer);
        Ok(rows)
    }
}
