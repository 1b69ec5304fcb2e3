use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::mpsc::channel;

use super::*;
use crate::model::tcp_event::EventRecord;
use crate::model::{NetNamespace, TcpState};
use crate::process_socket_events::event::{Action, TextBytes};
use crate::process_socket_events::records::{SECOND, actor, by, change};

/// A connection of each of these sockets that began a second after the boot.
fn join(cookies: impl IntoIterator<Item = u64>) -> Join {
    let mut join = Join::new(100, TextBytes::default());
    for cookie in cookies {
        let connect = change(cookie, TcpState::Closed, TcpState::SynSent, SECOND);
        let done = change(cookie, TcpState::SynSent, TcpState::Established, SECOND + 1);
        for record in [by(actor(7, 1000), connect), done] {
            join.apply(EventRecord::State(record), &mut |_| {});
        }
    }
    join
}

fn listed(cookies: impl IntoIterator<Item = u64>) -> Option<OpenTcpSockets> {
    Some(OpenTcpSockets { cookies: cookies.into_iter().collect(), namespaces: None })
}

/// The sockets that end after a lost record, if these are the lists.
fn repaired<const N: usize>(join: &mut Join, lists: [Option<OpenTcpSockets>; N]) -> Vec<Event> {
    let lists = Mutex::new(VecDeque::from(lists));
    let list = move || lists.lock().unwrap().pop_front().expect("one more list");
    let mut repair = Repair { interval: Duration::ZERO, ..Repair::new(Some(Arc::new(list))) };
    assert_eq!(repair.until_next(), None);
    repair.note_lost(1);
    let mut events = Vec::new();
    while repair.until_next().is_some() {
        let (send, woken) = channel();
        let wake: Wake = Arc::new(move || send.send(()).unwrap());
        repair.step(join, &wake, &mut |event| events.push(event));
        woken.recv().unwrap();
        repair.step(join, &wake, &mut |event| events.push(event));
    }
    // The same number again is nothing new.
    repair.note_lost(1);
    assert_eq!(repair.until_next(), None);
    assert_eq!(repair.repaired(), events.len() as u64);
    events
}

#[test]
fn a_socket_that_two_lists_lack_has_ended() {
    let mut join = join([1, 2]);
    let events = repaired(&mut join, [listed([2]), listed([2])]);
    assert_eq!(join.len(), 1);
    let [event] = &events[..] else { panic!("{events:#?}") };
    assert_eq!((event.socket, event.action), (SocketKey::Cookie(1), Action::Close));
    assert_eq!((event.pid(), event.bytes, event.duration_ns), (7, None, None));
    let flow = event.ended.as_ref().unwrap();
    assert_eq!(flow.start_ns, Some(SECOND));
}

#[test]
fn a_socket_that_one_list_lacks_goes_on() {
    let mut join = join([1, 2]);
    assert_eq!(repaired(&mut join, [listed([2]), listed([1, 2])]).len(), 0);
    assert_eq!(join.len(), 2);
}

#[test]
fn without_a_whole_list_no_socket_ends() {
    let mut join = join([1, 2]);
    assert_eq!(repaired(&mut join, [const { None }; FAILURES as usize]).len(), 0);
    let elsewhere = || {
        let namespaces = Some([NetNamespace(1)].into_iter().collect());
        Some(OpenTcpSockets { namespaces, ..OpenTcpSockets::default() })
    };
    assert_eq!(repaired(&mut join, [elsewhere(), elsewhere()]).len(), 0);
    assert_eq!(join.len(), 2);
}

#[test]
fn a_list_that_fails_is_made_again() {
    let mut join = join([1, 2]);
    assert_eq!(repaired(&mut join, [listed([2]), None, listed([2])]).len(), 1);
}

#[test]
fn a_socket_that_begins_during_the_list_goes_on() {
    let mut join = join([]);
    let future = Clocks::now().boot_ns + 1_000 * SECOND;
    let listens = change(1, TcpState::Closed, TcpState::Listen, future);
    join.apply(EventRecord::State(listens), &mut |_| {});
    assert_eq!(repaired(&mut join, [listed([]), listed([])]).len(), 0);
    assert_eq!(join.len(), 1);
}
