//! Many connections of many processes in several namespaces: every one is recorded, and each record is right.

use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::child::{Header, serve, spawn};
use super::this_binary::own_executable;
use super::*;
use crate::model::TcpState::{Closed, Established, Listen, SynSent};
use crate::model::tcp_event::Bytes;

/// `EVENTS_CONNECTIONS` changes it: fewer for slow machines, and 10,000 in `.ci/release events`.
const CONNECTIONS: usize = 2_000;
const NAMESPACES: usize = 3;
/// Connections of a process.
const EACH: usize = 5;
/// The kernel waits for tcp_fin_timeout, a minute, if it misses the FIN of the peer of an orphaned socket.
const MAX_END: Duration = Duration::from_secs(150);

/// What a server saw: the namespace, the client's end, its own, and what the client sent first.
type Truth = (NetNamespace, SocketAddr, SocketAddr, Header);

struct Listening {
    namespace: NetNamespace,
    addresses: Vec<SocketAddr>,
}

fn connections() -> usize {
    let set = std::env::var("EVENTS_CONNECTIONS").ok();
    set.map_or(CONNECTIONS, |set| set.parse().unwrap())
}

/// Serves the connections of a namespace, and starts the processes that connect; returns what the servers saw.
fn run_namespace(
    namespace: NetNamespace,
    pace: Option<Duration>,
    count: usize,
) -> (Listening, Vec<Truth>) {
    let listeners: Vec<TcpListener> = ["127.0.0.1:0", "[::1]:0", "[::]:0"]
        .iter()
        .map(|at| TcpListener::bind(at).unwrap())
        .collect();
    let addresses: Vec<SocketAddr> =
        listeners.iter().map(|listener| listener.local_addr().unwrap()).collect();
    let any = addresses[2].port();
    let to = format!("{} {} 127.0.0.1:{any}", addresses[0], addresses[1]);
    let (left, truth) = (AtomicUsize::new(count), Mutex::new(Vec::new()));
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        for listener in &listeners {
            scope.spawn(|| {
                while let Ok((stream, client)) = listener.accept() {
                    if is_over.load(Ordering::Acquire) {
                        break;
                    }
                    let server = stream.local_addr().unwrap();
                    let header = serve(stream);
                    truth.lock().unwrap().push((namespace, client, server, header));
                    left.fetch_sub(1, Ordering::AcqRel);
                }
            });
        }
        let begin = Instant::now();
        let mut children = Vec::new();
        for index in 0..count.div_ceil(EACH) {
            if let Some(pace) = pace {
                let due = begin + pace * index as u32;
                thread::sleep(due.saturating_duration_since(Instant::now()));
            }
            let each = EACH.min(count - index * EACH);
            children.push(spawn(&own_executable(), &format!("exchange {each} {to}")));
            // Not more at a time than a machine can run.
            if children.len() > 20 {
                assert!(children.remove(0).wait().unwrap().success());
            }
        }
        for mut child in children {
            assert!(child.wait().unwrap().success());
        }
        let end = Instant::now() + MAX_WAIT;
        while left.load(Ordering::Acquire) > 0 {
            assert!(Instant::now() < end, "{left:?} connections are not served");
            thread::yield_now();
        }
        is_over.store(true, Ordering::Release);
        for address in &addresses {
            drop(std::net::TcpStream::connect((address.ip(), address.port())));
        }
    });
    drop(listeners);
    // When the thread ends, so does the namespace, and its last sockets with it.
    let has_sockets = || {
        let statistics = std::fs::read_to_string("/proc/thread-self/net/sockstat").unwrap();
        !statistics.contains("TCP: inuse 0 orphan 0 ")
    };
    let end = Instant::now() + MAX_WAIT;
    while has_sockets() && Instant::now() < end {
        thread::sleep(Duration::from_millis(1));
    }
    (Listening { namespace, addresses }, truth.into_inner().unwrap())
}

/// Half of the connections at 1,000 a second, the others as fast as it goes.
fn run(test: &'static str, recorded: &mut Recorded) -> Option<(Vec<Listening>, Vec<Truth>)> {
    let count = connections() / NAMESPACES / 2 + 1;
    let pace = Duration::from_secs(1) * EACH as u32 * NAMESPACES as u32 / 1000;
    let (mut listening, mut truths) = (Vec::new(), Vec::new());
    for pace in [Some(pace), None] {
        let running: Vec<_> = (0..NAMESPACES)
            .map(|_| {
                thread::spawn(move || {
                    in_own_netns(test, move |namespace| run_namespace(namespace, pace, count))
                })
            })
            .collect();
        while running.iter().any(|thread| !thread.is_finished()) {
            recorded.drain(Duration::from_millis(200));
        }
        for thread in running {
            let (of, truth) = thread.join().unwrap()?;
            listening.push(of);
            truths.extend(truth);
        }
    }
    Some((listening, truths))
}

/// The changes of each socket.
type Sockets = Vec<Vec<StateChange>>;

/// Alone, since other tests start processes that have its sockets for a moment, and fill the ring buffer.
#[test]
#[ignore = ".ci/run runs it, alone"]
fn every_connection_of_short_processes_is_recorded() {
    let test = "every_connection_of_short_processes_is_recorded";
    record(|| Recorded::start(test), |recorded| check_all(test, recorded));
}

fn check_all(test: &'static str, recorded: &mut Recorded) {
    let begin = Instant::now();
    let Some((listening, truths)) = run(test, recorded) else { return };
    let elapsed = begin.elapsed();
    let namespaces: Vec<NetNamespace> = listening.iter().map(|of| of.namespace).collect();
    // Both ends of each, and the last connection to each listener.
    let ends = 2 * (truths.len() + 3 * listening.len()) + 3 * listening.len();
    let end = Instant::now() + MAX_END;
    let closed = |recorded: &Recorded| {
        let is_end = |it: &&StateChange| it.new == Closed && namespaces.contains(&it.net_namespace);
        recorded.states.iter().filter(is_end).count()
    };
    while closed(recorded) < ends {
        recorded.drain(Duration::from_millis(20));
        assert!(
            Instant::now() < end,
            "{} of {ends} ends: {}",
            closed(recorded),
            open(recorded, &namespaces)
        );
    }
    let losses = recorded.source.losses();
    let sockets = of_namespaces(recorded, &namespaces);
    check_listeners(&listening, &sockets);
    check_connections(recorded, &truths, &sockets);
    let states = sockets.iter().map(Vec::len).sum::<usize>();
    eprintln!(
        "{} connections of {} processes in {:.1} s, {states} changes, {} executables, {losses:?}",
        truths.len(),
        truths.iter().map(|truth| truth.3.pid).collect::<std::collections::HashSet<_>>().len(),
        elapsed.as_secs_f64(),
        recorded.executables.len(),
    );
    assert_eq!((losses.ring_events, losses.ring_executables), (0, 0));
    assert!(truths.len() >= connections());
}

/// The sockets that were not closed, and what was lost.
fn open(recorded: &Recorded, namespaces: &[NetNamespace]) -> String {
    let mut sockets = of_namespaces(recorded, namespaces);
    sockets.retain(|changes| changes.last().is_some_and(|last| last.new != Closed));
    let keys: Vec<_> = sockets.iter().map(|changes| changes[0].socket).collect();
    let elsewhere =
        |it: &&StateChange| keys.contains(&it.socket) && !namespaces.contains(&it.net_namespace);
    let elsewhere: Vec<_> = recorded.states.iter().filter(elsewhere).collect();
    let mut live = Vec::new();
    let _ = recorded.source.open_sockets(&mut |open| live.push(open));
    live.retain(|open| keys.contains(&open.socket));
    let sockstat = std::fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
    format!(
        "{sockets:#?}, {:?}, elsewhere {elsewhere:#?}, held {live:#?}, {sockstat}",
        recorded.source.losses()
    )
}

fn of_namespaces(recorded: &Recorded, namespaces: &[NetNamespace]) -> Sockets {
    by_socket(recorded.states.iter().filter(|it| namespaces.contains(&it.net_namespace)))
}

fn check_listeners(listening: &[Listening], sockets: &[Vec<StateChange>]) {
    for of in listening {
        for address in &of.addresses {
            let is_match = |changes: &&Vec<StateChange>| {
                changes[0].new == Listen
                    && changes[0].net_namespace == of.namespace
                    && changes[0].local == endpoint(*address)
            };
            let found: Vec<_> = sockets.iter().filter(is_match).collect();
            let [changes] = found[..] else { panic!("{address}: {found:#?}") };
            assert_eq!(states(changes), [(Closed, Listen), (Listen, Closed)]);
            assert_eq!(changes[0].actor.map(|actor| actor.pid), Some(own_pid()));
        }
    }
}

fn check_connections(recorded: &Recorded, truths: &[Truth], sockets: &[Vec<StateChange>]) {
    // A port can be used again after a second.
    let mut by_ends: HashMap<(NetNamespace, Endpoint, Endpoint), Vec<&Vec<StateChange>>> =
        HashMap::new();
    for changes in sockets {
        let last = changes.last().unwrap();
        by_ends.entry((last.net_namespace, last.local, last.remote)).or_default().push(changes);
    }
    let own = own_executable();
    for (namespace, client, server, header) in truths {
        let unmapped = |address: SocketAddr| Endpoint {
            address: address.ip().to_canonical(),
            port: address.port(),
        };
        let pid = header.pid.cast_signed();
        let up = Header::SIZE + u64::from(header.up);
        let sent = Bytes { sent: up, received: header.down.into() };
        let ends = (*namespace, unmapped(*client), unmapped(*server));
        let of_client = by_ends.get(&ends).into_iter().flatten();
        let is_by = |changes: &&&Vec<StateChange>| {
            changes[0].new == SynSent
                && changes[0].actor.is_some_and(|actor| actor.pid == pid)
                && changes.last().unwrap().bytes() == Some(sent)
        };
        let found: Vec<_> = of_client.filter(is_by).collect();
        let [changes] = found[..] else { panic!("{client} {server} {header:?}: {found:#?}") };
        assert_eq!((changes[1].old, changes[1].new), (SynSent, Established), "{changes:#?}");
        let actor = changes[0].actor.unwrap();
        let executable = recorded.path(&actor).unwrap();
        assert_eq!(executable.path, own.as_os_str().as_encoded_bytes());
        assert_eq!(actor.parent, own_pid());
        let ends = (*namespace, endpoint(*server), endpoint(*client));
        let received = Bytes { sent: header.down.into(), received: up };
        let of_server = by_ends.get(&ends).into_iter().flatten();
        let is_match = |changes: &&&Vec<StateChange>| {
            changes[0].new == Established && changes.last().unwrap().bytes() == Some(received)
        };
        let found: Vec<_> = of_server.filter(is_match).collect();
        assert!(!found.is_empty(), "{header:?}, {received:?}: {:#?}", by_ends.get(&ends));
        // Until its exec, a process that was started meanwhile has the socket, too.
        let closing = found[0].iter().find_map(|change| change.actor).unwrap();
        assert!([closing.pid, closing.parent].contains(&own_pid()), "{found:#?}");
    }
    let is_ip = |address: IpAddr| address.is_loopback() || address.is_unspecified();
    assert!(sockets.iter().flatten().all(|it| is_ip(it.local.address.to_canonical())));
}
