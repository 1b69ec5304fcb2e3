//! The clients, the log and the end of the extension while reads of its scans block.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::attacker::wait_until;
use super::blocking::{ExecLocks, TIME, blocked, is_alive};
use super::fuse::Device;
use super::scan::{BPF, NETLINK, NamedSource, has_bpf};
use super::{Attack, Test};
use crate::support::core::Core;
use crate::support::osquery::TABLE;
use crate::support::process::Extension;
use crate::support::remote;

pub(super) const ATTACKS: &[Attack] = &[];

pub(super) const TESTS: &[Test] = &[
    ("exec_lock_delays_no_client_with_bpf", || delays_no_client(BPF)),
    ("exec_lock_delays_no_client_with_netlink", || delays_no_client(NETLINK)),
    ("exec_lock_does_not_delay_sigterm", does_not_delay_sigterm),
    ("exec_lock_is_logged_with_its_process", is_logged),
];

type Rows = Vec<BTreeMap<String, String>>;

/// The extension under a stand-in core.
pub(super) struct Scene {
    pub(super) extension: Extension,
    socket: PathBuf,
    _core: Core,
}

/// The answer to a client of the extension, and the time that it took.
pub(super) struct Answer {
    what: String,
    result: Result<Rows, String>,
    time: Duration,
}

impl Scene {
    pub(super) fn start(source: &str) -> Scene {
        let core = Core::stock();
        let extension = Extension::launch(core.socket(), &[format!("--source={source}")]);
        let socket = core.socket_of(core.wait_for("process_open_sockets"));
        extension.wait_for_log("registered with osquery");
        Scene { extension, socket, _core: core }
    }

    /// Starts a client that sends `request`.
    fn client(
        &self,
        what: &str,
        request: impl FnOnce(&Path) -> Result<Rows, String> + Send + 'static,
    ) -> JoinHandle<Answer> {
        let (socket, what) = (self.socket.clone(), what.to_owned());
        thread::spawn(move || {
            let start = Instant::now();
            let result = request(&socket);
            Answer { what, result, time: start.elapsed() }
        })
    }

    /// Starts a client that requests all rows.
    pub(super) fn full_scan(&self) -> JoinHandle<Answer> {
        self.client("SELECT *", |socket| generate(socket, "{}"))
    }

    fn ping(&self) -> JoinHandle<Answer> {
        self.client("ping", |socket| remote::ping(socket).map(|()| Rows::new()))
    }

    fn lookup(&self, pid: &str) -> JoinHandle<Answer> {
        let list = format!(r#"[{{"op":2,"expr":"{pid}"}}]"#);
        let context = format!(r#"{{"constraints":[{{"name":"pid","list":{list}}}]}}"#);
        self.client("pid = X", move |socket| generate(socket, &context))
    }

    /// The answers to two full scans at once, and to a lookup and a ping that start as soon as a read blocks.
    pub(super) fn answers(&self, pid: &str) -> Vec<Answer> {
        let scans = [self.full_scan(), self.full_scan()];
        self.wait_until_blocked(&scans);
        let clients = scans.into_iter().chain([self.lookup(pid), self.ping()]);
        clients.map(|client| client.join().unwrap()).collect()
    }

    /// Waits until a read of these scans blocks, or all scans are answered.
    fn wait_until_blocked(&self, scans: &[JoinHandle<Answer>]) {
        let are_answered = || scans.iter().all(JoinHandle::is_finished);
        wait_until("a read blocks", || are_answered() || !self.blocked().is_empty());
    }

    /// The threads of the extension and of its children that block in a read.
    fn blocked(&self) -> Vec<String> {
        let pid = self.extension.pid();
        blocked(tasks(pid).into_iter().chain(children(pid).into_iter().flat_map(tasks)))
    }

    /// Sends SIGTERM during a scan, and returns what is wrong: the extension and its children must end in time.
    pub(super) fn ends_during_a_scan(self, name: &str) -> Vec<String> {
        let clients = [self.full_scan()];
        self.wait_until_blocked(&clients);
        println!("{name}: {} blocked threads before SIGTERM", self.blocked().len());
        let children = children(self.extension.pid());
        let start = Instant::now();
        self.extension.terminate();
        // wait(2) returns a process only when none of its threads is left, not even a stuck one.
        let (status, log) = self.extension.end();
        let is_left = |pid: &&u32| is_alive(i32::try_from(**pid).unwrap());
        while children.iter().any(|pid| is_left(&pid)) && start.elapsed() < TIME {
            thread::sleep(Duration::from_millis(5));
        }
        let time = start.elapsed();
        println!("{name}: ended {:.2} s after SIGTERM", time.as_secs_f64());
        let mut wrong = Vec::new();
        wrong.extend((time > TIME).then(|| format!("{name}: ended after {time:?}")));
        wrong.extend((status.code() != Some(0)).then(|| format!("{name}: {status}: {log}")));
        let left = children.iter().filter(is_left);
        wrong.extend(left.map(|pid| format!("{name}: the child process {pid} is left")));
        clients.into_iter().for_each(|client| drop(client.join()));
        wrong
    }
}

fn generate(socket: &Path, context: &str) -> Result<Rows, String> {
    let request = [("action", "generate"), ("context", context)];
    let request = request.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    remote::call(socket, TABLE, request)
}

/// The directories of the threads of that process in `/proc`.
fn tasks(pid: u32) -> Vec<String> {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    tasks.flatten().map(|task| task.path().to_str().unwrap().to_owned()).collect()
}

/// The child processes of that process.
fn children(pid: u32) -> Vec<u32> {
    let parent = format!("\nPPid:\t{pid}\n");
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let status = |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/status"));
    pids.filter(|pid| status(pid).is_ok_and(|status| status.contains(&parent))).collect()
}

/// Faults of these answers: each must arrive in time, and rows must have the listener of the test with that port.
pub(super) fn faults_of(name: &str, answers: Vec<Answer>, port: u16) -> Vec<String> {
    let me = std::process::id().to_string();
    let mut wrong = Vec::new();
    for Answer { what, result, time } in answers {
        println!("{name}, {what}: {:.2} s", time.as_secs_f64());
        wrong.extend((time > TIME).then(|| format!("{name}, {what}: {time:?}")));
        match result {
            Err(error) => wrong.push(format!("{name}, {what}: {error}")),
            Ok(_) if what == "ping" => {}
            Ok(rows) => {
                let is_own = |row: &BTreeMap<String, String>| {
                    row["local_port"] == port.to_string() && row["pid"] == me
                };
                let has_own = rows.iter().any(is_own);
                wrong.extend((!has_own).then(|| format!("{name}, {what}: the socket is missing")));
            }
        }
    }
    wrong
}

/// A listener of this process, and its port.
pub(super) fn own_listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

fn delays_no_client((name, source): NamedSource) {
    let test = format!("exec_lock_delays_no_client_with_{name}");
    if source == BPF.1 && !has_bpf(&test) {
        return;
    }
    let Some(device) = Device::new(&test) else { return };
    let (_listener, port) = own_listener();
    let scene = Scene::start(name);
    let locks = ExecLocks::start(&device, 5);
    let answers = scene.answers(&std::process::id().to_string());
    let mut wrong = faults_of(name, answers, port);
    wrong.extend((!locks.are_held()).then(|| "answered after the locks were released".to_owned()));
    assert_eq!(wrong, [""; 0]);
}

fn does_not_delay_sigterm() {
    let Some(device) = Device::new("exec_lock_does_not_delay_sigterm") else { return };
    let scene = Scene::start(NETLINK.0);
    let _locks = ExecLocks::start(&device, 5);
    assert_eq!(scene.ends_during_a_scan(NETLINK.0), [""; 0]);
}

fn is_logged() {
    let Some(device) = Device::new("exec_lock_is_logged_with_its_process") else { return };
    let scene = Scene::start(NETLINK.0);
    let locks = ExecLocks::start(&device, 1);
    let _ = scene.full_scan().join().unwrap();
    let warns = |line: &str| {
        let mut fields = line.split(|character: char| !character.is_ascii_alphanumeric());
        line.contains("warning")
            && line.contains("blocked")
            && fields.any(|field| field == locks.pids[0])
    };
    let end = Instant::now() + Duration::from_secs(20);
    while !scene.extension.log().lines().any(warns) {
        let pid = &locks.pids[0];
        assert!(Instant::now() < end, "no warning of {pid}: {}", scene.extension.log());
        thread::sleep(Duration::from_millis(10));
    }
}
