use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::model::binding::Binding;
use crate::model::details::Details;

fn collector(per_socket: Option<u32>) -> HolderCollector {
    HolderCollector::new(HolderLimits { per_socket, max: None })
}

fn holder(inode: u64, pid: i32, fd: i32) -> Holder {
    Holder { inode, pid, fd, tid: None }
}

/// A collector that prunes from the beginning.
fn collector_that_prunes_early(per_socket: Option<u32>) -> HolderCollector {
    HolderCollector { prune_at: 4, ..collector(per_socket) }
}

fn collected(per_socket: u32, holders: impl IntoIterator<Item = Holder>) -> Holders {
    let mut collector = collector_that_prunes_early(Some(per_socket));
    for holder in holders {
        collector.push(holder);
        collector.prune_if_large(|_| true, |_| User::of_uid(None));
    }
    collector.finish(|_| true)
}

#[test]
fn a_socket_has_all_its_holders_and_no_other() {
    let holders: Holders =
        [holder(7, 2, 3), holder(5, 1, 3), holder(7, 1, 9), holder(9, 1, 1), holder(7, 1, 4)]
            .into_iter()
            .collect();
    assert_eq!(holders.of(7), [holder(7, 1, 4), holder(7, 1, 9), holder(7, 2, 3)]);
    assert_eq!(holders.of(5), [holder(5, 1, 3)]);
    assert_eq!(holders.of(6), []);
    assert_eq!(holders.of(10), []);
}

#[test]
fn each_socket_gets_the_holders_of_its_inode() {
    let holders: Holders =
        [holder(5, 1, 3), holder(7, 1, 4), holder(7, 2, 3), holder(9, 1, 1)].into_iter().collect();
    for inodes in [&[7, 5, 0, 6, 7, 9][..], &[5], &[9, 8], &[9], &[4, 5, 6, 7, 8, 9, 10], &[]] {
        let socket = |inode: &u64| Socket {
            inode: *inode,
            net_namespace: None,
            binding: Binding::Packet { protocol: 3 },
            details: Details::default(),
        };
        let sockets: Vec<Socket> = inodes.iter().map(socket).collect();
        let held = holders.of_each(&sockets);
        let held: Vec<&[Holder]> = held.iter().map(|range| holders.at(range)).collect();
        let expected: Vec<_> = inodes.iter().map(|&inode| holders.of(inode)).collect();
        assert_eq!(held, expected, "{inodes:?}");
    }
}

#[test]
fn a_descriptor_that_was_read_twice_counts_once() {
    let holders: Holders = [holder(7, 1, 3), holder(7, 1, 3)].into_iter().collect();
    assert_eq!(holders.of(7), [holder(7, 1, 3)]);
    assert_eq!(holders.descriptors(&holder(7, 1, 3)), 1);
}

#[test]
fn a_threads_descriptor_is_kept_if_its_process_lacks_it() {
    let of_thread = |inode, fd, tid| Holder { tid: Some(tid), ..holder(inode, 9, fd) };
    let holders: Holders = [
        of_thread(7, 3, 2),
        holder(7, 9, 3),
        of_thread(7, 4, 2),
        of_thread(7, 4, 2),
        of_thread(7, 4, 12),
        of_thread(8, 3, 12),
    ]
    .into_iter()
    .collect();
    assert_eq!(holders.of(7), [holder(7, 9, 3), of_thread(7, 4, 2), of_thread(7, 4, 12)]);
    assert_eq!(holders.of(8), [of_thread(8, 3, 12)]);
    let count = |holder| holders.descriptors(&holder);
    assert_eq!(count(holder(7, 9, 3)), 1);
    assert_eq!(count(of_thread(7, 4, 2)), 2);
    assert_eq!(count(of_thread(7, 4, 12)), 1);
}

#[test]
fn the_lowest_descriptors_are_kept_and_all_are_counted() {
    let flood = (0..20_000).rev().map(|fd| holder(7, 1, fd + 3));
    let holders = collected(100, flood.chain([holder(8, 1, 5000), holder(7, 2, 9)]));
    let kept: Vec<Holder> = (3..103).map(|fd| holder(7, 1, fd)).collect();
    assert_eq!(holders.of(7), [kept, vec![holder(7, 2, 9)]].concat());
    assert_eq!(holders.descriptors(&holder(7, 1, 50)), 20_000);
    assert_eq!(holders.descriptors(&holder(7, 2, 9)), 1);
    assert_eq!(holders.of(8), [holder(8, 1, 5000)]);
}

#[test]
fn a_collector_without_a_limit_keeps_all() {
    let mut collector = collector_that_prunes_early(None);
    for fd in 0..1000 {
        collector.push(holder(7, 1, fd));
        collector.prune_if_large(|_| unreachable!("no group is too large"), |_| User::of_uid(None));
    }
    let holders = collector.finish(|_| unreachable!("no group is too large"));
    assert_eq!(holders.of(7).len(), 1000);
    assert_eq!(holders.descriptors(&holder(7, 1, 0)), 1000);
}

#[test]
fn no_more_descriptors_are_checked_than_are_kept() {
    let mut checked = Vec::new();
    let mut collector = collector(Some(3));
    (0..50).rev().for_each(|fd| collector.push(holder(7, 1, fd)));
    (0..3).for_each(|fd| collector.push(holder(8, 1, fd)));
    let holders = collector.finish(|holder| {
        checked.push((holder.inode, holder.fd));
        holder.fd % 2 == 1
    });
    assert_eq!(checked, [(7, 0), (7, 1), (7, 2), (7, 3), (7, 4), (7, 5)]);
    assert_eq!(holders.of(7), [1, 3, 5].map(|fd| holder(7, 1, fd)));
    assert_eq!(holders.descriptors(&holder(7, 1, 1)), 47);
}

#[test]
fn many_sockets_of_one_descriptor_each_are_sorted_once() {
    let mut collector = collector(Some(100));
    for inode in 0..100_000 {
        collector.push(holder(inode + 1, 1, 3));
        collector.prune_if_large(|_| true, |_| User::of_uid(None));
    }
    assert_eq!(collector.prune_at, HolderCollector::FIRST_PRUNE);
}

#[test]
fn a_row_that_is_omitted_later_is_not_counted() {
    let holders = collected(2, (0..5).map(|fd| holder(7, 1, fd)));
    let holders = holders.without(|it, all| it.fd == 1 && all.len() == 2);
    assert_eq!(holders.of(7), [holder(7, 1, 0)]);
    assert_eq!(holders.descriptors(&holder(7, 1, 0)), 4);
}

/// The kept holders of all that were pushed, each with the count of its group, worked out with everything at
/// hand.
fn model(
    pushed: &BTreeSet<Holder>,
    per_socket: Option<usize>,
    is_real: impl Fn(&Holder) -> bool,
) -> Vec<(Holder, u32)> {
    let mut groups: BTreeMap<Group, Vec<Holder>> = BTreeMap::new();
    for holder in pushed {
        groups.entry(holder.group()).or_default().push(*holder);
    }
    let mut kept = Vec::new();
    for members in groups.into_values() {
        let mut count = members.len();
        let mut of_group = Vec::new();
        match per_socket.filter(|&most| members.len() > most) {
            None => of_group = members,
            Some(most) => {
                for holder in members {
                    if of_group.len() == most {
                        break;
                    }
                    if is_real(&holder) {
                        of_group.push(holder);
                    } else {
                        count -= 1;
                    }
                }
            }
        }
        let is_copy = |holder: &Holder| {
            holder.tid.is_some() && pushed.contains(&Holder { tid: None, ..*holder })
        };
        of_group.retain(|holder| !is_copy(holder));
        kept.extend(of_group.into_iter().map(|holder| (holder, count as u32)));
    }
    kept.sort_unstable();
    let mut of_process: BTreeMap<(u64, i32), usize> = BTreeMap::new();
    kept.retain(|(holder, _)| {
        let kept = of_process.entry((holder.inode, holder.pid)).or_default();
        *kept += 1;
        per_socket.is_none_or(|most| *kept <= most)
    });
    kept
}

#[derive(Clone, Debug)]
enum Step {
    Push(Holder),
    Prune,
    /// Continues with a new collector, to which this one is appended at the end.
    Split,
}

fn any_holder() -> impl Strategy<Value = Holder> {
    let tid = prop_oneof![3 => Just(None), 1 => (10..12i32).prop_map(Some)];
    (1..3u64, 1..3i32, 0..40i32, tid).prop_map(|(inode, pid, fd, tid)| Holder {
        inode,
        pid,
        fd,
        tid,
    })
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![20 => any_holder().prop_map(Step::Push), 2 => Just(Step::Prune), 1 => Just(Step::Split)]
}

proptest! {
    #[test]
    fn collected_holders_are_those_of_the_naive_model(
        steps in prop::collection::vec(any_step(), 0..300),
        per_socket in prop_oneof![Just(None), (1..8u32).prop_map(Some)],
        unreal in prop::collection::btree_set(any_holder(), 0..60),
    ) {
        let is_real = |holder: &Holder| !unreal.contains(holder);
        let (mut pushed, mut done, mut now) = (BTreeSet::new(), Vec::new(), collector_that_prunes_early(per_socket));
        for step in steps {
            match step {
                Step::Push(holder) => {
                    pushed.insert(holder);
                    now.push(holder);
                }
                Step::Prune => now.prune_if_large(is_real, |_| User::of_uid(None)),
                Step::Split => done.push(std::mem::replace(&mut now, collector_that_prunes_early(per_socket))),
            }
        }
        done.into_iter().for_each(|earlier| now.append(earlier));
        let holders = now.finish(is_real);
        let seen: Vec<_> = holders.iter().map(|it| (*it, holders.descriptors(it))).collect();
        let most = per_socket.map(|most| most as usize);
        prop_assert_eq!(seen, model(&pushed, most, is_real));
    }

    #[test]
    fn the_list_is_bounded_by_the_number_of_groups(
        pushed in prop::collection::vec(any_holder(), 0..1000),
        per_socket in 1..4u32,
    ) {
        let mut collector = collector_that_prunes_early(Some(per_socket));
        let first = collector.prune_at;
        let mut groups = BTreeSet::new();
        for holder in pushed {
            groups.insert(holder.group());
            collector.push(holder);
            collector.prune_if_large(|_| true, |_| User::of_uid(None));
            let bound = (2 * groups.len() * per_socket as usize).max(first);
            prop_assert!(collector.list.len() <= bound, "{} > {bound}", collector.list.len());
        }
    }
}

/// The user of an even pid is 0, of an odd one 1000.
fn user_of(pid: i32) -> User {
    User::of_uid(Some(if pid % 2 == 0 { 0 } else { 1000 }))
}

#[test]
fn too_many_holders_cost_the_user_with_the_most() {
    let max = HolderCollector::FIRST_PRUNE;
    let limits = HolderLimits { per_socket: Some(100), max: Some(max) };
    let mut holders = HolderCollector::new(limits);
    // Sockets 0 to 99 of root, each held by four processes; 100 others, each by 20,000 of a user.
    let mut pushed = 0;
    for inode in 1..=200 {
        let (processes, step) = if inode <= 100 { (4, 2) } else { (20_000, 1) };
        for n in 0..processes {
            let pid = if step == 2 { 2 * n } else { 2 * n + 1 };
            holders.push(Holder { inode, pid, fd: 3, tid: None });
            holders.prune_if_large(|_| true, user_of);
            pushed += 1;
            assert!(holders.list.len() <= max + max / 4 + HolderCollector::FIRST_PRUNE);
        }
    }
    let holders = holders.finish(|_| true);
    let omitted = holders.omitted().clone();
    assert_eq!(omitted.keys().copied().collect::<Vec<_>>(), [user_of(1)]);
    assert_eq!(holders.list.len() as u64 + omitted[&user_of(1)], pushed);
    for inode in 1..=100 {
        assert_eq!(holders.of(inode).len(), 4, "{inode}");
    }
    for inode in 101..=200 {
        assert!(!holders.of(inode).is_empty(), "{inode} looks unheld");
    }
}

#[test]
fn the_maximum_number_of_holders_is_kept() {
    let limits = HolderLimits { per_socket: Some(100), max: Some(HolderCollector::FIRST_PRUNE) };
    let mut holders = HolderCollector::new(limits);
    for pid in 0..i32::try_from(HolderCollector::FIRST_PRUNE).unwrap() {
        holders.push(Holder { inode: 7, pid, fd: 3, tid: None });
        holders.prune_if_large(|_| true, |_| panic!("no user is read"));
    }
    let holders = holders.finish(|_| true);
    assert_eq!((holders.of(7).len(), holders.omitted().len()), (HolderCollector::FIRST_PRUNE, 0));
}
