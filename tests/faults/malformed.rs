//! Malformed requests, and requests for things that do not exist.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::path::PathBuf;

use proptest::prelude::*;

use crate::support::core::Core;
use crate::support::osquery::{TABLE, names};
use crate::support::process::Extension;
use crate::support::served::{NUMBERS, Numbers, Served};
use crate::support::wire::{
    CALL, EXCEPTION, I32, LIST, MAP, REPLY, STOP, STRUCT, TEXT, call, connect, exchange, field,
    message, ping, pong, response, rest, text,
};

const MIB: u64 = 1 << 20;
/// A length in the byte order of the protocol.
const TWO_GB: [u8; 4] = i32::MAX.to_be_bytes();
const MINUS_ONE: [u8; 4] = (-1i32).to_be_bytes();

/// A registered extension and its core, until they are dropped.
struct Registered {
    extension: Extension,
    socket: PathBuf,
    _core: Core,
}

impl Registered {
    fn new() -> Registered {
        let core = Core::stock();
        let extension = Extension::launch::<&str>(core.socket(), &[]);
        let socket = core.socket_of(core.wait_for("process_open_sockets"));
        // The first requests allocate memory that later requests use again.
        for _ in 0..3 {
            let columns = call("table", TABLE, &[("action", "columns")]);
            assert!(!exchange(&socket, &columns).is_empty());
        }
        Registered { extension, socket, _core: core }
    }

    /// Sends the bytes and returns the whole answer. Checks that the extension allocated less than a MiB
    /// and answers a ping afterwards.
    #[track_caller]
    fn answer_to(&self, bytes: &[u8]) -> Vec<u8> {
        let before = self.extension.peak_memory();
        let answer = exchange(&self.socket, bytes);
        assert_eq!(exchange(&self.socket, &ping(7)), pong(7));
        let grown = self.extension.peak_memory() - before;
        assert!(grown < MIB, "{grown} bytes were allocated");
        answer
    }
}

/// Checks that the extension closes the connection without an answer.
#[track_caller]
fn check_refused(bytes: &[u8]) {
    assert_eq!(Registered::new().answer_to(bytes), b"");
}

fn call_with(fields: &[Vec<u8>]) -> Vec<u8> {
    message(CALL, "call", 1, &fields.concat())
}

#[test]
fn a_name_of_2_gb_is_refused_unread() {
    check_refused(&[&[0x80, 1, 0, CALL][..], &TWO_GB].concat());
}

#[test]
fn a_name_of_a_negative_length_is_refused() {
    check_refused(&[&[0x80, 1, 0, CALL][..], &MINUS_ONE].concat());
}

#[test]
fn a_text_of_2_gb_is_refused_unread() {
    check_refused(&call_with(&[field(TEXT, 1, &TWO_GB)]));
}

#[test]
fn a_text_of_a_negative_length_is_refused() {
    check_refused(&call_with(&[field(TEXT, 2, &MINUS_ONE)]));
}

#[test]
fn a_skipped_text_of_2_gb_is_refused_unread() {
    check_refused(&message(CALL, "ping", 1, &field(TEXT, 1, &TWO_GB)));
}

#[test]
fn a_map_of_two_billion_entries_is_refused_unread() {
    check_refused(&call_with(&[field(MAP, 3, &[&[TEXT, TEXT][..], &TWO_GB].concat())]));
}

#[test]
fn a_map_of_a_negative_size_is_refused() {
    check_refused(&call_with(&[field(MAP, 3, &[&[TEXT, TEXT][..], &MINUS_ONE].concat())]));
}

#[test]
fn a_list_of_two_billion_elements_is_refused_unread() {
    check_refused(&call_with(&[field(LIST, 9, &[&[I32][..], &TWO_GB].concat())]));
}

#[test]
fn a_list_of_elements_without_a_size_is_refused() {
    check_refused(&call_with(&[field(LIST, 9, &[&[STOP][..], &[0, 0, 0x7f, 0xff]].concat())]));
}

#[test]
fn endless_nesting_of_structs_is_refused() {
    check_refused(&call_with(&[field(STRUCT, 9, &[STRUCT, 0, 1].repeat(100_000))]));
}

#[test]
fn endless_nesting_of_lists_is_refused() {
    check_refused(&call_with(&[field(LIST, 9, &[LIST, 0, 0, 0, 1].repeat(100_000))]));
}

#[test]
fn a_claimed_length_takes_no_memory_before_its_bytes_arrive() {
    let registered = Registered::new();
    let before = registered.extension.peak_memory();
    let claim = (15i32 << 20).to_be_bytes();
    let some = [&call_with(&[field(TEXT, 1, &claim)]), &b"x".repeat(100_000)[..]].concat();
    let client = |_| {
        let mut stream = connect(&registered.socket);
        // With this buffer, all bytes except for a page or two are read when the write returns.
        rustix::net::sockopt::set_socket_send_buffer_size(&stream, 4096).unwrap();
        stream.write_all(&some).unwrap();
        stream
    };
    let waiting: Vec<_> = (0..3).map(client).collect();
    let grown = registered.extension.peak_memory() - before;
    assert!(grown < 2 * MIB, "{grown} bytes were allocated for {} clients", waiting.len());
}

#[test]
fn a_request_that_is_no_map_of_texts_is_refused() {
    let numbers = [&[I32, I32][..], &1i32.to_be_bytes(), &[0; 8]].concat();
    check_refused(&call_with(&[field(MAP, 3, &numbers), vec![STOP]]));
}

#[test]
fn an_invalid_type_is_refused() {
    check_refused(&call_with(&[field(99, 1, &[])]));
}

#[test]
fn a_reply_is_no_request() {
    check_refused(&message(REPLY, "ping", 1, &[STOP]));
}

#[test]
fn half_a_message_is_not_answered() {
    let whole = call("table", TABLE, &[("action", "columns")]);
    check_refused(&whole[..whole.len() / 2]);
}

#[test]
fn a_request_of_another_protocol_is_refused() {
    check_refused(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
}

#[test]
fn zeros_are_refused() {
    check_refused(&[0; 4096]);
}

#[test]
fn an_argument_of_a_wrong_type_counts_as_absent() {
    let request = call_with(&[
        field(I32, 1, &[0; 4]),
        field(TEXT, 2, &text(TABLE)),
        field(STRUCT, 3, &[STOP]),
        vec![STOP],
    ]);
    let expected = response(1, "unknown registry '' (available: table)", &[]);
    assert_eq!(Registered::new().answer_to(&request), expected);
}

#[test]
fn an_unknown_method_is_an_exception_on_an_open_connection() {
    let reason = "an extension has the methods ping, call and shutdown";
    // TApplicationException: message, and type 1, UNKNOWN_METHOD.
    let exception =
        [field(TEXT, 1, &text(reason)), field(I32, 2, &1i32.to_be_bytes()), vec![STOP]].concat();
    let argument = field(LIST, 1, &[&[TEXT][..], &[0, 0, 0, 1], &text("argument")].concat());
    let request = message(CALL, "streamEvents", 5, &[argument, vec![STOP]].concat());
    assert_eq!(
        Registered::new().answer_to(&[request, ping(6)].concat()),
        [message(EXCEPTION, "streamEvents", 5, &exception), pong(6)].concat()
    );
}

#[test]
fn requests_in_one_write_are_answered_in_order() {
    let together: Vec<u8> = (0..100).flat_map(ping).collect();
    let expected: Vec<u8> = (0..100).flat_map(pong).collect();
    assert_eq!(Registered::new().answer_to(&together), expected);
}

#[test]
fn a_request_sent_byte_by_byte_is_answered() {
    let served = Served::new(Numbers::new(1, 0));
    let mut stream = connect(served.socket());
    for byte in ping(3) {
        stream.write_all(&[byte]).unwrap();
    }
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rest(stream), pong(3));
}

#[test]
fn a_connection_can_be_used_again_after_each_answer() {
    let served = Served::new(Numbers::new(1, 0));
    let mut stream = connect(served.socket());
    for number in 0..10 {
        stream.write_all(&ping(number)).unwrap();
        let mut answer = vec![0; pong(number).len()];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer, pong(number));
    }
}

#[test]
fn an_unknown_registry_is_named_in_the_answer() {
    let expected = response(1, "unknown registry 'config' (available: table)", &[]);
    let request = call("config", TABLE, &[("action", "generate")]);
    assert_eq!(Registered::new().answer_to(&request), expected);
}

#[test]
fn an_unknown_item_is_named_in_the_answer() {
    let reason = format!("unknown table 'missing' (available: {})", names(TABLE).join(", "));
    let request = call("table", "missing", &[("action", "generate")]);
    assert_eq!(Registered::new().answer_to(&request), response(1, &reason, &[]));
}

#[test]
fn an_unknown_action_is_named_in_the_answer() {
    let reason =
        "unknown action 'insert' of table alt_process_open_sockets (available: columns, generate)";
    let request = call("table", TABLE, &[("action", "insert")]);
    assert_eq!(Registered::new().answer_to(&request), response(1, reason, &[]));
}

#[test]
fn a_request_without_an_action_gets_the_list_of_actions() {
    let reason =
        "unknown action '' of table alt_process_open_sockets (available: columns, generate)";
    let request = call::<&str>("table", TABLE, &[]);
    assert_eq!(Registered::new().answer_to(&request), response(1, reason, &[]));
}

#[test]
fn a_name_that_is_not_utf_8_is_named_with_u_fffd() {
    let request = call_with(&[
        field(TEXT, 1, &text("table")),
        field(TEXT, 2, &text(b"n\xff")),
        field(MAP, 3, &crate::support::wire::map(&[("action", "generate")])),
        vec![STOP],
    ]);
    let reason = format!("unknown table 'n\u{fffd}' (available: {})", names(TABLE).join(", "));
    assert_eq!(Registered::new().answer_to(&request), response(1, &reason, &[]));
}

#[test]
fn a_constraint_that_is_not_utf_8_does_not_fail_the_query() {
    let served = Served::new(Numbers::new(0, 0));
    let context =
        b"{\"constraints\":[{\"name\":\"text\",\"list\":[{\"op\":2,\"expr\":\"\xff\"}]}]}";
    let request =
        call("table", NUMBERS, &[("action", &b"generate"[..]), ("context", &context[..])]);
    assert_eq!(exchange(served.socket(), &request), response(0, "OK", &[]));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..Default::default() })]

    #[test]
    fn a_ping_is_answered_after_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let served = Served::new(Numbers::new(1, 0));
        exchange(served.socket(), &bytes);
        prop_assert_eq!(exchange(served.socket(), &ping(1)), pong(1));
    }

    #[test]
    fn a_ping_is_answered_after_a_changed_request(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)
    ) {
        let served = Served::new(Numbers::new(1, 0));
        let mut bytes = call("table", NUMBERS, &[("action", "generate"), ("context", "{}")]);
        for (index, byte) in changes {
            let index = index.index(bytes.len());
            bytes[index] = byte;
        }
        exchange(served.socket(), &bytes);
        prop_assert_eq!(exchange(served.socket(), &ping(1)), pong(1));
    }
}
