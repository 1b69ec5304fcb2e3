//! A process that does nothing, and holds a socket.

use std::process::{Child, Command, Stdio};

/// It sleeps until this is dropped.
pub(crate) struct Sleeper(pub(crate) Child);

impl Sleeper {
    /// With this as its standard input.
    pub(crate) fn holding(socket: impl Into<Stdio>) -> Sleeper {
        let mut command = Command::new("sleep");
        Sleeper(command.arg("600").stdin(socket).stdout(Stdio::null()).spawn().unwrap())
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
