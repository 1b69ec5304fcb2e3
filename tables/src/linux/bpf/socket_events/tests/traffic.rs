//! Connections from their beginning to their end.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsRawFd;

use super::*;
use crate::model::TcpState::{Closed, Established, FinWait1, FinWait2, LastAck, Listen, SynSent};
use crate::model::tcp_event::Bytes;

/// Connects to a listener at this address, exchanges bytes, closes everything, and checks the records.
fn check_connection(recorded: &mut Recorded, namespace: NetNamespace, at: &str, to: &str) {
    recorded.states.clear();
    let listener = TcpListener::bind(at).unwrap();
    let listening = listener.local_addr().unwrap();
    let mut client = TcpStream::connect((to, listening.port())).unwrap();
    let client_address = (client.local_addr().unwrap(), client.peer_addr().unwrap());
    let (mut server, _) = listener.accept().unwrap();
    let server_address = (server.local_addr().unwrap(), server.peer_addr().unwrap());
    let fds = [listener.as_raw_fd(), client.as_raw_fd()];
    let inode = |fd: &dyn std::os::fd::AsFd| rustix::fs::fstat(fd.as_fd()).unwrap().st_ino;
    let inodes = [inode(&listener), inode(&client), inode(&server)];
    client.write_all(&[1; 1000]).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(server.read_to_end(&mut Vec::new()).unwrap(), 1000);
    server.write_all(&[2; 70_001]).unwrap();
    // A process that another test starts can hold a copy until its exec, and would close the socket.
    server.shutdown(Shutdown::Write).unwrap();
    drop(server);
    assert_eq!(client.read_to_end(&mut Vec::new()).unwrap(), 70_001);
    drop(client);
    drop(listener);
    let changes = recorded.wait_until(namespace, |changes| {
        changes.iter().filter(|change| change.new == Closed).count() == 3
    });
    let sockets = by_socket(&changes);
    let [of_listener, of_client, of_server] = &sockets[..] else { panic!("{sockets:#?}") };
    assert_eq!(states(of_listener), [(Closed, Listen), (Listen, Closed)]);
    assert_eq!(
        states(of_client),
        [(Closed, SynSent), (SynSent, Established), (Established, FinWait1), (FinWait2, Closed),]
    );
    let [_, first, second, third] =
        [None, Some(0), Some(1), Some(2)].map(|index| index.map(|i: usize| of_server[i]));
    let (first, second, third) = (first.unwrap(), second.unwrap(), third.unwrap());
    assert_eq!(of_server.len(), 3);
    assert_eq!(
        (first.new, second.new, third.old, third.new),
        (Established, LastAck, LastAck, Closed)
    );
    // The inode comes with accept(2) and goes with close(2).
    assert_eq!((of_listener[0].inode, of_client[0].inode), (inodes[0], inodes[1]));
    assert_eq!((first.inode, second.inode), (0, inodes[2]));
    // Both ends, of both sides.
    assert_eq!(of_listener[0].local, endpoint(listening));
    let ends = |change: &StateChange| (change.local, change.remote);
    let of = |(local, remote): (_, _)| (endpoint(local), endpoint(remote));
    for change in &of_client[1..] {
        assert_eq!(ends(change), of(client_address), "{change:?}");
    }
    assert_eq!(of_client[0].remote, endpoint(client_address.1));
    for change in of_server {
        assert_eq!(ends(change), of(server_address), "{change:?}");
    }
    // Payload, without FIN and SYN.
    let bytes = |of: &[StateChange]| of.last().unwrap().bytes();
    assert_eq!(bytes(of_client), Some(Bytes { sent: 1000, received: 70_001 }));
    assert_eq!(bytes(of_server), Some(Bytes { sent: 70_001, received: 1000 }));
    check_actors(recorded, &[&of_listener[0], &of_client[0], &of_client[2], &second], fds);
    assert_eq!((of_client[1].actor, first.actor), (None, None));
    let family = if at.starts_with('[') { 10 } else { 2 };
    for change in &changes {
        assert_eq!((change.kind, change.protocol, change.errno), (1, 6, 0));
        assert_eq!((change.owner_uid, change.net_namespace), (0, namespace));
    }
    assert_eq!((of_listener[0].family, of_server[0].family), (family, family));
    let times: Vec<u64> = of_client.iter().map(|change| change.boot_ns).collect();
    assert!(times.is_sorted(), "{times:?}");
}

/// Every change was made by this thread. `fds` are the descriptors of the first two.
fn check_actors(recorded: &Recorded, changes: &[&StateChange], fds: [i32; 2]) {
    let has_registers = Layout::of_running_kernel().registers.is_some();
    let fds = if has_registers { fds } else { [-1; 2] };
    let fds = fds.into_iter().chain([-1; 2]);
    for (change, fd) in changes.iter().zip(fds) {
        let actor = change.actor.unwrap();
        let tid = rustix::thread::gettid().as_raw_nonzero().get();
        let parent = rustix::process::getppid().unwrap().as_raw_nonzero().get();
        assert_eq!((actor.pid, actor.tid, actor.parent), (own_pid(), tid, parent));
        assert_eq!((actor.uid, actor.gid, actor.fd), (0, 0, fd), "{change:?}");
        let comm = std::fs::read("/proc/thread-self/comm").unwrap();
        assert!(actor.comm.starts_with(comm.trim_ascii_end()), "{:?}", actor.comm);
        let executable = recorded.path(&actor).unwrap();
        let own = std::fs::read_link("/proc/self/exe").unwrap();
        assert_eq!(executable.path, own.as_os_str().as_encoded_bytes());
        assert!(!executable.is_deleted && !executable.is_truncated);
    }
}

impl Layout {
    pub(super) fn of_running_kernel() -> Layout {
        read_layout(&Layout::names(), Layout::of).unwrap()
    }
}

#[test]
fn a_connection_is_recorded_with_process_ends_and_bytes() {
    let test = "a_connection_is_recorded_with_process_ends_and_bytes";
    record_in_own_netns(test, |namespace, recorded| {
        check_connection(recorded, namespace, "127.0.0.1:0", "127.0.0.1");
        check_connection(recorded, namespace, "[::1]:0", "::1");
        // IPv4 on a listener of IPv6.
        check_connection(recorded, namespace, "[::]:0", "127.0.0.1");
    });
}

#[test]
fn a_connection_that_is_reset_has_the_errno() {
    let test = "a_connection_that_is_reset_has_the_errno";
    record_in_own_netns(test, move |namespace, recorded| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        client.write_all(&[1; 100]).unwrap();
        server.peek(&mut [0]).unwrap();
        // Unread data: the end is a reset.
        drop(server);
        let changes = recorded.wait_until(namespace, |changes| {
            changes.iter().filter(|change| change.new == Closed).count() == 2
        });
        drop((client, listener));
        let ends: Vec<&StateChange> =
            changes.iter().filter(|change| change.new == Closed).collect();
        let of = |port| ends.iter().find(|change| change.remote.port == port).unwrap();
        let port = changes[0].local.port;
        const ECONNRESET: i32 = 104;
        let client = of(port);
        assert_eq!((client.old, client.errno), (Established, ECONNRESET));
        assert_eq!(client.bytes(), Some(Bytes { sent: 100, received: 0 }));
        let server = ends.iter().find(|change| change.local.port == port).unwrap();
        assert_eq!((server.old, server.errno), (Established, 0));
        assert_eq!(server.bytes(), Some(Bytes { sent: 0, received: 100 }));
        assert_eq!(server.actor.map(|actor| actor.pid), Some(own_pid()));
    });
}

#[test]
fn a_connection_that_was_not_accepted_ends_without_process() {
    let test = "a_connection_that_was_not_accepted_ends_without_process";
    record_in_own_netns(test, move |namespace, recorded| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        drop(listener);
        let is_end = |change: &&StateChange| {
            change.new == Closed && change.local.port == port && change.remote.port != 0
        };
        let changes =
            recorded.wait_until(namespace, |changes| changes.iter().any(|it| is_end(&it)));
        drop(client);
        let end = changes.iter().find(is_end).unwrap();
        assert_eq!((end.old, end.errno, end.actor), (Established, 0, None));
    });
}

#[test]
fn open_sockets_have_the_cookies_of_their_events() {
    let test = "open_sockets_have_the_cookies_of_their_events";
    record_in_own_netns(test, move |namespace, recorded| {
        let listener = TcpListener::bind("[::1]:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut open = Vec::new();
        let listed = recorded.source.open_sockets(&mut |socket| {
            if socket.net_namespace == namespace {
                open.push(socket);
            }
        });
        if Layout::of_running_kernel().iterator.is_none() {
            let reason = LoadError::NoCookies.to_string();
            assert_eq!(listed.unwrap_err().to_string(), reason);
            return report_skip(test, "the kernel is older than 5.12");
        }
        listed.unwrap();
        let changes = recorded.wait_for(namespace, 4);
        let sockets = by_socket(&changes);
        open.sort_by_key(|open| open.fd != listener.as_raw_fd());
        let [first, second] = &open[..] else { panic!("{open:#?}") };
        assert_eq!((first.socket, first.state), (sockets[0][0].socket, Listen));
        assert_eq!((second.socket, second.state), (sockets[1][0].socket, Established));
        assert_eq!((first.fd, second.fd), (listener.as_raw_fd(), client.as_raw_fd()));
        assert_eq!((first.inode, second.inode), (sockets[0][0].inode, sockets[1][0].inode));
        let actor = sockets[1][0].actor.unwrap();
        for open in [first, second] {
            assert_eq!((open.pid, open.start_ns, open.family), (actor.pid, actor.start_ns, 10));
        }
        assert_eq!(second.local, endpoint(client.local_addr().unwrap()));
        assert_eq!(second.remote, endpoint(client.peer_addr().unwrap()));
        assert_eq!(first.local, endpoint(listener.local_addr().unwrap()));
    });
}

#[test]
fn an_mptcp_connection_and_its_subflow_are_recorded() {
    let test = "an_mptcp_connection_and_its_subflow_are_recorded";
    record_in_own_netns(test, move |namespace, recorded| {
        let mptcp = rustix::net::Protocol::from_raw(262.try_into().unwrap());
        let socket = || {
            let (family, kind) =
                (rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM);
            rustix::net::socket(family, kind, Some(mptcp))
        };
        let (Ok(listener), Ok(client)) = (socket(), socket()) else {
            return report_skip(test, "the kernel has no MPTCP");
        };
        let local = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        rustix::net::bind(&listener, &local).unwrap();
        rustix::net::listen(&listener, 1).unwrap();
        let listener = TcpListener::from(listener);
        let address = listener.local_addr().unwrap();
        rustix::net::connect(&client, &address).unwrap();
        let mut client = TcpStream::from(client);
        let (mut server, _) = listener.accept().unwrap();
        client.write_all(&[1; 1000]).unwrap();
        server.read_exact(&mut [0; 1000]).unwrap();
        server.write_all(&[1; 3000]).unwrap();
        client.read_exact(&mut [0; 3000]).unwrap();
        let local = client.local_addr().unwrap();
        drop((client, server, listener));
        let changes = recorded.wait_until(namespace, |changes| {
            changes.iter().filter(|change| change.new == Closed).count() == 6
        });
        // Listener, client and server, each as MPTCP and as TCP.
        let sockets = by_socket(&changes);
        let of = |protocol, first: (TcpState, TcpState)| {
            let is_match = |it: &&Vec<StateChange>| {
                it[0].protocol == protocol && (it[0].old, it[0].new) == first
            };
            let found: Vec<_> = sockets.iter().filter(is_match).collect();
            assert_eq!(found.len(), 1, "{protocol} {first:?}: {changes:#?}");
            found[0].clone()
        };
        assert_eq!(sockets.len(), 6, "{sockets:#?}");
        let ends = |of: &[StateChange]| of.last().map(|it| (it.local, it.remote)).unwrap();
        let of_client = (endpoint(local), endpoint(address));
        for protocol in [6, 262] {
            let connecting = of(protocol, (Closed, SynSent));
            assert_eq!(connecting[0].actor.map(|actor| actor.pid), Some(own_pid()));
            assert_eq!(ends(&connecting), of_client);
            assert_eq!(of(protocol, (Closed, Listen)).last().unwrap().old, Listen);
        }
        let bytes = |of: &[StateChange]| of.last().unwrap().bytes();
        let sent = Bytes { sent: 1000, received: 3000 };
        assert_eq!(bytes(&of(6, (Closed, SynSent))), Some(sent));
        let received = Bytes { sent: 3000, received: 1000 };
        assert_eq!(bytes(&of(6, (TcpState::SynRecv, Established))), Some(received));
        let accepted = of(262, (Listen, Established));
        assert_eq!(ends(&accepted), (of_client.1, of_client.0));
        // Until its exec, a process that was started meanwhile has the socket, too.
        let is_kernel = |actor: &Actor| actor.is_kernel_thread();
        let closing = accepted.iter().filter_map(|change| change.actor).find(|it| !is_kernel(it));
        let closing = closing.unwrap();
        assert!([closing.pid, closing.parent].contains(&own_pid()), "{accepted:#?}");
    });
}
