//! Ends in the middle of a scan or an answer.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::core::Core;
use crate::support::osquery::TABLE;
use crate::support::proc_tree::{ProcTree, TCP_HEADER, tcp_line};
use crate::support::process::Extension;
use crate::support::remote;
use crate::support::wire::{call, rest, send};

const NAME: &str = "process_open_sockets";

/// An extension in the middle of a request.
struct Scene {
    core: Core,
    extension: Extension,
    socket: PathBuf,
    /// The client that sent the request.
    client: UnixStream,
}

impl Scene {
    fn begin(tree: &ProcTree) -> Scene {
        let core = Core::stock();
        let procfs = format!("--procfs={}", tree.path().display());
        let extension = Extension::launch(core.socket(), &[procfs]);
        let socket = core.socket_of(core.wait_for(NAME));
        extension.wait_for_log("registered with osquery");
        let client = send(&socket, &call("table", TABLE, &[("action", "generate")]));
        Scene { core, extension, socket, client }
    }

    /// The extension ends before the scan or the answer: with status 0, deregistered and without its socket.
    #[track_caller]
    fn ends_cleanly(self, end: impl FnOnce(&Scene)) {
        let start = Instant::now();
        end(&self);
        let (status, log) = self.extension.end();
        // After 10 s the extension drops a client that does not read.
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
        assert_eq!(status.code(), Some(0), "{log}");
        assert_eq!(self.core.uuid_of(NAME), None);
        assert!(!self.socket.exists());
    }
}

fn endless() -> ProcTree {
    ProcTree::default().namespace(1).process(1, 1, &[]).endless_file(1, "udp")
}

/// Has more sockets than fit into the buffers of a connection.
fn large() -> ProcTree {
    let lines: String = (0..20_000).map(|n| tcp_line(443, &(10_000 + n).to_string())).collect();
    ProcTree::default().namespace(1).process(1, 1, &[]).file(
        1,
        "tcp",
        format!("{TCP_HEADER}{lines}"),
    )
}

#[test]
fn sigterm_during_a_scan_ends_the_extension_cleanly() {
    let tree = endless();
    let scene = Scene::begin(&tree);
    let _writer = tree.writer(1, "udp");
    scene.ends_cleanly(|scene| scene.extension.send(Signal::TERM));
}

#[test]
fn sigint_during_a_scan_ends_the_extension_cleanly() {
    let tree = endless();
    let scene = Scene::begin(&tree);
    let _writer = tree.writer(1, "udp");
    scene.ends_cleanly(|scene| scene.extension.send(Signal::INT));
}

#[test]
#[allow(unsafe_code)]
fn sighup_during_a_scan_ends_the_extension_cleanly() {
    // The extension does not handle SIGHUP if its parent ignores it, as nohup(1) does.
    // SAFETY: the default action is no function.
    unsafe { libc::signal(libc::SIGHUP, libc::SIG_DFL) };
    let tree = endless();
    let scene = Scene::begin(&tree);
    let _writer = tree.writer(1, "udp");
    scene.ends_cleanly(|scene| scene.extension.send(Signal::HUP));
}

#[test]
fn shutdown_during_a_scan_ends_the_extension_cleanly() {
    let tree = endless();
    let scene = Scene::begin(&tree);
    let _writer = tree.writer(1, "udp");
    scene.ends_cleanly(|scene| remote::shutdown(&scene.socket));
}

#[test]
fn sigterm_during_an_answer_ends_the_extension_cleanly() {
    let tree = large();
    let mut scene = Scene::begin(&tree);
    scene.client.read_exact(&mut [0; 1000]).unwrap();
    scene.ends_cleanly(|scene| scene.extension.send(Signal::TERM));
}

#[test]
fn a_killed_extension_is_replaced_after_the_core_drops_it() {
    let tree = large();
    let mut scene = Scene::begin(&tree);
    let uuid = scene.core.uuid_of(NAME).unwrap();
    scene.client.read_exact(&mut [0; 1000]).unwrap();
    scene.extension.send(Signal::KILL);
    assert!(rest(scene.client).len() < 20_000 * 100);
    let successor = Extension::launch(scene.core.socket(), &["--interval=10"]);
    // The list still has its name.
    scene.core.wait_for_another_list();
    assert_eq!(scene.core.uuid_of(NAME), Some(uuid));
    scene.core.query("SELECT fd FROM alt_process_open_sockets WHERE pid = 1").unwrap_err();
    scene.core.wait_for_another(NAME, uuid);
    successor.wait_for_log("registered with osquery");
    scene.core.query("SELECT fd FROM alt_process_open_sockets WHERE pid = 1").unwrap();
}
