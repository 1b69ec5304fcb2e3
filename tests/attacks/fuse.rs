//! A small FUSE server that does not answer some requests (`linux/fuse.h`).
//!
//! The server is a separate process. It ends with the attack, at the latest after [`LIFETIME`]; then the kernel
//! aborts the connection and every blocked call returns.

use std::collections::VecDeque;
use std::ffi::CString;
use std::fs;
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use tempfile::TempDir;

use super::attacker::{exit_now, fork};
use super::namespaces::mount as mount_tool;
use crate::support::left_out::report_left_out;

/// The server ends after this number of seconds.
const LIFETIME: u32 = 20;
/// The name of the only file of the mount.
pub(super) const FILE: &str = "file";
/// After a lookup of this name, the server does not answer any request.
const STOP: &str = "stop";

const ROOT_NODE: u64 = 1;
const FILE_NODE: u64 = 2;

const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const OPEN: u32 = 14;
const READ: u32 = 15;
const RELEASE: u32 = 18;
const FLUSH: u32 = 25;
const INIT: u32 = 26;
const OPENDIR: u32 = 27;
const RELEASEDIR: u32 = 29;
const INTERRUPT: u32 = 36;
const BATCH_FORGET: u32 = 42;

/// A node of the FUSE device that every user may open. It is in a new file system, since those of temporary files
/// often do not allow device nodes.
pub(super) struct Device(TempDir);

impl Device {
    /// Returns `None` and reports the test as left out if the kernel has no FUSE.
    pub(super) fn new(test: &str) -> Option<Device> {
        let filesystems = fs::read_to_string("/proc/filesystems").unwrap();
        if !filesystems.lines().any(|line| line.split_whitespace().last() == Some("fuse")) {
            report_left_out(test, "needs FUSE: /proc/filesystems does not list it");
            return None;
        }
        let device = Device(tempfile::tempdir().unwrap());
        mount_tool(&["-t", "tmpfs", "none", device.0.path().to_str().unwrap()]);
        let mode = |mode| fs::Permissions::from_mode(mode);
        fs::set_permissions(device.0.path(), mode(0o755)).unwrap();
        let node = device.path();
        let made = mknodat(CWD, &*node, FileType::CharacterDevice, Mode::empty(), makedev(10, 229));
        if made.is_err() || fs::set_permissions(&node, mode(0o666)).is_err() || open(&node).is_err()
        {
            report_left_out(test, "needs FUSE: a node of the device 10:229 cannot be opened");
            return None;
        }
        Some(device)
    }

    pub(super) fn path(&self) -> String {
        self.0.path().join("fuse").to_str().unwrap().to_owned()
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let status = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
        assert!(status.unwrap().success());
    }
}

fn open(device: &str) -> std::io::Result<fs::File> {
    fs::File::options().read(true).write(true).open(device)
}

/// Mounts FUSE on that directory in the mount namespace of the caller, and starts its server, which does not
/// answer FLUSH and READ.
pub(super) fn mount(device: &str, directory: &str, more_options: &str) -> Server {
    mount_slow(device, directory, more_options, None)
}

/// Mounts FUSE with a server that answers FLUSH after that time.
pub(super) fn mount_slow(
    device: &str,
    directory: &str,
    more_options: &str,
    hold: Option<Duration>,
) -> Server {
    let device = open(device).unwrap();
    let fd = device.as_raw_fd();
    let options = format!("fd={fd},rootmode=40000,user_id=0,group_id=0{more_options}");
    let strings = [directory, "fuse", &options].map(|text| CString::new(text).unwrap());
    let [directory, kind, options] = strings.each_ref().map(|text| text.as_ptr());
    let flags = libc::MS_NOSUID | libc::MS_NODEV;
    // SAFETY: the strings end with a NUL and outlive the call.
    let result = unsafe { libc::mount(kind, directory, kind, flags, options.cast()) };
    assert_eq!(result, 0, "mount: {}", std::io::Error::last_os_error());
    Server::start(device, hold)
}

/// The handle of a server in the process that started it. No other process has the device open.
pub(super) struct Server {
    pub(super) pid: i32,
    flushes: PipeReader,
}

impl Server {
    fn start(device: fs::File, hold: Option<Duration>) -> Server {
        let (flushes, report) = std::io::pipe().unwrap();
        let pid = fork();
        if pid == 0 {
            // SAFETY: alarm(2) accesses no memory; SIGALRM ends the process.
            unsafe { libc::alarm(LIFETIME) };
            serve(device, hold, report);
        }
        Server { pid, flushes }
    }

    /// Waits until the server has `count` FLUSH requests: then `count` processes wait for an answer.
    pub(super) fn wait_for_flushes(&mut self, count: usize) {
        self.flushes.read_exact(&mut vec![0; count]).unwrap();
    }
}

/// Makes the server of that mount stop answering requests.
pub(super) fn stop_answers(directory: &str) {
    let error = fs::symlink_metadata(format!("{directory}/{STOP}")).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{error}");
}

/// Answers requests until the end of the attack.
fn serve(mut device: fs::File, hold: Option<Duration>, mut flushes: PipeWriter) -> ! {
    let stdin = std::io::stdin();
    let mut answers = true;
    let mut bytes = vec![0; 1 << 20];
    // Delayed answers to FLUSH, with the times at which they are due.
    let mut held: VecDeque<(Instant, Vec<u8>)> = VecDeque::new();
    loop {
        let mut fds = [PollFd::new(&stdin, PollFlags::IN), PollFd::new(&device, PollFlags::IN)];
        let due = held.front().map(|(due, _)| due.saturating_duration_since(Instant::now()));
        let polled = poll(&mut fds, due.map(|due| due.try_into().unwrap()).as_ref());
        let is_request = !fds[1].revents().is_empty();
        if polled.is_ok() && !fds[0].revents().is_empty() {
            exit_now();
        }
        while held.front().is_some_and(|(due, _)| *due <= Instant::now()) {
            // If the process has ended meanwhile, the kernel refuses the answer.
            held.pop_front().map(|(_, answer)| device.write(&answer));
        }
        if polled.is_err() || !is_request {
            continue;
        }
        let Ok(length) = device.read(&mut bytes) else { exit_now() };
        let request = Request(&bytes[..length]);
        // The kernel waits for the answer to a request that the server has read, even if the process is killed.
        if !answers {
            continue;
        }
        match (request.opcode(), hold) {
            (FLUSH, None) => flushes.write_all(&[1]).unwrap(),
            (FLUSH, Some(hold)) => {
                held.push_back((Instant::now() + hold, request.answer_with(0, &[])));
            }
            _ => {}
        }
        if let Some(answer) = request.answer() {
            device.write_all(&answer).unwrap();
        }
        answers = !(request.opcode() == LOOKUP && request.name() == STOP.as_bytes());
    }
}

/// A request: `struct fuse_in_header` of 40 bytes, and the arguments.
struct Request<'a>(&'a [u8]);

impl Request<'_> {
    fn opcode(&self) -> u32 {
        u32::from_ne_bytes(self.0[4..8].try_into().unwrap())
    }

    fn node(&self) -> u64 {
        u64::from_ne_bytes(self.0[16..24].try_into().unwrap())
    }

    /// The argument of LOOKUP, without its NUL.
    fn name(&self) -> &[u8] {
        self.0[40..].strip_suffix(&[0]).unwrap()
    }

    /// The answer: `struct fuse_out_header` and a body. `None` if the request needs no answer or gets none.
    fn answer(&self) -> Option<Vec<u8>> {
        let (error, body) = match self.opcode() {
            FLUSH | READ | FORGET | INTERRUPT | BATCH_FORGET => return None,
            INIT => (0, init()),
            LOOKUP if self.name() == FILE.as_bytes() => (0, entry(FILE_NODE)),
            LOOKUP => (libc::ENOENT, Vec::new()),
            GETATTR => (0, [vec![0; 16], attributes(self.node())].concat()),
            // No file handle, no flags.
            OPEN | OPENDIR => (0, vec![0; 16]),
            RELEASE | RELEASEDIR => (0, Vec::new()),
            _ => (libc::ENOSYS, Vec::new()),
        };
        Some(self.answer_with(error, &body))
    }

    fn answer_with(&self, error: i32, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(16 + body.len()).unwrap();
        let error = (-error).to_ne_bytes();
        [&length.to_ne_bytes()[..], &error, &self.0[8..16], body].concat()
    }
}

/// `struct fuse_init_out`: version 7.31, no flags, and writes of a page.
fn init() -> Vec<u8> {
    let mut body = vec![0; 64];
    body[0..4].copy_from_slice(&7_u32.to_ne_bytes());
    body[4..8].copy_from_slice(&31_u32.to_ne_bytes());
    body[20..24].copy_from_slice(&4096_u32.to_ne_bytes());
    body
}

/// `struct fuse_entry_out`. The kernel must not cache the name: each path walk sends a request again.
fn entry(node: u64) -> Vec<u8> {
    [&node.to_ne_bytes()[..], &[0; 32], &attributes(node)].concat()
}

/// `struct fuse_attr`: a directory or a file of one page, of root. The kernel must not cache it.
fn attributes(node: u64) -> Vec<u8> {
    let mode = if node == ROOT_NODE { libc::S_IFDIR | 0o777 } else { libc::S_IFREG | 0o666 };
    // Six numbers of 8 bytes and three of 4; then mode, links, user, group, device, block size, flags.
    let mut body = vec![0; 88];
    body[0..8].copy_from_slice(&node.to_ne_bytes());
    body[8..16].copy_from_slice(&4096_u64.to_ne_bytes());
    body[60..64].copy_from_slice(&mode.to_ne_bytes());
    body[64..68].copy_from_slice(&1_u32.to_ne_bytes());
    body
}
