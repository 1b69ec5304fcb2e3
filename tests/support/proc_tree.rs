//! A temporary tree in the format of `/proc`.

use std::fs;
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// The tree, removed when dropped.
pub struct ProcTree(TempDir);

impl Default for ProcTree {
    fn default() -> Self {
        let tree = TempDir::with_prefix("proc-tree").unwrap();
        symlink("1", tree.path().join("self")).unwrap();
        ProcTree(tree)
    }
}

impl ProcTree {
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Adds a network namespace of that number. Its `net` has only the file `tcp`, which lists no socket.
    pub fn namespace(self, number: u64) -> Self {
        let net = self.net(number);
        fs::create_dir_all(&net).unwrap();
        fs::write(net.join("tcp"), TCP_HEADER).unwrap();
        self
    }

    /// Writes a file of that namespace, titles and lines.
    pub fn file(self, namespace: u64, name: &str, text: impl AsRef<[u8]>) -> Self {
        fs::write(self.net(namespace).join(name), text).unwrap();
        self
    }

    /// A file of that namespace that can be opened and not be read: a directory.
    pub fn unreadable_file(self, namespace: u64, name: &str) -> Self {
        fs::create_dir(self.net(namespace).join(name)).unwrap();
        self
    }

    /// A file of that namespace that has no end until [`ProcTree::writer`] is dropped: a pipe.
    pub fn endless_file(self, namespace: u64, name: &str) -> Self {
        use rustix::fs::{CWD, FileType, Mode, mknodat};
        let path = self.net(namespace).join(name);
        mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o644), 0).unwrap();
        self
    }

    /// Waits until a process reads that endless file. The reader then waits until the returned file is dropped.
    pub fn writer(&self, namespace: u64, name: &str) -> fs::File {
        let start = Instant::now();
        loop {
            // Without a reader, open(2) fails with ENXIO.
            let mut options = fs::OpenOptions::new();
            options.write(true).custom_flags(libc::O_NONBLOCK);
            if let Ok(writer) = options.open(self.net(namespace).join(name)) {
                return writer;
            }
            assert!(start.elapsed() < Duration::from_secs(10), "no process reads {name}");
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// A process in that namespace that holds these sockets, as (descriptor, inode).
    pub fn process(self, pid: i32, namespace: u64, sockets: &[(i32, &str)]) -> Self {
        let process = self.path().join(pid.to_string());
        fs::create_dir_all(process.join("fd")).unwrap();
        fs::create_dir_all(process.join("ns")).unwrap();
        symlink(format!("net:[{namespace}]"), process.join("ns/net")).unwrap();
        symlink(self.net(namespace), process.join("net")).unwrap();
        for (fd, inode) in sockets {
            symlink(format!("socket:[{inode}]"), process.join("fd").join(fd.to_string())).unwrap();
        }
        self
    }

    /// Takes away the link that names the process's namespace.
    pub fn without_namespace_link(self, pid: i32) -> Self {
        fs::remove_file(self.path().join(pid.to_string()).join("ns/net")).unwrap();
        self
    }

    /// Makes the process's descriptors unreadable, for root too.
    pub fn with_unreadable_fds(self, pid: i32) -> Self {
        let fds = self.path().join(pid.to_string()).join("fd");
        fs::remove_dir_all(&fds).unwrap();
        fs::write(fds, "").unwrap();
        self
    }

    fn net(&self, namespace: u64) -> std::path::PathBuf {
        self.path().join(format!("namespace-{namespace}"))
    }
}

pub const TCP_HEADER: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when \
                              retrnsmt   uid  timeout inode\n";
pub const UNIX_HEADER: &str = "Num       RefCount Protocol Flags    Type St Inode Path\n";

/// A line of `tcp`: 127.0.0.1:port, listening.
pub fn tcp_line(port: u16, inode: &str) -> String {
    let loopback = u32::from_ne_bytes([127, 0, 0, 1]);
    format!(
        "   0: {loopback:08X}:{port:04X} 00000000:0000 0A 00000000:00000000 00:00000000 00000000     \
         0        0 {inode} 1 0000000000000000 100 0 0 10 0\n"
    )
}

/// A line of `unix`: a listening stream socket.
pub fn unix_line(inode: &str, path: &str) -> String {
    format!("0000000000000000: 00000002 00000000 00010000 0001 01 {inode:>5} {path}\n")
}
