//! Signals that must not lose an answer, and a signal that stays ignored.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::core::Core;
use crate::support::osquery::TABLE;
use crate::support::proc_tree::{ProcTree, TCP_HEADER, tcp_line};
use crate::support::process::{Extension, command, command_without_hangups};
use crate::support::wire::{call, connect, rest};

const NAME: &str = "process_open_sockets";
const TEST_TIMEOUT: Duration = Duration::from_secs(60);

#[test]
fn no_answer_is_lost_under_sigstop_and_sigcont() {
    const QUERIES: usize = 300;
    let lines: String = (0..100).map(|n| tcp_line(443, &(10_000 + n).to_string())).collect();
    let tree = ProcTree::default().namespace(1).process(1, 1, &[]);
    let tree = tree.file(1, "tcp", format!("{TCP_HEADER}{lines}"));
    let core = Core::stock();
    let mut command = command();
    command.arg("--socket").arg(core.socket()).arg("--procfs").arg(tree.path());
    let extension = Extension::run(&mut command);
    let socket = core.socket_of(core.wait_for(NAME));
    extension.wait_for_log("registered with osquery");
    let request = call("table", TABLE, &[("action", "generate"), ("context", "{}")]);
    let query = |wait: &dyn Fn()| {
        let mut stream = connect(&socket);
        wait();
        // Writing fails if the extension has dropped the connection.
        let _ = std::io::Write::write_all(&mut stream, &request);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        rest(stream)
    };
    let expected = query(&|| {});
    let (is_done, stops) = (AtomicBool::new(false), AtomicUsize::new(0));
    let lost = thread::scope(|scope| {
        scope.spawn(|| {
            while !is_done.load(Ordering::SeqCst) {
                extension.send(Signal::STOP);
                extension.send(Signal::CONT);
                stops.fetch_add(1, Ordering::SeqCst);
                thread::sleep(Duration::from_micros(300));
            }
        });
        // The extension waits for the request while it is stopped and continued.
        let wait = || {
            let (start, before) = (Instant::now(), stops.load(Ordering::SeqCst));
            while stops.load(Ordering::SeqCst) < before + 3 && start.elapsed() < TEST_TIMEOUT {
                thread::yield_now();
            }
        };
        let lost = (0..QUERIES).filter(|_| query(&wait) != expected).count();
        is_done.store(true, Ordering::SeqCst);
        lost
    });
    println!("{lost} of {QUERIES} answers lost, {} stops", stops.load(Ordering::SeqCst));
    assert_eq!(lost, 0);
}

#[test]
fn a_sighup_that_is_ignored_at_the_start_stays_ignored() {
    let core = Core::stock();
    let mut command = command_without_hangups();
    command.arg("--socket").arg(core.socket()).arg("--interval=1");
    let extension = Extension::run(&mut command);
    core.wait_for(NAME);
    extension.wait_for_log("registered with osquery");
    extension.send(Signal::HUP);
    // The extension requests the second list after the signal.
    core.wait_for_another_list();
    core.wait_for_another_list();
    extension.terminate();
    assert_eq!(extension.end().0.code(), Some(0));
}
