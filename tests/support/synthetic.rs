//! A table of as many rows as a test wants, that can be made to wait in its scan, and its service.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Condvar, Mutex};

use process_open_sockets::extension::Event;
use process_open_sockets::extension::requests::Requests;
use process_open_sockets::extension::service::{Limits, Listening, Service};
use tables::{Column, ColumnOptions, ColumnType, Error, QueryContext, Rows, Table, Value};
use tempfile::TempDir;

/// The name under which it is served.
pub(crate) const NAME: &str = "synthetic";

/// `number` BIGINT: the row's place; `text` TEXT: the same text in every row.
pub(crate) struct Synthetic {
    rows: usize,
    text: &'static str,
    columns: Vec<Column>,
    scans: Mutex<Scans>,
    changed: Condvar,
}

#[derive(Default)]
struct Scans {
    held: bool,
    running: usize,
    most: usize,
}

impl Synthetic {
    pub(crate) fn new(rows: usize, text: &'static str) -> Arc<Synthetic> {
        let column = |name: &'static str, kind| Column {
            name: name.into(),
            kind,
            options: ColumnOptions::ADDITIONAL,
        };
        Arc::new(Synthetic {
            rows,
            text,
            columns: vec![column("number", ColumnType::BigInt), column("text", ColumnType::Text)],
            scans: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    /// From now on scans wait, or those that wait go on.
    pub(crate) fn hold(&self, hold: bool) {
        self.scans.lock().unwrap().held = hold;
        self.changed.notify_all();
    }

    pub(crate) fn wait_until_running(&self, scans: usize) {
        let running = self.scans.lock().unwrap();
        drop(self.changed.wait_while(running, |now| now.running < scans).unwrap());
    }

    /// The most scans that ran at once.
    pub(crate) fn most(&self) -> usize {
        self.scans.lock().unwrap().most
    }
}

impl Table for Synthetic {
    fn columns(&self) -> &[Column] {
        &self.columns
    }

    fn generate(&self, _: &QueryContext) -> Result<Box<dyn Rows>, Error> {
        let mut scans = self.scans.lock().unwrap();
        scans.running += 1;
        scans.most = scans.most.max(scans.running);
        self.changed.notify_all();
        let mut scans = self.changed.wait_while(scans, |scans| scans.held).unwrap();
        scans.running -= 1;
        Ok(Box::new(Numbers { rows: self.rows, text: self.text }))
    }
}

struct Numbers {
    rows: usize,
    text: &'static str,
}

impl Rows for Numbers {
    fn len(&self) -> usize {
        self.rows
    }

    fn id(&self, row: usize) -> i64 {
        row as i64
    }

    fn cell(&self, row: usize, column: usize) -> Value<'_> {
        match column {
            0 => Value::Integer(row as i64),
            _ => Value::Text(self.text.into()),
        }
    }
}

/// A service of such a table, until it is dropped.
pub(crate) struct Served {
    socket: PathBuf,
    pub(crate) table: Arc<Synthetic>,
    pub(crate) events: Receiver<Event>,
    listening: Option<Listening>,
    _directory: TempDir,
}

impl Served {
    pub(crate) fn new(table: Arc<Synthetic>, limits: Limits) -> Served {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("osquery.em.1");
        let (send, events) = channel();
        let requests = Requests::new(NAME.to_owned(), table.clone(), send);
        let listening = Listening::start(&socket, Arc::new(Service::new(requests, limits)));
        let listening = Some(listening.unwrap());
        Served { socket, table, events, listening, _directory: directory }
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Ends the service.
    pub(crate) fn stop(&mut self) {
        self.listening = None;
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.table.hold(false);
    }
}
