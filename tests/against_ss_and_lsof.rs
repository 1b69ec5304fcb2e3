//! The table compared with ss(8) and lsof(8): it has all their holders, and there is a reason for each holder that
//! they lack.
//!
//! In namespaces of its own: a name that another process gives to its socket breaks the lines of ss.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketType, ipproto};
use support::isolated::in_own_namespaces;
use support::left_out::report_left_out;
use support::own::net_namespace;
use support::rows::{rows_where, table};
use support::sleeper::Sleeper;

const TEST: &str = "the_table_has_every_holder_that_ss_and_lsof_have";

/// A descriptor that holds a socket: pid, number, inode.
type Holder = (i32, i32, u64);

/// Those of all processes that can be read.
fn holders() -> BTreeSet<Holder> {
    let numbers = |path: &Path| -> Vec<i32> {
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
    };
    let mut holders = BTreeSet::new();
    for pid in numbers(Path::new("/proc")) {
        let fds = format!("/proc/{pid}/fd");
        for fd in numbers(Path::new(&fds)) {
            let link = std::fs::read_link(format!("{fds}/{fd}")).unwrap_or_default();
            let inode =
                link.to_str().and_then(|link| link.strip_prefix("socket:[")?.strip_suffix(']'));
            holders.extend(inode.map(|inode| (pid, fd, inode.parse().unwrap())));
        }
    }
    holders
}

/// The sockets in the output of a program: the inode of each descriptor, if the program prints it.
type Printed = BTreeMap<(i32, i32), Option<u64>>;

/// Parses lines that end in `users:(("name",pid=1,fd=3),…) uid:… ino:4 …`, or for a UNIX socket in
/// `NAME 4 * PEER users:(("name",pid=1,fd=3),…) …`. A name can contain blanks and imitate all fields but the last.
fn parse_ss(text: &str) -> Printed {
    fn number<T: std::str::FromStr>(text: &str) -> Option<T> {
        text.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    }
    let mut printed = Printed::new();
    for (socket, users) in text.lines().filter_map(|line| line.rsplit_once(" users:((")) {
        let inode = if socket.starts_with("u_") {
            let mut from_the_end = socket.split_whitespace().rev().skip(1);
            assert_eq!(
                from_the_end.next(),
                Some("*"),
                "ss prints a UNIX socket in another format: {socket}"
            );
            from_the_end.next().and_then(number)
        } else {
            users.rsplit_once(" ino:").and_then(|(_, inode)| number(inode))
        };
        for user in users.split(",pid=").skip(1) {
            let fd = user.split_once(",fd=").and_then(|(_, fd)| number(fd));
            printed.insert((number(user).unwrap(), fd.unwrap()), inode);
        }
    }
    printed
}

/// Parses the output of `lsof -F`: `p1`, then `f3` for each descriptor, each with its type, inode and
/// device. The type `sock` means that lsof found the socket in no table.
fn parse_lsof(text: &str) -> Printed {
    let (mut pid, mut fd, mut kind, mut printed) = (0, None, "", Printed::new());
    for line in text.lines() {
        match line.split_at(1) {
            ("p", number) => pid = number.parse().unwrap(),
            // Other values are no descriptors, for example `cwd`.
            ("f", number) => fd = number.parse().ok(),
            ("t", name) => kind = name,
            // lsof prints the inode of these as their device.
            ("d", number) if matches!(kind, "IPv4" | "IPv6" | "pack") => {
                printed.extend(fd.map(|fd| ((pid, fd), Some(number.parse().unwrap()))));
            }
            ("i", number) if matches!(kind, "raw" | "raw6" | "unix") => {
                printed.extend(fd.map(|fd| ((pid, fd), Some(number.parse().unwrap()))));
            }
            _ => {}
        }
    }
    printed
}

/// The output of a program, or `None` if it is not installed.
fn output_of(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).stderr(Stdio::null()).output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Sockets of all kinds that the kernel has.
struct Sockets {
    /// Sockets of this process, with their names. The table shows all of them by default.
    held: Vec<(String, OwnedFd)>,
    sleepers: Vec<Sleeper>,
    /// The local and the remote port of a connection in TIME_WAIT.
    time_wait: [u16; 2],
}

impl Sockets {
    fn new(folder: &Path) -> Sockets {
        let mut held: Vec<(String, OwnedFd)> = Vec::new();
        let mut hold = |kind: &str, socket: OwnedFd| held.push((kind.to_owned(), socket));
        let mut sleepers = Vec::new();
        let mut time_wait = [0; 2];
        for address in [std::net::IpAddr::V6(Ipv6Addr::LOCALHOST), Ipv4Addr::LOCALHOST.into()] {
            let listener = TcpListener::bind((address, 0)).unwrap();
            let at = listener.local_addr().unwrap();
            // The end that closes first enters TIME_WAIT.
            let mut client = TcpStream::connect(at).unwrap();
            let (mut server, _) = listener.accept().unwrap();
            time_wait = [client.local_addr().unwrap().port(), at.port()];
            client.shutdown(Shutdown::Write).unwrap();
            assert_eq!(server.read(&mut [0]).unwrap(), 0);
            drop(server);
            assert_eq!(client.read(&mut [0]).unwrap(), 0);
            drop(client);

            let client = TcpStream::connect(at).unwrap();
            let (server, _) = listener.accept().unwrap();
            let waiting = TcpStream::connect(at).unwrap();
            let udp = UdpSocket::bind((address, 0)).unwrap();
            let connected = UdpSocket::bind((address, 0)).unwrap();
            connected.connect(udp.local_addr().unwrap()).unwrap();
            hold("listener", listener.try_clone().unwrap().into());
            hold("listener once more", listener.into());
            hold("client", client.try_clone().unwrap().into());
            hold("server", server.into());
            hold("client before accept", waiting.into());
            hold("UDP socket", udp.try_clone().unwrap().into());
            hold("connected UDP socket", connected.into());
            for shared in [OwnedFd::from(udp), client.into()] {
                sleepers.push(Sleeper::holding(shared));
            }
        }
        // These have no FD_CLOEXEC: the last sleeper inherits them.
        for (family, any) in [(AddressFamily::INET, "0.0.0.0:0"), (AddressFamily::INET6, "[::]:0")]
        {
            let ping = if family == AddressFamily::INET { ipproto::ICMP } else { ipproto::ICMPV6 };
            for (name, kind, protocol) in [
                ("raw socket", SocketType::RAW, ping),
                ("ping socket", SocketType::DGRAM, ping),
                ("UDP-Lite socket", SocketType::DGRAM, ipproto::UDPLITE),
            ] {
                let Ok(socket) = net::socket(family, kind, Some(protocol)) else {
                    // Not every kernel has UDP-Lite.
                    assert_eq!(protocol, ipproto::UDPLITE, "no {name} of {family:?}");
                    report_left_out(TEST, "UDP-Lite, which this kernel lacks");
                    continue;
                };
                net::bind(&socket, &any.parse::<SocketAddr>().unwrap()).unwrap();
                hold(name, socket);
            }
        }
        let every = net::RawProtocol::new(u32::from(3_u16.to_be())).map(net::Protocol::from_raw);
        let packet = net::socket(AddressFamily::PACKET, SocketType::RAW, every);
        hold("packet socket", packet.unwrap());
        for kind in [SocketType::STREAM, SocketType::SEQPACKET, SocketType::DGRAM] {
            // The name has blanks, and the text that ss prints after a name.
            let name = format!("against  {} users:((\"a\",pid=1,fd=2)) |", kind.as_raw());
            let by_path = net::socket(AddressFamily::UNIX, kind, None).unwrap();
            net::bind(&by_path, &SocketAddrUnix::new(folder.join(&name)).unwrap()).unwrap();
            hold("UNIX socket at a path", by_path);
            let abstracted = net::socket(AddressFamily::UNIX, kind, None).unwrap();
            let name = format!("{name}{}", std::process::id());
            let name = SocketAddrUnix::new_abstract_name(name.as_bytes()).unwrap();
            net::bind(&abstracted, &name).unwrap();
            hold("UNIX socket of an abstract name", abstracted);
        }
        let listener = UnixListener::bind(folder.join("listener")).unwrap();
        let client = UnixStream::connect(folder.join("listener")).unwrap();
        hold("UNIX server", listener.accept().unwrap().0.into());
        hold("UNIX client", client.into());
        sleepers.push(Sleeper::holding(OwnedFd::from(listener.try_clone().unwrap())));
        hold("UNIX listener", listener.into());
        let (one, other) = UnixStream::pair().unwrap();
        hold("one of a pair", one.into());
        hold("other of a pair", other.into());
        hold("UNIX socket without a name", UnixDatagram::unbound().unwrap().into());
        Sockets { held, sleepers, time_wait }
    }

    /// Whether the process is this one or one of its children.
    fn is_of_test(&self, pid: i32) -> bool {
        let children = self.sleepers.iter().map(|sleeper| sleeper.0.id());
        children.chain([std::process::id()]).any(|own| own.cast_signed() == pid)
    }
}

/// The reason why ss lacks a row.
fn reason_of_ss(row: &Row) -> Option<&'static str> {
    match row {
        Row { is_here: false, .. } => Some("in another network namespace"),
        Row { protocol: "136", .. } => Some("UDP-Lite: no option"),
        Row { protocol: "1" | "58", .. } => Some("ping: table not read"),
        _ => None,
    }
}

/// The reason why lsof lacks a row.
fn reason_of_lsof(row: &Row) -> Option<&'static str> {
    match row {
        Row { is_here: false, .. } => Some("in another network namespace"),
        Row { protocol: "1" | "58", .. } => Some("ping: table not read"),
        _ => None,
    }
}

/// The compared cells of a row.
struct Row<'a> {
    family: &'a str,
    protocol: &'a str,
    /// Whether the socket is in the network namespace of this process: ss and lsof read no other one.
    is_here: bool,
}

/// The rows by holder, without unheld sockets.
fn by_holder<'a>(rows: &'a [String], here: &str) -> BTreeMap<Holder, Row<'a>> {
    let row = |row: &'a String| {
        // A path can contain a bar.
        let cells: Vec<&str> = row.splitn(6, '|').collect();
        let (pid, fd) = (cells[0].parse().unwrap(), cells[1].parse().unwrap());
        let is_here = row.rsplit('|').next() == Some(here);
        let holder = (pid, fd, cells[2].parse().unwrap());
        let (family, protocol) = (cells[3], cells[4]);
        (pid != -1).then_some((holder, Row { family, protocol, is_here }))
    };
    rows.iter().filter_map(row).collect()
}

#[test]
fn the_table_has_every_holder_that_ss_and_lsof_have() {
    in_own_namespaces(TEST, compare);
}

fn compare() {
    std::fs::write("/proc/sys/net/ipv4/ping_group_range", "0 0").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let sockets = Sockets::new(folder.path());
    let before = holders();
    let rows_before = rows_where(&table(Path::new("/proc")), &[]);
    let every_kind = ["-H", "-n", "-a", "-p", "-e", "-O", "-t", "-u", "-w", "-x", "-0"];
    let (Some(ss), Some(lsof)) =
        (output_of("ss", &every_kind), output_of("lsof", &["-nP", "-F", "pftdi"]))
    else {
        return report_left_out(TEST, "needs ss (iproute2) and lsof");
    };
    let rows_after = rows_where(&table(Path::new("/proc")), &[]);
    // Sockets of other processes may be opened and closed meanwhile; those do not count.
    let lasting: BTreeSet<Holder> = before.intersection(&holders()).copied().collect();

    // A lasting socket can be bound, and so enter the tables, between two reads. Therefore each holder of a program
    // must be in one of the two answers, and each program must have a holder that is in both answers.
    let here = net_namespace("self");
    let [before, after] = [&rows_before, &rows_after].map(|rows| by_holder(rows, &here));
    let mut unexplained = Vec::new();
    let mut counts = BTreeMap::new();
    let programs: [(_, _, fn(&Row) -> _); 2] =
        [("ss", parse_ss(&ss), reason_of_ss), ("lsof", parse_lsof(&lsof), reason_of_lsof)];
    for (program, printed, reason) in &programs {
        for holder @ &(pid, fd, inode) in &lasting {
            let other = printed.get(&(pid, fd));
            match (before.get(holder), after.get(holder), other) {
                (None, None, Some(_)) => {
                    unexplained.push(format!("{holder:?}: {program} has it, the table lacks it"));
                }
                (_, _, Some(Some(other))) if *other != inode => {
                    unexplained.push(format!(
                        "{holder:?}: {program} prints {other}, /proc has another inode"
                    ));
                }
                (Some(row), Some(_), None) => match reason(row) {
                    Some(why) => *counts.entry((*program, why)).or_insert(0) += 1,
                    None => unexplained.push(format!(
                        "{holder:?}: {program} lacks it, of family {} and protocol {}",
                        row.family, row.protocol
                    )),
                },
                (_, _, Some(Some(_))) => {
                    *counts.entry((*program, "same inode")).or_insert(0) += 1;
                }
                (Some(Row { protocol: "255", .. }), _, Some(None)) if *program == "ss" => {
                    let why = "raw: without a dump, no inode";
                    *counts.entry((*program, why)).or_insert(0) += 1;
                }
                (_, _, Some(None)) => {
                    unexplained.push(format!("{holder:?}: {program} prints no inode"));
                }
                _ => {}
            }
        }
    }
    // The sockets of this test do not change: /proc must have each row of its processes.
    for holder in before.keys().chain(after.keys()) {
        if sockets.is_of_test(holder.0) && !lasting.contains(holder) {
            unexplained.push(format!("{holder:?}: the table has it, /proc lacks it"));
        }
    }
    let own: BTreeSet<_> = before.keys().filter(|holder| sockets.is_of_test(holder.0)).collect();
    for (kind, socket) in &sockets.held {
        let inode = rustix::fs::fstat(socket).unwrap().st_ino;
        let fd = socket.as_raw_fd();
        if !own.contains(&(std::process::id().cast_signed(), fd, inode)) {
            unexplained.push(format!("{fd}, {inode}: the table lacks the {kind} of this test"));
        }
    }
    check_time_wait(&sockets, &rows_before, &ss, &here);

    println!("{} of this test, {} of all, {counts:?}", own.len(), before.len());
    assert!(unexplained.is_empty(), "\n{}", unexplained.join("\n"));
    let same = |program| counts.get(&(program, "same inode")).copied().unwrap_or(0);
    assert!(own.len() >= 30 && same("ss") >= 25 && same("lsof") >= 25, "{counts:?}");
}

/// The connection in TIME_WAIT, which no process holds, is in both lists.
fn check_time_wait(sockets: &Sockets, rows_before: &[String], ss: &str, here: &str) {
    let [port, peer] = sockets.time_wait.map(|port| port.to_string());
    let is_time_wait =
        |row: &&String| row.contains(&format!("|127.0.0.1|127.0.0.1|{port}|{peer}||"));
    let of_time_wait: Vec<_> = rows_before.iter().filter(is_time_wait).collect();
    assert_eq!(
        of_time_wait,
        [&format!("-1|-1|0|2|6|127.0.0.1|127.0.0.1|{port}|{peer}||TIME_WAIT|{here}")]
    );
    let is_time_wait = |line: &&str| {
        let mut fields = line.split_whitespace().skip(4);
        let ends = [fields.next(), fields.next()];
        ends == [Some(&*format!("127.0.0.1:{port}")), Some(&*format!("127.0.0.1:{peer}"))]
    };
    let of_time_wait: Vec<_> = ss.lines().filter(is_time_wait).collect();
    assert_eq!(of_time_wait.len(), 1, "{of_time_wait:?}");
    assert!(of_time_wait[0].contains("TIME-WAIT"), "{of_time_wait:?}");
}
