use super::*;
use crate::model::tcp_event::{Bytes, Messages};
use crate::process_socket_events::records::{SECOND, actor, first_send};
use crate::process_socket_events::test_slots::TestSlots;

fn begin(flows: &mut DatagramFlows, slots: &TestSlots, cookie: u64, pid: i32, slot: u32) {
    let slot = slots.take(slot, cookie);
    record(flows, cookie, pid, slot);
}

fn record(flows: &mut DatagramFlows, cookie: u64, pid: i32, slot: SlotUse) {
    let first = FirstDatagram { slot: Some(slot), ..first_send(cookie, actor(pid, 1000), SECOND) };
    flows.begin(&first, slot, None);
}

/// The result of lists that took no time.
fn closed<const N: usize>(cookies: [u64; N]) -> ClosedSockets {
    ClosedSockets { cookies: Ok(cookies.into()), took: Duration::ZERO }
}

/// The flows that a sweep hands over: cookie, result, bytes, messages and duration.
type Ended = (u64, FlowResult, u64, u64, u64);

fn sweep(flows: &mut DatagramFlows, slots: &TestSlots, at: u64) -> Vec<Ended> {
    let used: HashSet<u64> = slots.used().iter().map(|used| used.cookie).collect();
    let closed = &used - &slots.live.borrow();
    sweep_with(flows, slots, at, Ok(closed))
}

fn sweep_with(
    flows: &mut DatagramFlows,
    slots: &TestSlots,
    at: u64,
    closed: Result<HashSet<u64>, String>,
) -> Vec<Ended> {
    let mut ended = Vec::new();
    let Some(in_use) = flows.begin_sweep(slots) else { return ended };
    let closed = ClosedSockets { cookies: closed, took: Duration::ZERO };
    flows.sweep(slots, &in_use, closed, Clocks::at(at, 0), &mut |event| {
        let flow = event.ended.unwrap();
        let FlowCounts::Datagrams(counts) = flow.counts else { panic!("{flow:?}") };
        ended.push((
            event.socket.cookie().unwrap(),
            flow.result,
            counts.bytes.sent,
            counts.messages.sent,
            event.duration_ns.unwrap(),
        ));
    });
    ended
}

#[test]
fn a_flow_of_a_closed_socket_is_handed_over_by_the_second_sweep() {
    let (mut flows, slots) = (DatagramFlows::default(), TestSlots::default());
    begin(&mut flows, &slots, 7, 1, 20);
    slots.send(20, 100, 3 * SECOND);
    assert_eq!(sweep(&mut flows, &slots, 4 * SECOND), []);
    slots.close(7);
    assert_eq!(sweep(&mut flows, &slots, 5 * SECOND), []);
    // A program that ran at the time of the sweep.
    slots.send(20, 1, 3 * SECOND);
    let ended = (7, FlowResult::Closed, 101, 2, 2 * SECOND);
    assert_eq!(sweep(&mut flows, &slots, 6 * SECOND), [ended]);
    assert_eq!(sweep(&mut flows, &slots, 7 * SECOND), []);
    assert_eq!((flows.len(), flows.until_sweep()), (0, None));
}

#[test]
fn an_idle_flow_of_a_closed_socket_is_closed() {
    let (mut flows, slots) = (DatagramFlows::default(), TestSlots::default());
    begin(&mut flows, &slots, 7, 1, 20);
    slots.close(7);
    assert_eq!(sweep(&mut flows, &slots, 70 * SECOND), []);
    assert_eq!(sweep(&mut flows, &slots, 80 * SECOND), [(7, FlowResult::Closed, 0, 0, 0)]);
}

#[test]
fn a_flow_that_is_used_during_the_sweep_is_not_idle() {
    let (mut flows, slots) = (DatagramFlows::default(), TestSlots::default());
    begin(&mut flows, &slots, 7, 1, 20);
    let in_use = flows.begin_sweep(&slots).unwrap();
    slots.send(20, 5, 70 * SECOND);
    let closed = closed([]);
    flows.sweep(&slots, &in_use, closed, Clocks::at(71 * SECOND, 0), &mut |_| unreachable!());
    assert_eq!((flows.len(), slots.retired.borrow().len()), (1, 0));
}

#[test]
fn a_slot_that_is_taken_again_during_the_sweep_keeps_its_time() {
    let (mut flows, slots) = (DatagramFlows::default(), TestSlots::default());
    begin(&mut flows, &slots, 7, 1, 20);
    slots.close(7);
    assert_eq!(sweep(&mut flows, &slots, 2 * SECOND), []);
    let in_use = flows.begin_sweep(&slots).unwrap();
    let closed = closed([7]);
    // The generation of the slot is that with which the sweep began.
    let take = &mut |_| _ = slots.take(20, 8);
    flows.sweep(&slots, &in_use, closed, Clocks::at(3 * SECOND, 0), take);
    // Two sweeps without its record.
    assert_eq!(sweep(&mut flows, &slots, 4 * SECOND), []);
    assert_eq!(slots.retired.borrow().len(), 0);
    assert_eq!(sweep(&mut flows, &slots, 5 * SECOND), []);
    assert_eq!(*slots.retired.borrow(), [20]);
}

#[test]
fn without_a_list_flows_end_by_time_only() {
    let (mut flows, slots) = (DatagramFlows::default(), TestSlots::default());
    begin(&mut flows, &slots, 7, 1, 20);
    let mut sweep = |at: u64| sweep_with(&mut flows, &slots, at * SECOND, Err("a test".into()));
    for at in 2..61 {
        assert_eq!(sweep(at), []);
    }
    assert_eq!((sweep(61), sweep(62)), (vec![], vec![(7, FlowResult::Idle, 0, 0, 0)]));
}

#[test]
fn a_list_that_takes_long_is_made_rarely() {
    let (mut flows, slots) = (DatagramFlows::default(), TestSlots::default());
    begin(&mut flows, &slots, 7, 1, 20);
    let in_use = flows.begin_sweep(&slots).unwrap();
    let closed = ClosedSockets { took: Duration::from_secs(60), ..closed([]) };
    flows.sweep(&slots, &in_use, closed, Clocks::at(3 * SECOND, 0), &mut |event| {
        panic!("{event:?}")
    });
    assert!(flows.until_sweep().unwrap() > Duration::from_secs(500));
}

#[test]
fn a_flow_ends_after_a_minute_without_use_and_a_new_one_begins() {
    let (mut flows, slots) = (DatagramFlows::default(), TestSlots::default());
    begin(&mut flows, &slots, 7, 1, 20);
    slots.send(20, 100, 2 * SECOND);
    assert_eq!(sweep(&mut flows, &slots, 61 * SECOND), []);
    assert_eq!(slots.retired.borrow().len(), 0);
    assert_eq!(sweep(&mut flows, &slots, 62 * SECOND), []);
    // The socket takes another slot.
    begin(&mut flows, &slots, 7, 1, 21);
    slots.send(21, 5, 63 * SECOND);
    let first = (7, FlowResult::Idle, 100, 1, SECOND);
    assert_eq!(sweep(&mut flows, &slots, 64 * SECOND), [first]);
    slots.close(7);
    sweep(&mut flows, &slots, 65 * SECOND);
    let second = (7, FlowResult::Closed, 5, 1, 62 * SECOND);
    assert_eq!(sweep(&mut flows, &slots, 66 * SECOND), [second]);
}

#[test]
fn the_slots_of_threads_that_began_at_once_are_one_flow() {
    let (mut flows, slots) = (DatagramFlows::default(), TestSlots::default());
    begin(&mut flows, &slots, 7, 1, 20);
    begin(&mut flows, &slots, 7, 1, 21);
    // Another process that inherited the socket.
    begin(&mut flows, &slots, 7, 2, 22);
    for (slot, bytes) in [(20, 1), (21, 2), (22, 4)] {
        slots.send(slot, bytes, 2 * SECOND);
    }
    slots.close(7);
    sweep(&mut flows, &slots, 3 * SECOND);
    let mut ended = sweep(&mut flows, &slots, 4 * SECOND);
    ended.sort_by_key(|flow| flow.2);
    let flow = |bytes, messages| (7, FlowResult::Closed, bytes, messages, SECOND);
    assert_eq!(ended, [flow(3, 2), flow(4, 1)]);
    assert_eq!(slots.used(), []);
}

#[test]
fn what_a_slot_without_a_record_has_counted_is_lost_and_counted() {
    let (mut flows, slots) = (DatagramFlows::default(), TestSlots::default());
    slots.take(20, 7);
    slots.send(20, 100, SECOND);
    flows.note_used(&slots.used());
    // Its record can be on its way.
    assert!(flows.until_sweep().unwrap() > Duration::from_secs(1));
    sweep(&mut flows, &slots, 2 * SECOND);
    assert_eq!(sweep(&mut flows, &slots, 3 * SECOND), []);
    let counts = DatagramCounts {
        bytes: Bytes { sent: 100, received: 0 },
        messages: Messages { sent: 1, received: 0 },
    };
    assert_eq!(flows.lost(), LostFlows { flows: 1, counts });
    assert_eq!((slots.used(), flows.until_sweep()), (vec![], None));
}

#[test]
fn a_late_record_makes_a_flow() {
    let (mut flows, slots) = (DatagramFlows::default(), TestSlots::default());
    let slot = slots.take(20, 7);
    sweep(&mut flows, &slots, 2 * SECOND);
    record(&mut flows, 7, 1, slot);
    slots.close(7);
    sweep(&mut flows, &slots, 3 * SECOND);
    assert_eq!(sweep(&mut flows, &slots, 4 * SECOND).len(), 1);
    assert_eq!(flows.lost(), LostFlows::default());
}

#[test]
fn a_record_after_its_slot_was_taken_back_makes_a_flow() {
    let (mut flows, slots) = (DatagramFlows::default(), TestSlots::default());
    let slot = slots.take(20, 7);
    slots.send(20, 100, SECOND);
    sweep(&mut flows, &slots, 2 * SECOND);
    sweep(&mut flows, &slots, 3 * SECOND);
    assert_eq!(*slots.retired.borrow(), [20]);
    record(&mut flows, 7, 1, slot);
    assert_eq!(sweep(&mut flows, &slots, 4 * SECOND), [(7, FlowResult::Idle, 100, 1, 0)]);
    assert_eq!((flows.len(), flows.until_sweep(), flows.lost().flows), (0, None, 0));
}

#[test]
fn a_record_after_its_slot_was_freed_changes_no_other_flow() {
    let (mut flows, slots) = (DatagramFlows::default(), TestSlots::default());
    let lost = slots.take(20, 7);
    for at in 2..5 {
        sweep(&mut flows, &slots, at * SECOND);
    }
    assert_eq!(flows.lost().flows, 1);
    // Another socket has the slot now.
    begin(&mut flows, &slots, 8, 2, 20);
    slots.send(20, 5, 6 * SECOND);
    record(&mut flows, 7, 1, lost);
    slots.close(7);
    slots.close(8);
    sweep(&mut flows, &slots, 7 * SECOND);
    let ended = sweep(&mut flows, &slots, 8 * SECOND);
    assert_eq!(ended, [(8, FlowResult::Closed, 5, 1, 5 * SECOND)]);
    assert_eq!((flows.len(), slots.used()), (0, vec![]));
}

#[test]
fn a_socket_that_is_newer_than_the_list_of_slots_does_not_end() {
    let (mut flows, slots) = (DatagramFlows::default(), TestSlots::default());
    let in_use = flows.begin_sweep(&slots).unwrap();
    begin(&mut flows, &slots, 7, 1, 20);
    let closed = closed([7]);
    flows.sweep(&slots, &in_use, closed, Clocks::at(2 * SECOND, 0), &mut |event| {
        panic!("{event:?}")
    });
    assert_eq!((flows.len(), slots.retired.borrow().len()), (1, 0));
}

/// The flow of socket 1 in slot 1, which has sent 100 bytes at 2 s and was closed.
fn closed_socket() -> (DatagramFlows, TestSlots) {
    let (mut flows, slots) = (DatagramFlows::default(), TestSlots::default());
    begin(&mut flows, &slots, 1, 7, 1);
    slots.send(1, 100, 2 * SECOND);
    slots.close(1);
    (flows, slots)
}

#[test]
fn a_slot_counts_until_the_programs_have_ended() {
    let (mut flows, slots) = closed_socket();
    assert_eq!(sweep(&mut flows, &slots, 3), []);
    slots.has_late_program.set(true);
    assert_eq!(sweep(&mut flows, &slots, 4), []);
    slots.send(1, 20, 4 * SECOND);
    slots.has_late_program.set(false);
    assert_eq!(sweep(&mut flows, &slots, 5), [(1, FlowResult::Closed, 120, 2, 3 * SECOND)]);
}

#[test]
fn a_closed_socket_ends_its_flow_at_that_time() {
    let (mut flows, slots) = closed_socket();
    flows.close(SocketKey::Cookie(1), 9 * SECOND, None);
    assert_eq!(sweep(&mut flows, &slots, 10), []);
    assert_eq!(sweep(&mut flows, &slots, 11), [(1, FlowResult::Closed, 100, 1, 8 * SECOND)]);
}
