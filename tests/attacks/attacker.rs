//! An attacker: a process of an unprivileged user, or of root where the attack needs it, bounded in time.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The environment variable with the attack of an attacker process.
pub(super) const ATTACK: &str = "ATTACK";
/// The environment variable with the uid of an attacker process.
pub(super) const ATTACK_USER: &str = "ATTACK_USER";
/// The default uid of an attacker.
pub(super) const NOBODY: u32 = 65534;
/// An attacker ends after this number of seconds: 20 scans of each source take less on a busy machine.
const LIFETIME: u32 = 300;

/// The handle of an attacker process. Dropping it ends the attacker and all processes that it started.
pub(super) struct Attacker {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    reported: Vec<String>,
}

impl Attacker {
    /// Starts the attack and waits until the attacker is ready.
    pub(super) fn start(attack: &str, arguments: &[&str]) -> Attacker {
        Attacker::start_as(NOBODY, attack, arguments)
    }

    /// Starts the attack as that user.
    pub(super) fn start_as(user: u32, attack: &str, arguments: &[&str]) -> Attacker {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.env(ATTACK, attack).env(ATTACK_USER, user.to_string()).args(arguments);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let stdin = child.stdin.take();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        assert!(line.starts_with("ready"), "the attack {attack} did not start: {line:?}");
        let reported = line.split_whitespace().skip(1).map(str::to_owned).collect();
        Attacker { child, stdin, stdout, reported }
    }

    pub(super) fn pid(&self) -> i64 {
        self.child.id().into()
    }

    /// The fields that the attacker reported when it was ready.
    pub(super) fn reported(&self) -> &[String] {
        &self.reported
    }

    /// Whether the attacker still runs.
    pub(super) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for Attacker {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
        // Every process of the attack has the pipe open: the read ends when all have ended.
        let _ = self.stdout.read_to_end(&mut Vec::new());
    }
}

/// In an attacker process, runs the attack and ends the process.
pub(crate) fn run_if_requested() {
    let Some(name) = std::env::var_os(ATTACK) else { return };
    let attacks = super::attacks();
    let (_, attack) = attacks.iter().find(|(attack_name, _)| name == *attack_name).unwrap();
    bound_lifetime();
    let user = std::env::var(ATTACK_USER).unwrap().parse().unwrap();
    if user != 0 {
        drop_privileges(user);
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    attack(&arguments)
}

/// Ends the process after [`LIFETIME`]. A forked child must call this again.
pub(super) fn bound_lifetime() {
    // SAFETY: alarm(2) accesses no memory; SIGALRM ends the process.
    unsafe { libc::alarm(LIFETIME) };
}

fn drop_privileges(user: u32) {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    // SAFETY: the process has one thread; the calls change its user and its groups, and nothing that
    // Rust relies on.
    unsafe {
        assert_eq!(libc::setgroups(0, std::ptr::null()), 0);
        assert_eq!(libc::setresgid(user, user, user), 0);
        assert_eq!(libc::setresuid(user, user, user), 0);
        // As after execve(2) by that user: the user owns the files of the process in /proc.
        assert_eq!(libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0), 0);
    }
}

/// Reports that the attacker is ready, with fields for the test.
pub(super) fn report_ready(reported: &str) {
    let mut stdout = std::io::stdout();
    writeln!(stdout, "ready {reported}").unwrap();
    stdout.flush().unwrap();
}

/// Whether the test has ended the attack.
pub(super) fn is_over() -> bool {
    stdin_is_closed(Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))
}

/// Waits for the end of the attack.
pub(super) fn park() -> ! {
    while !stdin_is_closed(None) {}
    std::process::exit(0)
}

fn stdin_is_closed(timeout: Option<&Timespec>) -> bool {
    let stdin = std::io::stdin();
    let mut fds = [PollFd::new(&stdin, PollFlags::IN)];
    poll(&mut fds, timeout).is_ok_and(|ready| ready > 0)
}

/// Forks this process, which has one thread. The child's pid, or 0 in the child.
pub(super) fn fork() -> i32 {
    // SAFETY: the process has one thread, so no lock is held by another one.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork: {}", std::io::Error::last_os_error());
    if pid == 0 {
        bound_lifetime();
    }
    pid
}

/// Ends this process without destructors: a forked child must not drop values of its parent.
pub(super) fn exit_now() -> ! {
    // SAFETY: the call does not return.
    unsafe { libc::_exit(0) }
}

/// Starts `count` children one after the other, and returns their pids. Each child has run `child` by then,
/// and waits for the end of the attack.
pub(super) fn start_children(count: u32, child: impl Fn(u32)) -> Vec<i32> {
    (0..count)
        .map(|number| {
            let (mut read, mut write) = std::io::pipe().unwrap();
            let pid = fork();
            if pid == 0 {
                drop(read);
                child(number);
                write.write_all(&[1]).unwrap();
                park();
            }
            read.read_exact(&mut [0]).unwrap();
            pid
        })
        .collect()
}

/// Enters a new user namespace as its root, and further namespaces of the kinds `flags`.
pub(super) fn enter_user_namespace(flags: libc::c_int) {
    let (uid, gid) = (rustix::process::getuid(), rustix::process::getgid());
    unshare(flags | libc::CLONE_NEWUSER);
    // In a nested namespace, setgroups is already denied.
    let _ = fs::write("/proc/self/setgroups", "deny");
    fs::write("/proc/self/uid_map", format!("0 {uid} 1")).unwrap();
    fs::write("/proc/self/gid_map", format!("0 {gid} 1")).unwrap();
}

pub(super) fn unshare(flags: libc::c_int) {
    // SAFETY: the calling thread holds no descriptor that another thread closes for it.
    let result = unsafe { libc::unshare(flags) };
    assert_eq!(result, 0, "unshare: {}", std::io::Error::last_os_error());
}

/// The number of the network namespace of the calling thread.
pub(super) fn net_namespace() -> String {
    let link = fs::read_link("/proc/thread-self/ns/net").unwrap();
    let link = link.to_str().unwrap();
    link.strip_prefix("net:[").unwrap().strip_suffix(']').unwrap().to_owned()
}

/// Calls `bind` until the address is free: the kernel may close the last socket of an earlier attacker shortly
/// after its end.
pub(super) fn bind_when_free<T, E>(bind: impl Fn() -> Result<T, E>) -> T
where
    std::io::Error: From<E>,
{
    let end = std::time::Instant::now() + Duration::from_secs(20);
    loop {
        match bind().map_err(std::io::Error::from) {
            Ok(bound) => return bound,
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
                assert!(std::time::Instant::now() < end, "{error}");
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// Waits until the condition holds.
pub(super) fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let end = std::time::Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(std::time::Instant::now() < end, "does not happen: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
