//! A FUSE mount of root for all users, with a dead server: stat(2) of a path below the mount blocks, and the kernel
//! does not interrupt it when the process is killed.

use std::net::{Ipv4Addr, TcpListener};

use tempfile::TempDir;

use super::attacker::{Attacker, bind_when_free, park, report_ready, start_children, unshare};
use super::blocked_extension::{Scene, faults_of, own_listener};
use super::blocking::{assert_blocks, is_alive};
use super::fuse::{self, Device};
use super::namespaces::{bind_mount, mount};
use super::scan::sources;
use super::{Attack, Test};

pub(super) const ATTACKS: &[Attack] = &[("dead-root", dead_root), ("dead-mount", dead_mount)];

pub(super) const TESTS: &[Test] = &[
    ("dead_server_of_a_root_delays_no_client", || {
        delays_no_client("dead_server_of_a_root_delays_no_client", "dead-root");
    }),
    ("dead_server_of_a_root_leaves_no_stuck_thread", || {
        leaves_no_stuck_thread("dead_server_of_a_root_leaves_no_stuck_thread", "dead-root");
    }),
    ("dead_server_of_a_mounted_namespace_delays_no_client", || {
        delays_no_client("dead_server_of_a_mounted_namespace_delays_no_client", "dead-mount");
    }),
    ("dead_server_of_a_mounted_namespace_leaves_no_stuck_thread", || {
        let test = "dead_server_of_a_mounted_namespace_leaves_no_stuck_thread";
        leaves_no_stuck_thread(test, "dead-mount");
    }),
];

const PORT: u16 = 4780;

/// A mount with a server that does not answer. The end of the server aborts the connection: then no call blocks.
struct DeadServer {
    attacker: Attacker,
    server: i32,
    _directory: TempDir,
}

impl DeadServer {
    fn start(device: &Device, attack: &str) -> DeadServer {
        let directory = tempfile::tempdir().unwrap();
        let arguments = [&*device.path(), directory.path().to_str().unwrap()];
        let attacker = Attacker::start_as(0, attack, &arguments);
        let [server, path] = attacker.reported() else { panic!() };
        let (server, blocked_path) = (server.parse().unwrap(), path.clone());
        assert_blocks(&format!("stat(2) of {path}"), || drop(std::fs::metadata(blocked_path)));
        DeadServer { attacker, server, _directory: directory }
    }

    fn is_dead(&mut self) -> bool {
        self.attacker.is_running() && is_alive(self.server)
    }
}

fn delays_no_client(test: &str, attack: &str) {
    let Some(device) = Device::new(test) else { return };
    let (_listener, port) = own_listener();
    let me = std::process::id().to_string();
    let mut wrong = Vec::new();
    for (name, _) in sources(test) {
        let scene = Scene::start(name);
        let mut dead = DeadServer::start(&device, attack);
        wrong.extend(faults_of(name, scene.answers(&me), port));
        wrong.extend((!dead.is_dead()).then(|| format!("{name}: answered after the attack")));
        // The server has to end before the extension, which may wait for it.
        drop(dead);
    }
    assert_eq!(wrong, [""; 0]);
}

fn leaves_no_stuck_thread(test: &str, attack: &str) {
    let Some(device) = Device::new(test) else { return };
    let mut wrong = Vec::new();
    for (name, _) in sources(test) {
        let scene = Scene::start(name);
        let mut dead = DeadServer::start(&device, attack);
        wrong.extend(scene.ends_during_a_scan(name));
        wrong.extend((!dead.is_dead()).then(|| format!("{name}: ended after the attack")));
    }
    assert_eq!(wrong, [""; 0]);
}

/// Mounts FUSE in a mount namespace of this process and its children.
fn mount_for_all_users(arguments: &[String]) -> (fuse::Server, &str) {
    let [device, directory] = arguments else { panic!("{arguments:?}") };
    unshare(libc::CLONE_NEWNS);
    mount(&["--make-rprivate", "/"]);
    (fuse::mount(device, directory, ",allow_other"), directory)
}

/// A process with the mount as its root directory.
fn dead_root(arguments: &[String]) -> ! {
    let (server, directory) = mount_for_all_users(arguments);
    let pids = start_children(1, |_| {
        std::mem::forget(bind_when_free(|| TcpListener::bind((Ipv4Addr::LOCALHOST, PORT))));
        std::os::unix::fs::chroot(directory).unwrap();
        std::env::set_current_dir("/").unwrap();
    });
    fuse::stop_answers(directory);
    report_ready(&format!("{} /proc/{}/root", server.pid, pids[0]));
    park()
}

/// A network namespace without processes that is mounted on a file of the FUSE mount.
fn dead_mount(arguments: &[String]) -> ! {
    let (server, directory) = mount_for_all_users(arguments);
    unshare(libc::CLONE_NEWNET);
    let file = format!("{directory}/{}", fuse::FILE);
    bind_mount("/proc/self/ns/net", &file);
    unshare(libc::CLONE_NEWNET);
    fuse::stop_answers(directory);
    let path = format!("/proc/{}/root{file}", std::process::id());
    report_ready(&format!("{} {path}", server.pid));
    park()
}
