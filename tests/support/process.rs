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
/// Longer than anything that a test waits for.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running extension; killed when dropped.
pub(crate) struct Extension {
    child: Child,
    said: Arc<Mutex<String>>,
    listener: Option<JoinHandle<()>>,
}

/// The binary, without the settings of whoever runs the tests.
pub(crate) fn command() -> Command {
    without_settings(Command::new(BINARY))
}

/// The same under that umask.
pub(crate) fn command_with_umask(umask: &str) -> Command {
    let mut shell = without_settings(Command::new("sh"));
    shell.args(["-c", r#"umask "$1"; shift; exec "$@""#, "sh", umask, BINARY]);
    shell
}

/// The same as under nohup(1).
pub(crate) fn command_without_hangups() -> Command {
    let mut shell = without_settings(Command::new("sh"));
    shell.args(["-c", r#"trap '' HUP; exec "$@""#, "sh", BINARY]);
    shell
}

fn without_settings(mut command: Command) -> Command {
    for (name, _) in std::env::vars_os() {
        let ours = name.to_string_lossy().starts_with("PROCESS_OPEN_SOCKETS_");
        if ours || name == "RUST_LOG" || name == "OSQUERY_EXTENSION" {
            command.env_remove(name);
        }
    }
    command
}

impl Extension {
    /// As osquery does it, with an interval of one second, and these arguments besides.
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

    /// As an operator does it, beside an osquery that knows nothing of it.
    pub(crate) fn sidecar(socket: &Path, more: &[&str]) -> Extension {
        Extension::run(command().arg("--socket").arg(socket).args(["--interval=1"]).args(more))
    }

    /// With a stderr of the test's own: what it says is not kept here.
    pub(crate) fn with_stderr(command: &mut Command, stderr: impl Into<Stdio>) -> Extension {
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .expect("the binary starts");
        Extension { child, said: Arc::default(), listener: None }
    }

    pub(crate) fn run(command: &mut Command) -> Extension {
        let mut extension = Extension::with_stderr(command, Stdio::piped());
        let mut stderr = extension.child.stderr.take().expect("a pipe");
        let listener = thread::spawn({
            let said = Arc::clone(&extension.said);
            move || {
                let mut buffer = [0; 4096];
                while let Ok(length @ 1..) = stderr.read(&mut buffer) {
                    let text = String::from_utf8_lossy(&buffer[..length]);
                    said.lock().expect("a lock").push_str(&text);
                }
            }
        });
        extension.listener = Some(listener);
        extension
    }

    /// What it has written to stderr so far.
    pub(crate) fn said(&self) -> String {
        self.said.lock().expect("a lock").clone()
    }

    /// Waits until stderr has that text.
    pub(crate) fn wait_until_it_says(&self, text: &str) {
        let start = Instant::now();
        while !self.said().contains(text) {
            assert!(start.elapsed() < PATIENCE, "not said: {text:?}; but: {}", self.said());
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

    /// The most memory that it has had, in bytes.
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

    /// Waits for its end, and gives all that it said.
    pub(crate) fn end(mut self) -> (ExitStatus, String) {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                if let Some(listener) = self.listener.take() {
                    listener.join().expect("stderr is read to its end");
                }
                return (status, self.said());
            }
            assert!(start.elapsed() < PATIENCE, "it does not end; it said: {}", self.said());
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
