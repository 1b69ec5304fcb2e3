//! The counted work of a scan, and the sockets that change during it.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::HashMap;
use std::net::{Ipv4Addr, TcpListener};

use rustix::net::{AddressFamily, SocketType, ipproto};

use super::super::plan::Plan;
use super::Scan;
use super::listing::{Listing, Run};
use super::reconcile::Reading;
use super::second_read::SecondRead;
use crate::deadline::Deadline;
use crate::linux::bpf::Records;
use crate::linux::netns::SocketSource;
use crate::linux::proc_root::ProcRoot;
use crate::linux::quiet::{in_quiet_namespace, report_skip, report_skip_without_bpf};
use crate::model::holders::{Holder, Holders};
use crate::model::omission::Omissions;
use crate::model::protocol::IPPROTO_TCP;
use crate::model::socket_table::SocketTable;
use crate::model::{
    Binding, Details, Endpoint, Families, Presence, Snapshot, Socket, Source, TcpState,
};
use crate::process_open_sockets::Options;
use crate::process_open_sockets::columns::Field;
use crate::process_open_sockets::filter::Filter;
use crate::process_open_sockets::sys::Collector;
use crate::{Constraint, Operator, QueryContext};

const ALL: Families = Families::all().difference(Families::UNLISTED);

fn collect(collector: &Collector, constraints: &[(Field, Operator, String)]) -> Snapshot {
    let constraint = |(field, operator, text): &(Field, Operator, String)| Constraint {
        column: *field as usize,
        operator: *operator,
        text: text.clone(),
    };
    let constraints = constraints.iter().map(constraint).collect();
    let query = QueryContext { constraints, ..QueryContext::default() };
    collector.collect(&Filter::new(&query, ALL)).unwrap()
}

fn collector(source: Source) -> Collector {
    let families = ALL;
    let snapshot_ttl = std::time::Duration::ZERO;
    Collector::new(Options { source, families, snapshot_ttl, ..Options::default() })
}

/// A listener of MPTCP: BPF shows its holder, and only its table the rest.
fn mptcp_listener() -> std::os::fd::OwnedFd {
    let (family, kind) = (AddressFamily::INET, SocketType::STREAM);
    let socket = rustix::net::socket(family, kind, Some(ipproto::MPTCP)).unwrap();
    let any: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
    rustix::net::bind(&socket, &any).unwrap();
    rustix::net::listen(&socket, 1).unwrap();
    socket
}

const BPF_TEST: &str = "a_partial_bpf_answer_is_passed_once_and_not_walked";

#[test]
fn a_partial_bpf_answer_is_passed_once_and_not_walked() {
    in_quiet_namespace(module_path!(), BPF_TEST, || {
        let collector = collector(Source::Bpf);
        let root = ProcRoot::open("/proc".as_ref()).unwrap();
        collector.scanner.bpf.load_if_needed(&root, Records::Basic);
        match collector.scanner.bpf.get(&root, Records::Basic) {
            None => {
                return report_skip_without_bpf(
                    BPF_TEST,
                    "BPF is not used; the tests of bpf print why",
                );
            }
            Some(bpf) if !bpf.reads_all_threads() => {
                return report_skip(BPF_TEST, "needs Linux 6.7: before it, a lookup can walk");
            }
            Some(_) => {}
        }
        let held = mptcp_listener();
        let inode = rustix::fs::fstat(&held).unwrap().st_ino;
        let me = std::process::id().to_string();
        let all_held = collect(&collector, &[(Field::Pid, Operator::GreaterThan, "0".into())]);
        let lookup = collect(&collector, &[(Field::Pid, Operator::Equals, me)]);
        for (snapshot, passes) in [(all_held, 1), (lookup, 0)] {
            let protocols: Vec<_> = snapshot
                .sockets
                .iter()
                .filter(|it| it.inode == inode)
                .map(Socket::protocol)
                .collect();
            assert!(protocols.contains(&Some(262)), "{protocols:?}");
            assert_eq!(snapshot.holders.of(inode).len(), 1);
            let work = snapshot.work;
            assert_eq!((work.passes, work.walks, work.walked), (passes, 0, 0), "{work}");
            // TCP and MPTCP, over IPv4 and IPv6.
            assert!((1..=4).contains(&work.dumps), "{work}");
        }
    });
}

#[test]
fn a_full_scan_reads_each_table_once_and_walks_once() {
    let test = "a_full_scan_reads_each_table_once_and_walks_once";
    in_quiet_namespace(module_path!(), test, || {
        let _held = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        // The kernel has netlink sockets that no process holds: their table is read twice.
        let not_netlink = (Field::Family, Operator::NotEquals, "16".into());
        // Others' namespaces can be mounted where this process sees them.
        let link = std::fs::read_link("/proc/self/ns/net").unwrap().display().to_string();
        let number = link.trim_start_matches("net:[").trim_end_matches(']').to_owned();
        let here = (Field::NetNamespace, Operator::Equals, number);
        let work = collect(&collector(Source::Netlink), &[not_netlink, here]).work;
        let (passes, walks, tested) = (work.passes, work.walks, work.tested);
        assert_eq!((passes, walks, tested), (0, 1, 0), "{work}");
        assert_eq!(work.tables as usize, SocketTable::ALL.len() - 1, "{work}");
    });
}

fn address(port: u16) -> Endpoint {
    Endpoint { address: Ipv4Addr::LOCALHOST.into(), port }
}

fn tcp(inode: u64, state: TcpState, local: u16, remote: u16) -> Socket {
    let (local, remote, protocol) = (address(local), address(remote), IPPROTO_TCP);
    let binding = Binding::Inet { v6: false, protocol, local, remote, state: Some(state) };
    Socket { inode, net_namespace: None, binding, details: Details::default() }
}

/// The sockets of the answer as inode, state and presence. `listed` is the first read, `records` came with their
/// holders.
fn reconciled(
    listed: Vec<Socket>,
    held: &[u64],
    second: Option<SecondRead>,
    records: Vec<Socket>,
) -> Vec<(u64, &'static str, Presence)> {
    let tree = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("1", tree.path().join("self")).unwrap();
    let root = ProcRoot::open(tree.path()).unwrap();
    let filter = Filter::new(&QueryContext::default(), Families::default());
    let plan = Plan::new(&Options::default(), &filter, None);
    let scan = Scan {
        root: &root,
        filter: &filter,
        plan: &plan,
        deadline: Deadline::NEVER,
        own_sockets: Default::default(),
        start_times: None,
    };
    let holder = |&inode: &u64| Holder { inode, pid: 7, fd: 3, tid: None };
    let holders: Holders = held.iter().map(holder).collect();
    let ranges = holders.of_each(&listed);
    let run = Run {
        namespace: crate::linux::netns::NetnsKey::of_test(),
        table: SocketTable::Tcp,
        source: SocketSource::Netlink,
        sockets: 0..listed.len(),
    };
    let mut listing = Listing::default();
    (listing.sockets, listing.runs) = (listed, vec![run]);
    let records = records.into_iter().map(|it| ((SocketTable::Tcp, it.inode), it)).collect();
    let inodes = listing.inodes();
    let reading = Reading { listing, inodes, records, readings: vec![second] };
    let reconciled = reading.reconcile(&scan, &holders, &ranges, &mut Omissions::default());
    let mut all: Vec<_> = reconciled
        .all
        .iter()
        .map(|socket| (socket.inode, socket.state(), socket.details.presence))
        .collect();
    all.sort_by_key(|(inode, ..)| *inode);
    all
}

fn second(still_listed: &[u64], new: Vec<Socket>) -> Option<SecondRead> {
    let still_listed: HashMap<u64, bool> = still_listed.iter().map(|&it| (it, true)).collect();
    Some(SecondRead { still_listed, new, ..SecondRead::default() })
}

#[test]
fn a_socket_missing_in_the_second_read_is_closed() {
    use Presence::{Closed, Lasting};
    let listed = || vec![tcp(1, TcpState::Listen, 80, 0), tcp(2, TcpState::Listen, 81, 0)];
    let shown = reconciled(listed(), &[], second(&[2], vec![]), vec![]);
    assert_eq!(shown, [(1, "LISTEN", Closed), (2, "LISTEN", Lasting)]);
    // Where the table could not be read again, nothing shows that it is gone.
    let shown = reconciled(listed(), &[], None, vec![]);
    assert_eq!(shown, [(1, "LISTEN", Lasting), (2, "LISTEN", Lasting)]);
}

#[test]
fn a_connection_is_shown_in_its_new_state() {
    let listed = vec![tcp(1, TcpState::Established, 80, 4000)];
    let after = vec![tcp(0, TcpState::TimeWait, 80, 4000)];
    let shown = reconciled(listed, &[], second(&[], after), vec![]);
    assert_eq!(shown, [(0, "TIME_WAIT", Presence::Lasting)]);
}

#[test]
fn a_listener_that_replaced_another_is_shown_with_it() {
    let listed = vec![tcp(1, TcpState::Listen, 80, 0)];
    let after = vec![tcp(3, TcpState::Listen, 80, 0)];
    let record = vec![tcp(2, TcpState::Listen, 80, 0)];
    let shown = reconciled(listed, &[2], second(&[], after), record);
    let expected = [
        (1, "LISTEN", Presence::Closed),
        (2, "LISTEN", Presence::Lasting),
        (3, "LISTEN", Presence::Opened),
    ];
    assert_eq!(shown, expected);
}

#[test]
fn a_connection_that_is_accepted_meanwhile_is_one_row() {
    let listed = vec![tcp(0, TcpState::Established, 80, 4000)];
    let accepted = vec![tcp(5, TcpState::Established, 80, 4000)];
    let shown = reconciled(listed, &[5], None, accepted);
    assert_eq!(shown, [(5, "ESTABLISHED", Presence::Lasting)]);
}
