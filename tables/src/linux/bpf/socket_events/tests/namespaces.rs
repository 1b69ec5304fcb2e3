//! Network namespaces and PID namespaces.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::process::Command;

use super::child::{spawn, spawn_with, wait_for_begin};
use super::this_binary::own_executable;
use super::*;
use crate::linux::quiet::in_quiet_namespace;
use crate::model::TcpState::SynSent;

#[test]
fn events_of_other_network_namespaces_are_recorded() {
    let test = "events_of_other_network_namespaces_are_recorded";
    record(
        || Recorded::start(test),
        |recorded| {
            let there = in_own_netns(test, |namespace| {
                let listener = TcpListener::bind("127.0.0.1:0").unwrap();
                (namespace, listener.local_addr().unwrap())
            });
            let Some((there, listening)) = there else { return };
            assert_ne!(there, own_netns());
            let changes = recorded.wait_for(there, 2);
            assert_eq!(changes[0].local, endpoint(listening));
        },
    );
}

fn report_skip_in_pid_namespace(test: &str, error: &LoadError) {
    match error {
        LoadError::NoCookies => report_skip(test, "the kernel is older than 5.12"),
        error => report_skip_without_bpf(test, &error.to_string()),
    }
}

#[test]
fn in_a_pid_namespace_events_have_its_pids() {
    let test = "in_a_pid_namespace_events_have_its_pids";
    in_quiet_namespace(module_path!(), test, || {
        let test = "in_a_pid_namespace_events_have_its_pids";
        let here = own_netns();
        let start = || match EventSource::start(&proc_root(), EventDatagrams::FirstUse) {
            Ok(source) => Some(Recorded::new(source)),
            Err(error) => {
                report_skip_in_pid_namespace(test, &error);
                None
            }
        };
        record(start, |recorded| check_pids(recorded, here));
    });
}

fn check_pids(recorded: &mut Recorded, here: NetNamespace) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut child =
        spawn(&own_executable(), &format!("connect {}", listener.local_addr().unwrap()));
    assert!(child.wait().unwrap().success());
    let is_connect = |change: &&StateChange| change.new == SynSent;
    let changes = recorded.wait_until(here, |changes| changes.iter().any(|it| is_connect(&it)));
    let connect = changes.iter().find(is_connect).unwrap().actor.unwrap();
    let pid = child.id().cast_signed();
    assert_eq!((connect.pid, connect.parent), (pid, own_pid()));
    // The thread of its test: the pids of a new namespace are small.
    assert!((pid..1000).contains(&connect.tid), "{connect:?}");
    let executable = recorded.path(&connect).unwrap();
    assert_eq!(Path::new(std::str::from_utf8(&executable.path).unwrap()), own_executable());
    let listen = changes[0].actor.unwrap();
    assert_eq!((listen.pid, listen.parent), (own_pid(), 0));
    if Layout::of_running_kernel().send.is_some() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.send_to(b"a", "127.0.0.1:9").unwrap();
        let first = recorded.wait_for_first_sends(here, 1)[0];
        assert_eq!(first.actor.map(|actor| (actor.pid, actor.parent)), Some((own_pid(), 0)));
        assert_eq!(first.socket.remote.port, 9);
    }
    let mut open = Vec::new();
    recorded.source.open_sockets(&mut |socket| open.push(socket)).unwrap();
    let own: Vec<&OpenSocket> = open.iter().filter(|socket| socket.net_namespace == here).collect();
    let [own] = own[..] else { panic!("{open:#?}") };
    assert_eq!((own.pid, own.socket), (own_pid(), changes[0].socket));
}

#[test]
fn processes_outside_the_pid_namespace_are_not_shown() {
    let test = "processes_outside_the_pid_namespace_are_not_shown";
    in_quiet_namespace(module_path!(), test, || {
        let test = "processes_outside_the_pid_namespace_are_not_shown";
        if let Err(error) = EventSource::start(&proc_root(), EventDatagrams::FirstUse) {
            return report_skip_in_pid_namespace(test, &error);
        }
        let mut unshare = Command::new("unshare");
        unshare.args(["--pid", "--fork", "--kill-child", "--mount-proc"]).arg(own_executable());
        let mut observer = spawn_with(unshare, &format!("observe {}", own_netns().0));
        wait_for_begin(&mut observer);
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        for _ in 0..2 {
            TcpStream::connect(address).unwrap_err();
        }
        observer.stdin.take().unwrap().write_all(&[0]).unwrap();
        assert!(observer.wait().unwrap().success());
    });
}
