//! The programs in the running kernel, against what the tests themselves do.

mod child;
mod counting;
mod datagrams;
mod ends;
mod failures;
mod lifetime;
mod load;
mod losses;
mod namespaces;
mod processes;
mod this_binary;
mod traffic;
mod traffic_child;

use std::collections::HashMap;
use std::net::IpAddr;
use std::os::linux::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;

use rustix::thread::{UnshareFlags, unshare_unsafe};

use super::*;
use crate::linux::quiet::{loopback_up, report_skip, report_skip_without_bpf};
use crate::model::tcp_event::{Actor, DatagramEnd, Executable, FirstDatagram, StateChange};
use crate::model::{Endpoint, NetNamespace, TcpState};

/// No test waits longer.
const MAX_WAIT: Duration = Duration::from_secs(60);

fn proc_root() -> ProcRoot {
    ProcRoot::open(Path::new("/proc")).unwrap()
}

/// All objects in the kernel have this name.
fn settings_named(name: [u8; 16]) -> Settings {
    let names = Names {
        tracepoint: name,
        iterator: name,
        ring: name,
        seen: name,
        lost: name,
        send: name,
        marks: name,
        unmarked: name,
        count_sent: name,
        count_received: name,
        live: name,
        open: name,
        release: name,
        slots: name,
        free: name,
        references: name,
    };
    Settings { names, ..Settings::default() }
}

/// Starts the collection; None, and a report, if the test cannot run.
fn start(test: &str, settings: &Settings) -> Option<EventSource> {
    match EventSource::start_with(&proc_root(), settings) {
        Ok(source) => Some(source),
        Err(error) => {
            report_skip_without_bpf(test, &error.to_string());
            None
        }
    }
}

/// The records that a test has drained, of all processes and namespaces of the host.
struct Recorded {
    source: EventSource,
    states: Vec<StateChange>,
    first_sends: Vec<FirstDatagram>,
    ends: Vec<DatagramEnd>,
    executables: HashMap<(i32, u64, u64), Executable>,
}

impl Recorded {
    fn start(test: &str) -> Option<Recorded> {
        start(test, &Settings::default()).map(Recorded::new)
    }

    fn new(source: EventSource) -> Recorded {
        Recorded {
            source,
            states: Vec::new(),
            first_sends: Vec::new(),
            ends: Vec::new(),
            executables: HashMap::new(),
        }
    }

    fn drain(&mut self, timeout: Duration) {
        let Recorded { source, states, first_sends, ends, executables } = self;
        source
            .drain(timeout, &mut |record| match record {
                EventRecord::State(change) => states.push(change),
                EventRecord::Datagram(first) => first_sends.push(first),
                EventRecord::DatagramEnd(end) => ends.push(end),
                EventRecord::Executable(it) => {
                    executables.insert((it.pid, it.start_ns, it.executable), it);
                }
            })
            .unwrap();
    }

    /// The changes in a namespace, in their order, as soon as there are so many.
    fn wait_for(&mut self, namespace: NetNamespace, count: usize) -> Vec<StateChange> {
        self.wait_until(namespace, |changes| changes.len() >= count)
    }

    /// The changes in a namespace, as soon as the condition is met.
    fn wait_until(
        &mut self,
        namespace: NetNamespace,
        is_met: impl Fn(&[StateChange]) -> bool,
    ) -> Vec<StateChange> {
        let is_there = |change: &&StateChange| change.net_namespace == namespace;
        self.wait(|it| it.states.iter().filter(is_there).copied().collect(), is_met)
    }

    /// What is selected of the records, as soon as the condition is met.
    fn wait<T: fmt::Debug>(
        &mut self,
        select: impl Fn(&Recorded) -> Vec<T>,
        is_met: impl Fn(&[T]) -> bool,
    ) -> Vec<T> {
        let end = Instant::now() + MAX_WAIT;
        loop {
            self.drain(Duration::from_millis(10));
            let selected = select(self);
            if is_met(&selected) {
                return selected;
            }
            let losses = self.source.losses();
            let is_in_time = Instant::now() < end && losses == Losses::default();
            assert!(is_in_time, "{selected:#?}, {losses:?}");
        }
    }

    /// The path of the executable of an actor.
    fn path(&self, actor: &Actor) -> Option<&Executable> {
        self.executables.get(&(actor.pid, actor.start_ns, actor.executable))
    }
}

/// Runs the body in a thread with a network namespace of its own, and hands over its number. Returns None, and reports
/// it, without the capability.
#[allow(unsafe_code)]
fn in_own_netns<T: Send + 'static>(
    test: &str,
    body: impl FnOnce(NetNamespace) -> T + Send + 'static,
) -> Option<T> {
    let thread = thread::spawn(move || {
        // SAFETY: no descriptors are unshared, only this thread's network namespace.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.ok()?;
        loopback_up().unwrap();
        Some(body(own_netns()))
    });
    let result = thread.join();
    let result = result.unwrap_or_else(|panic| resume_unwind(panic));
    if result.is_none() {
        report_skip(test, "needs root: namespaces need CAP_SYS_ADMIN");
    }
    result
}

/// Runs the body while events are recorded. Other processes can fill the ring buffer, which fails the body but is counted
/// as losses: then it runs again, at most ten times.
fn record<T>(start: impl Fn() -> Option<Recorded>, body: impl Fn(&mut Recorded) -> T) -> Option<T> {
    let mut again = 0..10;
    loop {
        let mut recorded = start()?;
        let panic = match catch_unwind(AssertUnwindSafe(|| body(&mut recorded))) {
            Ok(value) => return Some(value),
            Err(panic) => panic,
        };
        let losses = recorded.source.losses();
        if losses == Losses::default() || again.next().is_none() {
            resume_unwind(panic);
        }
        eprintln!("once more: {losses:?}");
    }
}

/// [`record`] in a network namespace.
fn record_in_own_netns<T: Send + 'static>(
    test: &'static str,
    body: impl Fn(NetNamespace, &mut Recorded) -> T + Send + 'static,
) -> Option<T> {
    in_own_netns(test, move |namespace| {
        record(|| Recorded::start(test), |recorded| body(namespace, recorded))
    })?
}

/// The network namespace of this thread.
fn own_netns() -> NetNamespace {
    NetNamespace(std::fs::metadata("/proc/thread-self/ns/net").unwrap().st_ino())
}

fn own_pid() -> i32 {
    std::process::id().cast_signed()
}

fn endpoint(address: std::net::SocketAddr) -> Endpoint {
    Endpoint { address: address.ip(), port: address.port() }
}

/// The changes of each socket, in the order of their first ones. Before Linux 5.12, a later socket can have the key of one
/// that is closed.
fn by_socket<'a>(changes: impl IntoIterator<Item = &'a StateChange>) -> Vec<Vec<StateChange>> {
    let mut sockets: Vec<Vec<StateChange>> = Vec::new();
    let mut indexes = HashMap::new();
    for change in changes {
        let index = *indexes.entry(change.socket).or_insert(sockets.len());
        match sockets.get_mut(index) {
            Some(of) => of.push(*change),
            None => sockets.push(vec![*change]),
        }
        if change.new == TcpState::Closed {
            indexes.remove(&change.socket);
        }
    }
    sockets
}

/// The old and the new states.
fn states(changes: &[StateChange]) -> Vec<(TcpState, TcpState)> {
    changes.iter().map(|change| (change.old, change.new)).collect()
}
