//! An extension with two tables, each with its own names.

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use process_open_sockets::cli::{Launch, WhenGone};
use process_open_sockets::extension::{EXTENSION_NAME, Event, run_until};
use process_open_sockets::log_queue::LogQueue;
use tables::process_open_sockets::ProcessOpenSockets;
use tables::{Column, ColumnOptions, ColumnType, Error, Options, QueryContext, Rows, Table, Value};

use crate::support::core::Core;

/// No wait of a test takes this long, unless the test fails.
const TEST_TIMEOUT: Duration = Duration::from_secs(60);

/// A table of one row that counts its starts and stops.
struct Small {
    columns: [Column; 1],
    starts: Arc<AtomicUsize>,
    stops: Arc<AtomicUsize>,
}

struct Answer;

impl Rows for Answer {
    fn len(&self) -> usize {
        1
    }
    fn id(&self, _row: usize) -> i64 {
        1
    }
    fn cell(&self, _row: usize, _column: usize) -> Value<'_> {
        Value::Integer(42)
    }
}

impl Table for Small {
    fn name(&self) -> &str {
        "small"
    }
    fn fallback_names(&self) -> &[&str] {
        &["alt_small"]
    }
    fn description(&self) -> &str {
        "One number"
    }
    fn columns(&self) -> &[Column] {
        &self.columns
    }
    fn generate(&self, _query: &QueryContext) -> Result<Box<dyn Rows>, Error> {
        Ok(Box::new(Answer))
    }
    fn start(&self) -> Result<(), Error> {
        self.starts.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
    fn stop(&self) {
        self.stops.fetch_add(1, Ordering::SeqCst);
    }
}

/// An extension in a thread of this process.
struct Running {
    events: Sender<Event>,
    thread: JoinHandle<ExitCode>,
    written: Written,
    starts: Arc<AtomicUsize>,
    stops: Arc<AtomicUsize>,
}

/// The log of the extension.
#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Running {
    /// Serves `process_open_sockets` and `small` to that core.
    fn start(core: &Core, table_name: Option<&str>) -> Running {
        let launch = Launch {
            socket: Some(core.socket().to_owned()),
            timeout: 20,
            interval: 1,
            when_gone: Some(WhenGone::Exit),
            table_name: table_name.map(str::to_owned),
        };
        let (starts, stops) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let columns = [Column {
            name: "number".into(),
            kind: ColumnType::Integer,
            options: ColumnOptions::OPTIMIZED,
        }];
        let small = Small { columns, starts: Arc::clone(&starts), stops: Arc::clone(&stops) };
        let tables: Vec<Arc<dyn Table>> =
            vec![Arc::new(ProcessOpenSockets::new(Options::default())), Arc::new(small)];
        let written = Written::default();
        let log = LogQueue::start(EXTENSION_NAME, written.clone()).unwrap();
        let (events, received) = channel();
        let thread = thread::spawn({
            let events = events.clone();
            move || run_until(&launch, tables, &log, &events, &received)
        });
        Running { events, thread, written, starts, stops }
    }

    /// Waits until the log has that text.
    fn wait_for_log(&self, text: &str) {
        let start = Instant::now();
        loop {
            let log = String::from_utf8(self.written.0.lock().unwrap().clone()).unwrap();
            if log.contains(text) {
                return;
            }
            assert!(start.elapsed() < TEST_TIMEOUT, "not logged: {text:?}; but: {log}");
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Ends the extension as a signal does.
    fn end(self) -> ExitCode {
        self.events.send(Event::Signal).unwrap();
        self.thread.join().unwrap()
    }
}

/// The names of the extension's tables in the core.
fn names(core: &Core) -> Vec<String> {
    core.extensions().into_values().flat_map(|extension| extension.tables.into_keys()).collect()
}

fn names_where_taken(taken: &[&str]) -> Vec<String> {
    let core = Core::with_tables(taken);
    let running = Running::start(&core, None);
    core.wait_for(EXTENSION_NAME);
    let names = names(&core);
    running.end();
    names
}

#[test]
fn both_tables_are_served() {
    let core = Core::with_tables(&[]);
    let running = Running::start(&core, None);
    running.wait_for_log("the tables are named process_open_sockets, small\n");
    let rows = core.query("SELECT number FROM small").unwrap();
    assert_eq!(rows, [[("number".to_owned(), "42".to_owned())].into()]);
    let sql = format!("SELECT pid FROM process_open_sockets WHERE pid = {} LIMIT 1", std::process::id());
    assert_eq!(core.query(&sql).unwrap().len(), 1);
    running.end();
}

#[test]
fn each_table_falls_back_to_its_own_name() {
    assert_eq!(names_where_taken(&["process_open_sockets"]), ["alt_process_open_sockets", "small"]);
    assert_eq!(names_where_taken(&["small"]), ["alt_small", "process_open_sockets"]);
}

#[test]
fn a_table_without_a_free_name_is_left_out() {
    assert_eq!(names_where_taken(&["small", "alt_small"]), ["process_open_sockets"]);
}

#[test]
fn a_conflict_renames_only_the_table_with_that_name() {
    let core = Core::with_tables(&[]);
    let conflict = "Failed adding registry: Registry item small conflicts with another item of the same name.";
    core.faults().refuse_next(1, conflict);
    let running = Running::start(&core, None);
    core.wait_for(EXTENSION_NAME);
    assert_eq!(names(&core), ["alt_small", "process_open_sockets"]);
    running.end();
}

#[test]
fn a_name_from_the_flag_that_is_taken_ends_the_extension() {
    let core = Core::with_tables(&["mine"]);
    let running = Running::start(&core, Some("mine"));
    running.wait_for_log("error: osquery already has a table named mine;");
    assert_eq!(names(&core), [""; 0]);
    assert_eq!(running.end(), ExitCode::FAILURE);
}

#[test]
fn no_free_name_at_all_ends_the_extension() {
    let taken = ["process_open_sockets", "alt_process_open_sockets", "small", "alt_small"];
    let core = Core::with_tables(&taken);
    let running = Running::start(&core, None);
    running.wait_for_log("error: osquery already has tables named process_open_sockets and");
    assert_eq!(running.end(), ExitCode::FAILURE);
}

#[test]
fn a_table_starts_and_stops_once() {
    let core = Core::with_tables(&[]);
    let running = Running::start(&core, None);
    let first = core.wait_for(EXTENSION_NAME);
    core.drop_extension(first);
    core.wait_for_another(EXTENSION_NAME, first);
    let (starts, stops) = (Arc::clone(&running.starts), Arc::clone(&running.stops));
    assert_eq!((starts.load(Ordering::SeqCst), stops.load(Ordering::SeqCst)), (1, 0));
    assert_eq!(running.end(), ExitCode::SUCCESS);
    assert_eq!((starts.load(Ordering::SeqCst), stops.load(Ordering::SeqCst)), (1, 1));
}
