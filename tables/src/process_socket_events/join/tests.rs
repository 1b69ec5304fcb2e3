use std::collections::BTreeSet;

use proptest::prelude::*;

use super::socket::{ECONNABORTED, ECONNREFUSED, ECONNRESET, EHOSTUNREACH, EPIPE, ETIMEDOUT};
use super::*;
use crate::model::tcp_event::{Actor, Bytes, FirstDatagram};
use crate::process_socket_events::records::{
    SECOND, actor, by, change, connection, end, executable, first_send, open,
};
use TcpState::*;

fn join() -> Join {
    Join::new(1_000, TextBytes::default())
}

fn events(join: &mut Join, records: impl IntoIterator<Item = StateChange>) -> Vec<Event> {
    let mut events = Vec::new();
    for record in records {
        join.apply(EventRecord::State(record), &mut |event| events.push(event));
    }
    events
}

/// The part of an event that tests compare.
fn summary(event: &Event) -> (Action, Status, i32, Attribution, Option<ClosedBy>, i32) {
    let Event { action, status, attribution, closed_by, errno, .. } = *event;
    (action, status, event.pid(), attribution, closed_by, errno)
}

fn summaries(events: &[Event]) -> Vec<(Action, Status, i32, Attribution, Option<ClosedBy>, i32)> {
    events.iter().map(summary).collect()
}

#[test]
fn a_connection_is_a_connect_and_a_close() {
    let mut join = join();
    let mut found = Vec::new();
    join.apply(executable(7, "/bin/curl"), &mut |event| found.push(event));
    for record in connection(1, actor(7, 1000), 5 * SECOND) {
        join.apply(record, &mut |event| found.push(event));
    }
    assert_eq!(
        summaries(&found),
        [
            (Action::Connect, Status::Succeeded, 7, Attribution::Exact, None, 0),
            (Action::Close, Status::Succeeded, 7, Attribution::Exact, Some(ClosedBy::Local), 0),
        ]
    );
    let [connect, close] = &found[..] else { unreachable!() };
    assert_eq!((connect.duration_ns, connect.bytes), (Some(100_000), None));
    assert_eq!((connect.boot_ns, connect.ends.local.port), (5 * SECOND + 100_000, 40_000));
    assert_eq!(close.duration_ns, Some(1_000_000));
    assert_eq!(close.bytes, Some(Bytes { sent: 10, received: 20 }));
    assert_eq!((close.inode, close.fd), (1_001, Some(3)));
    let process = close.process.as_ref().unwrap();
    assert_eq!((process.image.path(), process.name()), (&b"/bin/curl"[..], &b"test"[..]));
    assert_eq!(join.len(), 0);
}

#[test]
fn a_refused_connect_has_its_error_and_no_close() {
    let found = events(
        &mut join(),
        [
            by(actor(7, 1000), change(1, Closed, SynSent, SECOND)),
            StateChange { errno: ECONNREFUSED, ..change(1, SynSent, Closed, SECOND + 50) },
        ],
    );
    let expected = (Action::Connect, Status::Failed, 7, Attribution::Exact, None, ECONNREFUSED);
    assert_eq!(summaries(&found), [expected]);
    assert_eq!(found[0].duration_ns, Some(50));
}

#[test]
fn a_connect_that_is_given_up_failed_without_an_error() {
    let found = events(
        &mut join(),
        [
            by(actor(7, 1000), change(1, Closed, SynSent, SECOND)),
            by(actor(7, 1000), change(1, SynSent, Closed, 2 * SECOND)),
        ],
    );
    assert_eq!(
        summaries(&found),
        [(Action::Connect, Status::Failed, 7, Attribution::Exact, None, 0)]
    );
}

#[test]
fn a_connect_without_a_result_is_in_progress_once() {
    let mut join = join();
    let begin = by(actor(7, 1000), change(1, Closed, SynSent, SECOND));
    assert_eq!(events(&mut join, [begin]).len(), 0);
    let mut found = Vec::new();
    join.expire(SECOND + CONNECT_NS - 1, &mut |event| found.push(event));
    assert_eq!(found.len(), 0);
    join.expire(SECOND + CONNECT_NS, &mut |event| found.push(event));
    join.expire(90 * SECOND, &mut |event| found.push(event));
    let failed = StateChange { errno: ETIMEDOUT, ..change(1, SynSent, Closed, 130 * SECOND) };
    found.extend(events(&mut join, [failed]));
    let (exact, timeout) = (Attribution::Exact, Some(ClosedBy::Timeout));
    assert_eq!(
        summaries(&found),
        [
            (Action::Connect, Status::InProgress, 7, exact, None, 0),
            (Action::Close, Status::Failed, 7, exact, timeout, ETIMEDOUT),
        ]
    );
    assert_eq!(found[0].boot_ns, SECOND + CONNECT_NS);
    assert_eq!(found[1].duration_ns, Some(129 * SECOND));
}

#[test]
fn a_connect_whose_result_was_lost_succeeded_at_an_unknown_time() {
    let begin = || by(actor(7, 1000), change(1, Closed, SynSent, SECOND));
    let exact = Attribution::Exact;
    let close = (Action::Close, Status::Succeeded, 7, exact, Some(ClosedBy::Local), 0);
    let close_first = || by(actor(7, 1000), change(1, Established, FinWait1, 3 * SECOND));
    let last = || change(1, FinWait2, Closed, 4 * SECOND);
    for records in [vec![begin(), close_first(), last()], vec![begin(), last()]] {
        let found = events(&mut join(), records);
        let connect = (Action::Connect, Status::Succeeded, 7, exact, None, 0);
        assert_eq!(summaries(&found), [connect, close]);
        assert_eq!([found[0].duration_ns, found[1].duration_ns], [None, Some(3 * SECOND)]);
    }
    let found = events(&mut join(), [begin(), change(1, FinWait2, Closed, 30 * SECOND)]);
    let in_progress = (Action::Connect, Status::InProgress, 7, exact, None, 0);
    assert_eq!(summaries(&found), [in_progress, close]);
}

#[test]
fn a_late_result_is_in_progress_whenever_it_is_read() {
    // The records of a minute are read at once.
    let found = events(
        &mut join(),
        [
            by(actor(7, 1000), change(1, Closed, SynSent, SECOND)),
            change(1, SynSent, Established, 31 * SECOND),
            by(actor(7, 1000), change(1, Established, FinWait1, 40 * SECOND)),
            change(1, FinWait2, Closed, 41 * SECOND),
        ],
    );
    let exact = Attribution::Exact;
    assert_eq!(
        summaries(&found),
        [
            (Action::Connect, Status::InProgress, 7, exact, None, 0),
            (Action::Close, Status::Succeeded, 7, exact, Some(ClosedBy::Local), 0),
        ]
    );
    assert_eq!(found[0].boot_ns, SECOND + CONNECT_NS);
}

/// A connection to port 80 that is accepted.
fn accepted(cookie: u64, at: u64) -> StateChange {
    let change = change(cookie, SynRecv, Established, at);
    let (local, remote) = (end("127.0.0.1", 80), end("127.0.0.1", 40_000));
    StateChange { local, remote, inode: 0, ..change }
}

fn listen(cookie: u64, pid: i32) -> StateChange {
    let change = by(actor(pid, 33), change(cookie, Closed, Listen, SECOND));
    StateChange { local: end("0.0.0.0", 80), remote: end("0.0.0.0", 0), ..change }
}

#[test]
fn an_accept_names_the_listener_and_its_end_the_process() {
    let found = events(
        &mut join(),
        [
            listen(1, 7),
            accepted(2, 2 * SECOND),
            // A child of the listener closes after its peer.
            by(actor(8, 33), change(2, CloseWait, LastAck, 3 * SECOND)),
            change(2, LastAck, Closed, 4 * SECOND),
        ],
    );
    let (listener, exact) = (Attribution::Listener, Attribution::Exact);
    assert_eq!(
        summaries(&found),
        [
            (Action::Listen, Status::Succeeded, 7, exact, None, 0),
            (Action::Accept, Status::Succeeded, 7, listener, None, 0),
            (Action::Close, Status::Succeeded, 8, exact, Some(ClosedBy::Remote), 0),
        ]
    );
    assert_eq!((found[1].fd, found[2].fd), (None, None));
    assert_eq!(found[2].duration_ns, Some(2 * SECOND));
    assert_eq!((found[1].inode, found[2].inode), (0, 1_002));
}

#[test]
fn an_accept_that_the_peer_resets_names_the_listener() {
    let found = events(
        &mut join(),
        [
            listen(1, 7),
            accepted(2, 2 * SECOND),
            StateChange { errno: ECONNRESET, ..change(2, Established, Closed, 3 * SECOND) },
        ],
    );
    let expected = (
        Action::Close,
        Status::Succeeded,
        7,
        Attribution::Listener,
        Some(ClosedBy::Reset),
        ECONNRESET,
    );
    assert_eq!(summary(&found[2]), expected);
}

#[test]
fn an_accept_without_a_known_listener_names_no_process() {
    let found = events(&mut join(), [accepted(2, SECOND)]);
    let unknown = Attribution::Unknown;
    assert_eq!(summaries(&found), [(Action::Accept, Status::Succeeded, -1, unknown, None, 0)]);
    let found = events(&mut join(), [listen(1, 7), listen(3, 8), accepted(2, SECOND)]);
    assert_eq!(summary(&found[2]).3, unknown);
}

#[test]
fn a_socket_that_listens_twice_has_one_event() {
    let again = by(actor(7, 1000), change(1, Listen, Listen, SECOND + 1));
    let expected = (Action::Listen, Status::Succeeded, 7, Attribution::Exact, None, 0);
    // The first record can be lost.
    for records in [vec![listen(1, 7), again], vec![again]] {
        assert_eq!(summaries(&events(&mut join(), records)), [expected]);
    }
}

#[test]
fn the_end_of_a_listener_is_a_close_without_bytes() {
    let mut join = join();
    let close = by(actor(7, 33), change(1, Listen, Closed, 3 * SECOND));
    let found = events(&mut join, [listen(1, 7), close, accepted(2, 4 * SECOND)]);
    let local = Some(ClosedBy::Local);
    let expected = (Action::Close, Status::Succeeded, 7, Attribution::Exact, local, 0);
    assert_eq!(summary(&found[1]), expected);
    assert_eq!((found[1].bytes, found[1].duration_ns), (None, Some(2 * SECOND)));
    assert_eq!(found[2].pid(), -1);
}

#[test]
fn how_a_connection_ended_is_in_the_states_and_the_error() {
    let ended = |changes: &[StateChange]| {
        let established = change(1, SynRecv, Established, SECOND);
        let found = events(&mut join(), [established].into_iter().chain(changes.iter().copied()));
        found.last().unwrap().closed_by
    };
    let closed = |old| change(1, old, Closed, 2 * SECOND);
    let own = actor(7, 1000);
    // close(2) with unread data resets.
    assert_eq!(ended(&[by(own, closed(Established))]), Some(ClosedBy::Local));
    // The listener was closed before accept(2).
    assert_eq!(ended(&[closed(Established)]), Some(ClosedBy::Local));
    assert_eq!(ended(&[closed(FinWait2)]), Some(ClosedBy::Local));
    assert_eq!(ended(&[closed(LastAck)]), Some(ClosedBy::Remote));
    let errno = |errno| StateChange { errno, ..closed(Established) };
    assert_eq!(ended(&[errno(ECONNRESET)]), Some(ClosedBy::Reset));
    assert_eq!(ended(&[errno(EPIPE)]), Some(ClosedBy::Reset));
    assert_eq!(ended(&[errno(ETIMEDOUT)]), Some(ClosedBy::Timeout));
    assert_eq!(ended(&[errno(EHOSTUNREACH)]), Some(ClosedBy::Timeout));
    assert_eq!(ended(&[errno(ECONNABORTED)]), Some(ClosedBy::Local));
    const EPROTO: i32 = 71;
    assert_eq!(ended(&[errno(EPROTO)]), None);
    // shutdown(2), and later close(2) by another process: the first counts.
    let shutdown = by(own, change(1, Established, FinWait1, SECOND));
    let close = by(actor(8, 1000), closed(FinWait2));
    let found = events(&mut join(), [change(1, SynRecv, Established, 1), shutdown, close]);
    assert_eq!((found[1].pid(), found[1].closed_by), (7, Some(ClosedBy::Local)));
}

#[test]
fn a_socket_that_was_open_already_names_its_holder() {
    let mut join = join();
    join.add_open(&open(1, 7, Listen));
    join.add_open(&open(2, 8, Established));
    join.add_open(&open(2, 9, Established));
    let reset = StateChange { errno: ECONNRESET, ..change(2, Established, Closed, 3 * SECOND) };
    let found = events(&mut join, [accepted(3, 2 * SECOND), reset]);
    let (listener, snapshot) = (Attribution::Listener, Attribution::Snapshot);
    assert_eq!(
        summaries(&found),
        [
            (Action::Accept, Status::Succeeded, 7, listener, None, 0),
            (Action::Close, Status::Succeeded, 8, snapshot, Some(ClosedBy::Reset), ECONNRESET),
        ]
    );
    assert_eq!((found[1].fd, found[1].duration_ns), (Some(5), None));
    assert_eq!(found[1].owner_uid, 1000);
}

#[test]
fn the_end_of_an_unknown_connection_names_who_closed_it() {
    let close = by(actor(7, 1000), change(1, Established, FinWait1, SECOND));
    let found = events(&mut join(), [close, change(1, FinWait2, Closed, 2 * SECOND)]);
    let local = Some(ClosedBy::Local);
    let expected = (Action::Close, Status::Succeeded, 7, Attribution::Exact, local, 0);
    assert_eq!(summaries(&found), [expected]);
    assert_eq!(found[0].duration_ns, None);
    let found = events(&mut join(), [change(1, FinWait2, Closed, 2 * SECOND)]);
    assert_eq!((found[0].pid(), found[0].attribution), (-1, Attribution::Unknown));
    assert_eq!(events(&mut join(), [change(1, SynRecv, Closed, SECOND)]).len(), 0);
}

#[test]
fn a_worker_of_the_kernel_is_not_who_closed() {
    let worker = Actor { parent: 2, executable: 0, ..actor(21, 0) };
    let found = events(
        &mut join(),
        [
            by(actor(7, 1000), change(1, Closed, SynSent, SECOND)),
            change(1, SynSent, Established, SECOND),
            by(worker, change(1, FinWait1, FinWait1, SECOND)),
            by(worker, change(1, FinWait2, Closed, SECOND)),
        ],
    );
    let (exact, local) = (Attribution::Exact, Some(ClosedBy::Local));
    assert_eq!(summary(&found[1]), (Action::Close, Status::Succeeded, 7, exact, local, 0));
    assert_eq!(found[1].fd, Some(3));
}

#[test]
fn a_first_send_is_an_event_of_its_process_and_nothing_more() {
    let mut join = join();
    let mut found = Vec::new();
    let records = [
        executable(7, "/bin/dig"),
        EventRecord::Datagram(first_send(1, actor(7, 1000), SECOND)),
        EventRecord::Datagram(FirstDatagram { errno: 13, ..first_send(2, actor(7, 1000), SECOND) }),
        EventRecord::Datagram(FirstDatagram {
            actor: None,
            ..first_send(3, actor(7, 1000), SECOND)
        }),
    ];
    for record in records {
        join.apply(record, &mut |event| found.push(event));
    }
    let send = Action::Send;
    assert_eq!(
        summaries(&found),
        [
            (send, Status::Succeeded, 7, Attribution::Exact, None, 0),
            (send, Status::Failed, 7, Attribution::Exact, None, 13),
            (send, Status::Succeeded, -1, Attribution::Unknown, None, 0),
        ]
    );
    assert_eq!(found[0].process.as_ref().unwrap().image.path(), b"/bin/dig");
    assert_eq!((found[0].ends.remote, found[0].fd), (end("192.0.2.53", 53), Some(3)));
    assert_eq!((found[2].user(), join.len()), (User::of_uid(Some(1000)), 0));
}

#[test]
fn a_flood_of_one_user_evicts_no_socket_of_another() {
    let mut join = join();
    let connect = |cookie, uid| by(actor(7, uid), change(cookie, Closed, SynSent, cookie));
    let quiet: Vec<_> = (0..50).map(|cookie| connect(cookie, 1000)).collect();
    events(&mut join, quiet);
    events(&mut join, (100..20_000).map(|cookie| connect(cookie, 2000)));
    assert_eq!((join.len(), join.evicted()), (1_000, 50 + 19_900 - 1_000));
    let results = (0..50).map(|cookie| change(cookie, SynSent, Established, SECOND));
    let found = events(&mut join, results);
    assert!(found.iter().all(|event| event.attribution == Attribution::Exact));
    // A connect that was evicted still has its result.
    let found = events(&mut join, [change(100, SynSent, Established, SECOND)]);
    let expected = (Action::Connect, Status::Succeeded, -1, Attribution::Unknown, None, 0);
    assert_eq!(summaries(&found), [expected]);
}

fn actor_of(pid: i32, uid: u32) -> Actor {
    actor(pid, uid)
}

fn any_state() -> impl Strategy<Value = TcpState> {
    (0..14u8).prop_map(TcpState::from)
}

prop_compose! {
    fn any_change()(
        cookie in 0..40u64,
        address in any::<bool>(),
        old in any_state(),
        new in any_state(),
        step in 0..3 * SECOND,
        errno in prop::sample::select(vec![0, 32, 104, 110, 111, 113, -1, i32::MAX]),
        port in prop::sample::select(vec![0u16, 80, 40_000]),
        inode in 0..3u64,
        actor in prop::option::of((prop::sample::select(vec![i32::MIN, -1, 0, 7, 8]), 0..3u32, 0..2u64)),
    ) -> (StateChange, u64) {
        let change = change(cookie, old, new, 0);
        let actor = actor.map(|(pid, uid, executable)| {
            Actor { executable, fd: pid, ..actor_of(pid, uid) }
        });
        let socket = if address { SocketKey::Address(cookie) } else { change.socket };
        (StateChange { socket, errno, inode, actor, local: end("127.0.0.1", port), ..change }, step)
    }
}

proptest! {
    #[test]
    fn no_sequence_of_records_panics_or_grows_without_bound(
        changes in prop::collection::vec(any_change(), 0..400),
        max in 1..30usize,
        opened in prop::collection::vec((0..40u64, any_state()), 0..10),
    ) {
        let mut join = Join::new(max, TextBytes::default());
        for (cookie, state) in opened {
            join.add_open(&open(cookie, 7, state));
        }
        let mut now = 0;
        let mut found = Vec::new();
        for (change, step) in changes {
            now += step;
            let change = StateChange { boot_ns: now, ..change };
            join.apply(EventRecord::State(change), &mut |event| found.push(event));
            prop_assert!(join.len() <= max);
            if step % 3 == 0 {
                join.expire(now, &mut |event| found.push(event));
            }
            let connecting =
                join.sockets.values().filter(|it| it.phase == Phase::Connecting).count();
            prop_assert_eq!(join.connecting, connecting);
            prop_assert!(join.connects.len() <= 2 * join.connecting + 1_025);
        }
        for event in &found {
            prop_assert_eq!(event.pid() == -1 && event.process.is_none(),
                event.attribution == Attribution::Unknown);
            prop_assert_eq!(event.bytes.is_some(), event.action == Action::Close && event.bytes.is_some());
            prop_assert!(event.action == Action::Connect || event.status != Status::InProgress);
        }
    }

    #[test]
    fn the_events_do_not_depend_on_when_records_are_read(
        connections in prop::collection::vec((0..30 * SECOND, 0..3usize), 1..20),
        reads in prop::collection::btree_set(0..60 * SECOND, 0..20),
    ) {
        let mut changes: Vec<StateChange> = Vec::new();
        for (cookie, (at, end)) in (0..).zip(connections) {
            changes.push(by(actor(7, 1000), change(cookie, Closed, SynSent, at)));
            let later = at + at % (20 * SECOND);
            match end {
                0 => changes.push(change(cookie, SynSent, Established, later)),
                1 => changes.push(StateChange { errno: ECONNREFUSED, ..change(cookie, SynSent, Closed, later) }),
                _ => {}
            }
        }
        changes.sort_by_key(|change| change.boot_ns);
        let run = |reads: &BTreeSet<u64>| {
            let (mut join, mut found) = (join(), Vec::new());
            let mut changes = changes.iter().peekable();
            for read in reads.iter().copied().chain([90 * SECOND]) {
                while let Some(change) = changes.next_if(|change| change.boot_ns <= read) {
                    join.apply(EventRecord::State(*change), &mut |event| found.push(event));
                }
                join.expire(read, &mut |event| found.push(event));
            }
            let mut found: Vec<_> =
                found.iter().map(|event| format!("{:?} {:?} {}", event.socket, summary(event), event.boot_ns)).collect();
            found.sort();
            found
        };
        prop_assert_eq!(run(&reads), run(&BTreeSet::new()));
    }
}
