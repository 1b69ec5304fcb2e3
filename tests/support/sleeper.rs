//! A process that sleeps and holds a socket.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A process that sleeps until this value is dropped.
pub(crate) struct Sleeper(pub(crate) Child);

impl Sleeper {
    /// Starts the process with the socket as its standard input.
    pub(crate) fn holding(socket: impl Into<Stdio>) -> Sleeper {
        let mut command = Command::new("sleep");
        let child = command.arg("600").stdin(socket).stdout(Stdio::null()).spawn().unwrap();
        Sleeper(child).started()
    }

    /// Waits until the process is `sleep`. Linux closes the other descriptors before it sets the name
    /// (`begin_new_exec` in fs/exec.c); until then the process holds all descriptors of its parent. It sets the
    /// arguments last.
    fn started(self) -> Sleeper {
        let directory = format!("/proc/{}", self.pid());
        let end = Instant::now() + Duration::from_secs(60);
        let read = |file: &str| std::fs::read(format!("{directory}/{file}")).unwrap_or_default();
        let is_sleep = || read("comm") == b"sleep\n" && read("cmdline").ends_with(b"600\0");
        while cfg!(target_os = "linux") && !is_sleep() {
            assert!(Instant::now() < end, "the child did not become sleep(1)");
            std::thread::sleep(Duration::from_millis(1));
        }
        self
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
