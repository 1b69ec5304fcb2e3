//! Processes that block the reads of their files in `/proc`.
//!
//! A process whose execve(2) waits for a FUSE server holds `exec_update_lock`: readlink(2) of its
//! descriptors and namespaces blocks (`fs/exec.c`, `fs/proc/base.c`). An unprivileged user can mount such a
//! server in a user namespace.

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

use tables::process_open_sockets::ProcessOpenSockets;
use tempfile::TempDir;

use super::attacker::{
    Attacker, NOBODY, bind_when_free, enter_user_namespace, exit_now, fork, park, report_ready,
    wait_until,
};
use super::fuse::{self, Device};
use super::namespaces::mount;
use super::rotation::attackers_directory;
use super::scan::{BPF, NETLINK, NamedSource, PROCFS, Row, answer, has_bpf, sources, table};
use super::{Attack, Test};

pub(super) const ATTACKS: &[Attack] = &[("exec-lock", exec_lock), ("bystander", bystander)];

pub(super) const TESTS: &[Test] = &[
    ("exec_lock_delays_no_answer_with_bpf", || delays_no_answer(BPF)),
    ("exec_lock_delays_no_answer_with_netlink", || delays_no_answer(NETLINK)),
    ("exec_lock_delays_no_answer_with_procfs", || delays_no_answer(PROCFS)),
    ("exec_lock_hides_no_socket_with_bpf", || hides_no_socket(BPF)),
    ("exec_lock_hides_no_socket_with_netlink", || hides_no_socket(NETLINK)),
    ("exec_lock_hides_no_socket_with_procfs", || hides_no_socket(PROCFS)),
    ("process_is_read_again_after_its_exec_lock", is_read_again),
    ("exec_locks_of_one_user_hide_no_holder_with_bpf", || check_many_locks("one", 1, BPF)),
    ("exec_locks_of_one_user_hide_no_socket_with_netlink", || {
        check_many_locks("one", 1, NETLINK);
    }),
    ("exec_locks_of_one_user_hide_no_socket_with_procfs", || {
        check_many_locks("one", 1, PROCFS);
    }),
    ("exec_locks_of_six_users_hide_no_holder_with_bpf", || check_many_locks("six", 6, BPF)),
    ("exec_locks_of_six_users_hide_no_socket_with_netlink", || {
        check_many_locks("six", 6, NETLINK);
    }),
    ("exec_locks_of_six_users_hide_no_socket_with_procfs", || {
        check_many_locks("six", 6, PROCFS);
    }),
];

/// The port of the listener of the first process with an exec lock; the others have the following ports.
const FIRST_PORT: u16 = 4700;
/// The number of processes with an exec lock, of all users together.
const MANY_LOCKS: u16 = 40;
/// An answer is promised within 5 s, plus 5 s for a busy machine.
pub(super) const TIME: Duration = Duration::from_secs(10);

/// Processes of one user that wait for a FUSE server in execve(2).
pub(super) struct ExecLocks {
    _attacker: Attacker,
    server: i32,
    pub(super) pids: Vec<String>,
    pub(super) ports: Vec<u16>,
    _directory: TempDir,
}

impl ExecLocks {
    pub(super) fn start(device: &Device, count: u16) -> ExecLocks {
        ExecLocks::start_as(NOBODY, device, count, FIRST_PORT)
    }

    fn start_as(user: u32, device: &Device, count: u16, first_port: u16) -> ExecLocks {
        let directory = tempfile::tempdir().unwrap();
        let directory_path = directory.path().to_str().unwrap();
        let (count_text, port) = (count.to_string(), first_port.to_string());
        let arguments = [&*device.path(), directory_path, &count_text, &port];
        let attacker = Attacker::start_as(user, "exec-lock", &arguments);
        let [server, pids @ ..] = attacker.reported() else { panic!() };
        let (server, pids) = (server.parse().unwrap(), pids.to_vec());
        assert_eq!(pids.len(), usize::from(count));
        let ports = (first_port..first_port + count).collect();
        let locks = ExecLocks { _attacker: attacker, server, pids, ports, _directory: directory };
        for pid in &locks.pids {
            let link = format!("/proc/{pid}/ns/net");
            assert_blocks(&format!("readlink(2) of {link}"), || drop(fs::read_link(link)));
        }
        locks
    }

    /// Whether the processes still hold their locks: only the end of the server releases them.
    pub(super) fn are_held(&self) -> bool {
        is_alive(self.server)
    }

    pub(super) fn release(&self) {
        let server = rustix::process::Pid::from_raw(self.server).unwrap();
        rustix::process::kill_process(server, rustix::process::Signal::KILL).unwrap();
        wait_until("the server ends", || !self.are_held());
        // readlink(2) blocks until the lock is free.
        self.pids.iter().for_each(|pid| drop(fs::read_link(format!("/proc/{pid}/exe")).unwrap()));
    }
}

pub(super) fn is_alive(pid: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    !status.is_empty() && !status.contains("\nState:\tZ")
}

/// Which of these threads, given by their directories in `/proc`, are blocked in a system call that takes a
/// path: they are in the same call at two reads.
///
/// The state of a thread does not show it. A thread that waits for a FUSE server sleeps interruptibly until a
/// signal comes (`fs/fuse/dev.c`), and other calls have short sleeps in D state.
pub(super) fn blocked(tasks: impl IntoIterator<Item = String>) -> Vec<String> {
    let calls: Vec<_> =
        tasks.into_iter().filter_map(|task| Some((path_call(&task)?, task))).collect();
    if !calls.is_empty() {
        std::thread::sleep(Duration::from_millis(20));
    }
    let is_same = |(call, task): &(String, String)| path_call(task).as_ref() == Some(call);
    calls.into_iter().filter(is_same).map(|(_, task)| task).collect()
}

/// System calls that take a path.
const PATH_CALLS: &[libc::c_long] = &[
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_readlinkat,
    libc::SYS_statx,
    // Other architectures lack this call.
    #[cfg(target_arch = "x86_64")]
    libc::SYS_readlink,
];

/// The system call in which the thread sleeps, if it takes a path, and the number of times it has slept.
fn path_call(task: &str) -> Option<String> {
    let call = fs::read_to_string(format!("{task}/syscall")).ok()?;
    let number = call.split(' ').next()?.parse().ok()?;
    let status = fs::read_to_string(format!("{task}/status")).ok()?;
    let switches = status.lines().find(|line| line.starts_with("voluntary_ctxt_switches"))?;
    PATH_CALLS.contains(&number).then(|| call + switches)
}

/// Checks that the attack works: a thread that makes this call blocks, until the attack ends.
pub(super) fn assert_blocks(what: &str, call: impl FnOnce() + Send + 'static) {
    let (sender, receiver) = std::sync::mpsc::channel();
    let caller = std::thread::spawn(move || {
        sender.send(rustix::thread::gettid()).unwrap();
        call();
    });
    let task = format!("/proc/self/task/{}", receiver.recv().unwrap().as_raw_nonzero());
    let is_blocked = || !blocked([task.clone()]).is_empty();
    wait_until("a call blocks", || caller.is_finished() || is_blocked());
    assert!(!caller.is_finished(), "the attack does not work: {what} returns");
}

/// Arguments: `device`, `directory`, the number of processes, and the port of the first listener.
fn exec_lock(arguments: &[String]) -> ! {
    let [device, directory, count, first_port] = arguments else { panic!("{arguments:?}") };
    let (count, first_port): (u16, u16) = (count.parse().unwrap(), first_port.parse().unwrap());
    enter_user_namespace(libc::CLONE_NEWNS);
    mount(&["--make-rprivate", "/"]);
    let mut server = fuse::mount(device, directory, "");
    let mut facts = server.pid.to_string();
    for port in first_port..first_port + count {
        let pid = fork();
        if pid == 0 {
            exec_and_wait(directory, port);
        }
        facts += &format!(" {pid}");
    }
    server.wait_for_flushes(count.into());
    report_ready(&facts);
    park()
}

/// Calls execve(2) with an open listener. The call closes a file of the FUSE mount, and so waits for its server.
/// The new program waits for the end of the attack.
fn exec_and_wait(directory: &str, port: u16) -> ! {
    let listener = bind_when_free(|| TcpListener::bind((Ipv4Addr::LOCALHOST, port)));
    rustix::io::fcntl_setfd(&listener, rustix::io::FdFlags::empty()).unwrap();
    // Only execve(2) closes the file.
    let _file = fs::File::open(format!("{directory}/{}", fuse::FILE)).unwrap();
    let error = Command::new("cat").exec();
    eprintln!("cat: {error}");
    exit_now()
}

/// A process with sockets of several kinds that do not change.
pub(super) struct Bystander {
    attacker: Attacker,
    _directory: TempDir,
}

impl Bystander {
    /// Starts it as root: no attacker can influence it.
    pub(super) fn start() -> Bystander {
        Bystander::start_as(0)
    }

    pub(super) fn start_as(user: u32) -> Bystander {
        let directory = attackers_directory();
        std::os::unix::fs::chown(directory.path(), Some(user), None).unwrap();
        let path = directory.path().join("bystander");
        let attacker = Attacker::start_as(user, "bystander", &[path.to_str().unwrap()]);
        Bystander { attacker, _directory: directory }
    }

    pub(super) fn pid(&self) -> String {
        self.attacker.pid().to_string()
    }

    /// Its complete rows, in order.
    pub(super) fn rows(&self, rows: &[Row]) -> BTreeSet<String> {
        let pid = self.pid();
        rows.iter().filter(|row| row.has(&[("pid", &pid)])).map(|row| format!("{row:?}")).collect()
    }

    /// The inodes of its sockets in the rows, with or without a holder.
    fn sockets(&self, rows: &[Row]) -> BTreeSet<i64> {
        let own: BTreeSet<i64> =
            self.attacker.reported().iter().map(|inode| inode.parse().unwrap()).collect();
        rows.iter().map(|row| row.number("socket")).filter(|inode| own.contains(inode)).collect()
    }
}

fn bystander(arguments: &[String]) -> ! {
    let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let other = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let unix = UnixListener::bind(&arguments[0]).unwrap();
    let pair = UnixStream::pair().unwrap();
    let inode = |fd: &dyn std::os::fd::AsFd| rustix::fs::fstat(fd.as_fd()).unwrap().st_ino;
    let fds: [&dyn std::os::fd::AsFd; 6] = [&tcp, &other, &udp, &unix, &pair.0, &pair.1];
    let inodes: Vec<String> = fds.iter().map(|fd| inode(*fd).to_string()).collect();
    report_ready(&inodes.join(" "));
    park()
}

/// Queries while the locks are held, with the late answers.
struct AnswerCheck<'a> {
    query: String,
    locks: &'a [ExecLocks],
    wrong: Vec<String>,
}

impl AnswerCheck<'_> {
    /// Checks that the answer arrives while the locks are held, and within [`TIME`].
    fn answer(
        &mut self,
        what: &str,
        table: &ProcessOpenSockets,
        equals: &[(&str, &str)],
    ) -> Vec<Row> {
        let start = Instant::now();
        let rows = answer(table, equals);
        let time = start.elapsed();
        println!("{}, {what}: {:.2} s", self.query, time.as_secs_f64());
        if time > TIME || !self.locks.iter().all(ExecLocks::are_held) {
            self.wrong.push(format!("{}, {what}: {time:?}", self.query));
        }
        rows
    }
}

/// The FUSE device, if the host has the source and FUSE.
pub(super) fn prepare(test: &str, (name, _): NamedSource) -> Option<Device> {
    (name != BPF.0 || has_bpf(test)).then(|| Device::new(test)).flatten()
}

fn delays_no_answer((name, source): NamedSource) {
    let test = format!("exec_lock_delays_no_answer_with_{name}");
    let Some(device) = prepare(&test, (name, source)) else { return };
    let mut wrong = Vec::new();
    let pid = std::process::id().to_string();
    for count in [1, 5] {
        let table = table(source);
        let locks = [ExecLocks::start(&device, count)];
        let query = format!("{name}, {count} locked");
        let mut attacked = AnswerCheck { query, locks: &locks, wrong: Vec::new() };
        attacked.answer("SELECT *", &table, &[]);
        attacked.answer("pid = X", &table, &[("pid", &pid)]);
        attacked.answer("SELECT * again", &table, &[]);
        attacked.answer("pid = X again", &table, &[("pid", &pid)]);
        attacked.answer("pid = a locked one", &table, &[("pid", &locks[0].pids[0])]);
        wrong.extend(attacked.wrong);
    }
    assert_eq!(wrong, [""; 0], "answers that were late");
}

/// The holders of TCP listeners with that port.
fn holders(rows: &[Row], port: u16) -> Vec<String> {
    let port = port.to_string();
    let listens = [("protocol", "6"), ("local_port", &*port), ("state", "LISTEN")];
    rows.iter().filter(|row| row.has(&listens)).map(|row| row.cell("pid")).collect()
}

fn hides_no_socket((name, source): NamedSource) {
    let test = format!("exec_lock_hides_no_socket_with_{name}");
    let Some(device) = prepare(&test, (name, source)) else { return };
    let own = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let own_port = own.local_addr().unwrap().port();
    let me = std::process::id().to_string();
    let bystander = Bystander::start();
    let table = table(source);
    let before = bystander.rows(&answer(&table, &[]));
    assert_eq!(before.len(), 6, "{before:#?}");
    let locks = ExecLocks::start(&device, 5);
    let mut wrong = Vec::new();
    for what in ["SELECT *", "SELECT * again"] {
        let rows = answer(&table, &[]);
        let during = bystander.rows(&rows);
        wrong.extend(before.difference(&during).map(|row| format!("{what} lacks {row}")));
        wrong.extend(during.difference(&before).map(|row| format!("{what} adds {row}")));
        let own_holders = holders(&rows, own_port);
        if own_holders != [&*me] {
            wrong.push(format!("{what}: pids of the test's socket: {own_holders:?}"));
        }
        for (port, pid) in locks.ports.iter().zip(&locks.pids) {
            let expected = if source == BPF.1 { pid } else { "-1" };
            let holders = holders(&rows, *port);
            if holders != [expected] {
                wrong.push(format!("{what}, {expected} holds the port {port}: {holders:?}"));
            }
        }
    }
    for (pid, port) in [(&me, own_port), (&locks.pids[0], locks.ports[0])] {
        let expected: &[&str] = if *pid == me || source == BPF.1 { &[pid] } else { &[] };
        let holders = holders(&answer(&table, &[("pid", pid)]), port);
        if holders != expected {
            wrong.push(format!("pid = {pid}: {holders:?}, not {expected:?}"));
        }
    }
    wrong.extend((!locks.are_held()).then(|| "the locks were released before the end".to_owned()));
    assert_eq!(wrong, [""; 0]);
}

fn is_read_again() {
    let test = "process_is_read_again_after_its_exec_lock";
    let Some(device) = Device::new(test) else { return };
    for (name, source) in sources(test) {
        let table = table(source);
        let locks = ExecLocks::start(&device, 1);
        let mut attacked = AnswerCheck {
            query: name.to_owned(),
            locks: std::slice::from_ref(&locks),
            wrong: vec![],
        };
        attacked.answer("SELECT *", &table, &[]);
        assert_eq!(attacked.wrong, [""; 0]);
        locks.release();
        // The table may detect the end of the blocked read later.
        let has_holder = || holders(&answer(&table, &[]), locks.ports[0]) == [&*locks.pids[0]];
        wait_until(&format!("{name}: the socket has its holder"), has_holder);
        let of_pid = answer(&table, &[("pid", &locks.pids[0])]);
        assert_eq!(holders(&of_pid, locks.ports[0]), [&*locks.pids[0]], "{name}");
    }
}

fn check_many_locks(users_name: &str, users: u16, (name, source): NamedSource) {
    let hidden = if source == BPF.1 { "holder" } else { "socket" };
    let plural = if users == 1 { "" } else { "s" };
    let test = format!("exec_locks_of_{users_name}_user{plural}_hide_no_{hidden}_with_{name}");
    let Some(device) = prepare(&test, (name, source)) else { return };
    let bystander = Bystander::start();
    let table = table(source);
    let before = answer(&table, &[]);
    let (rows_before, sockets_before) = (bystander.rows(&before), bystander.sockets(&before));
    assert_eq!((rows_before.len(), sockets_before.len()), (6, 6), "{rows_before:#?}");
    let start = |user: u16| {
        let of_user = (MANY_LOCKS + users - 1 - user) / users;
        let first_port = FIRST_PORT + user * MANY_LOCKS;
        ExecLocks::start_as(NOBODY - u32::from(user), &device, of_user, first_port)
    };
    let locks: Vec<ExecLocks> = (0..users).map(start).collect();
    let count: usize = locks.iter().map(|locks| locks.pids.len()).sum();
    assert_eq!(count, usize::from(MANY_LOCKS));
    let query = format!("{name}, {count} locked of {users}");
    let mut attacked = AnswerCheck { query, locks: &locks, wrong: Vec::new() };
    for what in ["SELECT *", "SELECT * again"] {
        let rows = attacked.answer(what, &table, &[]);
        let with_holder = bystander.rows(&rows);
        if with_holder != rows_before {
            attacked.wrong.push(format!("{what}: the bystander has {with_holder:#?}"));
        }
        if bystander.sockets(&rows) != sockets_before {
            attacked.wrong.push(format!("{what}: sockets of the bystander are missing"));
        }
        let ports = locks.iter().flat_map(|locks| locks.ports.iter().zip(&locks.pids));
        let is_hidden = |(port, pid): &(&u16, &String)| {
            let holders = holders(&rows, **port);
            if source == BPF.1 { holders != [&***pid] } else { holders.is_empty() }
        };
        let hidden = ports.filter(is_hidden).count();
        if hidden > 0 {
            attacked.wrong.push(format!("{what}: {hidden} listeners of the attackers are hidden"));
        }
    }
    let me = std::process::id().to_string();
    attacked.answer("pid = X", &table, &[("pid", &me)]);
    assert_eq!(attacked.wrong, [""; 0]);
}
