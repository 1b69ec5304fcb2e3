//! Rows as they should be, and how what the table shows differs from them.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tables::process_open_sockets::ProcessOpenSockets;
use tables::{Constraint, Operator, Options, QueryContext, Rows, Table, Value};

use super::place::Place;

/// A cell that is not looked at.
const ANY: &str = "(any)";

/// A row, its cells by column, NULL as `NULL`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Row(Vec<(String, String)>);

pub(crate) fn inode(socket: &impl AsFd) -> u64 {
    rustix::fs::fstat(socket).unwrap().st_ino
}

impl Place {
    /// A socket of this place that this process holds.
    pub(crate) fn mine(&self, socket: &(impl AsFd + AsRawFd)) -> Row {
        self.of(std::process::id(), socket.as_raw_fd(), inode(socket))
    }

    /// One that a process holds.
    pub(crate) fn of(&self, pid: u32, fd: i32, inode: u64) -> Row {
        let row = self.row().with("pid", pid).with("fd", fd).with("socket", inode);
        row.with("tid", pid).with("uid", 0)
    }

    /// One that nobody holds, and why not.
    pub(crate) fn nobody(&self, why: &str) -> Row {
        let row = self.row().with("pid", -1).with("fd", -1).with("socket", 0).with("tid", "NULL");
        row.with("descriptors", "NULL").with("holder_unknown", why).with("uid", "NULL")
    }

    fn row(&self) -> Row {
        let texts =
            ["local_address", "remote_address", "path", "state", "holder_unknown", "interface"];
        let mut row = Row(Vec::new());
        for name in texts {
            row = row.with(name, "");
        }
        let row =
            row.with("local_port", 0).with("remote_port", 0).with("net_namespace", &self.number);
        let row = row.with("peer_socket", "NULL").with("rx_queue", "NULL").with("tx_queue", "NULL");
        let row = row.with("scope", 0).with("cgroup_path", "");
        row.with("descriptors", 1).with("rows_omitted", 0)
    }
}

impl Row {
    fn with(mut self, name: &str, value: impl ToString) -> Row {
        self.0.retain(|(known, _)| known != name);
        self.0.push((name.to_owned(), value.to_string()));
        self
    }

    pub(crate) fn inet(self, protocol: u16, local: &str, remote: &str) -> Row {
        let [local, remote]: [SocketAddr; 2] = [local, remote].map(|it| it.parse().unwrap());
        let row = self.with("family", if local.is_ipv4() { 2 } else { 10 });
        let row = row
            .with("protocol", protocol)
            .with("type", if protocol == 17 || protocol == 1 { 2 } else { 1 });
        let row = row.with("local_address", local.ip()).with("local_port", local.port());
        let row = row.with("remote_address", remote.ip()).with("remote_port", remote.port());
        row.with("cgroup_path", own_cgroup())
    }

    pub(crate) fn unix(self, path: &str, kind: &str) -> Row {
        self.with("family", 1).with("protocol", 0).with("path", path).with("type", kind)
    }

    pub(crate) fn packet(self, protocol: u16) -> Row {
        self.with("family", 17).with("protocol", protocol).with("state", "NONE")
    }

    pub(crate) fn netlink(self, protocol: u8, port: u32) -> Row {
        let row = self.with("family", 16).with("protocol", protocol).with("local_port", port);
        row.with("uid", "NULL")
    }

    /// In no table: only what its descriptor tells.
    pub(crate) fn unlisted(self, family: &str, protocol: &str) -> Row {
        let row = self.with("family", family).with("protocol", protocol).with("net_namespace", "");
        row.with("type", "NULL").with("uid", "NULL").with("scope", "NULL")
    }

    pub(crate) fn state(self, state: &str) -> Row {
        self.with("state", state)
    }

    pub(crate) fn kind(self, kind: &str) -> Row {
        self.with("type", kind)
    }

    pub(crate) fn uid(self, uid: &str) -> Row {
        self.with("uid", uid)
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
        self.with("interface", name)
    }

    pub(crate) fn queues(self, receive: u32, send: u32) -> Row {
        self.with("rx_queue", receive).with("tx_queue", send)
    }

    pub(crate) fn any_queues(self) -> Row {
        self.with("rx_queue", ANY).with("tx_queue", ANY)
    }

    pub(crate) fn cgroup(self, path: &str) -> Row {
        self.with("cgroup_path", path)
    }

    /// A kernel that has no dump of it tells no control group.
    pub(crate) fn any_cgroup(self) -> Row {
        self.with("cgroup_path", ANY)
    }

    pub(crate) fn cell(&self, name: &str) -> &str {
        let cell = self.0.iter().find(|(known, _)| known == name);
        cell.map_or("", |(_, value)| value)
    }

    pub(crate) fn inode(&self) -> u64 {
        self.cell("socket").parse().unwrap()
    }

    pub(crate) fn is_ours(&self) -> bool {
        self.cell("pid") == std::process::id().to_string()
    }

    pub(crate) fn is_of(&self, place: &Place) -> bool {
        self.cell("net_namespace") == place.number
    }

    pub(crate) fn is_held(&self) -> bool {
        self.cell("pid") != "-1"
    }

    /// Whether the other row, which has every column, is as this one says.
    pub(crate) fn is_like(&self, shown: &Row) -> bool {
        shown.0.iter().all(|(name, value)| {
            let cell = self.cell(name);
            cell == ANY || cell == value
        })
    }
}

/// Where the tree of control groups of version 2 is mounted.
fn cgroup_tree() -> Option<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mount = mounts.lines().find(|line| line.contains(" - cgroup2 "))?;
    mount.split(' ').nth(4).map(PathBuf::from)
}

/// The control group of version 2 that this process is in, if the tree of those is mounted.
fn own_cgroup() -> String {
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap();
    let own = groups.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or_default();
    cgroup_tree().map_or_else(String::new, |_| own.to_owned())
}

/// A control group; gone with this value.
pub(crate) struct ControlGroup {
    tree: PathBuf,
    pub(crate) path: String,
}

impl ControlGroup {
    /// In the group of this process. None if that cannot be done.
    pub(crate) fn new() -> Option<ControlGroup> {
        let (tree, own) = (cgroup_tree()?, own_cgroup());
        let path = format!("{}/zoo-{}", own.trim_end_matches('/'), std::process::id());
        let group = ControlGroup { tree, path };
        std::fs::create_dir(group.directory(&group.path)).ok()?;
        Some(group)
    }

    /// What this returns when this process is in the group, where it does not stay.
    pub(crate) fn inside<T>(&self, f: impl FnOnce() -> T) -> T {
        let own = own_cgroup();
        let go =
            |path: &str| std::fs::write(self.directory(path).join("cgroup.procs"), "0").unwrap();
        go(&self.path);
        let done = f();
        go(&own);
        done
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

/// Why a socket with a file has no holder: whether every process's descriptors can be read.
pub(crate) fn unknown_with_file() -> &'static str {
    let is_pid = |path: &Path| path.join("fd").exists() && path.join("comm").exists();
    let processes = std::fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
    let denied = processes.filter(|path| is_pid(path)).any(|path| {
        // Others come and go meanwhile.
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
        Row(columns.map(|(place, column)| (column.name.to_string(), cell(row, place))).collect())
    };
    (0..Rows::len(&*rows)).map(row).collect()
}

/// The rows of the socket of that inode.
pub(crate) fn rows_of_socket(options: Options, inode: u64) -> Vec<Row> {
    rows(options, &[("socket", inode.to_string())])
}

/// This process's rows.
pub(crate) fn rows_of_mine(options: Options) -> Vec<Row> {
    rows(options, &[("pid", std::process::id().to_string())])
}

/// All rows of these places, in order.
pub(crate) fn rows_of_places(options: Options, places: &[Place]) -> Vec<Row> {
    let namespaces: Vec<_> =
        places.iter().map(|place| ("net_namespace", place.number.clone())).collect();
    let mut rows = rows(options, &namespaces);
    rows.sort();
    rows
}

/// What is missing of these rows, and what is shown of these places beyond them.
pub(crate) fn differences(options: Options, places: &[Place], expected: &[Row]) -> Vec<String> {
    compare(rows_of_places(options, places), places, expected)
}

/// The rows that one source tells and another, which does not know all that is in them, has no row for, or
/// a row that says something else; and those that it has beyond them.
pub(crate) fn contradictions(told: &[Row], less: &[Row]) -> Vec<String> {
    let mut less = less.to_vec();
    let mut contradictions = Vec::new();
    for row in told {
        let is_row = |less: &Row| {
            row.0.iter().all(|(name, value)| {
                let cell = less.cell(name);
                // A line of a file ends with the path's first line.
                let is_first_line = name == "path" && value.lines().next() == Some(cell);
                cell == value || is_first_line || cell == "NULL" || cell.is_empty()
            })
        };
        match less.iter().position(is_row) {
            Some(place) => drop(less.remove(place)),
            None => contradictions.push(format!("only told: {row:?}")),
        }
    }
    contradictions.extend(less.iter().map(|row| format!("told otherwise: {row:?}")));
    contradictions
}

/// The same of the rows in which a column has that value.
pub(crate) fn differences_of(
    options: Options,
    column: &str,
    value: &str,
    places: &[Place],
    expected: &[Row],
) -> Vec<String> {
    let expected: Vec<Row> =
        expected.iter().filter(|row| row.cell(column) == value).cloned().collect();
    compare(rows(options, &[(column, value.to_owned())]), places, &expected)
}

/// The same of this process's sockets.
pub(crate) fn differences_of_mine(
    options: Options,
    places: &[Place],
    expected: &[Row],
) -> Vec<String> {
    differences_of(options, "pid", &std::process::id().to_string(), places, expected)
}

fn compare(mut shown: Vec<Row>, places: &[Place], expected: &[Row]) -> Vec<String> {
    shown.retain(|row| places.iter().any(|place| place.number == row.cell("net_namespace")));
    let mut missing = Vec::new();
    for row in expected {
        match shown.iter().position(|shown| row.is_like(shown)) {
            Some(place) => drop(shown.remove(place)),
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

/// Waits until it is so, or half a minute.
pub(crate) fn wait_for(is_so: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !is_so() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(20));
    }
}
