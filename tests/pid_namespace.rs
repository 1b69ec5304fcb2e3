//! BPF in a PID namespace returns the pids of that namespace.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

mod support;

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::process::Command;

use support::bpf;
use support::left_out::is_root_or_report;

#[test]
fn bpf_returns_the_pids_of_the_pid_namespace() {
    let test = "bpf_returns_the_pids_of_the_pid_namespace";
    if !is_root_or_report(test, "a PID namespace needs CAP_SYS_ADMIN") {
        return;
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let inode = rustix::fs::fstat(&listener).unwrap().st_ino;
    // The shell is process 1 of the namespace, and holds the listener. The queries are a lookup and a full scan.
    let select = format!("SELECT pid, fd FROM process_open_sockets WHERE socket = {inode} AND pid");
    let queries = format!(
        "for flag in --no-bpf --source=bpf; do
            $0 query $flag --verbose --list --header=false \"{select} = 1\"
            $0 query $flag --verbose --list --header=false \"{select} < 2 AND pid > 0\"
        done; exit"
    );
    let out = Command::new("unshare")
        .args(["--fork", "--pid", "--mount-proc", "sh", "-c", &queries])
        .arg(env!("CARGO_BIN_EXE_process_open_sockets"))
        .stdin(OwnedFd::from(listener))
        .output()
        .unwrap();
    let rows = String::from_utf8(out.stdout).unwrap();
    let log = String::from_utf8(out.stderr).unwrap();
    assert_eq!(rows, "1|0\n".repeat(4), "{log}");
    let lines: Vec<String> = log.lines().map(str::to_owned).collect();
    bpf::is_used_or_report(test, &lines);
}
