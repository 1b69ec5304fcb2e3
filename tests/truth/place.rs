//! Network namespaces for the zoo, and what keeps them.

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

/// A network namespace with a loopback interface. It is gone with what keeps it.
pub(crate) struct Place {
    handle: Option<File>,
    pub(crate) number: String,
    keeper: Option<Sleeper>,
    parked: Option<Parked>,
    mounted: Option<tempfile::NamedTempFile>,
    /// A mount elsewhere goes with the file that it is on.
    mounted_elsewhere: Option<tempfile::NamedTempFile>,
}

impl Place {
    pub(crate) fn new() -> Place {
        let thread = std::thread::spawn(|| {
            unshare(UnshareFlags::NEWNET);
            let up = Command::new("ip").args(["link", "set", "lo", "up"]).status();
            assert!(up.unwrap().success(), "ip, of iproute2, sets the loopback interface up");
            File::open("/proc/thread-self/ns/net").unwrap()
        });
        let handle = thread.join().unwrap();
        let number = rustix::fs::fstat(&handle).unwrap().st_ino.to_string();
        let mut place = Place::closed(number);
        place.handle = Some(handle);
        place
    }

    /// The same place, for comparisons only.
    pub(crate) fn clone_number(&self) -> Place {
        Place::closed(self.number.clone())
    }

    fn closed(number: String) -> Place {
        Place {
            handle: None,
            number,
            keeper: None,
            parked: None,
            mounted: None,
            mounted_elsewhere: None,
        }
    }

    /// What this returns when it is done there.
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

    /// From here on a process lives there.
    pub(crate) fn keep_by_process(&mut self) {
        self.keeper = Some(self.inside(|| Sleeper::holding(Stdio::null())));
    }

    /// From here on a thread of this process does.
    pub(crate) fn keep_by_thread(&mut self) {
        let (thread, tid, end) = self.inside(|| {
            let ((tell, told), (end, ended)) = (channel(), channel::<()>());
            let thread = std::thread::spawn(move || {
                tell.send(gettid().as_raw_nonzero().get()).unwrap();
                let _ = ended.recv();
            });
            (thread, told.recv().unwrap(), end)
        });
        self.parked = Some(Parked { tid, has: (-1, 0), end: Some(end), thread: Some(thread) });
    }

    /// From here on it is mounted somewhere.
    pub(crate) fn keep_by_mount(&mut self) {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mounted = self.inside(|| {
            let mut mount = Command::new("mount");
            mount.args(["--bind", "/proc/self/ns/net"]).arg(file.path()).status()
        });
        assert!(mounted.unwrap().success());
        self.mounted = Some(file);
        // Or it would be open here as well.
        drop(self.handle.take());
        let file = File::open(self.mounted.as_ref().unwrap().path()).unwrap();
        self.handle = Some(file);
    }

    /// From here on it is mounted where only a process elsewhere sees it.
    pub(crate) fn keep_by_mount_of_another(&mut self) {
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
        let seen_there = format!("{there}/root{}", file.path().display());
        self.handle = Some(File::open(seen_there).unwrap());
        self.keeper = Some(keeper);
        self.mounted_elsewhere = Some(file);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(file) = &self.mounted {
            self.handle = None;
            let unmounted = Command::new("umount").arg("--lazy").arg(file.path()).status();
            assert!(unmounted.unwrap().success());
        }
    }
}

/// A thread that waits for its end.
pub(crate) struct Parked {
    pub(crate) tid: i32,
    /// The descriptor that it alone has, and its inode.
    pub(crate) has: (i32, u64),
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Parked {
    /// With a table of descriptors of its own, in which is what `make` opens in that place.
    pub(crate) fn with_own_descriptors(
        place: &Place,
        make: impl FnOnce() -> TcpListener + Send + 'static,
    ) -> Parked {
        let handle = OwnedFd::from(place.handle.as_ref().unwrap().try_clone().unwrap());
        let ((tell, told), (end, ended)) = (channel(), channel::<()>());
        let thread = std::thread::spawn(move || {
            unshare(UnshareFlags::FILES);
            move_into_link_name_space(handle.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            let listener = make();
            let number = rustix::fs::fstat(&listener).unwrap().st_ino;
            let tid = gettid().as_raw_nonzero().get();
            tell.send((tid, (listener.as_raw_fd(), number))).unwrap();
            let _ = ended.recv();
        });
        let (tid, has) = told.recv().unwrap();
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
    // SAFETY: the thread that calls it holds no descriptor that another one waits for, and ends soon.
    unsafe { unshare_unsafe(flags) }.unwrap();
}
