//! The table, with records of a test in place of the kernel's.

mod counting;

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use proptest::prelude::*;

use super::closed_sockets::UsedSockets;
use super::drain::Drain;
use super::feed::{Feed, Opened, Program};
use super::records::{SECOND, actor, by, change, connection, executable, open};
use super::test_slots::TestSlots;
use super::*;
use crate::linux::clock::Clocks;
use crate::model::tcp_event::{EventRecord, Losses, OpenSocket};
use crate::model::{DatagramBytes, DatagramSlots, TcpState};
use crate::{Constraint, EventMode, Operator, Value};

/// What a test has put into the ring buffer.
#[derive(Default)]
struct Ring {
    state: Mutex<InRing>,
    changed: Condvar,
    starts: AtomicUsize,
    /// The slots of the next source.
    slots: Mutex<Option<TestSlots>>,
}

#[derive(Default)]
struct InRing {
    records: Vec<EventRecord>,
    losses: Losses,
    is_woken: bool,
    /// Whether the thread waits without a limit.
    is_waiting: bool,
    /// Whether the counting programs, once begun, are still being loaded.
    is_loading: bool,
    loads: usize,
    /// Whether lists of the sockets that exist, once begun, are still being made.
    is_listing: bool,
    lists: usize,
    /// Why the next drain fails.
    failure: Option<String>,
}

/// The longest wait of a test.
const LONG: Duration = Duration::from_secs(60);

struct TestFeed {
    ring: Arc<Ring>,
    slots: Option<TestSlots>,
}

impl Feed for TestFeed {
    fn drain(
        &mut self,
        timeout: Duration,
        each: &mut dyn FnMut(EventRecord),
    ) -> Result<(), String> {
        let mut state = self.ring.state.lock().unwrap();
        state.is_waiting = timeout > LONG;
        self.ring.changed.notify_all();
        let waited = self.ring.changed.wait_timeout_while(state, timeout, |it| !it.is_woken);
        let mut state = waited.unwrap().0;
        state.is_woken = false;
        std::mem::take(&mut state.records).into_iter().for_each(each);
        state.failure.take().map_or(Ok(()), Err)
    }

    fn losses(&self) -> Losses {
        self.ring.state.lock().unwrap().losses
    }

    fn memory(&self) -> u64 {
        4_096
    }

    fn programs(&self) -> Vec<Program> {
        vec![("a", Ok(())), ("b", Err("refused".to_owned()))]
    }

    fn begin_counting(&mut self) {
        self.ring.state.lock().unwrap().loads += 1;
        self.ring.changed.notify_all();
    }

    fn has_loaded_counting(&mut self) -> bool {
        !self.ring.state.lock().unwrap().is_loading
    }

    fn slots(&self) -> Option<&dyn DatagramSlots> {
        self.slots.as_ref().map(|slots| slots as &dyn DatagramSlots)
    }

    fn used_sockets(&self) -> Option<Arc<dyn UsedSockets>> {
        self.slots.as_ref().map(|_| Arc::clone(&self.ring) as Arc<dyn UsedSockets>)
    }
}

impl UsedSockets for Ring {
    fn bytes(&self) -> Result<Option<DatagramBytes>, String> {
        Ok(None)
    }

    /// None, as soon as the test allows it.
    fn live(&self, _: &HashSet<u64>) -> Result<HashSet<u64>, String> {
        self.state.lock().unwrap().lists += 1;
        self.changed.notify_all();
        self.wait_until(|it| !it.is_listing);
        Ok(HashSet::new())
    }
}

impl Ring {
    fn put(&self, records: impl IntoIterator<Item = EventRecord>) {
        self.state.lock().unwrap().records.extend(records);
    }

    /// Changes it, and ends the wait of the thread.
    fn wake_with(&self, change: impl FnOnce(&mut InRing)) {
        let mut state = self.state.lock().unwrap();
        change(&mut state);
        state.is_woken = true;
        self.changed.notify_all();
    }

    fn wait_until(&self, is_met: impl Fn(&InRing) -> bool) {
        let state = self.state.lock().unwrap();
        let waited = self.changed.wait_timeout_while(state, LONG, |it| !is_met(it));
        assert!(!waited.unwrap().1.timed_out());
    }

    /// Opens the source; the sockets are open already.
    fn open(self: &Arc<Self>, open_sockets: Vec<OpenSocket>) -> super::collection::Open {
        let ring = Arc::clone(self);
        Box::new(move || {
            ring.starts.fetch_add(1, Ordering::SeqCst);
            let waker = Arc::clone(&ring);
            let wake = move || waker.wake_with(|_| ());
            Ok(Opened {
                feed: Box::new(TestFeed {
                    ring: Arc::clone(&ring),
                    slots: ring.slots.lock().unwrap().take(),
                }),
                wake: Arc::new(wake),
                open_sockets: open_sockets.clone(),
                list_sockets: None,
            })
        })
    }
}

fn options(mode: EventMode) -> Options {
    Options { events: mode, ..Options::default() }
}

fn table_of(options: &Options, ring: &Arc<Ring>) -> ProcessSocketEvents {
    let collection = Collection::new(Settings::new(options), ring.open(Vec::new()));
    ProcessSocketEvents::of(Arc::new(collection))
}

/// A table whose collection runs.
fn running() -> (ProcessSocketEvents, Arc<Ring>) {
    let ring = Arc::<Ring>::default();
    let table = table_of(&options(EventMode::On), &ring);
    table.start().unwrap();
    (table, ring)
}

fn constraint(field: Field, operator: Operator, text: impl ToString) -> Constraint {
    Constraint { column: field as usize, operator, text: text.to_string() }
}

fn query(table: &ProcessSocketEvents, constraints: Vec<Constraint>) -> Box<dyn Rows> {
    table.generate(&QueryContext { constraints, ..QueryContext::default() }).unwrap()
}

fn all(table: &ProcessSocketEvents) -> Box<dyn Rows> {
    query(table, Vec::new())
}

fn cell(rows: &dyn Rows, row: usize, field: Field) -> String {
    match rows.cell(row, field as usize) {
        Value::Null => "NULL".to_owned(),
        Value::Integer(number) => number.to_string(),
        Value::Text(text) => text.into_owned(),
    }
}

fn cells(rows: &dyn Rows, field: Field) -> Vec<String> {
    (0..rows.len()).map(|row| cell(rows, row, field)).collect()
}

/// Every cell of every row.
fn everything(rows: &dyn Rows) -> Vec<Vec<String>> {
    let row = |row| Field::ALL.map(|field| cell(rows, row, field)).into();
    (0..rows.len()).map(row).collect()
}

fn statistic(table: &ProcessSocketEvents, kind: &str) -> Vec<(String, String)> {
    let rows = table.statistics().generate(&QueryContext::default()).unwrap();
    let text = |row, column| match rows.cell(row, column) {
        Value::Null => "NULL".to_owned(),
        Value::Integer(number) => number.to_string(),
        Value::Text(text) => text.into_owned(),
    };
    let of_kind = (0..rows.len()).filter(|row| text(*row, 0) == kind);
    of_kind.map(|row| (text(row, 1), text(row, 2))).collect()
}

fn value(table: &ProcessSocketEvents, kind: &str) -> String {
    let [(value, _)] = &statistic(table, kind)[..] else { panic!("not one {kind}") };
    value.clone()
}

fn now() -> u64 {
    Clocks::now().boot_ns
}

#[test]
fn a_query_sees_what_happened_before_it() {
    let (table, ring) = running();
    let at = now() - SECOND;
    ring.put([executable(7, "/usr/bin/curl")]);
    ring.put(connection(1, actor(7, 1000), at));
    let rows = all(&table);
    let shown = |row| {
        use Field::*;
        [Action, Status, Errno, Pid, Parent, Uid, ProcessName, ProcessPath, Fd, Socket]
            .map(|field| cell(&*rows, row, field))
            .join("|")
    };
    assert_eq!(rows.len(), 2);
    assert_eq!(shown(0), "connect|succeeded||7|1|1000|test|/usr/bin/curl|3|1001");
    assert_eq!(shown(1), "close|succeeded||7|1|1000|test|/usr/bin/curl|3|1001");
    let more = |row| {
        use Field::*;
        [LocalAddress, LocalPort, RemoteAddress, RemotePort, NetNamespace, Family, Type, Protocol]
            .map(|field| cell(&*rows, row, field))
            .join("|")
    };
    assert_eq!(more(1), "127.0.0.1|40000|127.0.0.1|80|4026531840|2|1|6");
    let end = |row| {
        use Field::*;
        [DurationNs, BytesSent, BytesReceived, ClosedBy, Tid, SocketCookie, Attribution, Success]
            .map(|field| cell(&*rows, row, field))
            .join("|")
    };
    assert_eq!(end(0), "100000|NULL|NULL||7|1|exact|1");
    assert_eq!(end(1), "1000000|10|20|local|7|1|exact|1");
    assert_eq!(cell(&*rows, 0, Field::Ntime), (at + 100_000).to_string());
    assert_eq!(cell(&*rows, 0, Field::Uptime), ((at + 100_000) / SECOND).to_string());
}

#[test]
fn reading_takes_nothing_away_and_changes_nothing() {
    let (table, ring) = running();
    ring.put(connection(1, actor(7, 1000), now()));
    let first = everything(&*all(&table));
    // The executable and another event of the process arrive late.
    ring.put([executable(7, "/usr/bin/curl")]);
    ring.put(connection(2, actor(7, 1000), now()));
    let second = everything(&*all(&table));
    assert_eq!((first.len(), second.len()), (2, 4));
    assert_eq!(first, second[..2]);
    assert_eq!(everything(&*all(&table)), second);
}

#[test]
fn the_time_of_an_event_that_a_query_missed_is_that_query() {
    let (table, ring) = running();
    assert_eq!(all(&table).len(), 0);
    let clocks = Clocks::now();
    // Long ago, however short the host runs.
    let early = now() - (100 * SECOND).min(now() / 2);
    ring.put(connection(1, actor(7, 1000), early));
    let rows = all(&table);
    let time: i64 = cell(&*rows, 0, Field::Time).parse().unwrap();
    assert!(time >= clocks.unix_seconds(clocks.boot_ns) - 1, "{time}");
    assert!(cell(&*rows, 0, Field::Ntime).parse::<u64>().unwrap() < early + SECOND);
}

#[test]
fn on_demand_the_first_query_starts_and_is_empty() {
    let ring = Arc::<Ring>::default();
    let table = table_of(&options(EventMode::OnDemand), &ring);
    table.start().unwrap();
    ring.put(connection(1, actor(7, 1000), now()));
    assert_eq!(value(&table, "running"), "0");
    assert_eq!(ring.starts.load(Ordering::SeqCst), 0);
    assert_eq!(all(&table).len(), 0);
    assert_eq!(ring.starts.load(Ordering::SeqCst), 1);
    assert_eq!(value(&table, "running"), "1");
    assert_eq!(all(&table).len(), 2);
    assert_eq!(ring.starts.load(Ordering::SeqCst), 1);
}

#[test]
fn an_idle_collection_ends_and_the_next_query_starts_again() {
    let ring = Arc::<Ring>::default();
    let idle = Duration::from_millis(300);
    let on_demand = Options { events_idle: idle, ..options(EventMode::OnDemand) };
    let table = table_of(&on_demand, &ring);
    all(&table);
    ring.put(connection(1, actor(7, 1000), now()));
    let first = everything(&*all(&table));
    let end = std::time::Instant::now() + Duration::from_secs(60);
    while value(&table, "running") == "1" {
        assert!(std::time::Instant::now() < end, "it does not end");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(value(&table, "stored"), "0");
    assert_eq!(all(&table).len(), 0);
    assert_eq!(ring.starts.load(Ordering::SeqCst), 2);
    ring.put(connection(1, actor(7, 1000), now()));
    let second = everything(&*all(&table));
    let id = |rows: &[Vec<String>]| rows[0].last().unwrap().parse::<u64>().unwrap();
    assert!(id(&second) > id(&first), "ids grow");
}

#[test]
fn a_collection_that_is_forbidden_never_starts() {
    let ring = Arc::<Ring>::default();
    let forbidden = [
        (options(EventMode::Off), "--events off"),
        (Options { bpf_from_files: None, ..options(EventMode::On) }, "--no-bpf"),
        (options(EventMode::On).for_one_query(), "use the subcommand 'events'"),
    ];
    for (options, reason) in forbidden {
        let table = table_of(&options, &ring);
        table.start().unwrap();
        assert_eq!(all(&table).len(), 0);
        let [(running, detail)] = &statistic(&table, "running")[..] else { panic!() };
        assert!(running == "0" && detail.contains(reason), "{detail}");
    }
    assert_eq!(ring.starts.load(Ordering::SeqCst), 0);
}

#[test]
fn a_failed_start_is_in_the_statistics_and_not_repeated_at_once() {
    let attempts = Arc::new(AtomicUsize::new(0));
    let open: super::collection::Open = {
        let attempts = Arc::clone(&attempts);
        Box::new(move || {
            attempts.fetch_add(1, Ordering::SeqCst);
            Err("no BTF".to_owned())
        })
    };
    let collection = Collection::new(Settings::new(&options(EventMode::OnDemand)), open);
    let table = ProcessSocketEvents::of(Arc::new(collection));
    assert_eq!((all(&table).len(), all(&table).len()), (0, 0));
    assert_eq!(attempts.load(Ordering::SeqCst), 1);
    assert_eq!(statistic(&table, "running"), [("0".to_owned(), "no BTF".to_owned())]);
}

#[test]
fn the_statistics_count_what_was_lost() {
    let (table, ring) = running();
    ring.put(connection(1, actor(7, 1000), now()));
    ring.state.lock().unwrap().losses = Losses {
        ring_events: 3,
        ring_executables: 2,
        ring_datagrams: 5,
        skipped: 1,
        skipped_states: 0,
        uncounted_messages: 6,
        uncounted_bytes: 7,
    };
    let values = [
        "captured",
        "events",
        "stored",
        "lost_events",
        "lost_datagrams",
        "lost_executables",
        "skipped",
        "uncounted_datagrams",
        "uncounted_bytes",
    ]
    .map(|kind| value(&table, kind));
    assert_eq!(values, ["4", "2", "2", "3", "5", "2", "1", "6", "7"]);
    assert_eq!(
        statistic(&table, "program"),
        [("1".to_owned(), "a".to_owned()), ("0".to_owned(), "b: refused".to_owned())]
    );
    assert_eq!(value(&table, "memory_kernel"), "4096");
}

#[test]
fn a_failure_of_the_ring_buffer_ends_it_with_its_reason() {
    let (table, ring) = running();
    ring.state.lock().unwrap().failure = Some("damaged".to_owned());
    all(&table);
    assert_eq!(statistic(&table, "running"), [("0".to_owned(), "damaged".to_owned())]);
}

#[test]
fn sockets_that_were_open_already_name_their_listener() {
    let ring = Arc::<Ring>::default();
    let collection = Collection::new(
        Settings::new(&options(EventMode::On)),
        ring.open(vec![open(1, 7, TcpState::Listen)]),
    );
    let table = ProcessSocketEvents::of(Arc::new(collection));
    table.start().unwrap();
    let accepted = change(2, TcpState::SynRecv, TcpState::Established, now());
    let local = super::records::end("127.0.0.1", 80);
    ring.put([EventRecord::State(crate::model::tcp_event::StateChange { local, ..accepted })]);
    let rows = all(&table);
    assert_eq!(cells(&*rows, Field::Pid), ["7"]);
    assert_eq!(cells(&*rows, Field::Attribution), ["listener"]);
    assert_eq!(cells(&*rows, Field::Uid), ["NULL"]);
}

#[test]
fn a_flood_of_one_user_leaves_the_events_of_another() {
    let ring = Arc::<Ring>::default();
    let table = table_of(&Options { events_max: 1_000, ..options(EventMode::On) }, &ring);
    table.start().unwrap();
    for cookie in 0..50 {
        ring.put(connection(cookie, actor(7, 1000), now()));
    }
    for cookie in 1_000..21_000 {
        ring.put(connection(cookie, actor(8, 2000), now()));
    }
    let rows = all(&table);
    let uids = cells(&*rows, Field::Uid);
    assert_eq!(uids.iter().filter(|uid| *uid == "1000").count(), 100);
    assert_eq!(rows.len(), 1_000);
    assert_eq!(value(&table, "captured"), (20_050 * 4).to_string());
    let evicted = ["evicted_user", "evicted_number"].map(|kind| value(&table, kind));
    let evicted: u64 = evicted.iter().map(|value| value.parse::<u64>().unwrap()).sum();
    assert_eq!(evicted, 2 * 20_050 - 1_000);
    let of_users = statistic(&table, "evicted_of_user");
    assert!(of_users.iter().all(|(_, user)| user == "uid 2000"), "{of_users:?}");
}

#[test]
fn rows_that_osquery_does_not_accept_are_the_oldest_of_the_user() {
    let (table, ring) = running();
    for cookie in 0..5 {
        ring.put(connection(cookie, actor(7, 1000), now()));
    }
    let mut rows = all(&table);
    let users = rows.users().unwrap();
    let kept: Vec<usize> = {
        let mut order: Vec<usize> = (0..rows.len()).collect();
        order.sort_by_key(|row| users[*row].order);
        order.truncate(3);
        order
    };
    let expected: Vec<i64> = (7..10).map(|row| rows.id(row)).collect();
    let omitted: Vec<bool> = (0..rows.len()).map(|row| !kept.contains(&row)).collect();
    rows.omit(&omitted);
    assert_eq!((0..rows.len()).map(|row| rows.id(row)).collect::<Vec<_>>(), expected);
    assert_eq!(rows.omitted(), [(crate::User::of_uid(Some(1000)), 7)]);
}

/// A store of events of several processes, with times around a step of the clock.
fn mixed_events() -> (ProcessSocketEvents, Arc<Ring>) {
    let (table, ring) = running();
    let start = now() - 40 * SECOND;
    for number in 0..40 {
        let process = actor(i32::try_from(number % 5).unwrap(), 1000);
        ring.put(connection(number, process, start + number * SECOND / 2));
        let refused = by(process, change(100 + number, TcpState::Closed, TcpState::SynSent, start));
        ring.put([EventRecord::State(refused)]);
    }
    (table, ring)
}

#[test]
fn constraints_never_change_the_answer() {
    use Field::*;
    let (table, _ring) = mixed_events();
    let everything = all(&table);
    let times = cells(&*everything, Time);
    let middle: i64 = times[times.len() / 2].parse().unwrap();
    let operators = [
        Operator::Equals,
        Operator::GreaterThan,
        Operator::LessThanOrEquals,
        Operator::LessThan,
        Operator::GreaterThanOrEquals,
        Operator::NotEquals,
    ];
    let values =
        [(Time, middle), (Pid, 3), (LocalPort, 40_000), (RemotePort, 80), (SocketCookie, 7)];
    for operator in operators {
        for (field, value) in values {
            let keeps = |text: &String| {
                let Ok(number) = text.parse::<i64>() else { return false };
                match operator {
                    Operator::Equals => number == value,
                    Operator::GreaterThan => number > value,
                    Operator::LessThanOrEquals => number <= value,
                    Operator::LessThan => number < value,
                    Operator::GreaterThanOrEquals => number >= value,
                    _ => number != value,
                }
            };
            let rows = query(&table, vec![constraint(field, operator, value)]);
            let expected = cells(&*everything, field).iter().filter(|text| keeps(text)).count();
            assert_eq!(rows.len(), expected, "{field:?} {operator:?} {value}");
            assert!(cells(&*rows, field).iter().all(keeps));
        }
    }
    let rows = query(&table, vec![constraint(Action, Operator::Equals, "CLOSE ")]);
    assert_eq!(rows.len(), 40);
    // The LIMIT of a query is a constraint on the first column.
    let limit = Operator::from_code(Operator::LIMIT);
    assert_eq!(query(&table, vec![constraint(Time, limit, 5)]).len(), everything.len());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_event_is_lost_that_sql_would_keep(
        constraints in prop::collection::vec(
            (prop::sample::select(vec![Field::Time, Field::Pid, Field::RemotePort, Field::SocketCookie]),
             0..80u8, -3..60i64), 0..4),
    ) {
        // One table for all cases.
        static TABLE: std::sync::LazyLock<(ProcessSocketEvents, Arc<Ring>)> =
            std::sync::LazyLock::new(mixed_events);
        let (table, _) = &*TABLE;
        let everything = all(table);
        let first: i64 = cell(&*everything, 0, Field::Time).parse().unwrap();
        let constraints: Vec<Constraint> = constraints
            .into_iter()
            .map(|(field, code, value)| {
                let value = if field == Field::Time { first + value } else { value };
                constraint(field, Operator::from_code(code), value)
            })
            .collect();
        let rows = query(table, constraints.clone());
        let found: Vec<i64> = (0..rows.len()).map(|row| rows.id(row)).collect();
        for row in 0..everything.len() {
            let kept = constraints.iter().all(|it| {
                let value: i64 = it.text.parse().unwrap();
                let cell = everything.cell(row, it.column);
                let Value::Integer(number) = cell else { return false };
                match it.operator {
                    Operator::Equals | Operator::Is => number == value,
                    Operator::NotEquals | Operator::IsNot => number != value,
                    Operator::GreaterThan => number > value,
                    Operator::GreaterThanOrEquals => number >= value,
                    Operator::LessThan => number < value,
                    Operator::LessThanOrEquals => number <= value,
                    Operator::Other(_) => true,
                }
            });
            prop_assert!(!kept || found.contains(&everything.id(row)));
        }
        prop_assert!(found.is_sorted());
    }
}

#[test]
fn the_default_number_of_events_costs_osquery_50_mb() {
    let shown = Field::ALL.map(Field::column);
    let shown = shown.iter().filter(|it| !it.options.contains(crate::ColumnOptions::HIDDEN));
    // Measured with osquery 5.23: 1.3 KB for a row of 12 columns.
    let bytes_of_a_row = 1_300 * shown.count() / 12;
    let default = Options::default().events_max;
    assert!(default * bytes_of_a_row <= 50_000_000);
    assert!((default + 1_000) * bytes_of_a_row > 50_000_000);
}

#[test]
fn the_columns_are_those_of_the_specification() {
    let specification = include_str!("../../process_socket_events.table");
    let lines = specification.lines().map(str::trim);
    let stated = lines.filter_map(|line| line.strip_prefix("Column(\"")).map(|column| {
        let (name, rest) = column.split_once("\", ").unwrap();
        let (kind, rest) = rest.split_once(", \"").unwrap();
        let (_, flags) = rest.rsplit_once("\", ").unwrap();
        let has = |flag| flags.contains(flag);
        (name, kind, has("additional=True"), has("optimized=True"), has("hidden=True"))
    });
    let coded = Field::ALL.map(Field::column);
    let coded = coded.iter().map(|column| {
        let has = |option| column.options.contains(option);
        let kind = column.kind.name();
        use crate::ColumnOptions as Options;
        (column.name, kind, has(Options::ADDITIONAL), has(Options::OPTIMIZED), has(Options::HIDDEN))
    });
    assert_eq!(coded.collect::<Vec<_>>(), stated.collect::<Vec<_>>());
}
