//! A process with a low limit of open files.

use std::process::{Command, Output, Stdio};

use crate::support::proc_tree::{ProcTree, TCP_HEADER, tcp_line};
use crate::support::process::BINARY;

/// Queries the tree in a process with that limit of open files.
fn query(tree: &ProcTree, descriptors: usize) -> Output {
    let mut shell = Command::new("sh");
    shell.args(["-c", r#"ulimit -n "$1"; shift; exec "$@""#, "sh", &descriptors.to_string()]);
    shell.arg(BINARY).arg("--procfs").arg(tree.path()).args(["--source", "procfs"]);
    shell.args(["query", "--csv", "SELECT pid, fd, socket FROM process_open_sockets"]);
    shell.stdin(Stdio::null()).env_remove("RUST_LOG").output().unwrap()
}

#[test]
fn rows_missing_at_the_descriptor_limit_name_the_limit() {
    let lines: String = (0..8).map(|n| tcp_line(443, &(10_000 + n).to_string())).collect();
    let mut tree = ProcTree::default().namespace(1);
    for pid in 1..=8 {
        let socket = (9_999 + pid).to_string();
        tree = tree.process(pid, 1, &[(3, socket.as_str())]);
    }
    let tree = tree.file(1, "tcp", format!("{TCP_HEADER}{lines}"));
    let whole = query(&tree, 1024).stdout;
    assert_eq!(String::from_utf8_lossy(&whole).lines().count(), 9);
    let mut shortened = 0;
    for descriptors in 4..40 {
        let output = query(&tree, descriptors);
        let stderr = String::from_utf8_lossy(&output.stderr);
        // With inherited descriptors, the loader can fail before the program starts.
        if stderr.contains("error while loading shared libraries") {
            continue;
        }
        if output.stdout != whole {
            shortened += 1;
            assert!(stderr.contains("raise the limit of open files"), "{descriptors}: {stderr}");
        }
    }
    assert!(shortened > 0, "no row was missing at any limit");
}
