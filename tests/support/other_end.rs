//! Another network namespace, at the other end of a veth pair.

#![allow(unsafe_code)]

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::mpsc::{Sender, channel};

use rustix::thread::{
    LinkNameSpaceType, UnshareFlags, gettid, move_into_link_name_space, unshare_unsafe,
};

pub(crate) fn ip(arguments: &[&str]) {
    let status = Command::new("ip").args(arguments).status();
    assert!(status.unwrap().success(), "ip {arguments:?}");
}

/// Another network namespace, with one end of a veth pair. A thread is in it, so that netlink can reach it.
#[derive(Debug)]
pub(crate) struct OtherEnd {
    handle: File,
    _end: Sender<()>,
}

impl OtherEnd {
    pub(crate) const THERE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
    pub(crate) const THERE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);

    /// The addresses of the other namespace.
    pub(crate) fn addresses() -> [IpAddr; 2] {
        [OtherEnd::THERE.into(), OtherEnd::THERE6.into()]
    }

    /// None if the kernel has no veth pairs.
    pub(crate) fn new() -> Option<OtherEnd> {
        let veth = ["link", "add", "here", "type", "veth", "peer", "name", "there"];
        if !Command::new("ip").args(veth).output().unwrap().status.success() {
            return None;
        }
        let ((made, wait), (end, ended)) = (channel(), channel::<()>());
        std::thread::spawn(move || {
            // SAFETY: no other thread relies on the namespace of this thread.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
            let handle = File::open("/proc/thread-self/ns/net").unwrap();
            made.send((handle, gettid().as_raw_nonzero().get())).unwrap();
            let _ = ended.recv();
        });
        let (handle, tid) = wait.recv().unwrap();
        ip(&["link", "set", "there", "netns", &tid.to_string()]);
        // Without detection of duplicates, an IPv6 address can be used at once.
        ip(&["address", "add", "198.51.100.1/24", "dev", "here"]);
        ip(&["address", "add", "2001:db8::1/64", "dev", "here", "nodad"]);
        ip(&["link", "set", "here", "up"]);
        let other = OtherEnd { handle, _end: end };
        other.inside(|| {
            ip(&["link", "set", "lo", "up"]);
            ip(&["address", "add", "198.51.100.2/24", "dev", "there"]);
            ip(&["address", "add", "2001:db8::2/64", "dev", "there", "nodad"]);
            ip(&["link", "set", "there", "up"]);
        });
        Some(other)
    }

    pub(crate) fn inside<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let go = || {
                move_into_link_name_space(self.handle.as_fd(), Some(LinkNameSpaceType::Network))
                    .unwrap();
                f()
            };
            scope.spawn(go).join().unwrap()
        })
    }
}
