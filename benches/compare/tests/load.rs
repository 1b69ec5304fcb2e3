//! Tests of the load generator's program.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

struct Load {
    child: Child,
    holders: Vec<u32>,
    idle: Vec<u32>,
    ready: String,
}

impl Load {
    fn start(arguments: &str) -> Load {
        let mut command = Command::new(env!("CARGO_BIN_EXE_load"));
        command.args(arguments.split(' ')).arg("--list");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (mut holders, mut idle, mut ready) = (Vec::new(), Vec::new(), String::new());
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            match line.split_once(' ').unwrap() {
                ("holder", pid) => holders.push(pid.parse().unwrap()),
                ("idle", pid) => idle.push(pid.parse().unwrap()),
                _ => {
                    ready = line;
                    break;
                }
            }
        }
        Load { child, holders, idle, ready }
    }

    fn children(&self) -> impl Iterator<Item = u32> {
        self.holders.iter().chain(&self.idle).copied()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn sockets_of(pid: u32) -> usize {
    let links = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let links = links.map(|entry| std::fs::read_link(entry.unwrap().path()).unwrap());
    links.filter(|link| link.to_string_lossy().starts_with("socket:[")).count()
}

/// A process that has ended has no program, even before its parent reads the exit code.
fn has_ended(pid: u32) -> bool {
    std::fs::read_link(format!("/proc/{pid}/exe")).is_err()
}

fn wait_until(what: &str, is: impl Fn() -> bool) {
    let start = Instant::now();
    while !is() {
        assert!(start.elapsed() < Duration::from_secs(20), "not within 20 s: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn the_requested_sockets_are_open_when_the_load_is_ready() {
    let load = Load::start("--sockets 200 --processes 3");
    assert_eq!(load.ready, "ready 200");
    let held: Vec<usize> = load.holders.iter().map(|pid| sockets_of(*pid)).collect();
    assert_eq!(held, [68, 66, 66]);
}

#[test]
fn all_kinds_are_counted() {
    let load = Load::start("--sockets 4 --unix 6 --udp 3 --listeners 2 --idle-processes 2");
    assert_eq!(load.ready, "ready 21");
    assert_eq!(load.holders.iter().map(|pid| sockets_of(*pid)).collect::<Vec<_>>(), [15]);
    assert_eq!(load.idle.iter().map(|pid| sockets_of(*pid)).collect::<Vec<_>>(), [4, 4]);
}

#[test]
fn one_process_can_hold_nine_tenths() {
    let load = Load::start("--sockets 200 --processes 3 --holders one");
    let held: Vec<usize> = load.holders.iter().map(|pid| sockets_of(*pid)).collect();
    assert_eq!(held, [180, 10, 10]);
}

#[test]
fn the_load_ends_after_its_children_at_end_of_input() {
    let mut load = Load::start("--sockets 200 --processes 2 --idle-processes 3");
    drop(load.child.stdin.take());
    assert!(load.child.wait().unwrap().success());
    assert_eq!(load.children().count(), 5);
    assert!(load.children().all(has_ended));
}

#[test]
fn the_children_end_when_the_load_is_terminated() {
    let load = Load::start("--sockets 200 --processes 2 --idle-processes 3");
    assert!(!load.children().any(has_ended));
    kill_process(Pid::from_child(&load.child), Signal::TERM).unwrap();
    wait_until("the children have ended", || load.children().all(has_ended));
}

#[test]
fn the_load_ends_when_its_time_is_over() {
    let start = Instant::now();
    let mut load = Load::start("--sockets 20 --processes 2 --seconds 1");
    // Open until the end: `wait` would close it.
    let _stdin = load.child.stdin.take();
    assert!(load.child.wait().unwrap().success());
    assert!(start.elapsed() >= Duration::from_secs(1));
    assert!(load.children().all(has_ended));
}

#[test]
fn the_limit_that_is_missing_is_named() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_load"));
    let output = command.args(["--sockets", "4000000000"]).output().unwrap();
    assert!(!output.status.success());
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(
        stderr.contains("4000000000 sockets in one process: needs an RLIMIT_NOFILE of 4000000032"),
        "{stderr}"
    );
}
