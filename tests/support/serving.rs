//! A process of this binary that serves tables, for the benchmarks.

use std::io::{BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::Instant;

use thrift::protocol::{TBinaryInputProtocol, TInputProtocol, TType};

use super::remote;

/// A process of this binary that serves tables; dropping ends it.
pub(crate) struct Serving {
    pub(crate) child: Child,
    pub(crate) socket: PathBuf,
}

impl Serving {
    /// Starts it with these arguments and the path of the socket; returns when it serves.
    pub(crate) fn start(arguments: &[&str], socket: PathBuf) -> Serving {
        let mut command = Command::new(std::env::current_exe().unwrap());
        let child = command.args(arguments).arg(&socket).spawn().unwrap();
        let serving = Serving { child, socket };
        remote::wait_for_service(&serving.socket);
        serving
    }

    /// Milliseconds from a request to the first and to the last byte of the answer.
    pub(crate) fn time(&self, table: &str, context: &str) -> [f64; 2] {
        let start = Instant::now();
        let ms = || start.elapsed().as_secs_f64() * 1000.0;
        let mut stream = UnixStream::connect(&self.socket).unwrap();
        stream.write_all(&remote::request(table, context)).unwrap();
        let mut first = [0];
        stream.read_exact(&mut first).unwrap();
        let until_first = ms();
        let mut input = TBinaryInputProtocol::new(BufReader::new(first.chain(stream)), true);
        input.read_message_begin().unwrap();
        input.skip(TType::Struct).unwrap();
        [until_first, ms()]
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
