//! Ends of datagram sockets.

use std::net::UdpSocket;

use rustix::net::sockopt::socket_cookie;

use super::child::spawn;
use super::this_binary::own_executable;
use super::*;
use crate::model::tcp_event::{Bytes, SocketKey};

/// Runs the body in a network namespace while ends are reported, on kernels with the tracepoints and control groups.
fn record_ends(test: &'static str, body: impl Fn(NetNamespace, &mut Recorded) + Send + 'static) {
    if Layout::of_running_kernel().counting.is_none() {
        return report_skip(test, "the kernel is older than 6.3");
    }
    if crate::linux::cgroup::hierarchy(&proc_root()).is_none() {
        return report_skip(test, "no control groups of version 2 are mounted");
    }
    record_in_own_netns(test, move |namespace, recorded| {
        recorded.source.wants_releases = true;
        recorded.source.begin_counting(&proc_root());
        recorded.source.releases.as_ref().unwrap();
        body(namespace, recorded);
    });
}

/// The ends in a namespace, as soon as there are so many.
fn wait_for_ends(
    recorded: &mut Recorded,
    namespace: NetNamespace,
    count: usize,
) -> Vec<DatagramEnd> {
    let is_there = |end: &&DatagramEnd| end.socket.net_namespace == namespace;
    recorded
        .wait(|it| it.ends.iter().filter(is_there).copied().collect(), |ends| ends.len() >= count)
}

#[test]
fn the_end_of_a_used_socket_has_process_ends_and_bytes() {
    let test = "the_end_of_a_used_socket_has_process_ends_and_bytes";
    record_ends(test, |namespace, recorded| {
        let [sender, receiver, unused] =
            ["127.0.0.1:0"; 3].map(|address| UdpSocket::bind(address).unwrap());
        let [from, to] = [&sender, &receiver].map(|socket| socket.local_addr().unwrap());
        sender.connect(to).unwrap();
        sender.send(&[7; 500]).unwrap();
        receiver.recv(&mut [0; 1000]).unwrap();
        let keys =
            [&sender, &receiver].map(|socket| SocketKey::Cookie(socket_cookie(socket).unwrap()));
        drop((unused, sender, receiver));
        let ends = wait_for_ends(recorded, namespace, 2);
        let shown: Vec<_> = ends
            .iter()
            .map(|end| (end.socket.key, end.socket.local, end.bytes, end.actor.map(|it| it.pid)))
            .collect();
        let pid = Some(own_pid());
        assert_eq!(
            shown,
            [
                (keys[0], endpoint(from), Bytes { sent: 500, received: 0 }, pid),
                (keys[1], endpoint(to), Bytes { sent: 0, received: 500 }, pid),
            ]
        );
        assert_eq!(ends[0].socket.remote, endpoint(to));
    });
}

#[test]
fn the_end_of_a_process_is_the_end_of_its_sockets() {
    let test = "the_end_of_a_process_is_the_end_of_its_sockets";
    record_ends(test, |namespace, recorded| {
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        let command = format!("send {}", receiver.local_addr().unwrap());
        let mut child = spawn(&own_executable(), &command);
        let pid = child.id().cast_signed();
        assert!(child.wait().unwrap().success());
        let ends = wait_for_ends(recorded, namespace, 1);
        assert_eq!(ends[0].actor.map(|actor| actor.pid), Some(pid));
        assert!(ends[0].bytes.sent > 0, "{:?}", ends[0].bytes);
    });
}
