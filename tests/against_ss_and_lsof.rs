//! The table beside ss(8) and lsof(8): what they know, it knows.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketType, ipproto};
use support::left_out::{is_root_or_say, say_left_out};
use support::rows::{rows_where, table};

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

/// The descriptors that ss names: `users:(("name",pid=1,fd=3),…)`.
fn of_ss(text: &str) -> BTreeSet<(i32, i32)> {
    let number = |text: &str| -> Option<i32> {
        text.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    };
    let mut named = BTreeSet::new();
    for user in text.lines().flat_map(|line| line.split(",pid=").skip(1)) {
        let fd = user.split_once(",fd=").and_then(|(_, fd)| number(fd));
        named.insert((number(user).unwrap(), fd.unwrap()));
    }
    named
}

/// Those in lsof's output for programs: a line `p` for each process, then one `f` for each descriptor.
fn of_lsof(text: &str) -> BTreeSet<(i32, i32)> {
    let (mut pid, mut named) = (0, BTreeSet::new());
    for line in text.lines() {
        match line.split_at(1) {
            ("p", number) => pid = number.parse().unwrap(),
            ("f", number) => {
                named.extend(number.parse().ok().map(|fd: i32| (pid, fd)));
            }
            _ => {}
        }
    }
    named
}

/// What a program prints; None if there is no such program.
fn printed(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).stderr(Stdio::null()).output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A child that holds a socket of ours.
struct Sleeper(Child);

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Sockets of all kinds that the kernel lets us have.
fn sockets(folder: &Path) -> Vec<Box<dyn std::any::Any>> {
    let mut held: Vec<Box<dyn std::any::Any>> = Vec::new();
    for address in [Ipv4Addr::LOCALHOST.into(), std::net::IpAddr::V6(Ipv6Addr::LOCALHOST)] {
        let listener = TcpListener::bind((address, 0)).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let server = listener.accept().unwrap();
        let waiting = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let udp = UdpSocket::bind((address, 0)).unwrap();
        let connected = UdpSocket::bind((address, 0)).unwrap();
        connected.connect(udp.local_addr().unwrap()).unwrap();
        let shared = OwnedFd::from(udp.try_clone().unwrap());
        let sleeper = Command::new("sleep").arg("600").stdin(shared).spawn().unwrap();
        held.push(Box::new(Sleeper(sleeper)));
        held.push(Box::new((listener.try_clone().unwrap(), listener, client, server, waiting)));
        held.push(Box::new((udp, connected)));
    }
    for (family, any) in [(AddressFamily::INET, "0.0.0.0:0"), (AddressFamily::INET6, "[::]:0")] {
        let ping = if family == AddressFamily::INET { ipproto::ICMP } else { ipproto::ICMPV6 };
        for (kind, protocol) in [
            (SocketType::RAW, ping),
            (SocketType::DGRAM, ping),
            (SocketType::DGRAM, ipproto::UDPLITE),
        ] {
            // Neither every kernel nor every setting has them.
            let Ok(socket) = net::socket(family, kind, Some(protocol)) else { continue };
            net::bind(&socket, &any.parse::<SocketAddr>().unwrap()).unwrap();
            held.push(Box::new(socket));
        }
    }
    let every = net::RawProtocol::new(u32::from(3_u16.to_be())).map(net::Protocol::from_raw);
    held.push(Box::new(net::socket(AddressFamily::PACKET, SocketType::RAW, every).unwrap()));
    for kind in [SocketType::STREAM, SocketType::SEQPACKET, SocketType::DGRAM] {
        let socket = net::socket(AddressFamily::UNIX, kind, None).unwrap();
        let name = format!("against {}", kind.as_raw());
        net::bind(&socket, &SocketAddrUnix::new(folder.join(&name)).unwrap()).unwrap();
        held.push(Box::new(socket));
    }
    let abstracted = net::socket(AddressFamily::UNIX, SocketType::DGRAM, None).unwrap();
    let name = format!("against {}", std::process::id());
    net::bind(&abstracted, &SocketAddrUnix::new_abstract_name(name.as_bytes()).unwrap()).unwrap();
    let listener = UnixListener::bind(folder.join("listener")).unwrap();
    let client = UnixStream::connect(folder.join("listener")).unwrap();
    held.push(Box::new((listener.accept().unwrap(), listener, client, abstracted)));
    held.push(Box::new((UnixStream::pair().unwrap(), UnixDatagram::unbound().unwrap())));
    held
}

/// Why neither of them shows a socket of that family and protocol.
fn is_known_to_neither(family: &str, protocol: &str) -> Option<&'static str> {
    match (family, protocol) {
        ("2" | "10", "1" | "58") => Some("ping sockets: neither reads their tables"),
        _ => None,
    }
}

#[test]
fn whatever_ss_and_lsof_know_of_a_holder_the_table_knows() {
    let test = "whatever_ss_and_lsof_know_of_a_holder_the_table_knows";
    if !is_root_or_say(test, "raw and packet sockets need CAP_NET_RAW") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let _sockets = sockets(folder.path());
    let before = holders();
    let rows = rows_where(&table(Path::new("/proc")), &[]);
    let every_kind = ["-H", "-n", "-a", "-p", "-t", "-u", "-w", "-x", "-0"];
    let (Some(ss), Some(lsof)) =
        (printed("ss", &every_kind), printed("lsof", &["-nP", "-i", "-U", "-F", "pf"]))
    else {
        return say_left_out(test, "needs ss (iproute2) and lsof");
    };
    // What others open and close meanwhile nobody can be held to.
    let lasting: BTreeSet<Holder> = before.intersection(&holders()).copied().collect();
    let (ss, lsof) = (of_ss(&ss), of_lsof(&lsof));

    let mut ours: BTreeMap<Holder, (String, String)> = BTreeMap::new();
    for row in &rows {
        let cells: Vec<&str> = row.split('|').collect();
        let holder =
            (cells[0].parse().unwrap(), cells[1].parse().unwrap(), cells[2].parse().unwrap());
        ours.insert(holder, (cells[3].to_owned(), cells[4].to_owned()));
    }
    let own_namespace = std::fs::read_link("/proc/self/ns/net").unwrap();
    let is_here = |pid: i32| {
        std::fs::read_link(format!("/proc/{pid}/ns/net")).is_ok_and(|link| link == own_namespace)
    };
    let (mut unknown_to_us, mut unknown_to_them, mut explained) = (vec![], vec![], BTreeMap::new());
    let (mut by_ss, mut by_lsof) = (0, 0);
    for &(pid, fd, inode) in &lasting {
        let named = [ss.contains(&(pid, fd)), lsof.contains(&(pid, fd))];
        by_ss += usize::from(named[0]);
        by_lsof += usize::from(named[1]);
        match ours.get(&(pid, fd, inode)) {
            None if named.contains(&true) => unknown_to_us.push((pid, fd, inode, named)),
            Some((family, protocol)) if !named.contains(&true) => {
                let why = is_known_to_neither(family, protocol);
                // They look into their own namespace alone.
                match why.or((!is_here(pid)).then_some("another network namespace")) {
                    Some(why) => *explained.entry(why).or_insert(0) += 1,
                    None => unknown_to_them.push((pid, fd, inode, family, protocol)),
                }
            }
            _ => {}
        }
    }
    let ours_of_lasting = lasting.iter().filter(|holder| ours.contains_key(holder)).count();
    println!("{ours_of_lasting} known here, {by_ss} to ss, {by_lsof} to lsof; {explained:?}");
    assert_eq!(unknown_to_us, []);
    assert_eq!(unknown_to_them, []);
    assert!(by_ss >= 25 && by_lsof >= 20, "{by_ss} {by_lsof}");
}
