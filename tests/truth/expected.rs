//! Expected rows, and their differences from the rows of the table.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tables::process_open_sockets::ProcessOpenSockets;
use tables::{Constraint, Operator, Options, QueryContext, Rows, Table, Value};

use super::netns::Netns;
use super::process;

/// A cell that the comparison ignores.
pub(crate) const ANY: &str = "(any)";

/// The columns that `tests/socket_details.rs` compares: they change while a test runs, or sources differ in them.
const COMPARED_ELSEWHERE: [&str; 18] = [
    "bytes_sent",
    "bytes_received",
    "bytes_retransmitted",
    "rtt_us",
    "rtt_variance_us",
    "min_rtt_us",
    "retransmits",
    "lost",
    "congestion_window",
    "send_mss",
    "last_sent_ms",
    "last_received_ms",
    "delivery_rate",
    "busy_time_us",
    "peer_pid",
    "peer_uid",
    "path_inode",
    "path_device",
];

/// A row, its cells by column, NULL as `NULL`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Row(Vec<(String, String)>);

pub(crate) fn inode(socket: &impl AsFd) -> u64 {
    rustix::fs::fstat(socket).unwrap().st_ino
}

impl Netns {
    /// The row of a socket that this process holds.
    pub(crate) fn own_row(&self, socket: &(impl AsFd + AsRawFd)) -> Row {
        self.row_of(std::process::id(), socket.as_raw_fd(), inode(socket))
    }

    /// The row of a socket that a process holds.
    pub(crate) fn row_of(&self, pid: u32, fd: i32, inode: u64) -> Row {
        let row = self.row().with("pid", pid).with("fd", fd).with("socket", inode);
        let row = row.with("tid", pid).with("socket_uid", 0);
        process::cells(pid).into_iter().fold(row, |row, (name, value)| row.with(name, value))
    }

    /// The row of an unheld socket, with the reason.
    pub(crate) fn unheld(&self, why: &str) -> Row {
        let row = self.row().with("pid", -1).with("fd", -1).with("socket", 0).with("tid", "NULL");
        row.with("descriptors", "NULL").with("holder_unknown", why).with("socket_uid", "NULL")
    }

    fn row(&self) -> Row {
        let texts = [
            "local_address",
            "remote_address",
            "path",
            "state",
            "holder_unknown",
            "bound_interface",
        ];
        let mut row = Row(Vec::new());
        for name in texts {
            row = row.with(name, "");
        }
        let row =
            row.with("local_port", 0).with("remote_port", 0).with("net_namespace", &self.number);
        let row = row.with("peer_socket", "NULL").with("rx_queue", "NULL").with("tx_queue", "NULL");
        let row = row.with("scope", 0).with("socket_cgroup_path", "");
        let row = row.with("listening", 0).with("net_namespace_name", "");
        let row = row.with("descriptors", 1).with("rows_omitted", 0);
        let row = row.with("socket_cookie", ANY).with("congestion_algorithm", ANY);
        process::COLUMNS.into_iter().fold(row, |row, name| row.with(name, "NULL"))
    }
}

impl Row {
    /// A row that the program printed.
    #[cfg(feature = "shell")]
    pub(crate) fn from_cells(cells: impl IntoIterator<Item = (String, String)>) -> Row {
        Row(cells.into_iter().collect())
    }

    /// The names of its columns.
    #[cfg(feature = "shell")]
    pub(crate) fn names(&self) -> Vec<String> {
        self.0.iter().map(|(name, _)| name.clone()).collect()
    }

    fn with(mut self, name: &str, value: impl ToString) -> Row {
        self.0.retain(|(column, _)| column != name);
        self.0.push((name.to_owned(), value.to_string()));
        self
    }

    pub(crate) fn inet(self, protocol: u16, local: &str, remote: &str) -> Row {
        let [local, remote]: [SocketAddr; 2] = [local, remote].map(|it| it.parse().unwrap());
        let row = self.with("family", if local.is_ipv4() { 2 } else { 10 });
        let row = row
            .with("protocol", protocol)
            .with("socket_type", if protocol == 17 || protocol == 1 { 2 } else { 1 });
        let row = row.with("local_address", local.ip()).with("local_port", local.port());
        let row = row.with("remote_address", remote.ip()).with("remote_port", remote.port());
        let waits = protocol == 17 && local.port() != 0 && remote.port() == 0;
        row.cgroup(&own_cgroup()).with("listening", u8::from(waits))
    }

    pub(crate) fn unix(self, path: &str, kind: &str) -> Row {
        self.with("family", 1).with("protocol", 0).with("path", path).with("socket_type", kind)
    }

    pub(crate) fn packet(self, protocol: u16) -> Row {
        self.with("family", 17).with("protocol", protocol).with("state", "NONE")
    }

    pub(crate) fn netlink(self, protocol: u8, port: u32) -> Row {
        let row = self.with("family", 16).with("protocol", protocol).with("local_port", port);
        row.with("socket_uid", "NULL")
    }

    /// A socket in no table, with the columns that its descriptor has.
    pub(crate) fn unlisted(self, family: &str, protocol: &str) -> Row {
        let row = self.with("family", family).with("protocol", protocol).with("net_namespace", "");
        let listening = if ["1", "2", "10"].contains(&family) { "0" } else { "NULL" };
        let row = row.with("listening", listening);
        row.with("socket_type", "NULL").with("socket_uid", "NULL").with("scope", "NULL")
    }

    pub(crate) fn state(self, state: &str) -> Row {
        let row = self.with("state", state);
        if state == "LISTEN" { row.listening() } else { row }
    }

    pub(crate) fn listening(self) -> Row {
        self.with("listening", 1)
    }

    pub(crate) fn kind(self, kind: &str) -> Row {
        self.with("socket_type", kind)
    }

    pub(crate) fn uid(self, uid: &str) -> Row {
        self.with("socket_uid", uid)
    }

    pub(crate) fn socket(self, inode: u64) -> Row {
        self.with("socket", inode)
    }

    pub(crate) fn tid(self, tid: i32) -> Row {
        self.with("tid", tid)
    }

    pub(crate) fn peer(self, inode: u64) -> Row {
        self.with("peer_socket", inode)
    }

    pub(crate) fn interface(self, name: &str) -> Row {
        self.with("bound_interface", name)
    }

    pub(crate) fn queues(self, receive: u32, send: u32) -> Row {
        self.with("rx_queue", receive).with("tx_queue", send)
    }

    pub(crate) fn any_queues(self) -> Row {
        self.with("rx_queue", ANY).with("tx_queue", ANY)
    }

    pub(crate) fn cgroup(self, path: &str) -> Row {
        let row = self.with("socket_cgroup_path", path);
        if row.is_held() {
            return row;
        }
        // Without a holder, the container is that of the socket.
        let container = if path.is_empty() { "NULL" } else { process::container_of_this_host() };
        process::CONTAINER_COLUMNS.into_iter().fold(row, |row, name| row.with(name, container))
    }

    /// Without a dump of the protocol, the kernel does not report the control group.
    pub(crate) fn any_cgroup(self) -> Row {
        let row = self.with("socket_cgroup_path", ANY);
        if row.is_held() {
            return row;
        }
        process::CONTAINER_COLUMNS.into_iter().fold(row, |row, name| row.with(name, ANY))
    }

    pub(crate) fn cell(&self, name: &str) -> &str {
        let cell = self.0.iter().find(|(column, _)| column == name);
        cell.map_or("", |(_, value)| value)
    }

    pub(crate) fn inode(&self) -> u64 {
        self.cell("socket").parse().unwrap()
    }

    pub(crate) fn is_own(&self) -> bool {
        self.cell("pid") == std::process::id().to_string()
    }

    pub(crate) fn is_in(&self, netns: &Netns) -> bool {
        self.cell("net_namespace") == netns.number
    }

    pub(crate) fn is_held(&self) -> bool {
        self.cell("pid") != "-1"
    }

    /// Whether the row of the table, which has every column, has the cells of this one.
    pub(crate) fn is_like(&self, shown: &Row) -> bool {
        shown.0.iter().all(|(name, value)| {
            let cell = self.cell(name);
            cell == ANY || cell == value
        })
    }
}

/// The mount point of the tree of control groups of version 2.
fn cgroup_tree() -> Option<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mount = mounts.lines().find(|line| line.contains(" - cgroup2 "))?;
    mount.split(' ').nth(4).map(PathBuf::from)
}

/// The control group of version 2 of this process, if the tree is mounted.
fn own_cgroup() -> String {
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap();
    let own = groups.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or_default();
    cgroup_tree().map_or_else(String::new, |_| own.to_owned())
}

/// A control group, removed when dropped.
pub(crate) struct ControlGroup {
    tree: PathBuf,
    pub(crate) path: String,
}

impl ControlGroup {
    /// Creates a group in the group of this process. Returns `None` if that fails.
    pub(crate) fn new() -> Option<ControlGroup> {
        let (tree, own) = (cgroup_tree()?, own_cgroup());
        let path = format!("{}/sockets-{}", own.trim_end_matches('/'), std::process::id());
        let group = ControlGroup { tree, path };
        std::fs::create_dir(group.directory(&group.path)).ok()?;
        Some(group)
    }

    /// Moves this process into the group, runs `f`, and moves the process back.
    pub(crate) fn inside<T>(&self, f: impl FnOnce() -> T) -> T {
        let own = own_cgroup();
        let go =
            |path: &str| std::fs::write(self.directory(path).join("cgroup.procs"), "0").unwrap();
        go(&self.path);
        let value = f();
        go(&own);
        value
    }

    fn directory(&self, path: &str) -> PathBuf {
        self.tree.join(path.trim_start_matches('/'))
    }
}

impl Drop for ControlGroup {
    fn drop(&mut self) {
        std::fs::remove_dir(self.directory(&self.path)).unwrap();
    }
}

/// The expected reason for an unheld socket that has a file: it depends on whether all processes can be read.
pub(crate) fn unknown_with_file() -> &'static str {
    let is_pid = |path: &Path| path.join("fd").exists() && path.join("comm").exists();
    let processes = std::fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
    let denied = processes.filter(|path| is_pid(path)).any(|path| {
        // Other processes start and end meanwhile.
        let is_denied = |error: &std::io::Error| error.kind() == ErrorKind::PermissionDenied;
        match std::fs::read_dir(path.join("fd")) {
            Ok(mut fds) => fds.any(|fd| {
                fd.and_then(|fd| std::fs::read_link(fd.path()))
                    .is_err_and(|error| is_denied(&error))
            }),
            Err(error) => is_denied(&error),
        }
    });
    let namespace = std::fs::read_link("/proc/self/ns/pid").unwrap();
    let is_first = namespace.to_str() == Some("pid:[4026531836]");
    if denied || !is_first { "unreadable" } else { "no_process" }
}

fn rows(options: Options, constraints: &[(&str, String)]) -> Vec<Row> {
    let table = ProcessOpenSockets::new(options);
    let column = |name: &str| table.columns().iter().position(|column| column.name == name);
    let constraint = |(name, text): &(&str, String)| Constraint {
        column: column(name).unwrap(),
        operator: Operator::Equals,
        text: text.clone(),
    };
    let constraints = constraints.iter().map(constraint).collect();
    let query = QueryContext { constraints, ..Default::default() };
    let rows = table.generate(&query).unwrap();
    let cell = |row: usize, column: usize| match rows.cell(row, column) {
        Value::Null => "NULL".to_owned(),
        Value::Integer(number) => number.to_string(),
        Value::Text(text) => text.into_owned(),
    };
    let row = |row: usize| {
        let columns = table.columns().iter().enumerate();
        let columns = columns.filter(|(_, column)| !COMPARED_ELSEWHERE.contains(&column.name));
        Row(columns.map(|(index, column)| (column.name.to_string(), cell(row, index))).collect())
    };
    (0..Rows::len(&*rows)).map(row).collect()
}

/// The rows of the socket of that inode.
pub(crate) fn rows_of_socket(options: Options, inode: u64) -> Vec<Row> {
    rows(options, &[("socket", inode.to_string())])
}

/// The rows of this process.
pub(crate) fn own_rows(options: Options) -> Vec<Row> {
    rows(options, &[("pid", std::process::id().to_string())])
}

/// All rows of these namespaces, in order.
pub(crate) fn rows_of_namespaces(options: Options, namespaces: &[Netns]) -> Vec<Row> {
    let constraints: Vec<_> =
        namespaces.iter().map(|netns| ("net_namespace", netns.number.clone())).collect();
    let mut rows = rows(options, &constraints);
    rows.sort();
    rows
}

/// The expected rows that are missing, and the rows of these namespaces that are not expected.
pub(crate) fn differences(options: Options, namespaces: &[Netns], expected: &[Row]) -> Vec<String> {
    compare(rows_of_namespaces(options, namespaces), namespaces, expected)
}

/// The rows of a source that are missing or different in a source with fewer fields, and the rows that the latter
/// adds.
pub(crate) fn contradictions(more: &[Row], less: &[Row]) -> Vec<String> {
    let mut less = less.to_vec();
    let mut contradictions = Vec::new();
    for row in more {
        let is_row = |less: &Row| {
            row.0.iter().all(|(name, value)| {
                let cell = less.cell(name);
                // A line in a file ends after the first line of the path.
                let is_first_line = name == "path" && value.lines().next() == Some(cell);
                cell == value || is_first_line || cell == "NULL" || cell.is_empty()
            })
        };
        match less.iter().position(is_row) {
            Some(index) => drop(less.remove(index)),
            None => contradictions.push(format!("missing: {row:?}")),
        }
    }
    contradictions.extend(less.iter().map(|row| format!("different or added: {row:?}")));
    contradictions
}

/// The differences in the rows that have this value in a column.
pub(crate) fn differences_of(
    options: Options,
    column: &str,
    value: &str,
    namespaces: &[Netns],
    expected: &[Row],
) -> Vec<String> {
    let expected: Vec<Row> =
        expected.iter().filter(|row| row.cell(column) == value).cloned().collect();
    compare(rows(options, &[(column, value.to_owned())]), namespaces, &expected)
}

/// The differences in the rows of this process.
pub(crate) fn differences_of_own(
    options: Options,
    namespaces: &[Netns],
    expected: &[Row],
) -> Vec<String> {
    differences_of(options, "pid", &std::process::id().to_string(), namespaces, expected)
}

/// The expected rows that are missing among these, and those of these namespaces that are not expected.
pub(crate) fn compare(mut shown: Vec<Row>, namespaces: &[Netns], expected: &[Row]) -> Vec<String> {
    shown.retain(|row| namespaces.iter().any(|netns| netns.number == row.cell("net_namespace")));
    let mut missing = Vec::new();
    for row in expected {
        match shown.iter().position(|shown| row.is_like(shown)) {
            Some(index) => drop(shown.remove(index)),
            None => missing.push(row),
        }
    }
    let text = |what: &str, row: &Row| {
        let mut cells = row.0.clone();
        cells.sort();
        let cells: Vec<_> = cells.iter().map(|(name, value)| format!("{name}={value}")).collect();
        format!("{what}: {}", cells.join(" "))
    };
    let missing = missing.into_iter().map(|row| text("missing", row));
    missing.chain(shown.iter().map(|row| text("too much", row))).collect()
}

/// Waits until the condition holds, at most half a minute.
pub(crate) fn wait_for(is_true: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !is_true() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(20));
    }
}
