//! Thrift's binary protocol, byte by byte.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};

pub(crate) const CALL: u8 = 1;
pub(crate) const REPLY: u8 = 2;
pub(crate) const EXCEPTION: u8 = 3;

pub(crate) const STOP: u8 = 0;
pub(crate) const I32: u8 = 8;
pub(crate) const TEXT: u8 = 11;
pub(crate) const STRUCT: u8 = 12;
pub(crate) const MAP: u8 = 13;
pub(crate) const LIST: u8 = 15;

/// A message: version and kind, name, sequence number, and the body.
pub(crate) fn message(kind: u8, name: &str, number: i32, body: &[u8]) -> Vec<u8> {
    [&[0x80, 1, 0, kind][..], &text(name), &number.to_be_bytes(), body].concat()
}

/// A string: its length and its bytes.
pub(crate) fn text(text: impl AsRef<[u8]>) -> Vec<u8> {
    let text = text.as_ref();
    let length = u32::try_from(text.len()).expect("a short text");
    [&length.to_be_bytes()[..], text].concat()
}

pub(crate) fn field(kind: u8, id: i16, value: &[u8]) -> Vec<u8> {
    [&[kind][..], &id.to_be_bytes(), value].concat()
}

/// A map of text to text.
pub(crate) fn map<T: AsRef<[u8]>>(pairs: &[(&str, T)]) -> Vec<u8> {
    let count = u32::try_from(pairs.len()).expect("a small map");
    let mut bytes = [&[TEXT, TEXT][..], &count.to_be_bytes()].concat();
    for (key, value) in pairs {
        bytes.extend(text(key));
        bytes.extend(text(value));
    }
    bytes
}

pub(crate) fn ping(number: i32) -> Vec<u8> {
    message(CALL, "ping", number, &[STOP])
}

/// The answer to a ping of that number.
pub(crate) fn pong(number: i32) -> Vec<u8> {
    let status = [field(I32, 1, &[0; 4]), field(TEXT, 2, &text("OK")), vec![STOP]].concat();
    message(REPLY, "ping", number, &[field(STRUCT, 0, &status), vec![STOP]].concat())
}

pub(crate) fn call<T: AsRef<[u8]>>(registry: &str, item: &str, request: &[(&str, T)]) -> Vec<u8> {
    let body = [
        field(TEXT, 1, &text(registry)),
        field(TEXT, 2, &text(item)),
        field(MAP, 3, &map(request)),
        vec![STOP],
    ];
    message(CALL, "call", 1, &body.concat())
}

/// The answer to [`call`]: a status and a list of encoded rows.
pub(crate) fn response(code: i32, reason: &str, rows: &[Vec<u8>]) -> Vec<u8> {
    let count = u32::try_from(rows.len()).expect("few rows");
    let list = [&[MAP][..], &count.to_be_bytes(), &rows.concat()].concat();
    let status = [field(I32, 1, &code.to_be_bytes()), field(TEXT, 2, &text(reason)), vec![STOP]];
    let response = [field(STRUCT, 1, &status.concat()), field(LIST, 2, &list), vec![STOP]].concat();
    message(REPLY, "call", 1, &[field(STRUCT, 0, &response), vec![STOP]].concat())
}

/// No wait of a test takes this long, unless the test fails.
const TEST_TIMEOUT: Duration = Duration::from_secs(60);

/// A connection with timeouts for reads and writes.
pub(crate) fn connect(socket: &Path) -> UnixStream {
    let stream = UnixStream::connect(socket).expect("a connection");
    stream.set_read_timeout(Some(TEST_TIMEOUT)).expect("a time limit");
    stream.set_write_timeout(Some(TEST_TIMEOUT)).expect("a time limit");
    stream
}

/// Waits until there are bytes to read, or the other end is closed.
pub(crate) fn wait_for_answer(stream: &UnixStream) {
    assert!(is_ready_within(stream, PollFlags::IN, TEST_TIMEOUT), "no bytes arrive");
}

/// Waits until the other end is closed, even if there are bytes to read.
pub(crate) fn wait_for_hangup(stream: &UnixStream) {
    assert!(hangs_up_within(stream, TEST_TIMEOUT), "the connection stays open");
}

/// Whether the other end is closed within that time, even if there are bytes to read.
pub(crate) fn hangs_up_within(stream: &UnixStream, time: Duration) -> bool {
    is_ready_within(stream, PollFlags::empty(), time)
}

/// poll(2) reports a hangup without a flag for it.
fn is_ready_within(stream: &UnixStream, flags: PollFlags, time: Duration) -> bool {
    let end = Instant::now() + time;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let timeout = left.try_into().expect("a short time");
        match poll(&mut [PollFd::new(stream, flags)], Some(&timeout)) {
            Ok(count) => return count > 0,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("poll: {error}"),
        }
    }
}

/// Sends the bytes and keeps the connection open.
pub(crate) fn send(socket: &Path, bytes: &[u8]) -> UnixStream {
    let mut stream = connect(socket);
    // The other end may close before it has read all bytes.
    let _ = stream.write_all(bytes);
    stream
}

/// Sends the bytes, shuts down its end, and returns all bytes until the other end is closed.
pub(crate) fn exchange(socket: &Path, bytes: &[u8]) -> Vec<u8> {
    let stream = send(socket, bytes);
    let _ = stream.shutdown(Shutdown::Write);
    rest(stream)
}

/// All bytes until the other end is closed.
pub(crate) fn rest(mut stream: UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => {}
        // The other end closed with unread bytes.
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
        Err(error) => panic!("the connection stays open: {error}"),
    }
    bytes
}
