//! A process of this binary that holds something until its standard input ends.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};

/// A process of this binary that waits with [`wait_for_end`]; dropping ends it.
pub(crate) struct Waiting(Child);

impl Waiting {
    /// Starts it with these arguments; returns when it waits.
    pub(crate) fn start(arguments: &[&str]) -> Waiting {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Waiting(child)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// In that process: reports that it is ready, and waits until its standard input ends.
pub(crate) fn wait_for_end() {
    println!("ready");
    let _ = std::io::stdin().read(&mut [0]);
}
