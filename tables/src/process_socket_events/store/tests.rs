use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;

use super::*;
use crate::model::tcp_event::SocketKey;
use crate::model::{Endpoint, NetNamespace};
use crate::process_socket_events::event::{Action, Attribution, Ends, Image, Process, Status};

fn event(uid: u32, boot_ns: u64, process: Option<Arc<Process>>) -> Event {
    let end = Endpoint { address: IpAddr::V4(Ipv4Addr::LOCALHOST), port: 1 };
    Event {
        id: 0,
        time: 0,
        clock_offset_ns: 0,
        boot_ns,
        action: Action::Connect,
        status: Status::Succeeded,
        attribution: Attribution::Exact,
        closed_by: None,
        errno: 0,
        process,
        owner_uid: uid,
        fd: None,
        inode: 0,
        socket: SocketKey::Cookie(boot_ns),
        ends: Ends {
            local: end,
            remote: end,
            net_namespace: NetNamespace(1),
            family: 2,
            kind: 1,
            protocol: 6,
        },
        duration_ns: None,
        bytes: None,
        ended: None,
    }
}

fn store(events: usize, age_ns: u64) -> Store {
    Store::new(Limits { events, age_ns, text_bytes: 1 << 20 }, 1, TextBytes::default())
}

fn everything(store: &Store) -> Vec<(u64, i64, u32)> {
    let events = store.select((i64::MIN, i64::MAX), |_| true);
    events.iter().map(|event| (event.id, event.time, event.owner_uid)).collect()
}

/// A store as a list: slow, and obviously right.
struct Model {
    events: Vec<(u64, i64, u32, u64)>,
    last: u64,
    age: u64,
    evicted: Evicted,
}

impl Model {
    fn add(&mut self, uid: u32, time: i64, boot: u64) {
        self.last += 1;
        self.events.push((self.last, time, uid, boot));
    }
}

#[derive(Clone, Debug)]
enum Step {
    Add { uid: u32, time: i64, later: u64 },
    Expire { later: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..4u32, 0..50i64, 0..20u64).prop_map(|(uid, time, later)| Step::Add { uid, time, later }),
        1 => (0..300u64).prop_map(|later| Step::Expire { later }),
    ]
}

proptest! {
    #[test]
    fn a_store_does_what_a_list_does(
        steps in prop::collection::vec(step(), 0..1500),
        max in 1..400usize,
    ) {
        let mut store = store(max, 1_000);
        let mut model = Model {
            events: Vec::new(), last: 0, age: 1_000, evicted: Evicted::default(),
        };
        let mut now = 0;
        for step in steps {
            match step {
                Step::Add { uid, time, later } => {
                    now += later;
                    store.add(event(uid, now, None), time);
                    model.add(uid, time, now);
                    if model.events.len() > max {
                        let kept: HashSet<u64> =
                            everything(&store).iter().map(|event| event.0).collect();
                        let lost: Vec<_> =
                            model.events.iter().filter(|event| !kept.contains(&event.0)).collect();
                        let [&(id, _, uid, _)] = lost[..] else {
                            return Err(TestCaseError::fail(format!("lost {lost:?}")));
                        };
                        let of = |uid| model.events.iter().filter(move |event| event.2 == uid);
                        let most = (0..4).map(|uid| of(uid).count()).max();
                        prop_assert_eq!(Some(of(uid).count()), most, "not the heaviest");
                        prop_assert_eq!(of(uid).next().map(|event| event.0), Some(id), "not its oldest");
                        if model.events[0].0 == id {
                            model.evicted.number += 1;
                        } else {
                            model.evicted.user += 1;
                        }
                        model.events.retain(|event| event.0 != id);
                    }
                }
                Step::Expire { later } => {
                    now += later;
                    store.expire(now);
                    let old = |event: &(u64, i64, u32, u64)| event.3 + model.age < now;
                    let expired = model.events.iter().take_while(|event| old(event)).count();
                    model.events.drain(..expired);
                    model.evicted.age += expired as u64;
                }
            }
            prop_assert_eq!(store.len(), model.events.len());
        }
        let listed: Vec<_> = model.events.iter().map(|event| (event.0, event.1, event.2)).collect();
        prop_assert_eq!(everything(&store), listed.clone());
        prop_assert_eq!(store.evicted(), model.evicted);
        prop_assert_eq!(store.added(), store.len() as u64 + store.evicted().sum());
        for (from, to) in [(0, 0), (10, 20), (25, i64::MAX), (i64::MIN, 3), (30, 10)] {
            let found = store.select((from, to), |_| true);
            let found: Vec<u64> = found.iter().map(|event| event.id).collect();
            let expected = listed.iter().filter(|event| from <= event.1 && event.1 <= to);
            prop_assert_eq!(found, expected.map(|event| event.0).collect::<Vec<_>>());
        }
        let half = model.last / 2;
        let after: Vec<u64> = store.after(half).iter().map(|event| event.id).collect();
        let expected = listed.iter().map(|event| event.0).filter(|id| *id > half);
        prop_assert_eq!(after, expected.collect::<Vec<_>>());
    }
}

#[test]
fn a_flood_of_one_user_evicts_no_event_of_another() {
    let mut store = store(1_000, u64::MAX);
    for number in 0..50_000u64 {
        if number % 500 == 0 {
            store.add(event(1000, number, None), 0);
        }
        store.add(event(2000, number, None), 0);
    }
    let quiet = everything(&store).iter().filter(|event| event.2 == 1000).count();
    assert_eq!((quiet, store.len()), (100, 1_000));
    let evicted = store.evicted();
    assert_eq!(evicted.number + evicted.user, 50_100 - 1_000);
    assert_eq!(store.evicted_of(), [(User::of_uid(Some(2000)), evicted.user)]);
}

#[test]
fn few_events_of_a_quiet_user_hold_few_blocks() {
    let mut store = store(10_000, u64::MAX);
    for number in 0..400_000u64 {
        store.add(event(if number % 256 == 0 { 1000 } else { 2000 }, number, None), 0);
    }
    assert_eq!(store.len(), 10_000);
    let blocks = store.blocks.len();
    assert!(blocks <= 10_000 / (BLOCK / 4) + 2, "{blocks} blocks");
}

#[test]
fn a_step_of_the_clock_reorders_no_event_and_loses_none() {
    let mut store = store(1_000, u64::MAX);
    for number in 0..600u64 {
        let time = if number < 300 { 5_000 } else { 1_000 } + number as i64;
        store.add(event(1, number, None), time);
    }
    let ids: Vec<u64> = everything(&store).iter().map(|event| event.0).collect();
    assert_eq!(ids, (1..=600).collect::<Vec<_>>());
    assert_eq!(store.select((1_500, 1_599), |_| true).len(), 100);
    assert_eq!(store.select((5_200, i64::MAX), |_| true).len(), 100);
}

#[test]
fn texts_of_one_user_evict_no_event_of_another() {
    let texts = TextBytes::default();
    let limits = Limits { events: 100_000, age_ns: u64::MAX, text_bytes: 100_000 };
    let mut store = Store::new(limits, 1, Arc::clone(&texts));
    let process = |pid: i32, cmdline: usize| {
        let image = Image::new(pid, 1, 0, &texts);
        image.set_cmdline(&vec![b'x'; cmdline]);
        let (tid, parent, uid, gid, comm, cgroup) = (None, None, None, None, None, None);
        Arc::new(Process { pid, tid, parent, uid, gid, comm, image, cgroup })
    };
    let shared = process(1, 1_000);
    for number in 0..500 {
        store.add(event(1000, number, Some(Arc::clone(&shared))), 0);
    }
    for pid in 2..300 {
        store.add(event(2000, 1_000, Some(process(pid, 1_000))), 0);
        store.shrink();
        assert!(texts.load(Ordering::Relaxed) <= 100_000);
    }
    let quiet = everything(&store).iter().filter(|event| event.2 == 1000).count();
    assert_eq!(quiet, 500);
    assert_eq!(store.evicted().memory, store.added() - store.len() as u64);
    assert!(store.evicted().memory > 0);
}
