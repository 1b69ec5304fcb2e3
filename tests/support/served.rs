//! The service of the extension in this process, over a table of numbers.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use process_open_sockets::extension::Event;
use process_open_sockets::extension::limiter::ScanLimiter;
use process_open_sockets::extension::names::NamedTables;
use process_open_sockets::extension::requests::Requests;
use process_open_sockets::extension::service::{Limits, Listening, Service};
use tables::{
    Column, ColumnOptions, ColumnType, Error, QueryContext, RowUser, Rows, Table, User, Value,
};
use tempfile::TempDir;

/// No wait of a test takes this long, unless the test fails.
const TEST_TIMEOUT: Duration = Duration::from_secs(60);

/// The table's name.
pub(crate) const NUMBERS: &str = "numbers";

/// A running service, until it is dropped.
pub(crate) struct Served {
    pub(crate) socket: PathBuf,
    pub(crate) events: Receiver<Event>,
    limiter: Arc<ScanLimiter>,
    _listening: Listening,
    _dir: TempDir,
}

impl Served {
    pub(crate) fn new(table: Numbers) -> Served {
        Served::with_limits(table, Limits::default())
    }

    pub(crate) fn with_limits(table: Numbers, limits: Limits) -> Served {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let socket = dir.path().join("service");
        let (send, events) = channel();
        let limiter = Arc::<ScanLimiter>::default();
        let tables: NamedTables = [(NUMBERS.to_owned(), Arc::new(table) as Arc<dyn Table>)].into();
        let requests = Requests::new(tables, Arc::clone(&limiter), send);
        let service = Arc::new(Service::new(requests, limits));
        let listening = Listening::start(&socket, service).expect("a socket");
        Served { socket, events, limiter, _listening: listening, _dir: dir }
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Waits until `count` queries scan or wait.
    pub(crate) fn wait_for_queries(&self, count: usize) {
        let start = Instant::now();
        while self.limiter.queries() != count {
            assert!(start.elapsed() < TEST_TIMEOUT, "there are {} queries", self.limiter.queries());
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// A table with the row number, a constant text and NULL in each row.
pub(crate) struct Numbers {
    columns: Vec<Column>,
    rows: usize,
    text: Arc<str>,
    gate: Arc<Gate>,
    panics: bool,
    user_of: Option<fn(usize) -> User>,
}

impl Numbers {
    /// A table of `rows` rows with texts of `text` bytes.
    pub(crate) fn new(rows: usize, text: usize) -> Numbers {
        let columns = [
            ("number", ColumnType::BigInt),
            ("text", ColumnType::Text),
            ("nothing", ColumnType::Integer),
        ];
        let column = |(name, kind): (&'static str, _)| Column {
            name,
            kind,
            options: ColumnOptions::OPTIMIZED,
        };
        let columns = columns.map(column).into();
        let text = "x".repeat(text).into();
        Numbers { columns, rows, text, gate: Arc::default(), panics: false, user_of: None }
    }

    /// The table with a user for each row number.
    pub(crate) fn of_users(self, user_of: fn(usize) -> User) -> Numbers {
        Numbers { user_of: Some(user_of), ..self }
    }

    /// The table with a closed gate, at which scans wait.
    pub(crate) fn behind_a_gate(self) -> (Numbers, Arc<Gate>) {
        self.gate.close(true);
        let gate = Arc::clone(&self.gate);
        (self, gate)
    }

    /// A table whose scans panic.
    pub(crate) fn panicking() -> Numbers {
        Numbers { panics: true, ..Numbers::new(0, 0) }
    }
}

impl Table for Numbers {
    fn name(&self) -> &str {
        NUMBERS
    }
    fn description(&self) -> &str {
        "Rows of a test"
    }
    fn columns(&self) -> &[Column] {
        &self.columns
    }

    fn generate(&self, _: &QueryContext) -> Result<Box<dyn Rows>, Error> {
        assert!(!self.panics, "the test makes the scan panic");
        self.gate.pass();
        Ok(Box::new(Counted {
            rows: (0..self.rows).collect(),
            text: Arc::clone(&self.text),
            user_of: self.user_of,
        }))
    }
}

struct Counted {
    rows: Vec<usize>,
    text: Arc<str>,
    user_of: Option<fn(usize) -> User>,
}

impl Rows for Counted {
    fn len(&self) -> usize {
        self.rows.len()
    }

    fn id(&self, row: usize) -> i64 {
        i64::try_from(self.rows[row]).expect("a row number")
    }

    fn cell(&self, row: usize, column: usize) -> Value<'_> {
        match column {
            0 => Value::Integer(self.id(row)),
            1 => Value::Text((*self.text).into()),
            _ => Value::Null,
        }
    }

    fn users(&self) -> Option<Vec<RowUser>> {
        let user_of = self.user_of?;
        let row_user = |&row: &usize| {
            let order = (i32::try_from(row).expect("a row number"), 0);
            RowUser { user: user_of(row), order }
        };
        Some(self.rows.iter().map(row_user).collect())
    }

    fn omit(&mut self, is_omitted: &[bool]) {
        let mut is_omitted = is_omitted.iter();
        self.rows.retain(|_| !is_omitted.next().expect("one a row"));
    }
}

/// Stops scans until it is opened.
#[derive(Default)]
pub(crate) struct Gate {
    state: Mutex<AtGate>,
    changed: Condvar,
}

#[derive(Default)]
struct AtGate {
    closed: bool,
    waiting: usize,
    most: usize,
}

impl Gate {
    pub(crate) fn open(&self) {
        self.close(false);
    }

    fn close(&self, closed: bool) {
        self.state.lock().expect("a lock").closed = closed;
        self.changed.notify_all();
    }

    /// Waits until `count` scans wait at once.
    pub(crate) fn wait_for(&self, count: usize) {
        let state = self.state.lock().expect("a lock");
        let waited = self.changed.wait_timeout_while(state, TEST_TIMEOUT, |at| at.waiting < count);
        assert!(!waited.expect("a lock").1.timed_out(), "there are not {count} scans");
    }

    /// The highest number of scans that were at the gate at once.
    pub(crate) fn most(&self) -> usize {
        self.state.lock().expect("a lock").most
    }

    fn pass(&self) {
        let mut state = self.state.lock().expect("a lock");
        state.waiting += 1;
        state.most = state.most.max(state.waiting);
        self.changed.notify_all();
        let mut state = self.changed.wait_while(state, |at| at.closed).expect("a lock");
        state.waiting -= 1;
    }
}
