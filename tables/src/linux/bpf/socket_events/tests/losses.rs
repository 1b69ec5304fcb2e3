//! What is lost is counted, to the last record.

use std::net::{TcpListener, TcpStream};

use super::*;

const CONNECTS: u64 = 1000;
/// To SYN_SENT and to CLOSE.
const CHANGES: u64 = 2 * CONNECTS;

#[test]
fn lost_and_read_changes_add_up_to_all() {
    let test = "lost_and_read_changes_add_up_to_all";
    // The large one collects for longer, and loses nothing.
    record_in_own_netns(test, move |_, all| {
        let small = Settings { ring_size: 64 * 1024, ..Settings::default() };
        let Some(small) = start(test, &small) else { return };
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        for _ in 0..CONNECTS {
            TcpStream::connect(address).unwrap_err();
        }
        let (mut read, mut executables) = (0, 0);
        let mut count = |source: &EventSource| {
            source
                .drain(Duration::ZERO, &mut |record| match record {
                    EventRecord::State(_) => read += 1,
                    EventRecord::Datagram(_) | EventRecord::DatagramEnd(_) => {}
                    EventRecord::Executable(_) => executables += 1,
                })
                .unwrap();
        };
        count(&small);
        let lost = small.losses();
        // Nothing is lost after that.
        TcpStream::connect(address).unwrap_err();
        count(&small);
        assert_eq!(small.losses().ring_events, lost.ring_events);
        drop(small);
        all.drain(Duration::ZERO);
        assert_eq!(all.source.losses().ring_events, 0);
        let total = all.states.len() as u64;
        // Equal, unless other processes change states meanwhile.
        let sum = read + lost.ring_events;
        assert!((CHANGES + 2..=total).contains(&sum), "{read} read, {lost:?}, {total} in all");
        assert!(lost.ring_events > CHANGES / 2 && read > 250, "{read} read, {lost:?}");
        assert!(executables >= 1);
    });
}

#[test]
fn the_waker_and_a_filled_eighth_end_a_wait() {
    let test = "the_waker_and_a_filled_eighth_end_a_wait";
    in_own_netns(test, move |_| {
        let Some(source) = start(test, &Settings::default()) else { return };
        let waker = source.waker();
        waker.wake();
        let mut read = 0;
        source.drain(MAX_WAIT, &mut |_| read += 1).unwrap();
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let connects = RING_SIZE / 8 / 200;
        thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..connects {
                    TcpStream::connect(address).unwrap_err();
                }
            });
            let mut read = 0;
            source.drain(MAX_WAIT, &mut |_| read += 1).unwrap();
            assert!(read >= 600, "{read}");
        });
        let later = waker.clone();
        thread::scope(|scope| {
            scope.spawn(move || later.wake());
            source.drain(MAX_WAIT, &mut drop).unwrap();
        });
        // The ring buffer can have ended that wait.
        source.drain(Duration::ZERO, &mut drop).unwrap();
        let (start, mut read) = (Instant::now(), 0);
        source.drain(Duration::from_millis(20), &mut |_| read += 1).unwrap();
        // Other processes can fill an eighth, too.
        assert!(read > 0 || start.elapsed() >= Duration::from_millis(20));
    });
}

#[test]
fn each_further_eighth_ends_a_wait_without_a_drain() {
    let test = "each_further_eighth_ends_a_wait_without_a_drain";
    in_own_netns(test, move |_| {
        let Some(source) = start(test, &Settings::default()) else { return };
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        // Two records of 200 bytes each; a bit more than an eighth.
        let fill = || {
            for _ in 0..RING_SIZE / 8 / 380 {
                TcpStream::connect(address).unwrap_err();
            }
        };
        for eighth in 1..4 {
            let begin = Instant::now();
            thread::scope(|scope| {
                scope.spawn(fill);
                source.wait(MAX_WAIT).unwrap();
            });
            assert!(begin.elapsed() < MAX_WAIT, "{eighth}");
            // Wake-ups after that wait and before the next one.
            source.wait(Duration::ZERO).unwrap();
        }
    });
}
