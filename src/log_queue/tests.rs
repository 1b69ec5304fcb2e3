use std::sync::mpsc::{Receiver, Sender, channel};

use super::*;

/// Longer than any wait of these tests.
const LONG: Duration = Duration::from_secs(60);

/// A sink whose writes can be blocked, with the written text.
#[derive(Clone, Default)]
struct Pipe(Arc<(Mutex<PipeState>, Condvar)>);

#[derive(Default)]
struct PipeState {
    text: Vec<u8>,
    is_blocked: bool,
    is_waiting: bool,
    fails: bool,
}

impl Pipe {
    fn blocked() -> Pipe {
        let pipe = Pipe::default();
        pipe.set(|state| state.is_blocked = true);
        pipe
    }

    fn set(&self, change: impl FnOnce(&mut PipeState)) {
        change(&mut self.0.0.lock().unwrap());
        self.0.1.notify_all();
    }

    /// Waits until a write waits.
    fn wait_for_writer(&self) {
        let state = self.0.0.lock().unwrap();
        let waited = self.0.1.wait_timeout_while(state, LONG, |state| !state.is_waiting).unwrap();
        assert!(!waited.1.timed_out(), "nothing is written");
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.0.lock().unwrap().text.clone()).unwrap()
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.0.0.lock().unwrap();
        state.is_waiting = true;
        self.0.1.notify_all();
        state = self.0.1.wait_while(state, |state| state.is_blocked).unwrap();
        state.is_waiting = false;
        if state.fails {
            return Err(io::ErrorKind::StorageFull.into());
        }
        state.text.extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn queue(sink: &Pipe, lines: usize, bytes: usize) -> LogQueue {
    LogQueue::with_capacity("test", sink.clone(), Capacity { lines, bytes }).unwrap()
}

fn push(queue: &LogQueue, numbers: std::ops::Range<usize>) {
    numbers.for_each(|number| queue.push(format!("{number}\n").into_bytes()));
}

fn numbers(numbers: std::ops::Range<usize>) -> String {
    numbers.map(|number| format!("{number}\n")).collect()
}

const DROPPED: &str = "test: warning: log messages dropped: ";

#[test]
fn lines_are_written_in_order() {
    let sink = Pipe::default();
    let queue = queue(&sink, 10_000, 1 << 20);
    push(&queue, 0..5_000);
    assert!(queue.flush_within(LONG));
    assert_eq!(sink.text(), numbers(0..5_000));
}

#[test]
fn a_blocked_writer_blocks_no_caller_and_drops_are_counted() {
    let sink = Pipe::blocked();
    let queue = queue(&sink, 10, 1 << 20);
    push(&queue, 0..1);
    sink.wait_for_writer();
    // One line is being written and ten are queued. A blocking call would never return.
    push(&queue, 1..100_000);
    sink.set(|state| state.is_blocked = false);
    assert!(queue.flush_within(LONG));
    assert_eq!(sink.text(), format!("{}{DROPPED}{}\n", numbers(0..11), 100_000 - 11));
}

#[test]
fn lines_after_a_drop_are_written_after_its_count() {
    let sink = Pipe::blocked();
    let queue = queue(&sink, 10, 1 << 20);
    push(&queue, 0..1);
    sink.wait_for_writer();
    push(&queue, 1..12);
    sink.set(|state| state.is_blocked = false);
    assert!(queue.flush_within(LONG));
    push(&queue, 12..14);
    assert!(queue.flush_within(LONG));
    assert_eq!(sink.text(), format!("{}{DROPPED}1\n{}", numbers(0..11), numbers(12..14)));
}

#[test]
fn a_short_line_does_not_overtake_a_dropped_one() {
    let sink = Pipe::blocked();
    let queue = queue(&sink, 100, 10);
    push(&queue, 0..1);
    sink.wait_for_writer();
    queue.push(b"123456\n".to_vec());
    queue.push(b"78901\n".to_vec());
    queue.push(b"2\n".to_vec());
    sink.set(|state| state.is_blocked = false);
    assert!(queue.flush_within(LONG));
    assert_eq!(sink.text(), format!("0\n123456\n{DROPPED}2\n"));
}

#[test]
fn a_flush_of_a_blocked_writer_ends_after_its_time() {
    let sink = Pipe::blocked();
    let queue = queue(&sink, 10, 1 << 20);
    push(&queue, 0..1);
    assert!(!queue.flush_within(Duration::from_millis(50)));
    assert_eq!(sink.text(), "");
    sink.set(|state| state.is_blocked = false);
    assert!(queue.flush_within(LONG));
    assert_eq!(sink.text(), "0\n");
}

#[test]
fn failed_lines_are_counted_when_writes_succeed_again() {
    let sink = Pipe::default();
    let queue = queue(&sink, 10, 1 << 20);
    sink.set(|state| state.fails = true);
    push(&queue, 0..3);
    assert!(queue.flush_within(LONG));
    sink.set(|state| state.fails = false);
    push(&queue, 3..4);
    assert!(queue.flush_within(LONG));
    assert_eq!(sink.text(), format!("{DROPPED}3\n3\n"));
}

#[test]
fn a_line_that_is_too_long_is_truncated() {
    let sink = Pipe::default();
    let queue = queue(&sink, 10, 1 << 20);
    queue.push(vec![b'x'; 2 * MAX_LINE]);
    assert!(queue.flush_within(LONG));
    assert_eq!(sink.text(), format!("{}…\n", "x".repeat(MAX_LINE)));
}

/// Accepts three bytes at a time and fails every second write, like a full pipe in non-blocking mode.
struct Trickle(Sender<u8>, bool);

impl Write for Trickle {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.1 = !self.1;
        if self.1 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let taken = bytes.len().min(3);
        bytes[..taken].iter().for_each(|&byte| self.0.send(byte).unwrap());
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_sink_that_is_full_at_times_gets_the_whole_line() {
    let (send, received): (_, Receiver<u8>) = channel();
    let queue = LogQueue::start("test", Trickle(send, false)).unwrap();
    queue.push(b"a whole line\n".to_vec());
    assert!(queue.flush_within(LONG));
    assert_eq!(received.try_iter().collect::<Vec<u8>>(), b"a whole line\n");
}
