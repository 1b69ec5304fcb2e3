//! For tests against the running kernel: a network namespace without other sockets, and sockets of
//! many kinds in it.

#![allow(clippy::unwrap_used)]

use std::any::Any;
use std::io::Write;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RawProtocol, RecvFlags, SendFlags, SocketAddrUnix, SocketType};

use crate::model::socket_table::SocketTable;
use crate::model::{ExtendedFields, Socket};

/// Reports on standard error, past the test runner's capture, that a test is left out and why:
/// `LEFT OUT: <test>: <reason>`. Lists of expected skips are compared with these lines: `why` has nothing in it
/// that differs from run to run.
pub(crate) fn report_skip(test: &str, why: &str) {
    let _ = std::io::stderr().write_all(format!("\nLEFT OUT: {test}: {why}\n").as_bytes());
}

/// Reports that a test has no BPF, and why: the test fails if `REQUIRE_BPF` is 1, and is left out otherwise.
pub(crate) fn report_skip_without_bpf(test: &str, error: &str) {
    let is_required = std::env::var("REQUIRE_BPF").is_ok_and(|value| value == "1");
    assert!(!is_required, "REQUIRE_BPF=1: {error}");
    report_skip(test, "needs BPF: Linux 5.11 or later, CAP_BPF and CAP_PERFMON");
    eprintln!("{error}");
}

/// Runs a test of a module in an empty network namespace with a loopback interface, and in a PID namespace: in a child
/// process that runs only this test. It needs root, or a user namespace; otherwise the test is reported as left out.
pub(crate) fn in_quiet_namespace(module: &str, test: &str, body: fn()) {
    const INSIDE: &str = "TEST_IN_QUIET_NAMESPACE";
    if std::env::var(INSIDE).is_ok_and(|inside| inside == test) {
        loopback_up().unwrap();
        return body();
    }
    let unshare = |command: &[&str]| {
        let mut unshare = Command::new("unshare");
        if !rustix::process::geteuid().is_root() {
            unshare.arg("--map-root-user");
        }
        // A scan there takes no longer on a host with many processes.
        unshare.args(["--net", "--pid", "--fork", "--kill-child", "--mount-proc"]);
        unshare.args(command).env(INSIDE, test).output()
    };
    if !unshare(&["true"]).is_ok_and(|output| output.status.success()) {
        return report_skip(test, "needs root: namespaces need CAP_SYS_ADMIN");
    }
    let program = std::env::current_exe().unwrap();
    let name = format!("{}::{test}", module.split_once("::").unwrap().1);
    let output = unshare(&[program.to_str().unwrap(), "--exact", &name, "--nocapture"]).unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let log = String::from_utf8_lossy(&output.stderr);
    // Past the capture of this process too.
    for line in log.lines().filter_map(|line| line.strip_prefix("LEFT OUT: ")) {
        let (test, why) = line.split_once(": ").unwrap();
        report_skip(test, why);
    }
    eprint!("{text}{log}");
    assert!(output.status.success() && text.contains("1 passed"), "{test} failed in its namespace");
}

/// Sets the flag IFF_UP of the interface 1 (rtnetlink(7)).
pub(crate) fn loopback_up() -> rustix::io::Result<()> {
    let socket = rustix::net::socket(AddressFamily::NETLINK, SocketType::RAW, None)?;
    let mut message = Vec::new();
    message.extend(32u32.to_ne_bytes()); // nlmsg_len
    message.extend(16u16.to_ne_bytes()); // nlmsg_type: RTM_NEWLINK
    message.extend(5u16.to_ne_bytes()); // nlmsg_flags: NLM_F_REQUEST | NLM_F_ACK
    message.extend([0; 8]); // nlmsg_seq, nlmsg_pid
    message.extend([0; 4]); // ifi_family, padding, ifi_type
    message.extend(1u32.to_ne_bytes()); // ifi_index
    message.extend(1u32.to_ne_bytes()); // ifi_flags: IFF_UP
    message.extend(1u32.to_ne_bytes()); // ifi_change: IFF_UP
    let kernel = SocketAddrNetlink::new(0, 0);
    rustix::net::sendto(&socket, &message, SendFlags::empty(), &kernel)?;
    let mut answer = [0; 64];
    rustix::net::recv(&socket, &mut answer, RecvFlags::empty())?;
    assert_eq!(answer[16..20], [0; 4], "an error number");
    Ok(())
}

/// The sockets that a file of the calling thread's namespace lists.
pub(crate) fn listed_sockets(file: SocketTable) -> Vec<Socket> {
    let text = std::fs::read(format!("/proc/thread-self/net/{}", file.name())).unwrap();
    let lines = text.strip_suffix(b"\n").unwrap().split(|&byte| byte == b'\n').skip(1);
    lines.map(|line| file.parse(line, ExtendedFields::empty()).unwrap()).collect()
}

/// Opens sockets of many kinds; they are open until the result is dropped.
pub(crate) fn open_many_kinds() -> Vec<Box<dyn Any>> {
    let mut held: Vec<Box<dyn Any>> = Vec::new();
    for address in ["127.0.0.1:0", "[::1]:0", "[::]:0"] {
        let listener = TcpListener::bind(address).unwrap();
        let port = listener.local_addr().unwrap().port();
        let host = if address.starts_with('[') { "::1" } else { "127.0.0.1" };
        for _ in 0..4 {
            held.push(Box::new(TcpStream::connect((host, port)).unwrap()));
            held.push(Box::new(listener.accept().unwrap()));
        }
        // TIME_WAIT; CLOSE_WAIT and the orphaned other end; a connection with unread bytes; one that is not accepted.
        drop(TcpStream::connect((host, port)).unwrap());
        drop(listener.accept().unwrap());
        let closing = TcpStream::connect((host, port)).unwrap();
        held.push(Box::new(listener.accept().unwrap()));
        drop(closing);
        let mut writing = TcpStream::connect((host, port)).unwrap();
        writing.write_all(b"bytes").unwrap();
        held.push(Box::new(writing));
        if address == "[::]:0" {
            held.push(Box::new(TcpStream::connect(("127.0.0.1", port)).unwrap()));
        }
        held.push(Box::new(listener));
        let udp = UdpSocket::bind(address).unwrap();
        held.push(Box::new(udp.try_clone().unwrap()));
        let connected = UdpSocket::bind((host, 0)).unwrap();
        connected.connect((host, udp.local_addr().unwrap().port())).unwrap();
        held.push(Box::new(connected));
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a listener");
    let listener = UnixListener::bind(&path).unwrap();
    held.push(Box::new(UnixStream::connect(&path).unwrap()));
    held.push(Box::new(listener.accept().unwrap()));
    for _ in 0..5 {
        held.push(Box::new(UnixStream::connect(&path).unwrap()));
    }
    held.push(Box::new(listener));
    let name = SocketAddr::from_abstract_name(b"sock_diag\0test@").unwrap();
    held.push(Box::new(UnixDatagram::bind_addr(&name).unwrap()));
    held.push(Box::new(UnixDatagram::unbound().unwrap()));
    held.push(Box::new(UnixStream::pair().unwrap()));
    let longest = SocketAddrUnix::new(folder.path().join("x".repeat(60))).unwrap();
    let datagram = rustix::net::socket(AddressFamily::UNIX, SocketType::DGRAM, None).unwrap();
    rustix::net::bind(&datagram, &longest).unwrap();
    held.push(Box::new(datagram));
    let ethertype = RawProtocol::new(u32::from(0x88ccu16.to_be())).unwrap();
    let packet = rustix::net::socket(
        AddressFamily::PACKET,
        SocketType::RAW,
        Some(rustix::net::Protocol::from_raw(ethertype)),
    );
    held.push(Box::new(packet.unwrap()));
    held.push(Box::new(folder));
    wait_until_settled();
    held
}

/// Waits until the connections have left the closing states: the acknowledgement of a FIN can take some time.
fn wait_until_settled() {
    const CLOSE_TIMEOUT: Duration = Duration::from_secs(30);
    let is_closing =
        |socket: &Socket| matches!(socket.state(), "FIN_WAIT1" | "LAST_ACK" | "CLOSING");
    let end = Instant::now() + CLOSE_TIMEOUT;
    while [SocketTable::Tcp, SocketTable::Tcp6]
        .into_iter()
        .flat_map(listed_sockets)
        .any(|s| is_closing(&s))
    {
        assert!(Instant::now() < end, "connections are still closing");
        std::thread::sleep(Duration::from_millis(10));
    }
}
