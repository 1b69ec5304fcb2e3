//! Decoy network namespaces that are meant to hide a listener.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use super::attacker::{
    Attacker, enter_user_namespace, net_namespace, park, report_ready, start_children, unshare,
};
use super::rotation::attackers_directory;
use super::scan::{NamedQuery, PROCFS, SCANS, answer, sources, table};
use super::tally::{PidPromise, Sighting, Tally};
use super::{Attack, Test, runner};

pub(super) const ATTACKS: &[Attack] = &[
    ("decoy-mounts", decoy_mounts),
    ("decoy-processes", decoy_processes),
    ("decoy-user-namespaces", decoy_user_namespaces),
];

pub(super) const TESTS: &[Test] = &[
    ("decoy_mounts_hide_no_listener", decoy_mounts_hide_no_listener),
    ("decoy_processes_hide_no_listener", decoy_processes_hide_no_listener),
    ("decoy_user_namespaces_hide_no_listener", decoy_user_namespaces_hide_no_listener),
];

/// The number of decoys.
const DECOYS: u32 = 200;
const PORT: u16 = 4100;
/// The depth of the nested user namespaces.
const DEPTH: u32 = 25;

/// Opens a UNIX and a TCP listener, and binds a UDP socket.
fn listen(path: &Path) -> (UnixListener, TcpListener, UdpSocket) {
    let address = (Ipv4Addr::UNSPECIFIED, PORT);
    let tcp = TcpListener::bind(address).unwrap();
    (UnixListener::bind(path).unwrap(), tcp, UdpSocket::bind(address).unwrap())
}

/// A query, and the sockets that its answer must have: names and cells.
type Expected<'a> = (NamedQuery<'a>, &'a [(&'static str, &'a [(&'a str, &'a str)])]);

/// Checks that the answers of each source have the sockets of [`listen`], with their process and namespace.
///
/// The kernel takes several milliseconds to print the TCP file of each namespace, since all namespaces share one
/// hash table. With procfs, the short form therefore reads the TCP file once, and those of UDP and UNIX 20 times.
fn are_shown(test: &str, attacker: &mut Attacker, pid: i64, namespace: &str, path: &Path) {
    let (port, path, pid_text) = (PORT.to_string(), path.to_str().unwrap(), pid.to_string());
    let ip =
        |protocol| [("protocol", protocol), ("local_port", &*port), ("net_namespace", namespace)];
    let (tcp, udp, unix) = (ip("6"), ip("17"), [("family", "1"), ("path", path)]);
    let all = [("TCP", &tcp[..]), ("UDP", &udp), ("UNIX", &unix)];
    let of_pid = [("pid", &*pid_text)];
    let whole: [Expected; 2] = [(("SELECT *", &[]), &all), (("pid = X", &of_pid), &all)];
    let quick: [Expected; 2] = [
        (("protocol = 17", &[("protocol", "17")]), &all[1..2]),
        (("family = 1", &[("family", "1")]), &all[2..]),
    ];
    let mut tally = Tally::default();
    for source in sources(test) {
        let is_quick = source == PROCFS && !runner::is_long();
        if is_quick {
            for ((query, equals), sockets) in whole {
                let rows = answer(&table(source.1), equals);
                let sightings =
                    sockets.iter().map(|(_, cells)| Sighting::of(&rows, cells, pid).pid);
                assert_eq!(sightings.collect::<Vec<_>>(), [true; 3], "{query}, {}", source.0);
            }
        }
        let queries = if is_quick { quick } else { whole };
        for ((query, equals), sockets) in (0..SCANS).flat_map(|_| queries) {
            // A table caches what it reads for a lookup by pid. A new table reads again.
            let rows = answer(&table(source.1), equals);
            for (socket, cells) in sockets {
                let sighting = Sighting::of(&rows, cells, pid);
                tally.add(&format!("{socket}, {query}"), source, PidPromise::Always, sighting);
            }
        }
    }
    assert!(attacker.is_running(), "the attack has ended");
    tally.check();
}

fn decoy_mounts_hide_no_listener() {
    let directory = attackers_directory();
    let path = directory.path().join("listener");
    let mounts = tempfile::tempdir().unwrap();
    let mut attacker =
        Attacker::start("decoy-mounts", &[mounts.path().to_str().unwrap(), path.to_str().unwrap()]);
    let namespace = &attacker.reported()[0];
    assert_ne!(*namespace, net_namespace());
    let mountinfo = fs::read_to_string(format!("/proc/{}/mountinfo", attacker.pid())).unwrap();
    // The host can have others.
    let is_decoy =
        |line: &&str| line.contains(" net:[") && line.contains(mounts.path().to_str().unwrap());
    let mounted = mountinfo.lines().filter(is_decoy).count();
    assert_eq!(mounted, DECOYS as usize, "the attack does not work");
    let (namespace, pid) = (namespace.clone(), attacker.pid());
    are_shown("decoy_mounts_hide_no_listener", &mut attacker, pid, &namespace, &path);
}

/// Mounts network namespaces in a private mount namespace, listens in the last one, and leaves it.
fn decoy_mounts(arguments: &[String]) -> ! {
    let [directory, path] = arguments else { panic!("{arguments:?}") };
    enter_user_namespace(libc::CLONE_NEWNS);
    mount(&["--make-rprivate", "/"]);
    mount(&["-t", "tmpfs", "none", directory]);
    for number in 0..DECOYS {
        unshare(libc::CLONE_NEWNET);
        let file = format!("{directory}/{number}");
        fs::write(&file, "").unwrap();
        bind_mount("/proc/self/ns/net", &file);
    }
    std::mem::forget(listen(path.as_ref()));
    let namespace = net_namespace();
    unshare(libc::CLONE_NEWNET);
    report_ready(&namespace);
    park()
}

pub(super) fn mount(arguments: &[&str]) {
    let status = Command::new("mount").args(arguments).status().unwrap();
    assert!(status.success(), "mount {arguments:?}");
}

pub(super) fn bind_mount(from: &str, to: &str) {
    let [from, to] = [from, to].map(|path| std::ffi::CString::new(path).unwrap());
    let none = std::ptr::null();
    // SAFETY: the strings end with a NUL and outlive the call; the others may be null for MS_BIND.
    let result =
        unsafe { libc::mount(from.as_ptr(), to.as_ptr(), none, libc::MS_BIND, none.cast()) };
    assert_eq!(result, 0, "mount: {}", std::io::Error::last_os_error());
}

/// A network namespace without processes that a mount keeps alive, as with `ip netns add`.
struct MountedNamespace {
    file: tempfile::NamedTempFile,
}

impl MountedNamespace {
    /// Runs `inside` in a new namespace, and returns the namespace, its number and the value of `inside`.
    fn new<T: Send>(inside: impl FnOnce() -> T + Send) -> (MountedNamespace, String, T) {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap();
        let (number, value) = std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                unshare(libc::CLONE_NEWNET);
                bind_mount("/proc/thread-self/ns/net", path);
                (net_namespace(), inside())
            });
            thread.join().unwrap()
        });
        (MountedNamespace { file }, number, value)
    }
}

impl Drop for MountedNamespace {
    fn drop(&mut self) {
        let status = Command::new("umount").arg("--lazy").arg(self.file.path()).status();
        assert!(status.unwrap().success());
    }
}

fn decoy_processes_hide_no_listener() {
    let mut attacker = Attacker::start("decoy-processes", &[]);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("listener");
    let (mounted, namespace, listeners) = MountedNamespace::new(|| listen(&path));
    assert_eq!(
        distinct_namespaces(attacker.reported()),
        DECOYS as usize,
        "the attack does not work"
    );
    let pid = i64::from(std::process::id());
    are_shown("decoy_processes_hide_no_listener", &mut attacker, pid, &namespace, &path);
    drop((listeners, mounted));
}

/// The number of distinct network namespaces of these processes.
fn distinct_namespaces(pids: &[String]) -> usize {
    let link = |pid| fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
    pids.iter().map(link).collect::<std::collections::BTreeSet<_>>().len()
}

fn pids(pids: &[i32]) -> String {
    pids.iter().map(i32::to_string).collect::<Vec<_>>().join(" ")
}

/// Processes, each in another network namespace.
fn decoy_processes(_: &[String]) -> ! {
    enter_user_namespace(0);
    let children = start_children(DECOYS, |_| unshare(libc::CLONE_NEWNET));
    report_ready(&pids(&children));
    park()
}

fn decoy_user_namespaces_hide_no_listener() {
    let directory = attackers_directory();
    let path = directory.path().join("listener");
    let mut attacker = Attacker::start("decoy-user-namespaces", &[path.to_str().unwrap()]);
    let [namespace, pid, decoys @ ..] = attacker.reported() else { panic!() };
    assert_eq!(distinct_namespaces(decoys), DECOYS as usize, "the attack does not work");
    let (namespace, pid) = (namespace.clone(), pid.parse().unwrap());
    are_shown("decoy_user_namespaces_hide_no_listener", &mut attacker, pid, &namespace, &path);
}

/// Chains of nested user namespaces, each with a network namespace and a process. The listeners are in the
/// deepest namespace of the last chain.
fn decoy_user_namespaces(arguments: &[String]) -> ! {
    let (mut read, write) = std::io::pipe().unwrap();
    for chain in 0..DECOYS / DEPTH {
        let is_last = chain == DECOYS / DEPTH - 1;
        start_children(1, |_| nest(DEPTH, is_last.then_some(&arguments[0]), &write));
    }
    drop(write);
    // The read would not end at the end of the file: the decoys have the pipe open.
    let mut bytes = [0; 1 << 16];
    let mut text = String::new();
    while text.lines().count() < DECOYS as usize || !text.ends_with('\n') {
        let length = std::io::Read::read(&mut read, &mut bytes).unwrap();
        text.push_str(std::str::from_utf8(&bytes[..length]).unwrap());
    }
    let (deepest, decoys) = text.lines().partition::<Vec<_>, _>(|line| line.contains(' '));
    let deepest_pid = deepest[0].split(' ').nth(1).unwrap();
    report_ready(&format!("{} {deepest_pid} {}", deepest[0], decoys.join(" ")));
    park()
}

/// Enters a user namespace and starts a child that nests the next one. Each process writes its pid. The deepest
/// process listens if there is a path, and writes the number of its network namespace before its pid.
fn nest(depth: u32, path: Option<&String>, pids: &std::io::PipeWriter) {
    use std::io::Write;
    enter_user_namespace(libc::CLONE_NEWNET);
    if depth > 1 {
        start_children(1, |_| nest(depth - 1, path, pids));
    } else if let Some(path) = path {
        std::mem::forget(listen(path.as_ref()));
        let line = format!("{} {}\n", net_namespace(), std::process::id());
        return (&*pids).write_all(line.as_bytes()).unwrap();
    }
    let line = format!("{}\n", std::process::id());
    (&*pids).write_all(line.as_bytes()).unwrap();
}
