//! The socket file of the extension.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread;

use process_open_sockets::extension::requests::Requests;
use process_open_sockets::extension::service::{Limits, Listening, Service};
use tables::Table;

use crate::support::core::Core;
use crate::support::process::{Extension, command_with_umask};
use crate::support::served::Numbers;

const NAME: &str = "process_open_sockets";

#[track_caller]
fn check_mode_under(umask: &str) {
    let core = Core::stock();
    let mut command = command_with_umask(umask);
    let _extension = Extension::run(command.arg("--socket").arg(core.socket()));
    let socket = fs::metadata(core.socket_of(core.wait_for(NAME))).unwrap();
    assert!(socket.file_type().is_socket());
    assert_eq!(socket.permissions().mode() & 0o7777, 0o600);
}

#[test]
fn the_socket_has_mode_0600_under_an_open_umask() {
    check_mode_under("0000");
}

#[test]
fn the_socket_has_mode_0600_under_a_closed_umask() {
    check_mode_under("0777");
}

#[test]
fn the_socket_is_never_accessible_to_other_users() {
    let done = AtomicBool::new(false);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("service");
    let modes = thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut modes = BTreeSet::new();
            while !done.load(Ordering::SeqCst) {
                modes.extend(fs::metadata(&path).map(|file| file.permissions().mode() & 0o077));
            }
            modes
        });
        for _ in 0..2000 {
            let table: Arc<dyn Table> = Arc::new(Numbers::new(0, 0));
            let requests =
                Requests::new([(String::new(), table)].into(), Arc::default(), channel().0);
            let service = Arc::new(Service::new(requests, Limits::default()));
            drop(Listening::start(&path, service).unwrap());
        }
        done.store(true, Ordering::SeqCst);
        watcher.join().unwrap()
    });
    assert_eq!(modes.into_iter().collect::<Vec<_>>(), [0]);
}

#[test]
fn a_socket_that_replaced_that_of_the_extension_stays() {
    let core = Core::stock();
    let extension = Extension::launch::<&str>(core.socket(), &[]);
    let path = core.socket_of(core.wait_for(NAME));
    extension.wait_for_log("registered with osquery");
    fs::remove_file(&path).unwrap();
    let _other = UnixListener::bind(&path).unwrap();
    extension.terminate();
    assert_eq!(extension.end().0.code(), Some(0));
    assert!(path.exists());
}

#[test]
fn a_file_that_replaced_the_socket_of_the_extension_stays() {
    let core = Core::stock();
    let extension = Extension::launch::<&str>(core.socket(), &[]);
    let path = core.socket_of(core.wait_for(NAME));
    extension.wait_for_log("registered with osquery");
    fs::rename(&path, path.with_extension("moved")).unwrap();
    fs::write(&path, "other").unwrap();
    extension.terminate();
    assert_eq!(extension.end().0.code(), Some(0));
    assert_eq!(fs::read(&path).unwrap(), b"other");
}

#[test]
fn a_file_at_the_path_of_the_socket_stays_and_is_an_error() {
    let core = Core::stock();
    let path = core.socket_of(4711);
    fs::write(&path, "other").unwrap();
    let (status, log) = Extension::sidecar(core.socket(), &[]).end();
    assert_eq!(status.code(), Some(1));
    let expected = format!(
        "process_open_sockets: error: cannot create the socket {} for osquery's requests: Address already \
         in use (os error 98); check that its directory exists and that this user may write to it\n",
        path.display()
    );
    assert_eq!(log, expected);
    assert_eq!((fs::read(&path).unwrap(), core.uuid_of(NAME)), (b"other".to_vec(), None));
}
