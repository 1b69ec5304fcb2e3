//! The counting of datagrams, with programs and sockets of a test.

use super::*;
use crate::model::tcp_event::FirstDatagram;
use crate::process_socket_events::records::first_send;

/// A thread whose counting programs are not loaded until the test says so.
fn loading_slowly() -> (Drain, Arc<Ring>) {
    let ring = Arc::<Ring>::default();
    ring.state.lock().unwrap().is_loading = true;
    let opened = ring.open(Vec::new())().unwrap();
    let drain = Drain::start(opened, &Settings::new(&Options::default()), None, 0).unwrap();
    (drain, ring)
}

#[test]
fn a_request_for_counting_wakes_the_thread() {
    let (drain, ring) = loading_slowly();
    // An active thread looks for requests from time to time.
    ring.wait_until(|it| it.is_waiting);
    drain.shared().want_flows();
    ring.wait_until(|it| it.loads > 0);
    drain.stop();
}

#[test]
fn a_query_of_flows_waits_until_the_programs_are_loaded() {
    let (drain, ring) = loading_slowly();
    let shared = Arc::clone(drain.shared());
    let of_query = Arc::clone(&ring);
    let query = std::thread::spawn(move || {
        shared.want_flows();
        shared.sync_counting(LONG);
        !of_query.state.lock().unwrap().is_loading
    });
    ring.wait_until(|it| it.loads > 0);
    drain.shared().want_flows();
    // A drain with nothing loaded.
    drain.shared().sync(LONG);
    ring.wake_with(|ring| ring.is_loading = false);
    assert!(query.join().unwrap());
    drain.shared().want_flows();
    drain.shared().sync_counting(LONG);
    assert_eq!(ring.state.lock().unwrap().loads, 1);
    drain.stop();
}

#[test]
fn a_failure_ends_the_wait_for_the_programs() {
    let (drain, ring) = loading_slowly();
    drain.shared().want_flows();
    ring.wait_until(|it| it.loads > 0);
    ring.wake_with(|ring| ring.failure = Some("the ring buffer is damaged".to_owned()));
    let start = std::time::Instant::now();
    drain.shared().sync_counting(2 * LONG);
    assert!(start.elapsed() < LONG && !drain.shared().is_running());
    drain.stop();
}

#[test]
fn a_list_of_sockets_delays_no_event_and_ends_flows() {
    let ring = Arc::<Ring>::default();
    let slots = TestSlots::default();
    let slot = Some(slots.take(1, 7));
    *ring.slots.lock().unwrap() = Some(slots);
    let first = FirstDatagram { slot, ..first_send(7, actor(7, 1000), now()) };
    ring.put([EventRecord::Datagram(first)]);
    ring.state.lock().unwrap().is_listing = true;
    let opened = ring.open(Vec::new())().unwrap();
    let drain = Drain::start(opened, &Settings::new(&Options::default()), None, 0).unwrap();
    ring.wait_until(|it| it.lists == 1);
    // As often as it takes to drain in any state of the list.
    for cookie in 1..10 {
        ring.put(connection(cookie, actor(7, 1000), now()));
        drain.shared().sync(LONG);
        assert_eq!(drain.shared().counts().captured, 1 + 4 * cookie);
    }
    assert_eq!(drain.shared().counts().flows, Some(1));
    // From then on, only the end of the list wakes the thread.
    ring.wait_until(|it| it.is_waiting);
    ring.state.lock().unwrap().is_listing = false;
    ring.changed.notify_all();
    let start = std::time::Instant::now();
    while drain.shared().counts().flows != Some(0) {
        assert!(start.elapsed() < LONG);
        std::thread::yield_now();
    }
    drain.stop();
}
