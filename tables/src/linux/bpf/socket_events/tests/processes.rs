//! Processes that are gone when their records are read, and their executables.

use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::child::spawn;
use super::this_binary::own_executable;
use super::*;
use crate::model::TcpState::{Closed, SynSent};

/// The changes to SYN_SENT of a process.
fn connects(changes: &[StateChange], pid: i32) -> Vec<Actor> {
    let connects = changes.iter().filter(|change| change.new == SynSent);
    connects.filter_map(|change| change.actor).filter(|actor| actor.pid == pid).collect()
}

#[test]
fn processes_that_exit_at_once_have_their_paths() {
    let test = "processes_that_exit_at_once_have_their_paths";
    record_in_own_netns(test, move |namespace, recorded| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let command = format!("connect {}", listener.local_addr().unwrap());
        let pids: Vec<i32> = (0..200)
            .map(|_| {
                let mut child = spawn(&own_executable(), &command);
                assert!(child.wait().unwrap().success());
                // So that the accept queue is never full.
                drop(listener.accept().unwrap());
                // So that other processes do not fill the ring buffer meanwhile.
                recorded.drain(Duration::ZERO);
                child.id().cast_signed()
            })
            .collect();
        let changes = recorded.wait_until(namespace, |changes| {
            changes.iter().filter(|change| change.new == SynSent).count() == pids.len()
        });
        let own = own_executable();
        for pid in pids {
            let [actor] = connects(&changes, pid)[..] else { panic!("{pid}: {changes:#?}") };
            assert_eq!(recorded.path(&actor).unwrap().path, own.as_os_str().as_bytes());
            assert_eq!(actor.parent, own_pid());
        }
    });
}

/// Removes a tree that is too deep for its path.
struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
        let _ = fs::remove_file(&self.0);
    }
}

/// Makes an executable, runs `change` while its process waits, then lets it connect; returns its path and its record.
fn executable_of(
    test: &'static str,
    make: impl Fn() -> (Removed, PathBuf) + Send + 'static,
    change: impl Fn(&Path) + Send + 'static,
) -> Option<(PathBuf, Executable)> {
    record_in_own_netns(test, move |namespace, recorded| {
        let (_removed, executable) = make();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let command = format!("wait {}", listener.local_addr().unwrap());
        let mut child = spawn(&executable, &command);
        change(&executable);
        child.stdin.take().unwrap().write_all(&[0]).unwrap();
        assert!(child.wait().unwrap().success());
        let pid = child.id().cast_signed();
        let changes = recorded.wait_until(namespace, |changes| !connects(changes, pid).is_empty());
        Some((executable, recorded.path(&connects(&changes, pid)[0])?.clone()))
    })?
}

#[test]
fn a_deleted_executable_is_marked() {
    let make = || {
        let link = own_executable().with_file_name(format!("deleted-{}", std::process::id()));
        fs::hard_link(own_executable(), &link).unwrap();
        (Removed(link.clone()), link)
    };
    let delete = |link: &Path| fs::remove_file(link).unwrap();
    let recorded = executable_of("a_deleted_executable_is_marked", make, delete);
    let Some((link, executable)) = recorded else { return };
    assert_eq!(executable.path, link.as_os_str().as_bytes());
    assert!(executable.is_deleted && !executable.is_truncated);
}

#[test]
fn a_path_that_is_too_long_keeps_its_end() {
    const NAME: usize = 250;
    let make = || {
        let top = own_executable().with_file_name(format!("deep-{}", std::process::id()));
        let removed = Removed(top.clone());
        let name = "d".repeat(NAME);
        let names = std::iter::repeat_n(OsStr::new(&name), 5);
        let deep: PathBuf = std::iter::once(top.as_os_str()).chain(names).collect();
        fs::create_dir_all(&deep).unwrap();
        let link = deep.join("name with\nnew line");
        fs::hard_link(own_executable(), &link).unwrap();
        (removed, link)
    };
    let recorded = executable_of("a_path_that_is_too_long_keeps_its_end", make, |_| {});
    let Some((link, executable)) = recorded else { return };
    assert!(executable.is_truncated && !executable.is_deleted);
    assert!(link.as_os_str().as_bytes().ends_with(&executable.path));
    assert!(executable.path.len() > 4 * NAME && !executable.path.starts_with(b"/"));
}

#[test]
fn the_end_of_an_inherited_socket_has_the_last_holder() {
    let test = "the_end_of_an_inherited_socket_has_the_last_holder";
    record_in_own_netns(test, move |namespace, recorded| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        let local = endpoint(client.local_addr().unwrap());
        // It reads from the socket, and exits at the end of it. (The cat of busybox would hold a lock of the pipe.)
        let mut shell = Command::new("sh");
        shell.args(["-c", "read line; echo done; read line"]);
        shell.stdin(OwnedFd::from(client)).stdout(Stdio::piped());
        let mut child = shell.spawn().unwrap();
        // The command has the descriptor, too.
        drop(shell);
        server.write_all(b"read by the child\n").unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0; 5]).unwrap();
        drop(server);
        child.wait().unwrap();
        let is_end = |change: &&StateChange| change.local == local && change.new == Closed;
        let changes =
            recorded.wait_until(namespace, |changes| changes.iter().filter(is_end).count() == 1);
        let of: Vec<&StateChange> = changes.iter().filter(|change| change.local == local).collect();
        let begin = changes.iter().find(|change| change.new == SynSent).unwrap();
        assert_eq!(begin.actor.unwrap().pid, own_pid());
        let closing = of.iter().find(|change| change.new == TcpState::LastAck).unwrap();
        assert_eq!(closing.actor.unwrap().pid, child.id().cast_signed());
        assert_eq!(of.last().unwrap().bytes().unwrap().received, 18);
    });
}
