//! The service under clients of every kind: honest, hostile, slow, silent and gone.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use process_open_sockets::extension::Event;
use process_open_sockets::extension::requests::Requests;
use process_open_sockets::extension::service::{CONNECTIONS, Limits, Listening, Service};
use process_open_sockets::extension::turns::{QUERIES, SCANS};
use support::remote;
use support::synthetic::{NAME, Served, Synthetic};

/// A client that takes longer than this is dropped.
const SHORT: Duration = Duration::from_millis(300);
/// Longer than anything here should take.
const PATIENCE: Duration = Duration::from_secs(20);

fn serve(rows: usize) -> Served {
    let limits = Limits { request: SHORT, stall: SHORT, ..Limits::default() };
    Served::new(Synthetic::new(rows, "x"), limits)
}

fn connect(socket: &Path) -> UnixStream {
    let stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Sends these bytes, and gives all that comes back until the service closes.
fn exchange(socket: &Path, request: &[u8]) -> Vec<u8> {
    let mut stream = connect(socket);
    // It may close before all is sent.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Err(error) if error.kind() != ErrorKind::ConnectionReset => panic!("not closed: {error}"),
        _ => answer,
    }
}

fn generate(context: &str) -> BTreeMap<String, String> {
    request("generate", context)
}

fn request(action: &str, context: &str) -> BTreeMap<String, String> {
    [("action", action), ("context", context)].map(|(k, v)| (k.into(), v.into())).into()
}

fn map(cells: &[(&str, &str)]) -> BTreeMap<String, String> {
    cells.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
}

const PING: &[u8] = &[
    0x80, 0x01, 0x00, 0x01, // version 1, call
    0x00, 0x00, 0x00, 0x04, b'p', b'i', b'n', b'g', // method
    0x00, 0x00, 0x00, 0x07, // request 7
    0x00, // no arguments
];

const PONG: &[u8] = &[
    0x80, 0x01, 0x00, 0x02, // version 1, reply
    0x00, 0x00, 0x00, 0x04, b'p', b'i', b'n', b'g', // method
    0x00, 0x00, 0x00, 0x07, // to request 7
    0x0c, 0x00, 0x00, // result: a struct
    0x08, 0x00, 0x01, 0x00, 0x00, 0x00, 0x00, // code: 0
    0x0b, 0x00, 0x02, 0x00, 0x00, 0x00, 0x02, b'O', b'K', // message
    0x00, // the status ends
    0x00, // the reply ends
];

/// The beginning of a `call`, up to where its arguments come.
const CALL: &[u8] = &[
    0x80, 0x01, 0x00, 0x01, // version 1, call
    0x00, 0x00, 0x00, 0x04, b'c', b'a', b'l', b'l', // method
    0x00, 0x00, 0x00, 0x01, // request 1
];

#[test]
fn a_ping_is_answered_byte_by_byte_as_thrift_has_it_and_again_on_the_same_connection() {
    let served = serve(0);
    let mut stream = connect(served.socket());
    for _ in 0..3 {
        stream.write_all(PING).unwrap();
        let mut answer = vec![0; PONG.len()];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer, PONG);
    }
}

#[test]
fn a_method_that_there_is_not_is_an_exception_and_the_connection_goes_on() {
    let served = serve(0);
    let mut stream = connect(served.socket());
    stream.write_all(b"\x80\x01\x00\x01\x00\x00\x00\x03fly\x00\x00\x00\x09\x00").unwrap();
    let mut answer = [0; 19 + 7];
    stream.read_exact(&mut answer).unwrap();
    // Version 1, exception; method; to request 9; message: a text of 52 bytes.
    assert_eq!(answer[..15], *b"\x80\x01\x00\x03\x00\x00\x00\x03fly\x00\x00\x00\x09");
    assert_eq!(answer[15..22], *b"\x0b\x00\x01\x00\x00\x00\x34");
    let mut rest = [0; 52 - 4 + 7 + 1];
    stream.read_exact(&mut rest).unwrap();
    // Type 1: an unknown method.
    assert_eq!(rest[48..], *b"\x08\x00\x02\x00\x00\x00\x01\x00");
    stream.write_all(PING).unwrap();
    let mut answer = vec![0; PONG.len()];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer, PONG);
}

#[test]
fn what_is_no_request_closes_the_connection_and_the_next_one_is_served() {
    let served = serve(0);
    let with_arguments = |arguments: &[u8]| [CALL, arguments].concat();
    let nested = |depth: usize| with_arguments(&b"\x0c\x00\x04".repeat(depth));
    let nonsense: Vec<(&str, Vec<u8>)> = vec![
        ("garbage", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        ("zeroes", vec![0; 4096]),
        ("another version", b"\x80\x02\x00\x01".to_vec()),
        ("a reply", b"\x80\x01\x00\x02\x00\x00\x00\x04ping\x00\x00\x00\x07\x00".to_vec()),
        ("a message type of none", b"\x80\x01\x00\x09\x00\x00\x00\x04ping\x00".to_vec()),
        ("a method of 2 GB", b"\x80\x01\x00\x01\x7f\xff\xff\xffping".to_vec()),
        ("a method of negative length", b"\x80\x01\x00\x01\xff\xff\xff\xffping".to_vec()),
        ("an argument of 2 GB", with_arguments(b"\x0b\x00\x01\x7f\xff\xff\xffx")),
        ("an argument of negative length", with_arguments(b"\x0b\x00\x01\x80\x00\x00\x00x")),
        ("an argument of no type", with_arguments(b"\x63\x00\x01")),
        ("a map of 2 billion", with_arguments(b"\x0d\x00\x03\x0b\x0b\x7f\xff\xff\xff")),
        ("a map of negative size", with_arguments(b"\x0d\x00\x03\x0b\x0b\xff\xff\xff\xff")),
        ("a map of numbers", with_arguments(b"\x0d\x00\x03\x08\x08\x00\x00\x00\x01")),
        ("an unknown list of 2 billion", with_arguments(b"\x0f\x00\x09\x02\x7f\xff\xff\xff")),
        ("nested structs", nested(100_000)),
        (
            "nested lists",
            with_arguments(
                &[&b"\x0f\x00\x09"[..], &b"\x0f\x00\x00\x00\x01".repeat(100_000)].concat(),
            ),
        ),
    ];
    for (what, bytes) in nonsense {
        assert_eq!(exchange(served.socket(), &bytes), b"", "{what}");
        remote::ping(served.socket()).unwrap_or_else(|error| panic!("after {what}: {error}"));
    }
}

#[test]
fn half_a_message_is_waited_for_and_then_dropped() {
    let served = serve(0);
    for length in 0..PING.len() {
        let start = Instant::now();
        let stream = connect(served.socket());
        (&stream).write_all(&PING[..length]).unwrap();
        if length % 6 == 0 {
            assert_eq!((&stream).read(&mut [0]).unwrap(), 0, "{length}");
            assert!(start.elapsed() >= SHORT, "{length}");
        } else {
            // Hangs up.
            drop(stream);
        }
        remote::ping(served.socket()).unwrap();
    }
}

#[test]
fn arguments_of_other_types_and_numbers_are_passed_over() {
    let served = serve(1);
    let arguments = [
        &b"\x08\x00\x01\x00\x00\x00\x01"[..], // 1: a number where a text should be
        b"\x0f\x00\x09\x0b\x00\x00\x00\x01\x00\x00\x00\x01x", // 9: a list
        b"\x0b\x00\x02\x00\x00\x00\x01y",     // 2: item
        b"\x00",
    ];
    let mut stream = connect(served.socket());
    stream.write_all(&[CALL, &arguments.concat()].concat()).unwrap();
    let mut answer = [0; 400];
    let length = stream.read(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer[..length]).into_owned();
    assert!(answer.contains("there is no registry '' here, but table"), "{answer}");
}

#[test]
fn text_that_is_not_utf8_is_read_all_the_same() {
    let served = serve(1);
    let arguments = b"\x0b\x00\x01\x00\x00\x00\x05table\x0b\x00\x02\x00\x00\x00\x02\xff\xfe\x00";
    let mut stream = connect(served.socket());
    stream.write_all(&[CALL, arguments].concat()).unwrap();
    let mut answer = [0; 400];
    let length = stream.read(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer[..length]).into_owned();
    assert!(
        answer.contains("there is no table '\u{fffd}\u{fffd}' here, but synthetic"),
        "{answer}"
    );
}

#[test]
fn an_item_or_action_that_there_is_not_fails_the_query_with_a_message() {
    let served = serve(1);
    assert_eq!(
        remote::call(served.socket(), "other", generate("{}")).unwrap_err(),
        "there is no table 'other' here, but synthetic"
    );
    assert_eq!(
        remote::call(served.socket(), NAME, request("insert", "{}")).unwrap_err(),
        "the table synthetic has no action 'insert', but generate and columns"
    );
    assert_eq!(
        remote::call(served.socket(), NAME, map(&[])).unwrap_err(),
        "the table synthetic has no action '', but generate and columns"
    );
}

#[test]
fn only_the_columns_that_are_used_are_sent_and_the_row_s_number() {
    let served = serve(1);
    let all = [map(&[("number", "0"), ("text", "x"), ("rowid", "0")])];
    let answer = |context| remote::call(served.socket(), NAME, generate(context)).unwrap();
    assert_eq!(answer("{}"), all);
    assert_eq!(answer(r#"{"colsUsed":[]}"#), [map(&[("rowid", "0")])]);
    assert_eq!(answer(r#"{"colsUsed":["text"]}"#), [map(&[("text", "x"), ("rowid", "0")])]);
    assert_eq!(answer("no JSON"), all);
    assert_eq!(remote::call(served.socket(), NAME, map(&[("action", "generate")])).unwrap(), all);
}

#[test]
fn columns_and_pings_do_not_wait_for_scans() {
    let served = serve(1);
    served.table.hold(true);
    let socket = served.socket();
    thread::scope(|scope| {
        for _ in 0..SCANS + 3 {
            scope.spawn(move || remote::call(socket, NAME, generate("{}")).unwrap());
        }
        served.table.wait_until_running(SCANS);
        let start = Instant::now();
        let columns = remote::call(served.socket(), NAME, request("columns", "")).unwrap();
        remote::ping(served.socket()).unwrap();
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
        let route =
            |name, kind| map(&[("id", "column"), ("name", name), ("type", kind), ("op", "4")]);
        assert_eq!(columns, [route("number", "BIGINT"), route("text", "TEXT")]);
        served.table.hold(false);
    });
    assert_eq!(served.table.most(), SCANS);
}

#[test]
fn a_query_too_many_is_refused_and_the_others_are_answered() {
    let served = serve(1);
    served.table.hold(true);
    let socket = served.socket();
    thread::scope(|scope| {
        let call = move || remote::call(socket, NAME, generate("{}"));
        let waiting: Vec<_> = (0..QUERIES).map(|_| scope.spawn(call)).collect();
        served.table.wait_until_running(SCANS);
        let start = Instant::now();
        // The last of them may not have arrived yet.
        let refusal = loop {
            let one_more = scope.spawn(call);
            thread::sleep(Duration::from_millis(100));
            if one_more.is_finished() {
                break one_more.join().unwrap();
            }
            assert!(start.elapsed() < PATIENCE);
        };
        let message = "32 queries of this table wait already: try again later";
        assert_eq!(refusal.unwrap_err(), message);
        served.table.hold(false);
        for answer in waiting {
            let answer = answer.join().unwrap();
            assert!(answer.as_ref().map_or_else(|error| error == message, |rows| rows.len() == 1));
        }
    });
    remote::call(served.socket(), NAME, generate("{}")).unwrap();
    assert_eq!(served.table.most(), SCANS);
}

#[test]
fn silent_clients_hold_nobody_up_and_the_oldest_makes_room() {
    let limits = Limits { request: PATIENCE, ..Limits::default() };
    let served = Served::new(Synthetic::new(1, "x"), limits);
    let mut silent: Vec<UnixStream> = (0..CONNECTIONS).map(|_| connect(served.socket())).collect();
    let start = Instant::now();
    remote::ping(served.socket()).unwrap();
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    assert_eq!(silent[0].read(&mut [0]).unwrap(), 0, "the oldest is closed");
    let youngest = silent.last_mut().unwrap();
    youngest.write_all(PING).unwrap();
    let mut answer = vec![0; PONG.len()];
    youngest.read_exact(&mut answer).unwrap();
    assert_eq!(answer, PONG);
}

#[test]
fn a_client_that_does_not_read_is_dropped_and_others_are_served_meanwhile() {
    let served = serve(300_000);
    let slow = connect(served.socket());
    send_generate(&slow);
    // The answer begins, so it is being sent.
    (&slow).read_exact(&mut [0; 4]).unwrap();
    remote::ping(served.socket()).unwrap();
    let whole = remote::call(served.socket(), NAME, generate(r#"{"colsUsed":[]}"#)).unwrap();
    assert_eq!(whole.len(), 300_000);
    thread::sleep(2 * SHORT);
    let mut rest = Vec::new();
    (&slow).read_to_end(&mut rest).unwrap();
    assert!(rest.len() < 1 << 20, "{} bytes came after the stall", rest.len());
}

#[test]
fn a_client_that_hangs_up_in_the_middle_of_its_answer_hurts_nobody() {
    let served = serve(300_000);
    for _ in 0..5 {
        let gone = connect(served.socket());
        send_generate(&gone);
        (&gone).read_exact(&mut [0; 1000]).unwrap();
        drop(gone);
        remote::ping(served.socket()).unwrap();
    }
    assert_eq!(remote::call(served.socket(), NAME, generate("{}")).unwrap().len(), 300_000);
}

/// Sends a request for every row and column.
fn send_generate(mut stream: &UnixStream) {
    let arguments = [
        &b"\x0b\x00\x01\x00\x00\x00\x05table"[..],
        b"\x0b\x00\x02\x00\x00\x00\x09synthetic",
        b"\x0d\x00\x03\x0b\x0b\x00\x00\x00\x01\x00\x00\x00\x06action\x00\x00\x00\x08generate",
        b"\x00",
    ];
    stream.write_all(&[CALL, &arguments.concat()].concat()).unwrap();
}

#[test]
fn a_ping_is_answered_while_a_large_answer_is_made_and_sent() {
    let served = serve(300_000);
    let answer = thread::spawn({
        let stream = connect(served.socket());
        send_generate(&stream);
        move || std::io::copy(&mut stream.take(300_000 * 40), &mut std::io::sink()).unwrap()
    });
    let mut times = Vec::new();
    while !answer.is_finished() || times.is_empty() {
        let start = Instant::now();
        remote::ping(served.socket()).unwrap();
        times.push(start.elapsed());
    }
    times.sort();
    let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
    assert!(median < Duration::from_millis(50), "median {median:?} of {}", times.len());
    assert!(worst < Duration::from_millis(500), "worst {worst:?} of {}", times.len());
}

#[test]
fn an_answer_that_is_too_long_for_osquery_is_refused_whole() {
    const KILOBYTE: &str = concat!(
        "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789",
        "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789",
        "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789",
        "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789",
        "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789",
    );
    let served = Served::new(Synthetic::new(300_000, KILOBYTE), Limits::default());
    assert_eq!(
        remote::call(served.socket(), NAME, generate("{}")).unwrap_err(),
        "300000 rows of about 556 bytes exceed what osquery accepts: select fewer columns or add a \
         constraint"
    );
    let numbers = remote::call(served.socket(), NAME, generate(r#"{"colsUsed":["number"]}"#));
    assert_eq!(numbers.unwrap().len(), 300_000);
}

#[test]
fn a_shutdown_is_answered_and_passed_on() {
    let served = serve(0);
    remote::shutdown(served.socket());
    assert!(matches!(served.events.recv_timeout(PATIENCE), Ok(Event::Shutdown)));
}

#[test]
fn the_socket_is_for_its_owner_alone_and_goes_with_the_service() {
    let mut served = serve(0);
    let mode = std::fs::metadata(served.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    served.stop();
    assert!(!served.socket().exists());
}

#[test]
fn a_file_that_is_not_its_own_is_left_alone() {
    let mut served = serve(0);
    std::fs::remove_file(served.socket()).unwrap();
    let _another = UnixListener::bind(served.socket()).unwrap();
    served.stop();
    assert!(served.socket().exists(), "it removed another's socket");

    let (send, _events) = channel();
    let requests = Requests::new(NAME.to_owned(), Synthetic::new(0, ""), send);
    let service = Arc::new(Service::new(requests, Limits::default()));
    let error = Listening::start(served.socket(), service).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
    assert!(served.socket().exists(), "it removed another's socket");
}
