//! The columns about the process that holds a socket, and about its container.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::fs::fstat;
use support::bpf::with_bpf;
use support::left_out::{is_root_or_report, report_left_out};
use support::program::copy_program;
use tables::process_open_sockets::ProcessOpenSockets;
use tables::{Constraint, Operator, Options, QueryContext, Source, Table, Value};
use tempfile::TempDir;

/// The cells of a row by column, NULL as `NULL`.
type Row = BTreeMap<String, String>;

fn listener() -> (TcpListener, u64) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let inode = fstat(&listener).unwrap().st_ino;
    (listener, inode)
}

/// The rows under these constraints.
fn rows_where(options: Options, equals: &[(&str, String)]) -> Vec<Row> {
    let table = ProcessOpenSockets::new(options);
    let columns = table.columns();
    let constraints = equals.iter().map(|(name, text)| Constraint {
        column: columns.iter().position(|column| column.name == *name).unwrap(),
        operator: Operator::Equals,
        text: text.clone(),
    });
    let query = QueryContext { constraints: constraints.collect(), ..Default::default() };
    let rows = table.generate(&query).unwrap();
    let cell = |row, column| match rows.cell(row, column) {
        Value::Null => "NULL".to_owned(),
        Value::Integer(number) => number.to_string(),
        Value::Text(text) => text.into_owned(),
    };
    let row = |row| {
        let columns = columns.iter().enumerate();
        columns.map(|(index, column)| (column.name.to_string(), cell(row, index))).collect()
    };
    (0..rows.len()).map(row).collect()
}

/// The row of a holder of this socket: equal in a full scan and a look-up, and from each source.
fn row(pid: u32, inode: u64) -> Row {
    let columns = ["process_", "container_", "pod_"];
    let read = |options: Options| {
        let by_socket = rows_where(options.clone(), &[("socket", inode.to_string())]);
        let by_pid = rows_where(options, &[("pid", pid.to_string())]);
        let pick = |rows: Vec<Row>| {
            let is_match =
                |row: &Row| row["pid"] == pid.to_string() && row["socket"] == inode.to_string();
            let mut row = rows.into_iter().find(is_match).unwrap();
            row.retain(|name, _| columns.iter().any(|prefix| name.starts_with(prefix)));
            row
        };
        let row = pick(by_socket);
        assert_eq!(pick(by_pid), row, "a look-up by pid differs");
        row
    };
    let netlink = read(Options { bpf_from_files: None, ..Options::default() });
    let files = read(Options { source: Source::Procfs, ..Options::default() });
    assert_eq!(files, netlink, "/proc/net differs from netlink");
    let bpf = with_bpf("processes", || read(Options { source: Source::Bpf, ..Options::default() }));
    assert_eq!(bpf.0, netlink, "BPF differs from netlink");
    netlink
}

/// A child, killed when dropped.
struct Holder(Child);

impl Holder {
    /// Starts it with the socket as its standard output, and waits until it has this name.
    fn start(command: &mut Command, socket: TcpListener, name: &str) -> Holder {
        let child = command.stdout(OwnedFd::from(socket)).stdin(Stdio::piped()).spawn().unwrap();
        let holder = Holder(child);
        holder.wait_for_name(name);
        holder
    }

    fn wait_for_name(&self, name: &str) {
        let path = format!("/proc/{}/comm", self.pid());
        let end = Instant::now() + Duration::from_secs(60);
        while fs::read_to_string(&path).unwrap() != format!("{name}\n") {
            assert!(Instant::now() < end, "the child has not started");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A copy of sleep(1) with this name.
fn sleep_named(directory: &TempDir, name: &str) -> PathBuf {
    let sleep = ["/bin/sleep", "/usr/bin/sleep"].into_iter().find(|path| Path::new(path).exists());
    let copy = directory.path().join(name);
    copy_program(Path::new(sleep.unwrap()), &copy);
    copy
}

fn ps(pid: u32, format: &str) -> String {
    let output = Command::new("ps").args(["-o", format, "-p", &pid.to_string()]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn seconds_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

#[test]
fn the_process_is_as_ps_and_proc_show_it() {
    let directory = tempfile::tempdir().unwrap();
    let program = sleep_named(&directory, "napper");
    let (socket, inode) = listener();
    let before = seconds_now();
    let holder = Holder::start(Command::new(&program).args(["600", "1"]), socket, "napper");
    let pid = holder.pid();
    let row = row(pid, inode);
    assert_eq!(row["process_name"], ps(pid, "comm="));
    assert_eq!(row["process_path"], program.to_str().unwrap());
    assert_eq!(row["process_cmdline"], ps(pid, "args="));
    assert_eq!(row["process_parent"], ps(pid, "ppid="));
    assert_eq!(row["process_parent"], std::process::id().to_string());
    assert_eq!(row["process_uid"], ps(pid, "ruid="));
    assert_eq!(row["process_euid"], ps(pid, "euid="));
    let start: u64 = row["process_start_time"].parse().unwrap();
    // The kernel rounds the time of the boot.
    assert!((before - 2..=seconds_now() + 2).contains(&start), "{start} {before}");
    let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let first = cgroup.lines().next().unwrap().splitn(3, ':').nth(2).unwrap();
    assert_eq!(row["process_cgroup_path"], first);
}

#[test]
fn names_with_blanks_newlines_and_parentheses_are_kept() {
    let directory = tempfile::tempdir().unwrap();
    for (name, comm) in [
        (" a b ", " a b "),
        ("a) R 1 (b", "a) R 1 (b"),
        ("a\nUid:\t0", "a\\nUid:\t0"),
        ("back\\slash", "back\\\\slash"),
        ("longer than fifteen bytes", "longer than fif"),
    ] {
        let program = sleep_named(&directory, name);
        let (socket, inode) = listener();
        let arguments = ["600", "0  ", "\n"];
        let raw = &name[..name.len().min(15)];
        // sleep(1) ends with an error for arguments that are no numbers, so a shell has these.
        let holder = Holder::start(Command::new(&program).args(&arguments[..1]), socket, raw);
        let row = row(holder.pid(), inode);
        assert_eq!(row["process_name"], comm);
        assert_eq!(row["process_path"], program.to_str().unwrap());
        assert_eq!(row["process_cmdline"], format!("{} 600", program.display()));
    }
}

#[test]
fn an_execve_changes_name_and_path_but_not_the_start() {
    let (socket, inode) = listener();
    let mut command = Command::new("/bin/sh");
    let mut holder = Holder::start(command.args(["-c", "read x; exec sleep 600"]), socket, "sh");
    let before = row(holder.pid(), inode);
    assert_eq!(before["process_name"], "sh");
    assert_eq!(before["process_cmdline"], "/bin/sh -c read x; exec sleep 600");
    holder.0.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    holder.wait_for_name("sleep");
    let after = row(holder.pid(), inode);
    assert_eq!(after["process_name"], "sleep");
    assert_eq!(after["process_cmdline"], "sleep 600");
    assert_ne!(after["process_path"], before["process_path"]);
    assert_eq!(after["process_start_time"], before["process_start_time"]);
}

#[test]
fn a_deleted_executable_keeps_its_path() {
    let directory = tempfile::tempdir().unwrap();
    let program = sleep_named(&directory, "napper");
    let (socket, inode) = listener();
    let holder = Holder::start(Command::new(&program).arg("600"), socket, "napper");
    fs::remove_file(&program).unwrap();
    let link = fs::read_link(format!("/proc/{}/exe", holder.pid())).unwrap();
    assert!(link.to_str().unwrap().ends_with(" (deleted)"));
    assert_eq!(row(holder.pid(), inode)["process_path"], program.to_str().unwrap());
}

#[test]
fn an_executable_that_is_named_deleted_keeps_its_name() {
    let directory = tempfile::tempdir().unwrap();
    let program = sleep_named(&directory, "a (deleted)");
    let (socket, inode) = listener();
    let holder = Holder::start(Command::new(&program).arg("600"), socket, "a (deleted)");
    assert_eq!(row(holder.pid(), inode)["process_path"], program.to_str().unwrap());
    fs::remove_file(&program).unwrap();
    assert_eq!(row(holder.pid(), inode)["process_path"], program.to_str().unwrap());
}

#[test]
fn a_set_user_id_program_has_two_users() {
    let test = "a_set_user_id_program_has_two_users";
    if !is_root_or_report(test, "to change the user needs CAP_SETUID") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = sleep_named(&directory, "napper");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o4755)).unwrap();
    let (socket, inode) = listener();
    let mut command = Command::new("setpriv");
    command.args(["--reuid=1234", "--regid=1234", "--clear-groups"]).arg(&program).arg("600");
    let holder = Holder::start(&mut command, socket, "napper");
    let row = row(holder.pid(), inode);
    if row["process_euid"] == "1234" {
        return report_left_out(test, "the temporary directory is mounted with nosuid");
    }
    assert_eq!((&row["process_uid"][..], &row["process_euid"][..]), ("1234", "0"));
}

#[test]
fn a_process_with_many_sockets_has_equal_cells_in_each_row() {
    let held: Vec<_> = (0..20).map(|_| listener()).collect();
    let pid = std::process::id().to_string();
    let rows = rows_where(Options::default(), &[("pid", pid)]);
    let cells = |inode: u64| -> Row {
        let mut row = rows.iter().find(|row| row["socket"] == inode.to_string()).unwrap().clone();
        row.retain(|name, _| name.starts_with("process_"));
        row
    };
    let first = cells(held[0].1);
    assert_eq!(first["process_path"], std::env::current_exe().unwrap().to_str().unwrap());
    for (_, inode) in &held {
        assert_eq!(cells(*inode), first);
    }
}

#[test]
fn an_unheld_socket_has_no_process() {
    let (socket, _) = listener();
    let port = socket.local_addr().unwrap().port();
    let _waiting = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    let equals = [("local_port", port.to_string()), ("pid", "-1".to_owned())];
    let rows = rows_where(Options::default(), &equals);
    let row = rows.iter().find(|row| row["state"] == "ESTABLISHED").unwrap();
    for (name, value) in row.iter().filter(|(name, _)| name.starts_with("process_")) {
        assert_eq!(value, "NULL", "{name}");
    }
}

/// A control group, removed when dropped.
struct Group(PathBuf);

impl Group {
    /// Makes `path` below the first mount of this hierarchy; None if that fails. `kind` ends the line of the mount.
    fn new(kind: &str, path: &str) -> Option<Group> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mount = mounts.lines().find(|line| {
            let (_, of) = line.split_once(" - ").unwrap();
            of.starts_with("cgroup2 ") && kind.is_empty()
                || of.starts_with("cgroup ") && of.ends_with(&format!(",{kind}"))
        })?;
        let directory = Path::new(mount.split(' ').nth(4)?).join(path);
        fs::create_dir_all(&directory).ok()?;
        Some(Group(directory))
    }

    fn add(&self, pid: u32) {
        fs::write(self.0.join("cgroup.procs"), pid.to_string()).unwrap();
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let mut directory = self.0.as_path();
        // The kernel removes a process from its group shortly after its end.
        let end = Instant::now() + Duration::from_secs(20);
        while fs::remove_dir(directory).is_err() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
        while let Some(parent) = directory.parent().filter(|parent| fs::remove_dir(parent).is_ok())
        {
            directory = parent;
        }
    }
}

const ID: &str = "0f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f0";
const POD: &str = "87a18a64-b74a-454a-b10b-a4a36059d0a3";

/// A process in the group: id, runtime and pod of its socket.
fn container_in(group: &Group) -> (String, String, String) {
    let (socket, inode) = listener();
    let holder = Holder::start(Command::new("sleep").arg("600"), socket, "sleep");
    group.add(holder.pid());
    let row = row(holder.pid(), inode);
    let cell = |name: &str| row[name].clone();
    (cell("container_id"), cell("container_runtime"), cell("pod_uid"))
}

/// Groups in version 1 and 2, whichever the host has.
fn groups(test: &str, path: &str) -> Vec<Group> {
    if !is_root_or_report(test, "to make a control group needs root") {
        return Vec::new();
    }
    let groups: Vec<Group> =
        ["", "memory", "name=systemd"].iter().filter_map(|kind| Group::new(kind, path)).collect();
    if groups.is_empty() {
        report_left_out(test, "no tree of control groups that can be written");
    }
    groups
}

#[test]
fn a_process_in_a_group_of_docker_has_its_container() {
    let test = "a_process_in_a_group_of_docker_has_its_container";
    for group in groups(test, &format!("test-a.slice/docker-{ID}.scope")) {
        let expected = (ID.to_owned(), "docker".to_owned(), String::new());
        assert_eq!(container_in(&group), expected, "{}", group.0.display());
    }
}

#[test]
fn a_process_in_a_group_of_kubernetes_has_its_pod() {
    let test = "a_process_in_a_group_of_kubernetes_has_its_pod";
    let pod = POD.replace('-', "_");
    let slice =
        format!("test-b.slice/kubepods-burstable-pod{pod}.slice/cri-containerd-{ID}.scope/inner");
    for group in groups(test, &slice) {
        let expected = (ID.to_owned(), "containerd".to_owned(), POD.to_owned());
        assert_eq!(container_in(&group), expected, "{}", group.0.display());
    }
}

#[test]
fn a_process_in_a_group_with_a_hostile_name_has_no_container() {
    let test = "a_process_in_a_group_with_a_hostile_name_has_no_container";
    let name = format!(
        "test-c.slice/docker-{ID}.scope:x\u{1b}[31m/lxc.payload.\u{202e}a/docker-{}",
        &ID[1..]
    );
    for group in groups(test, &name) {
        let container = container_in(&group);
        assert_eq!(container, Default::default(), "{}", group.0.display());
    }
}

#[test]
fn an_unheld_socket_has_the_container_in_which_it_was_created() {
    let test = "an_unheld_socket_has_the_container_in_which_it_was_created";
    if !is_root_or_report(test, "to make a control group needs root") {
        return;
    }
    let Some(group) = Group::new("", &format!("test-d.slice/libpod-{ID}.scope/container")) else {
        return report_left_out(test, "no tree of control groups of version 2 that can be written");
    };
    // The listener is created in the group; a connection in its accept queue belongs to the same group.
    let mut child = Command::new("sh")
        .args(["-c", "read x; exec python3 -c \"$0\"", LISTEN])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    group.add(child.id());
    child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    let mut port = String::new();
    let mut output = std::io::BufReader::new(child.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut output, &mut port).unwrap();
    let holder = Holder(child);
    let port = port.trim();
    let _waiting = TcpStream::connect((Ipv4Addr::LOCALHOST, port.parse().unwrap())).unwrap();
    let equals = [("local_port", port.to_owned()), ("pid", "-1".to_owned())];
    let options = Options { bpf_from_files: None, ..Options::default() };
    let rows = rows_where(options, &equals);
    drop(holder);
    let row = rows.iter().find(|row| row["state"] == "ESTABLISHED").unwrap();
    assert_eq!((&row["container_id"][..], &row["container_runtime"][..]), (ID, "podman"));
    assert_eq!((&row["pod_uid"][..], &row["process_name"][..]), ("", "NULL"));
}

/// Listens, prints the port, and waits until its input ends.
const LISTEN: &str = "import socket, sys
s = socket.socket()
s.bind(('127.0.0.1', 0))
s.listen(5)
print(s.getsockname()[1], flush=True)
sys.stdin.read()";
