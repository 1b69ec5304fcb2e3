//! Many clients at once, and clients that are silent, are slow or hang up.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use process_open_sockets::extension::service::Limits;

use crate::support::served::{NUMBERS, Numbers, Served};
use crate::support::wire::{
    call, connect, exchange, hangs_up_within, ping, pong, response, rest, send, wait_for_answer,
    wait_for_hangup,
};

/// A context with the rowid only.
const ROWID_ONLY: &str = r#"{"constraints":[],"colsUsed":[]}"#;
/// A client that does not have to wait is served within this time, also on a busy host.
const AT_ONCE: Duration = Duration::from_secs(10);
/// A timeout in milliseconds that no test reaches.
const NEVER: u64 = 600_000;

fn generate(context: &str) -> Vec<u8> {
    call("table", NUMBERS, &[("action", "generate"), ("context", context)])
}

fn full_request() -> Vec<u8> {
    call("table", NUMBERS, &[("action", "generate")])
}

/// Starts clients that send a query each; each thread returns the answer.
fn start_clients(socket: &Path, clients: usize) -> Vec<JoinHandle<Vec<u8>>> {
    let client = |_| {
        let socket = socket.to_owned();
        thread::spawn(move || exchange(&socket, &generate(ROWID_ONLY)))
    };
    (0..clients).map(client).collect()
}

fn no_rows() -> Vec<u8> {
    response(0, "OK", &[])
}

fn pings_within(socket: &Path, time: Duration) -> bool {
    let start = Instant::now();
    assert_eq!(exchange(socket, &ping(1)), pong(1));
    start.elapsed() < time
}

/// Whether the other end closes the connection within that time, without further bytes.
fn is_closed_within(stream: &mut UnixStream, time: Duration) -> bool {
    stream.set_read_timeout(Some(time)).unwrap();
    matches!(stream.read(&mut [0]), Ok(0))
}

fn limits(request: u64, stall: u64, answer: u64) -> Limits {
    let [request, stall, answer] = [request, stall, answer].map(Duration::from_millis);
    Limits { request, stall, answer }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// The time that a ping takes.
fn time_of_ping(served: &Served) -> Duration {
    let start = Instant::now();
    assert_eq!(exchange(served.socket(), &ping(1)), pong(1));
    start.elapsed()
}

#[test]
fn a_ping_is_answered_while_300_000_rows_are_produced_and_sent() {
    static DONE: AtomicBool = AtomicBool::new(false);
    let served = Served::new(Numbers::new(300_000, 50));
    let idle = Served::new(Numbers::new(0, 0));
    let socket: PathBuf = served.socket().to_owned();
    let reader = thread::spawn(move || {
        let answer = exchange(&socket, &full_request());
        DONE.store(true, Ordering::SeqCst);
        answer.len()
    });
    let (mut busy_times, mut idle_times) = (Vec::new(), Vec::new());
    while !DONE.load(Ordering::SeqCst) {
        busy_times.push(time_of_ping(&served));
        idle_times.push(time_of_ping(&idle));
    }
    assert!(reader.join().unwrap() > 300_000 * 100);
    assert!(busy_times.len() >= 20, "{} pings are too few", busy_times.len());
    // An idle service shows how long a ping takes on this host, which may be busy.
    let (busy, idle) = (median(busy_times), median(idle_times));
    assert!(busy < Duration::from_millis(50).max(20 * idle), "{busy:?}, when idle {idle:?}");
}

#[test]
fn two_scan_at_once_and_all_are_answered() {
    let (table, gate) = Numbers::new(0, 0).behind_a_gate();
    let served = Served::new(table);
    let clients = start_clients(served.socket(), 8);
    gate.wait_for(2);
    served.wait_for_queries(8);
    gate.open();
    for client in clients {
        assert_eq!(client.join().unwrap(), no_rows());
    }
    assert_eq!(gate.most(), 2);
}

/// Runs a scenario with a service that has 32 queries, two of which scan until the end of the scenario.
fn with_32_queries(scenario: impl FnOnce(&Served)) {
    let (table, gate) = Numbers::new(0, 0).behind_a_gate();
    let served = Served::new(table);
    let clients = start_clients(served.socket(), 32);
    gate.wait_for(2);
    served.wait_for_queries(32);
    scenario(&served);
    gate.open();
    for client in clients {
        assert_eq!(client.join().unwrap(), no_rows());
    }
}

#[test]
fn the_33rd_query_is_refused_at_once() {
    with_32_queries(|served| {
        let expected = response(1, "32 queries already run or wait: try again later", &[]);
        assert_eq!(exchange(served.socket(), &generate(ROWID_ONLY)), expected);
    });
}

#[test]
fn columns_are_answered_at_once_while_queries_wait() {
    with_32_queries(|served| {
        let columns = call("table", NUMBERS, &[("action", "columns")]);
        let answer = exchange(served.socket(), &columns);
        let routes = [("number", "BIGINT"), ("text", "TEXT"), ("nothing", "INTEGER")];
        let routes = routes.map(|(name, kind)| {
            let pairs = [("id", "column"), ("name", name), ("op", "8"), ("type", kind)];
            crate::support::wire::map(&pairs)
        });
        assert_eq!(answer, response(0, "OK", &routes));
    });
}

#[test]
fn a_ping_is_answered_at_once_while_queries_wait() {
    with_32_queries(|served| assert!(pings_within(served.socket(), AT_ONCE)));
}

#[test]
fn an_unknown_action_is_refused_at_once_while_queries_wait() {
    with_32_queries(|served| {
        let reason = "unknown action 'x' of table numbers (available: columns, generate)";
        let request = call("table", NUMBERS, &[("action", "x")]);
        assert_eq!(exchange(served.socket(), &request), response(1, reason, &[]));
    });
}

#[test]
fn a_scan_that_panics_holds_no_permit() {
    let served = Served::new(Numbers::panicking());
    for _ in 0..40 {
        assert_eq!(exchange(served.socket(), &full_request()), b"");
    }
    assert!(pings_within(served.socket(), AT_ONCE));
}

#[test]
fn a_client_is_served_at_once_beside_64_silent_ones() {
    let served = Served::with_limits(Numbers::new(0, 0), limits(NEVER, NEVER, NEVER));
    let _silent: Vec<_> = (0..64).map(|_| connect(served.socket())).collect();
    let start = Instant::now();
    assert_eq!(exchange(served.socket(), &generate(ROWID_ONLY)), no_rows());
    assert!(start.elapsed() < AT_ONCE);
}

#[test]
fn the_oldest_silent_client_is_closed_for_a_new_one() {
    let served = Served::with_limits(Numbers::new(0, 0), limits(NEVER, NEVER, NEVER));
    let mut silent: Vec<_> = (0..64).map(|_| connect(served.socket())).collect();
    assert!(pings_within(served.socket(), AT_ONCE));
    assert!(is_closed_within(&mut silent[0], AT_ONCE));
    silent[1].write_all(&ping(2)).unwrap();
    silent[1].shutdown(Shutdown::Write).unwrap();
    assert_eq!(rest(silent.remove(1)), pong(2));
}

#[test]
fn a_client_with_a_waiting_query_is_not_closed_for_another() {
    let (table, gate) = Numbers::new(0, 0).behind_a_gate();
    let served = Served::new(table);
    let client = start_clients(served.socket(), 1).remove(0);
    gate.wait_for(1);
    let _silent: Vec<_> = (0..100).map(|_| connect(served.socket())).collect();
    assert!(pings_within(served.socket(), AT_ONCE));
    gate.open();
    assert_eq!(client.join().unwrap(), no_rows());
}

#[test]
fn a_silent_client_is_dropped_after_the_request_timeout() {
    let served = Served::with_limits(Numbers::new(0, 0), limits(300, NEVER, NEVER));
    let start = Instant::now();
    assert_eq!(rest(connect(served.socket())), b"");
    assert!((Duration::from_millis(290)..AT_ONCE).contains(&start.elapsed()));
}

#[test]
fn half_a_request_is_dropped_after_the_request_timeout() {
    let served = Served::with_limits(Numbers::new(0, 0), limits(300, NEVER, NEVER));
    let start = Instant::now();
    assert_eq!(rest(send(served.socket(), &ping(1)[..7])), b"");
    assert!((Duration::from_millis(290)..AT_ONCE).contains(&start.elapsed()));
}

#[test]
fn a_trickled_request_is_dropped_after_the_request_timeout() {
    let served = Served::with_limits(Numbers::new(0, 0), limits(300, NEVER, NEVER));
    let mut stream = connect(served.socket());
    let start = Instant::now();
    // At one byte every 50 ms the request takes 0.85 s.
    let all = ping(1).iter().all(|byte| {
        !hangs_up_within(&stream, Duration::from_millis(50)) && stream.write_all(&[*byte]).is_ok()
    });
    assert!(!all, "it was read for {:?}", start.elapsed());
}

#[test]
fn a_client_that_does_not_read_is_dropped_after_stall_timeout() {
    let served = Served::with_limits(Numbers::new(20_000, 500), limits(NEVER, 300, NEVER));
    let stream = send(served.socket(), &full_request());
    wait_for_answer(&stream);
    assert!(pings_within(served.socket(), AT_ONCE));
    wait_for_hangup(&stream);
    let received = rest(stream).len();
    assert!(received < 20_000 * 500, "the whole answer arrived: {received} bytes");
}

#[test]
fn clients_that_do_not_read_their_answers_leave_room_for_pings() {
    let served = Served::new(Numbers::new(20_000, 500));
    let unread: Vec<_> = (0..70).map(|_| send(served.socket(), &full_request())).collect();
    // The answer begins, or the extension has closed the connection.
    unread.iter().for_each(wait_for_answer);
    for _ in 0..5 {
        assert!(pings_within(served.socket(), AT_ONCE));
    }
    drop(unread);
}

#[test]
fn a_slow_reader_is_dropped_after_the_answer_timeout() {
    let served = Served::with_limits(Numbers::new(20_000, 500), limits(NEVER, NEVER, 500));
    let mut stream = send(served.socket(), &full_request());
    let start = Instant::now();
    let mut received = 0;
    // The whole answer takes 50 s.
    while !hangs_up_within(&stream, Duration::from_millis(20)) {
        match stream.read(&mut [0; 4096]) {
            Ok(0) | Err(_) => break,
            Ok(bytes) => received += bytes,
        }
    }
    assert!(received < 20_000 * 500, "the whole answer arrived: {received} bytes");
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}

#[test]
fn queries_are_answered_after_clients_hang_up_during_answers() {
    let served = Served::new(Numbers::new(2000, 1000));
    for _ in 0..100 {
        let mut stream = send(served.socket(), &full_request());
        stream.read_exact(&mut [0; 100]).unwrap();
    }
    let answer = exchange(served.socket(), &full_request());
    assert!(answer.len() > 2000 * 1000);
}

#[test]
fn queries_are_answered_after_waiting_clients_hang_up() {
    let (table, gate) = Numbers::new(0, 0).behind_a_gate();
    let served = Served::new(table);
    // Together with the 8 clients below there are 32, the maximum.
    for _ in 0..24 {
        send(served.socket(), &generate(ROWID_ONLY)).shutdown(Shutdown::Both).unwrap();
    }
    gate.wait_for(2);
    gate.open();
    for answer in start_clients(served.socket(), 8) {
        assert_eq!(answer.join().unwrap(), no_rows());
    }
}
