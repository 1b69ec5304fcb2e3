//! The extension as a process, launched as osquery launches it.

use std::ffi::OsStr;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// The binary under test.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_process_open_sockets");
/// No wait of a test takes this long, unless the test fails.
const TEST_TIMEOUT: Duration = Duration::from_secs(60);

/// A running extension; killed when dropped.
pub(crate) struct Extension {
    child: Child,
    log: Arc<Mutex<String>>,
    log_reader: Option<JoinHandle<()>>,
}

/// The binary, without settings from the environment of the tests.
pub(crate) fn command() -> Command {
    without_settings(Command::new(BINARY))
}

/// The binary under a umask.
pub(crate) fn command_with_umask(umask: &str) -> Command {
    let mut shell = without_settings(Command::new("sh"));
    shell.args(["-c", r#"umask "$1"; shift; exec "$@""#, "sh", umask, BINARY]);
    shell
}

/// The binary with SIGHUP ignored, as under nohup(1).
pub(crate) fn command_without_hangups() -> Command {
    let mut shell = without_settings(Command::new("sh"));
    shell.args(["-c", r#"trap '' HUP; exec "$@""#, "sh", BINARY]);
    shell
}

fn without_settings(mut command: Command) -> Command {
    for (name, _) in std::env::vars_os() {
        let is_setting = name.to_string_lossy().starts_with("PROCESS_OPEN_SOCKETS_");
        if is_setting || name == "RUST_LOG" || name == "OSQUERY_EXTENSION" {
            command.env_remove(name);
        }
    }
    command
}

impl Extension {
    /// Launches it as osquery does, with an interval of one second and more arguments.
    pub(crate) fn launch<A: AsRef<OsStr>>(socket: &Path, more: &[A]) -> Extension {
        let mut command = command();
        command
            .env("OSQUERY_EXTENSION", std::process::id().to_string())
            .arg("--socket")
            .arg(socket)
            .args(["--timeout", "20", "--interval", "1"])
            .args(more);
        Extension::run(&mut command)
    }

    /// Starts it as an operator does, independently of osquery.
    pub(crate) fn sidecar(socket: &Path, more: &[&str]) -> Extension {
        Extension::run(command().arg("--socket").arg(socket).args(["--interval=1"]).args(more))
    }

    /// Starts it with a stderr of the test: its log is not stored here.
    pub(crate) fn with_stderr(command: &mut Command, stderr: impl Into<Stdio>) -> Extension {
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .expect("the binary starts");
        Extension { child, log: Arc::default(), log_reader: None }
    }

    pub(crate) fn run(command: &mut Command) -> Extension {
        let mut extension = Extension::with_stderr(command, Stdio::piped());
        let mut stderr = extension.child.stderr.take().expect("a pipe");
        let log_reader = thread::spawn({
            let log = Arc::clone(&extension.log);
            move || {
                let mut buffer = [0; 4096];
                while let Ok(length @ 1..) = stderr.read(&mut buffer) {
                    let text = String::from_utf8_lossy(&buffer[..length]);
                    log.lock().expect("a lock").push_str(&text);
                }
            }
        });
        extension.log_reader = Some(log_reader);
        extension
    }

    /// What the extension has written to stderr so far.
    pub(crate) fn log(&self) -> String {
        self.log.lock().expect("a lock").clone()
    }

    /// Waits until stderr has that text.
    pub(crate) fn wait_for_log(&self, text: &str) {
        let start = Instant::now();
        while !self.log().contains(text) {
            assert!(start.elapsed() < TEST_TIMEOUT, "not logged: {text:?}; but: {}", self.log());
            thread::sleep(Duration::from_millis(10));
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn terminate(&self) {
        self.send(rustix::process::Signal::TERM);
    }

    /// Sends a signal.
    pub(crate) fn send(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).expect("a signal");
    }

    /// The peak of its resident memory, in bytes.
    pub(crate) fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))
            .expect("a status of the process");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kilobytes = line.expect("a line VmHWM").trim().trim_end_matches(" kB");
        kilobytes.parse::<u64>().expect("a number") << 10
    }

    /// How many descriptors it has open, and how many threads it has.
    pub(crate) fn descriptors_and_threads(&self) -> (usize, usize) {
        let count = |what| {
            let entries = std::fs::read_dir(format!("/proc/{}/{what}", self.pid()));
            entries.expect("a directory of the process").count()
        };
        (count("fd"), count("task"))
    }

    /// Waits for its end, and returns its status and its whole log.
    pub(crate) fn end(mut self) -> (ExitStatus, String) {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                if let Some(log_reader) = self.log_reader.take() {
                    log_reader.join().expect("stderr is read to its end");
                }
                return (status, self.log());
            }
            assert!(
                start.elapsed() < TEST_TIMEOUT,
                "the extension does not end; its log: {}",
                self.log()
            );
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Extension {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
