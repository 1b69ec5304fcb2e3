//! A process with a thread holds its sockets after the end of its first thread, although `/proc/<pid>/fd` is
//! then empty.
//!
//! This test has no test harness: the process under test is this program, started again, and its first thread has to
//! end.

#[cfg(target_os = "linux")]
mod support;

const NAME: &str = "a_process_whose_first_thread_has_ended_holds_its_sockets";
#[cfg(target_os = "linux")]
const CHILD: &str = "ZOMBIE_LEADER_CHILD";

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("test {NAME} ... ignored, only for Linux");
}

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    if std::env::var_os(CHILD).is_some() {
        child();
    }
    let passed = std::panic::catch_unwind(check_holder_after_first_thread_ended).is_ok();
    println!("test {NAME} ... {}", if passed { "ok" } else { "FAILED" });
    if passed { std::process::ExitCode::SUCCESS } else { std::process::ExitCode::from(101) }
}

#[cfg(target_os = "linux")]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
fn check_holder_after_first_thread_ended() {
    use std::io::{BufRead, BufReader};
    use std::path::Path;
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    use support::rows::{rows_where, table};

    let mut child = Command::new(std::env::current_exe().unwrap())
        .env(CHILD, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = child.id();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let (port, inode) = line.trim().split_once(' ').unwrap();
    let task = format!("/proc/{pid}/stat");
    let end = Instant::now() + Duration::from_secs(60);
    while !std::fs::read_to_string(&task).unwrap().contains(") Z ") {
        assert!(Instant::now() < end, "the first thread has not ended");
        std::thread::sleep(Duration::from_millis(5));
    }

    let table = table(Path::new("/proc"));
    // Other processes may listen at the same port of other addresses or in other network namespaces.
    let mut by_port = rows_where(&table, &[("local_port", port), ("state", "LISTEN")]);
    by_port.retain(|row| row.split('|').nth(2) == Some(inode));
    let by_pid = rows_where(&table, &[("pid", &pid.to_string())]);
    let process = process_of(&table, pid);
    child.kill().unwrap();
    child.wait().unwrap();

    assert_eq!(by_port.len(), 1, "{by_port:?}");
    assert!(by_port[0].starts_with(&format!("{pid}|")), "not shown as the holder: {by_port:?}");
    assert_eq!(by_pid, by_port);
    // `/proc/<pid>/exe` is missing, and cmdline empty. A thread has both.
    let program = std::env::current_exe().unwrap();
    let program = program.to_str().unwrap();
    assert_eq!(process, [program, program]);
}

/// The path and the arguments in the first row of a process.
#[cfg(target_os = "linux")]
#[allow(clippy::unwrap_used, clippy::panic)]
fn process_of(table: &dyn tables::Table, pid: u32) -> [String; 2] {
    use tables::{Constraint, Operator, QueryContext, Value};

    let column = |name| table.columns().iter().position(|column| column.name == name).unwrap();
    let constraint =
        Constraint { column: column("pid"), operator: Operator::Equals, text: pid.to_string() };
    let query = QueryContext { constraints: vec![constraint], ..Default::default() };
    let rows = table.generate(&query).unwrap();
    ["process_path", "process_cmdline"].map(|name| match rows.cell(0, column(name)) {
        Value::Text(text) => text.into_owned(),
        other => panic!("{name}: {other:?}"),
    })
}

/// Listens, prints the port and the inode of the socket, and ends the first thread.
#[cfg(target_os = "linux")]
#[allow(unsafe_code, clippy::unwrap_used, clippy::unreachable)]
fn child() -> ! {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let inode = rustix::fs::fstat(&listener).unwrap().st_ino;
    println!("{} {inode}", listener.local_addr().unwrap().port());
    std::thread::spawn(move || {
        // The read ends when the parent closes the pipe.
        let _ = std::io::stdin().read_line(&mut String::new());
        drop(listener);
        std::process::exit(0);
    });
    // SAFETY: the call ends only this thread; the other thread uses nothing that this one owns.
    unsafe { libc::syscall(libc::SYS_exit, 0) };
    unreachable!("this thread has ended")
}
