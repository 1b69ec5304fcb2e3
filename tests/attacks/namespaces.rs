//! Decoy network namespaces, in which a listener is to be lost.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use super::attacker::{
    Attacker, enter_user_namespace, net_namespace, park, report_ready, start_children, unshare,
};
use super::rotation::attackers_directory;
use super::scan::{Row, answer, sources, table};
use super::{Attack, Test};

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

/// How many decoys there are.
const DECOYS: u32 = 200;
const PORT: u16 = 4100;
/// A user namespace can be so deep, and the one of the test counts as well.
const DEPTH: u32 = 25;

/// Binds a UNIX listener on that path and a TCP listener, which stay open.
fn listen(path: &str) {
    std::mem::forget(UnixListener::bind(path).unwrap());
    std::mem::forget(TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).unwrap());
}

/// Which of the two listeners of that process and namespace are not in the rows.
fn missing(rows: &[Row], pid: i64, namespace: &str, path: &str) -> Vec<&'static str> {
    let pid = pid.to_string();
    let is_shown =
        |cells: &[(&str, &str)]| rows.iter().any(|row| row.has(&[("pid", &pid)]) && row.has(cells));
    let port = PORT.to_string();
    let tcp = [("protocol", "6"), ("local_port", &*port), ("state", "LISTEN")];
    let is_missing = [
        ("TCP", !is_shown(&tcp)),
        ("TCP's namespace", !is_shown(&[&tcp[..], &[("net_namespace", namespace)]].concat())),
        ("UNIX", !is_shown(&[("family", "1"), ("path", path)])),
    ];
    is_missing.into_iter().filter(|(_, missing)| *missing).map(|(name, _)| name).collect()
}

/// Both listeners are in the answers to `SELECT *` and to `pid = X` of each source.
fn are_shown(test: &str, pid: i64, namespace: &str, path: &Path) {
    let path = path.to_str().unwrap();
    let mut missed = Vec::new();
    for (name, source) in sources(test) {
        let table = table(source);
        let queries = [vec![], vec![("pid", pid.to_string())]];
        for (query, equals) in ["SELECT *", "pid = X"].into_iter().zip(queries) {
            let equals: Vec<_> = equals.iter().map(|(name, value)| (*name, &**value)).collect();
            let rows = answer(&table, &equals);
            let missing = missing(&rows, pid, namespace, path).into_iter();
            missed.extend(missing.map(|listener| format!("{name}, {query}: {listener}")));
        }
    }
    assert_eq!(missed, [""; 0], "listeners that are not shown");
}

fn decoy_mounts_hide_no_listener() {
    let directory = attackers_directory();
    let path = directory.path().join("listener");
    let mounts = tempfile::tempdir().unwrap();
    let attacker =
        Attacker::start("decoy-mounts", &[mounts.path().to_str().unwrap(), path.to_str().unwrap()]);
    let namespace = &attacker.facts()[0];
    assert_ne!(*namespace, net_namespace());
    let mountinfo = fs::read_to_string(format!("/proc/{}/mountinfo", attacker.pid())).unwrap();
    let mounted = mountinfo.lines().filter(|line| line.contains(" net:[")).count();
    assert_eq!(mounted, DECOYS as usize, "the attack is none");
    are_shown("decoy_mounts_hide_no_listener", attacker.pid(), namespace, &path);
}

/// Mounts network namespaces that only its own mount namespace shows, and listens in the last one,
/// which it leaves.
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
    listen(path);
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

/// A network namespace that no process is in: a mount keeps it, as `ip netns add` makes one.
struct MountedNamespace {
    file: tempfile::NamedTempFile,
}

impl MountedNamespace {
    /// Carries `inside` out in a new namespace, and returns its number as well.
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
    let attacker = Attacker::start("decoy-processes", &[]);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("listener");
    let (mounted, namespace, listeners) = MountedNamespace::new(|| {
        let tcp = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).unwrap();
        (tcp, UnixListener::bind(&path).unwrap())
    });
    assert_eq!(distinct_namespaces(attacker.facts()), DECOYS as usize, "the attack is none");
    let pid = i64::from(std::process::id());
    are_shown("decoy_processes_hide_no_listener", pid, &namespace, &path);
    drop((listeners, mounted));
}

/// How many network namespaces these processes are in.
fn distinct_namespaces(pids: &[String]) -> usize {
    let link = |pid| fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
    pids.iter().map(link).collect::<std::collections::BTreeSet<_>>().len()
}

fn pids(pids: &[i32]) -> String {
    pids.iter().map(i32::to_string).collect::<Vec<_>>().join(" ")
}

/// Processes with a network namespace each.
fn decoy_processes(_: &[String]) -> ! {
    enter_user_namespace(0);
    let children = start_children(DECOYS, |_| unshare(libc::CLONE_NEWNET));
    report_ready(&pids(&children));
    park()
}

fn decoy_user_namespaces_hide_no_listener() {
    let directory = attackers_directory();
    let path = directory.path().join("listener");
    let attacker = Attacker::start("decoy-user-namespaces", &[path.to_str().unwrap()]);
    let [namespace, pid, decoys @ ..] = attacker.facts() else { panic!() };
    assert_eq!(distinct_namespaces(decoys), DECOYS as usize, "the attack is none");
    let pid = pid.parse().unwrap();
    are_shown("decoy_user_namespaces_hide_no_listener", pid, namespace, &path);
}

/// Chains of user namespaces, one in the other, with a network namespace and a process each. The
/// listeners are in the deepest one of the last chain.
fn decoy_user_namespaces(arguments: &[String]) -> ! {
    let (mut read, write) = std::io::pipe().unwrap();
    for chain in 0..DECOYS / DEPTH {
        let is_last = chain == DECOYS / DEPTH - 1;
        start_children(1, |_| nest(DEPTH, is_last.then_some(&arguments[0]), &write));
    }
    drop(write);
    // The decoys keep the pipe open.
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

/// Enters a user namespace, and has a child nest the others in it. Each process writes its pid; the
/// deepest one writes the number of its network namespace before it, if it is to listen.
fn nest(depth: u32, path: Option<&String>, pids: &std::io::PipeWriter) {
    use std::io::Write;
    enter_user_namespace(libc::CLONE_NEWNET);
    if depth > 1 {
        start_children(1, |_| nest(depth - 1, path, pids));
    } else if let Some(path) = path {
        listen(path);
        let line = format!("{} {}\n", net_namespace(), std::process::id());
        return (&*pids).write_all(line.as_bytes()).unwrap();
    }
    let line = format!("{}\n", std::process::id());
    (&*pids).write_all(line.as_bytes()).unwrap();
}
