//! The SQL of the README and of the pages in `docs`, run over sockets of this process.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use process_open_sockets::shell::vtab;
use rusqlite::Connection;
use rustix::net::{AddressFamily, SendFlags, SocketAddrAny, SocketType};
use support::left_out::report_left_out;
use tables::process_open_sockets::ProcessOpenSockets;
use tables::process_socket_events::ProcessSocketEvents;
use tables::{ColumnOptions, Options, Table, Threads};

const README: &str = include_str!("../README.md");
const COLUMNS: &str = include_str!("../docs/columns.md");

/// A row as cells by column name, NULL as ''.
type Row = BTreeMap<String, String>;

/// The README, and the pages in `docs`.
fn pages() -> Vec<String> {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let paths = std::fs::read_dir(docs).unwrap().map(|entry| entry.unwrap().path());
    let markdown = paths.filter(|path| path.extension().is_some_and(|it| it == "md"));
    let docs = markdown.map(|path| std::fs::read_to_string(path).unwrap());
    [README.to_owned()].into_iter().chain(docs).collect()
}

/// The contents of the blocks of that language.
fn blocks(page: &str, language: &str) -> Vec<String> {
    let begin = format!("```{language}\n");
    let blocks = page.split(&begin).skip(1);
    blocks.map(|block| block.split("```").next().unwrap().trim().to_owned()).collect()
}

/// The different statements in blocks of SQL, without those on the tables of events.
fn examples() -> Vec<String> {
    all_examples().into_iter().filter(|sql| !is_of_events(sql)).collect()
}

fn all_examples() -> BTreeSet<String> {
    pages().iter().flat_map(|page| blocks(page, "sql")).collect()
}

fn is_of_events(sql: &str) -> bool {
    ["process_socket_events", "process_socket_flows", "socket_event_stats"]
        .iter()
        .any(|table| sql.contains(table))
}

/// The commands in blocks of the shell. A backslash continues a command on the next line.
fn commands() -> Vec<String> {
    let blocks = pages().into_iter().flat_map(|page| blocks(&page, "sh"));
    let commands = |block: String| -> Vec<String> {
        let block = block.replace("\\\n", " ");
        block.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect()
    };
    blocks.flat_map(commands).filter(|command| !command.starts_with('#')).collect()
}

fn rows(connection: &Connection, sql: &str) -> Vec<Row> {
    use rusqlite::types::Value;
    let mut statement = connection.prepare(sql).unwrap();
    let names: Vec<String> = statement.column_names().map(str::to_owned).collect();
    let text = |value: Value| match value {
        Value::Null => String::new(),
        Value::Integer(number) => number.to_string(),
        Value::Text(text) => text,
        other => panic!("{other:?}"),
    };
    let row = |row: &rusqlite::Row| {
        let cell = |(index, name): (usize, &String)| Ok((name.clone(), text(row.get(index)?)));
        names.iter().enumerate().map(cell).collect()
    };
    statement.query_map([], row).unwrap().collect::<Result<_, _>>().unwrap()
}

/// A thread that holds a socket in a private file descriptor table, until this value is dropped.
struct Thread {
    socket: u64,
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Thread {
    fn start() -> Thread {
        let (stop, stopped) = mpsc::channel();
        let (send, socket) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let flags = rustix::thread::UnshareFlags::FILES;
            // SAFETY: from here on this thread uses only descriptors that it opens itself.
            #[allow(unsafe_code)]
            unsafe { rustix::thread::unshare_unsafe(flags) }.unwrap();
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            send.send(inode(&listener)).unwrap();
            let _ = stopped.recv();
        });
        Thread { socket: socket.recv().unwrap(), stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.stop = None;
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn inode(socket: &impl AsFd) -> u64 {
    rustix::fs::fstat(socket).unwrap().st_ino
}

/// A listener with a full accept queue of one connection, and its port.
fn full_listener() -> (OwnedFd, TcpStream, u16) {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    let any_port = std::net::SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, 0);
    rustix::net::bind(&socket, &SocketAddrAny::from(any_port)).unwrap();
    rustix::net::listen(&socket, 1).unwrap();
    let address = rustix::net::getsockname(&socket).unwrap();
    let address = std::net::SocketAddr::try_from(address).unwrap();
    let client = TcpStream::connect(address).unwrap();
    (socket, client, address.port())
}

/// A part of an example's text that identifies it, and cells of one of its rows.
type Expected = (&'static str, Vec<(&'static str, String)>);

/// What this test holds open, as text.
struct Host {
    /// Its pid.
    me: String,
    /// The port of a listener on the loopback, and of its client.
    port: String,
    client_port: String,
    /// The port of a listener on all addresses.
    outside: String,
    /// The port of a listener with a full accept queue.
    full_port: String,
    /// The inode of a socket that one thread alone holds.
    of_thread: String,
    /// The inode of a socket with 151 descriptors.
    copied: String,
    /// A path that was removed after a socket was bound to it.
    removed: String,
}

/// The real user of this process.
fn uid() -> String {
    rustix::process::getuid().as_raw().to_string()
}

/// The control group of this process in the first hierarchy.
fn cgroup() -> String {
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap();
    groups.lines().next().unwrap().splitn(3, ':').nth(2).unwrap().to_owned()
}

/// What a row of each example has.
fn expected(host: &Host) -> Vec<Expected> {
    let Host { me, port, client_port, outside, full_port, of_thread, copied, removed } = host;
    let of_me = |more: &[(&'static str, &str)]| {
        let more = more.iter().map(|(name, value)| (*name, (*value).to_owned()));
        [("pid", me.clone())].into_iter().chain(more).collect::<Vec<_>>()
    };
    let my_port = || of_me(&[("local_port", port)]);
    let listed = || vec![("local_port", port.clone())];
    vec![
        (
            "SELECT pid, process_name, container_id, protocol, local_address",
            of_me(&[("local_port", outside)]),
        ),
        ("WHERE remote_address =", of_me(&[("remote_port", port), ("state", "ESTABLISHED")])),
        ("SELECT fd, family, protocol", listed()),
        ("SELECT DISTINCT pid, protocol", of_me(&[("protocol", "6"), ("state", "LISTEN")])),
        ("SELECT a.pid, a.path, b.pid AS peer_pid FROM", of_me(&[("peer_pid", me)])),
        ("net_namespace IN (SELECT", my_port()),
        (
            "SELECT holder_unknown, state",
            vec![
                ("holder_unknown", "accept_queue".to_owned()),
                ("state", "ESTABLISHED".to_owned()),
            ],
        ),
        ("SELECT holder_unknown, count", vec![("holder_unknown", "accept_queue".to_owned())]),
        (
            "USING (protocol, net_namespace)",
            of_me(&[("peer_pid", me), ("local_port", client_port)]),
        ),
        ("b.path AS peer_path", of_me(&[("peer_pid", me), ("socket_type", "1")])),
        (
            "rx_queue > tx_queue / 2",
            of_me(&[("local_port", full_port), ("rx_queue", "1"), ("tx_queue", "1")]),
        ),
        ("AS sk, pid", of_me(&[("local_port", client_port), ("remote_port", port)])),
        ("GROUP BY socket_cgroup_path", Vec::new()),
        (
            "HAVING descriptors",
            of_me(&[
                ("socket", copied),
                ("descriptors", "151"),
                ("rows", "100"),
                ("rows_omitted", "0"),
            ]),
        ),
        (
            "ORDER BY retransmits DESC",
            of_me(&[("bytes_sent", "3"), ("bytes_received", "0"), ("retransmits", "0")]),
        ),
        ("AS idle_s", of_me(&[])),
        ("path, peer_pid, peer_uid FROM", of_me(&[])),
        ("FROM file f", of_me(&[("path", removed)])),
        ("AS processes FROM", vec![("holders", "100".to_owned()), ("processes", "1".to_owned())]),
        ("WHERE tid <> pid", of_me(&[("socket", of_thread)])),
        (
            "SELECT name, local_port FROM processes",
            vec![("name", "readme".to_owned()), ("local_port", port.clone())],
        ),
        ("SELECT process_name, process_path,", vec![("local_port", port.clone())]),
        ("SELECT process_uid, process_euid,", vec![("process_uid", uid())]),
        ("SELECT pid, process_parent,", of_me(&[("local_port", port)])),
        // A host has sockets outside containers, and a container in one.
        ("SELECT container_runtime,", vec![]),
        ("SELECT process_cgroup_path,", vec![("process_cgroup_path", cgroup())]),
        ("SELECT net_namespace_name,", of_me(&[("net_namespace_name", "")])),
        ("SELECT name, uid FROM processes", vec![("uid", "0".to_owned())]),
    ]
}

#[test]
fn every_example_returns_the_described_rows() {
    let test = "every_example_returns_the_described_rows";
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut server, from) = listener.accept().unwrap();
    std::io::Write::write_all(&mut client, b"abc").unwrap();
    std::io::Read::read_exact(&mut server, &mut [0; 3]).unwrap();
    let outside = TcpListener::bind("0.0.0.0:0").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let removed = folder.path().join("removed");
    let _listens = std::os::unix::net::UnixListener::bind(&removed).unwrap();
    std::fs::remove_file(&removed).unwrap();
    let _pair = UnixStream::pair().unwrap();
    let (copied, _peer) = UnixDatagram::pair().unwrap();
    let (_full, _waiting, full_port) = full_listener();
    let thread = Thread::start();

    let options = Options { threads: Threads::On, ..Options::default() };
    let table = Arc::new(ProcessOpenSockets::new(options));
    let connection = Connection::open_in_memory().unwrap();
    for name in table.names() {
        vtab::mount(&connection, name, table.clone()).unwrap();
    }
    let me = std::process::id().to_string();
    let port = listener.local_addr().unwrap().port().to_string();
    let outside = outside.local_addr().unwrap().port().to_string();
    let scope = rows(
        &connection,
        &format!(
            "SELECT scope FROM process_open_sockets WHERE pid = {me} AND local_port = {outside}"
        ),
    );
    let is_host = scope[0]["scope"] == "1";
    let copies: Vec<UnixDatagram> = (0..150).map(|_| copied.try_clone().unwrap()).collect();
    let processes =
        format!("CREATE TABLE processes AS SELECT {me} AS pid, 'readme' AS name, 0 AS uid");
    connection.execute_batch(&processes).unwrap();
    connection.execute_batch("CREATE TABLE file (path TEXT, inode BIGINT)").unwrap();
    let expected = expected(&Host {
        me: me.clone(),
        port: port.clone(),
        outside,
        client_port: from.port().to_string(),
        full_port: full_port.to_string(),
        of_thread: thread.socket.to_string(),
        copied: inode(&copied).to_string(),
        removed: removed.to_str().unwrap().to_owned(),
    });
    // The pid, the port and the address in the examples are those of no process here.
    let here = |sql: &str| {
        let sql = sql.replace("812", &me).replace("5432", &port);
        sql.replace("192.0.2.10", "127.0.0.1")
    };
    for example in examples() {
        let matching: Vec<_> = expected.iter().filter(|it| example.contains(it.0)).collect();
        let [(text, cells)] = matching[..] else {
            panic!("{} expectations for {example}", matching.len())
        };
        if example.contains("scope = 1") && !is_host {
            report_left_out(test, "scope = 1: this is not the host's network namespace");
            continue;
        }
        let rows = rows(&connection, &here(&example));
        let is_shown = |row: &Row| cells.iter().all(|(name, value)| row[*name] == *value);
        assert!(rows.iter().any(is_shown), "no row has {cells:?}: {text}: {example}");
    }
    assert_eq!(examples().len(), expected.len(), "an example is missing");
    drop((client, server, copies));
}

#[test]
fn every_example_of_events_returns_rows() {
    let options = Options { events: tables::EventMode::On, ..Options::default() };
    let table = Arc::new(ProcessSocketEvents::new(&options));
    table.start().unwrap();
    let connection = Connection::open_in_memory().unwrap();
    vtab::mount(&connection, table.name(), table.clone()).unwrap();
    let flows = Arc::new(table.flows());
    vtab::mount(&connection, flows.name(), flows.clone()).unwrap();
    let statistics = Arc::new(table.statistics());
    vtab::mount(&connection, statistics.name(), statistics.clone()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    drop((client, listener.accept().unwrap()));
    let refused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    TcpStream::connect(refused).unwrap_err();
    // As a DNS client and ping send.
    UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"?", "127.0.0.1:53").unwrap();
    let icmp = Some(rustix::net::ipproto::ICMP);
    // With CAP_BPF, and without CAP_NET_RAW, there is none.
    let ping = rustix::net::socket(AddressFamily::INET, SocketType::RAW, icmp);
    let has_raw = ping.is_ok();
    if let Ok(ping) = ping {
        let echo = [8, 0, 0xf7, 0xff, 0, 0, 0, 0];
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        rustix::net::sendto(&ping, &echo, SendFlags::empty(), &address).unwrap();
    }
    let running = rows(&connection, "SELECT value, detail FROM socket_event_stats LIMIT 1");
    if running[0]["value"] != "1" {
        let is_required = std::env::var("REQUIRE_BPF").is_ok_and(|value| value == "1");
        assert!(!is_required, "REQUIRE_BPF=1: {}", running[0]["detail"]);
        let why = "needs BPF: Linux 5.11 or later, CAP_BPF and CAP_PERFMON";
        return report_left_out("every_example_of_events_returns_rows", why);
    }
    let send = "SELECT value FROM socket_event_stats WHERE detail LIKE 'sock_send_length%'";
    let has_sends = rows(&connection, send)[0]["value"] == "1";
    if !has_sends {
        let why = "needs the tracepoint sock_send_length of Linux 6.3";
        report_left_out("every_example_of_events_returns_rows (sends)", why);
    }
    let me = std::process::id().to_string();
    let mut run = 0;
    for example in all_examples().into_iter().filter(|sql| is_of_events(sql)) {
        if example.contains("'send'") && !(has_sends && has_raw) {
            continue;
        }
        // The connections here are those of the loopback.
        let sql = example.replace("812", &me).replace("127.%", "192.0.2.%");
        let rows = rows(&connection, &sql);
        // No connection here retransmits, and flows of datagrams end later: tests/events/flows.rs waits for them.
        let is_later =
            ["bytes_retransmitted > 0", "messages_sent"].iter().any(|it| sql.contains(it));
        assert!(is_later || !rows.is_empty(), "{example}");
        run += 1;
    }
    assert!(run >= 6, "{run} examples");
    table.stop();
}

/// Commands that this test does not run, and where they run.
const ELSEWHERE: &[(&str, &str)] = &[
    ("cargo ", ".ci/run"),
    ("ATTACKS_LONG=1 cargo ", ".ci/release"),
    ("sudo ", "needs osquery, and changes the host"),
    ("tests/old_kernels/run", ".ci/release"),
    ("benches/compare.sh", ".ci/release"),
    ("sha256sum --check", "needs the files of a release"),
    ("gh attestation", "needs the files of a release"),
    ("tar -xzf process_open_sockets", "needs the files of a release"),
    ("tail -n 1 /etc/osquery", "needs an installed package"),
    ("fleetctl ", "needs Fleet; .ci/packaging checks the files"),
    ("kubectl ", "needs a cluster; .ci/packaging checks the files"),
    ("docker ", "needs docker; .ci/packaging checks the files"),
];

#[test]
fn every_command_prints_an_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let binary = Path::new(env!("CARGO_BIN_EXE_process_open_sockets")).parent().unwrap();
    let path = format!("{}:{}", binary.display(), std::env::var("PATH").unwrap());
    let mut run = 0;
    for command in commands() {
        if ELSEWHERE.iter().any(|(first, _)| command.starts_with(first)) {
            continue;
        }
        if command.contains("| jq") && !has_program("jq") {
            report_left_out("every_command_prints_an_answer", "needs jq");
            continue;
        }
        // A command that waits is an error of the page.
        let mut shell = Command::new("timeout");
        shell.args(["120", "sh", "-ec", &command]).env("PATH", &path).stdin(Stdio::null());
        let output = shell.output().unwrap();
        let (stdout, stderr) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && !stdout.is_empty(), "{command}: {stdout}{stderr}");
        run += 1;
    }
    assert!(run >= 4, "{run} commands");
    drop(listener);
}

fn has_program(name: &str) -> bool {
    let found = Command::new("sh").args(["-c", &format!("command -v {name}")]).output().unwrap();
    found.status.success()
}

#[test]
fn every_hidden_column_has_an_example_and_a_line_in_a_table() {
    let table = ProcessOpenSockets::new(Options::default());
    let hidden = table.columns().iter().filter(|it| it.options.contains(ColumnOptions::HIDDEN));
    let mut count = 0;
    for name in hidden.map(|column| column.name) {
        assert!(examples().iter().any(|example| example.contains(name)), "{name}");
        let line = format!("| `{name}`");
        assert!(COLUMNS.contains(&line) || name == "tx_queue", "{name}");
        count += 1;
    }
    assert!(count > 0, "no hidden column");
}

#[test]
fn every_setting_is_in_the_configuration_page() {
    let page = include_str!("../docs/configuration.md");
    let tables = tables::tables(&Options::default());
    for option in tables.iter().flat_map(|table| table.options()) {
        assert!(page.contains(&format!("--{}", option.flag)), "{}", option.flag);
        assert!(page.contains(&format!("`{}`", option.variable)), "{}", option.variable);
    }
}

#[test]
fn the_readme_has_at_most_1300_words() {
    let words = README.split_whitespace().count();
    assert!(words <= 1300, "{words} words");
}
