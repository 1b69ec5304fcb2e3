//! Network namespaces and PID namespaces.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::process::Command;

use super::child::{own_executable, spawn, spawn_with, wait_for_begin};
use super::*;
use crate::linux::quiet::in_quiet_namespace;
use crate::model::TcpState::SynSent;

#[test]
fn events_of_other_network_namespaces_are_recorded() {
    let test = "events_of_other_network_namespaces_are_recorded";
    let Some(mut recorded) = Recorded::start(test) else { return };
    let (send, there) = mpsc::channel();
    let listening = in_own_netns(test, move |namespace| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        send.send(namespace).unwrap();
        listener.local_addr().unwrap()
    });
    let Some(listening) = listening else { return };
    let there = there.recv().unwrap();
    assert_ne!(there, own_netns());
    let changes = recorded.wait_for(there, 2);
    assert_eq!(changes[0].local, endpoint(listening));
}

#[test]
fn in_a_pid_namespace_events_have_its_pids() {
    let test = "in_a_pid_namespace_events_have_its_pids";
    in_quiet_namespace(module_path!(), test, || {
        let test = "in_a_pid_namespace_events_have_its_pids";
        let here = own_netns();
        let source = match EventSource::start(&proc_root()) {
            Ok(source) => source,
            Err(LoadError::NoCookies) => return report_skip(test, "the kernel is older than 5.12"),
            Err(error) => return report_skip_without_bpf(test, &error.to_string()),
        };
        let mut recorded = Recorded { source, states: Vec::new(), executables: HashMap::new() };
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
        let mut open = Vec::new();
        recorded.source.open_sockets(&mut |socket| open.push(socket)).unwrap();
        let own: Vec<&OpenSocket> =
            open.iter().filter(|socket| socket.net_namespace == here).collect();
        let [own] = own[..] else { panic!("{open:#?}") };
        assert_eq!((own.pid, own.socket), (own_pid(), changes[0].socket));
    });
}

#[test]
fn processes_outside_the_pid_namespace_are_not_shown() {
    let test = "processes_outside_the_pid_namespace_are_not_shown";
    in_quiet_namespace(module_path!(), test, || {
        let test = "processes_outside_the_pid_namespace_are_not_shown";
        match EventSource::start(&proc_root()) {
            Ok(_) => {}
            Err(LoadError::NoCookies) => return report_skip(test, "the kernel is older than 5.12"),
            Err(error) => return report_skip_without_bpf(test, &error.to_string()),
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
