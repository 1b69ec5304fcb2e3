//! Network namespaces of the test, and the references that keep them alive.

use std::fs::File;
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use super::expected::wait_for;
use super::support::sleeper::Sleeper;
use rustix::thread::{
    LinkNameSpaceType, UnshareFlags, gettid, move_into_link_name_space, unshare_unsafe,
};

/// A network namespace with a loopback interface. It ends with its last reference.
pub(crate) struct Netns {
    handle: Option<File>,
    pub(crate) number: String,
    keeper: Option<Sleeper>,
    parked: Option<Parked>,
    mounted: Option<tempfile::NamedTempFile>,
    /// Removing the file also removes the mount in another mount namespace.
    mounted_elsewhere: Option<tempfile::NamedTempFile>,
}

impl Netns {
    pub(crate) fn new() -> Netns {
        let thread = std::thread::spawn(|| {
            unshare(UnshareFlags::NEWNET);
            let up = Command::new("ip").args(["link", "set", "lo", "up"]).status();
            assert!(up.unwrap().success(), "ip, of iproute2, sets the loopback interface up");
            File::open("/proc/thread-self/ns/net").unwrap()
        });
        let handle = thread.join().unwrap();
        let number = rustix::fs::fstat(&handle).unwrap().st_ino.to_string();
        let mut netns = Netns::closed(number);
        netns.handle = Some(handle);
        netns
    }

    /// The same namespace without a reference, for comparisons only.
    pub(crate) fn clone_number(&self) -> Netns {
        Netns::closed(self.number.clone())
    }

    fn closed(number: String) -> Netns {
        Netns {
            handle: None,
            number,
            keeper: None,
            parked: None,
            mounted: None,
            mounted_elsewhere: None,
        }
    }

    /// Runs `f` in a thread in this namespace.
    pub(crate) fn inside<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        let handle = self.handle.as_ref().unwrap();
        std::thread::scope(|scope| {
            let go = || {
                move_into_link_name_space(handle.as_fd(), Some(LinkNameSpaceType::Network))
                    .unwrap();
                f()
            };
            scope.spawn(go).join().unwrap()
        })
    }

    /// Starts a process in this namespace.
    pub(crate) fn keep_by_process(&mut self) {
        self.keeper = Some(self.inside(|| Sleeper::holding(Stdio::null())));
    }

    /// Starts a thread of this process in this namespace.
    pub(crate) fn keep_by_thread(&mut self) {
        let (thread, tid, end) = self.inside(|| {
            let ((sender, receiver), (end, ended)) = (channel(), channel::<()>());
            let thread = std::thread::spawn(move || {
                sender.send(gettid().as_raw_nonzero().get()).unwrap();
                let _ = ended.recv();
            });
            (thread, receiver.recv().unwrap(), end)
        });
        self.parked = Some(Parked { tid, has: (-1, 0), end: Some(end), thread: Some(thread) });
    }

    /// Mounts this namespace.
    pub(crate) fn keep_by_mount(&mut self) {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mounted = self.inside(|| {
            let mut mount = Command::new("mount");
            mount.args(["--bind", "/proc/self/ns/net"]).arg(file.path()).status()
        });
        assert!(mounted.unwrap().success());
        self.mounted = Some(file);
        // Only the mount must keep the namespace.
        drop(self.handle.take());
        let file = File::open(self.mounted.as_ref().unwrap().path()).unwrap();
        self.handle = Some(file);
    }

    /// Mounts this namespace in the mount namespace of a child process.
    pub(crate) fn keep_by_mount_of_a_child(&mut self) {
        let file = tempfile::NamedTempFile::new().unwrap();
        let home = format!("/proc/{}/ns/net", std::process::id());
        let script = r#"mount --bind /proc/self/ns/net "$1" && exec nsenter --net="$2" sleep 600"#;
        let child = self.inside(|| {
            let mut unshare = Command::new("unshare");
            unshare.args(["--mount", "sh", "-c", script, "sh"]).arg(file.path()).arg(&home);
            unshare.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap()
        });
        let there = format!("/proc/{}", child.id());
        let keeper = Sleeper(child);
        let link = |path: &str| std::fs::read_link(path).ok();
        let is_back = || {
            let name = std::fs::read_to_string(format!("{there}/comm"));
            name.is_ok_and(|name| name == "sleep\n")
                && link(&format!("{there}/ns/net")) == link(&home)
        };
        wait_for(is_back);
        assert!(is_back() && link(&format!("{there}/ns/mnt")) != link("/proc/self/ns/mnt"));
        self.handle = None;
        let path = format!("{there}/root{}", file.path().display());
        self.handle = Some(File::open(path).unwrap());
        self.keeper = Some(keeper);
        self.mounted_elsewhere = Some(file);
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if let Some(file) = &self.mounted {
            self.handle = None;
            let unmounted = Command::new("umount").arg("--lazy").arg(file.path()).status();
            assert!(unmounted.unwrap().success());
        }
    }
}

/// A thread that waits until this value is dropped.
pub(crate) struct Parked {
    pub(crate) tid: i32,
    /// The descriptor that only this thread has, and its inode.
    pub(crate) has: (i32, u64),
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Parked {
    /// Starts a thread with a private descriptor table that opens the listener of `make` in that namespace.
    pub(crate) fn with_own_descriptors(
        netns: &Netns,
        make: impl FnOnce() -> TcpListener + Send + 'static,
    ) -> Parked {
        let handle = OwnedFd::from(netns.handle.as_ref().unwrap().try_clone().unwrap());
        let ((sender, receiver), (end, ended)) = (channel(), channel::<()>());
        let thread = std::thread::spawn(move || {
            unshare(UnshareFlags::FILES);
            move_into_link_name_space(handle.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            let listener = make();
            let number = rustix::fs::fstat(&listener).unwrap().st_ino;
            let tid = gettid().as_raw_nonzero().get();
            sender.send((tid, (listener.as_raw_fd(), number))).unwrap();
            let _ = ended.recv();
        });
        let (tid, has) = receiver.recv().unwrap();
        Parked { tid, has, end: Some(end), thread: Some(thread) }
    }
}

impl Drop for Parked {
    fn drop(&mut self) {
        drop(self.end.take());
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn unshare(flags: UnshareFlags) {
    // SAFETY: no other thread relies on descriptors of the calling thread, which ends soon.
    unsafe { unshare_unsafe(flags) }.unwrap();
}
