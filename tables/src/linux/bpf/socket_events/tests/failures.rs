//! Connects that fail.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with, sockopt};

use super::*;
use crate::model::TcpState::{Closed, Established, SynSent};

const ECONNREFUSED: i32 = 111;
const ETIMEDOUT: i32 = 110;

fn non_blocking(to: SocketAddr) -> OwnedFd {
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(family, SocketType::STREAM, flags, None).unwrap();
    assert_eq!(connect(&socket, &to), Err(Errno::INPROGRESS));
    socket
}

/// Waits for the result of a connect.
fn wait_for_result(socket: &OwnedFd) -> Result<(), Errno> {
    poll(&mut [PollFd::new(socket, PollFlags::OUT)], None).unwrap();
    sockopt::socket_error(socket).unwrap()
}

/// An address where nobody listens.
fn closed(at: &str) -> SocketAddr {
    TcpListener::bind(at).unwrap().local_addr().unwrap()
}

/// A listener whose accept queue is full, and the connection that fills it: further SYNs get no answer.
fn full_listener() -> (OwnedFd, SocketAddr, TcpStream) {
    let listener = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None);
    let listener = listener.unwrap();
    rustix::net::bind(&listener, &SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let listener = TcpListener::from(listener);
    let address = listener.local_addr().unwrap();
    let first = TcpStream::connect(address).unwrap();
    // The connection enters the queue a moment after connect(2).
    poll(&mut [PollFd::new(&listener, PollFlags::IN)], None).unwrap();
    (listener.into(), address, first)
}

/// The changes of connects to an address.
fn to(changes: &[StateChange], address: SocketAddr) -> Vec<StateChange> {
    let remote = endpoint(address);
    changes.iter().filter(|change| change.remote == remote).copied().collect()
}

#[test]
fn a_refused_connect_has_its_process_and_errno() {
    let test = "a_refused_connect_has_its_process_and_errno";
    record_in_own_netns(test, move |namespace, recorded| {
        for at in ["127.0.0.1:0", "[::1]:0"] {
            let address = closed(at);
            TcpStream::connect(address).unwrap_err();
            let waiting = non_blocking(address);
            assert_eq!(wait_for_result(&waiting), Err(Errno::CONNREFUSED));
            let is_all = |changes: &[StateChange]| to(changes, address).len() == 4;
            let changes = to(&recorded.wait_until(namespace, is_all), address);
            for of in by_socket(&changes) {
                assert_eq!(states(&of), [(Closed, SynSent), (SynSent, Closed)]);
                assert_eq!((of[0].errno, of[1].errno), (0, ECONNREFUSED));
                assert_eq!(of[0].actor.unwrap().pid, own_pid());
                // The port is chosen after SYN_SENT.
                assert!(of[0].local.port == 0 && of[1].local.port != 0, "{of:#?}");
            }
        }
    });
}

#[test]
fn a_connect_without_answer_times_out_or_is_given_up() {
    let test = "a_connect_without_answer_times_out_or_is_given_up";
    record_in_own_netns(test, move |namespace, recorded| {
        let (listener, address, first) = full_listener();
        let times_out = non_blocking(address);
        sockopt::set_tcp_user_timeout(&times_out, 500).unwrap();
        let given_up = non_blocking(address);
        drop(given_up);
        // At the first repetition of the SYN, after a second.
        assert_eq!(wait_for_result(&times_out), Err(Errno::TIMEDOUT));
        let is_closed = |change: &StateChange| change.old == SynSent && change.new == Closed;
        let changes = recorded.wait_until(namespace, |changes| {
            changes.iter().filter(|change| is_closed(change)).count() == 2
        });
        drop((listener, first));
        let closed: Vec<StateChange> =
            changes.iter().filter(|change| is_closed(change)).copied().collect();
        let (given_up, timed_out) = (closed[0], closed[1]);
        assert_eq!((given_up.errno, given_up.remote), (0, endpoint(address)));
        assert_eq!(given_up.actor.unwrap().pid, own_pid());
        assert_eq!((timed_out.errno, timed_out.remote), (ETIMEDOUT, endpoint(address)));
        // The timer, in whose softirq any task can be the current one.
        assert_eq!(timed_out.actor, None);
        assert!(timed_out.boot_ns - given_up.boot_ns > 300_000_000, "{closed:#?}");
    });
}

#[test]
fn a_connect_that_does_not_block_is_established_later() {
    let test = "a_connect_that_does_not_block_is_established_later";
    record_in_own_netns(test, move |namespace, recorded| {
        let listener = TcpListener::bind("[::1]:0").unwrap();
        let address = listener.local_addr().unwrap();
        let socket = non_blocking(address);
        assert_eq!(wait_for_result(&socket), Ok(()));
        let is_all = |changes: &[StateChange]| to(changes, address).len() == 2;
        let changes = to(&recorded.wait_until(namespace, is_all), address);
        assert_eq!(states(&changes), [(Closed, SynSent), (SynSent, Established)]);
        let local = TcpStream::from(socket).local_addr().unwrap();
        assert_eq!(changes[1].local, endpoint(local));
    });
}

/// Before the state changes, there is nothing to see for this tracepoint.
#[test]
fn a_connect_without_route_changes_no_state() {
    let test = "a_connect_without_route_changes_no_state";
    record_in_own_netns(test, move |namespace, recorded| {
        let unreachable = TcpStream::connect("192.0.2.1:9").unwrap_err();
        assert_eq!(Errno::from_io_error(&unreachable), Some(Errno::NETUNREACH));
        let last = closed("127.0.0.1:0");
        TcpStream::connect(last).unwrap_err();
        let is_all = |changes: &[StateChange]| to(changes, last).len() == 2;
        let changes = recorded.wait_until(namespace, is_all);
        assert!(changes.iter().all(|change| change.remote.port != 9), "{changes:#?}");
    });
}
