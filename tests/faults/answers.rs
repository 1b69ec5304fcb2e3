//! The contents and the length of answers.

use std::io::{self, Read};

use process_open_sockets::extension::Event;
use process_open_sockets::extension::answer::LONGEST_ANSWER;
use tables::User;

use crate::support::served::{NUMBERS, Numbers, Served};
use crate::support::wire::{call, exchange, map, response, send};

fn answer(served: &Served, context: Option<&str>) -> Vec<u8> {
    let request: Vec<_> =
        [("action", "generate")].into_iter().chain(context.map(|c| ("context", c))).collect();
    exchange(served.socket(), &call("table", NUMBERS, &request))
}

/// Checks that the answer has these rows, each a map of text to text.
#[track_caller]
fn check_rows(context: Option<&str>, expected: &[&[(&str, &str)]]) {
    let served = Served::new(Numbers::new(expected.len(), 3));
    let expected: Vec<_> = expected.iter().map(|row| map(row)).collect();
    assert_eq!(answer(&served, context), response(0, "OK", &expected));
}

#[test]
fn a_request_without_a_context_gets_every_column_and_the_rowid() {
    let row = |n| [("number", n), ("text", "xxx"), ("nothing", ""), ("rowid", n)];
    check_rows(None, &[&row("0"), &row("1")]);
}

#[test]
fn a_context_without_used_columns_gets_all_columns_and_rowid() {
    let row = |n| [("number", n), ("text", "xxx"), ("nothing", ""), ("rowid", n)];
    check_rows(Some(r#"{"constraints":[]}"#), &[&row("0"), &row("1")]);
}

#[test]
fn no_used_columns_get_the_rowid_alone() {
    let row = |n| [("rowid", n)];
    check_rows(Some(r#"{"constraints":[],"colsUsed":[]}"#), &[&row("0"), &row("1")]);
}

#[test]
fn two_used_columns_get_those_and_the_rowid() {
    let row = |n| [("text", "xxx"), ("nothing", ""), ("rowid", n)];
    check_rows(
        Some(r#"{"constraints":[],"colsUsed":["nothing","text"]}"#),
        &[&row("0"), &row("1")],
    );
}

#[test]
fn a_context_that_is_no_json_gets_every_row_and_column() {
    let row = |n| [("number", n), ("text", "xxx"), ("nothing", ""), ("rowid", n)];
    check_rows(Some("{"), &[&row("0"), &row("1")]);
}

#[test]
fn no_rows_are_an_answer() {
    check_rows(None, &[]);
}

#[test]
fn the_longest_answer_is_below_the_limit_of_osquery() {
    // osquery accepted 134 million bytes and rejected 178 million.
    assert!((100_000_000..134_000_000).contains(&LONGEST_ANSWER), "{LONGEST_ANSWER}");
}

const ROWS: usize = 1000;

/// The length of the message with 1000 rows and texts of `text` bytes.
fn length(text: usize) -> u64 {
    let columns: usize = [("number", 0), ("text", text), ("nothing", 0), ("rowid", 0)]
        .iter()
        .map(|(name, cell)| 4 + name.len() + 4 + cell)
        .sum();
    let digits: usize = (0..ROWS).map(|row| row.to_string().len()).sum();
    // A row begins with two types and a count; its number is in two cells.
    (response(0, "OK", &[]).len() + ROWS * (6 + columns) + 2 * digits) as u64
}

/// The length of the longest text with which 1000 rows fit into an answer.
fn longest() -> usize {
    usize::try_from((LONGEST_ANSWER - length(0)) / ROWS as u64).unwrap()
}

#[test]
fn the_longest_answer_is_sent_whole() {
    let served = Served::new(Numbers::new(ROWS, longest()));
    let request = call("table", NUMBERS, &[("action", "generate")]);
    let stream = send(served.socket(), &request);
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let received = io::copy(&mut stream.take(LONGEST_ANSWER + 1), &mut io::sink()).unwrap();
    assert_eq!(received, length(longest()));
    assert!(received > LONGEST_ANSWER - ROWS as u64);
}

#[test]
fn a_too_long_answer_is_an_error_with_a_remedy_and_no_row() {
    let served = Served::new(Numbers::new(ROWS, longest() + 1));
    let reason = format!(
        "1000 rows of about {} bytes exceed what osquery accepts: select fewer columns or add a \
         constraint",
        length(longest() + 1) / ROWS as u64
    );
    assert_eq!(answer(&served, None), response(1, &reason, &[]));
}

#[test]
fn a_flood_of_one_user_costs_no_other_user_a_row() {
    // The first and the last five rows are those of another user.
    let user_of = |row: usize| {
        let is_other = !(5..ROWS - 5).contains(&row);
        User::of_uid(Some(if is_other { 0 } else { 1000 }))
    };
    // The text is so long that a tenth of the rows exceeds the limit.
    let text = longest() * 10 / 9;
    let served = Served::new(Numbers::new(ROWS, text).of_users(user_of));
    let answer = answer(&served, None);
    assert!(answer.len() as u64 <= LONGEST_ANSWER, "{}", answer.len());
    // A row has the number as a text with its length, between its name and that of the next cell.
    let number = |n: usize| {
        let text = n.to_string();
        let length = u32::try_from(text.len()).unwrap().to_be_bytes();
        [b"number", &length[..], text.as_bytes(), &4u32.to_be_bytes(), b"text"].concat()
    };
    let mut offset = 0;
    let mut rows = Vec::new();
    for n in 0..ROWS {
        let needle = number(n);
        // Rows are in order, each a hundred thousand bytes long: the needle is near.
        let near = &answer[offset..(offset + 1000).min(answer.len())];
        if let Some(at) = near.windows(needle.len()).position(|window| window == needle) {
            offset += at + needle.len() + text;
            rows.push(n);
        }
    }
    let kept = rows.len() - 10;
    assert!((880..=890).contains(&kept), "{kept}");
    // The lowest rows of that user, and all rows of the other user.
    let expected: Vec<usize> = (0..5 + kept).chain(ROWS - 5..ROWS).collect();
    assert_eq!(rows, expected);
}

#[test]
fn rows_of_too_many_users_are_an_error() {
    // Each user has one row: no row can be omitted without hiding a user.
    let user_of = |row: usize| User::of_uid(Some(u32::try_from(row).unwrap()));
    let served = Served::new(Numbers::new(ROWS, longest() + 1).of_users(user_of));
    let answer = answer(&served, None);
    let reason = b"exceed what osquery accepts";
    assert!(answer.windows(reason.len()).any(|window| window == reason));
}

#[test]
fn an_answer_too_long_with_all_columns_succeeds_with_fewer() {
    let served = Served::new(Numbers::new(ROWS, longest() + 1));
    let answer = answer(&served, Some(r#"{"constraints":[],"colsUsed":["number"]}"#));
    let row = |n: String| map(&[("number", &n), ("rowid", &n)]);
    let rows: Vec<_> = (0..ROWS).map(|n| row(n.to_string())).collect();
    assert_eq!(answer, response(0, "OK", &rows));
}

#[test]
fn a_shutdown_is_answered_and_passed_on() {
    use crate::support::wire::{CALL, REPLY, STOP, message};
    let served = Served::new(Numbers::new(0, 0));
    let answer = exchange(served.socket(), &message(CALL, "shutdown", 4, &[STOP]));
    assert_eq!(answer, message(REPLY, "shutdown", 4, &[STOP]));
    assert_eq!(served.events.try_recv(), Ok(Event::Shutdown));
}
