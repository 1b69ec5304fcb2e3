//! The table over this host's `/proc`: a socket of each kind, opened by the test, in every column.
//!
//! Nothing here starts a process: until a child is a program of its own it holds all that this
//! process holds, and would rightly be shown.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

mod support;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;

use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketType, ipproto};
use support::left_out::{is_root_or_say, say_left_out};
use support::own::{imitate_line_about, inode, net_namespace, pid, row, rows_of};
use support::rows::{rows_where, table};

#[test]
fn tcp_over_ipv4_listening_and_established() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let client = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    let (server, peer) = listener.accept().unwrap();
    let peer = peer.port();
    let expected = row(&listener, &format!("2|6|127.0.0.1|0.0.0.0|{port}|0||LISTEN"));
    assert_eq!(rows_of(&listener), [expected]);
    let expected = row(&client, &format!("2|6|127.0.0.1|127.0.0.1|{peer}|{port}||ESTABLISHED"));
    assert_eq!(rows_of(&client), [expected]);
    let expected = row(&server, &format!("2|6|127.0.0.1|127.0.0.1|{port}|{peer}||ESTABLISHED"));
    assert_eq!(rows_of(&server), [expected]);
}

#[test]
fn tcp_over_ipv6_listening_and_established() {
    let listener = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let client = TcpStream::connect((Ipv6Addr::LOCALHOST, port)).unwrap();
    let (server, peer) = listener.accept().unwrap();
    let peer = peer.port();
    let expected = row(&listener, &format!("10|6|::1|::|{port}|0||LISTEN"));
    assert_eq!(rows_of(&listener), [expected]);
    let expected = row(&client, &format!("10|6|::1|::1|{peer}|{port}||ESTABLISHED"));
    assert_eq!(rows_of(&client), [expected]);
    let expected = row(&server, &format!("10|6|::1|::1|{port}|{peer}||ESTABLISHED"));
    assert_eq!(rows_of(&server), [expected]);
}

#[test]
fn a_connection_from_ipv4_to_an_ipv6_listener_shows_the_mapped_address() {
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let _client = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    let (server, peer) = listener.accept().unwrap();
    let rest =
        format!("10|6|::ffff:127.0.0.1|::ffff:127.0.0.1|{port}|{}||ESTABLISHED", peer.port());
    assert_eq!(rows_of(&server), [row(&server, &rest)]);
}

#[test]
fn a_connection_that_nobody_accepted_has_no_inode_and_no_holder() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let client = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    let peer = client.local_addr().unwrap().port();
    let rows = rows_where(
        &table(Path::new("/proc")),
        &[("local_port", &port.to_string()), ("remote_port", &peer.to_string())],
    );
    let namespace = net_namespace("self");
    let expected =
        format!("-1|-1|0|2|6|127.0.0.1|127.0.0.1|{port}|{peer}||ESTABLISHED|{namespace}");
    assert_eq!(rows, [expected]);
}

#[test]
fn udp_bound_and_connected() {
    let bound = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = bound.local_addr().unwrap().port();
    assert_eq!(rows_of(&bound), [row(&bound, &format!("2|17|127.0.0.1|0.0.0.0|{port}|0||"))]);
    let connected = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
    connected.connect(SocketAddr::from((Ipv6Addr::LOCALHOST, 9))).unwrap();
    let port = connected.local_addr().unwrap().port();
    assert_eq!(rows_of(&connected), [row(&connected, &format!("10|17|::1|::1|{port}|9||"))]);
}

#[test]
fn udplite_where_the_kernel_has_it() {
    let Ok(socket) = net::socket(AddressFamily::INET, SocketType::DGRAM, Some(ipproto::UDPLITE))
    else {
        say_left_out("udplite_where_the_kernel_has_it", "this kernel has no UDP-Lite");
        return;
    };
    net::bind(&socket, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let port = SocketAddr::try_from(net::getsockname(&socket).unwrap()).unwrap().port();
    assert_eq!(rows_of(&socket), [row(&socket, &format!("2|136|127.0.0.1|0.0.0.0|{port}|0||"))]);
}

#[test]
fn raw_sockets_show_the_ip_protocol_as_port() {
    if !is_root_or_say("raw_sockets_show_the_ip_protocol_as_port", "a raw socket needs CAP_NET_RAW")
    {
        return;
    }
    let raw = |family, protocol| net::socket(family, SocketType::RAW, Some(protocol)).unwrap();
    let four = raw(AddressFamily::INET, ipproto::ICMP);
    assert_eq!(rows_of(&four), [row(&four, "2|255|0.0.0.0|0.0.0.0|1|0||")]);
    let six = raw(AddressFamily::INET6, ipproto::ICMPV6);
    assert_eq!(rows_of(&six), [row(&six, "10|255|::|::|58|0||")]);
}

#[test]
fn packet_sockets_show_the_ethertype() {
    if !is_root_or_say("packet_sockets_show_the_ethertype", "a packet socket needs CAP_NET_RAW") {
        return;
    }
    let lldp = rustix::net::RawProtocol::new(u32::from(0x88cc_u16.to_be())).unwrap();
    let socket = net::socket(
        AddressFamily::PACKET,
        SocketType::RAW,
        Some(rustix::net::Protocol::from_raw(lldp)),
    )
    .unwrap();
    assert_eq!(rows_of(&socket), [row(&socket, "17|35020|||0|0||NONE")]);
}

#[test]
fn unix_sockets_show_paths_with_blanks_and_abstract_names() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a path  with blanks ");
    let shown = path.to_str().unwrap();

    let listener = UnixListener::bind(&path).unwrap();
    assert_eq!(rows_of(&listener), [row(&listener, &format!("1|0|||0|0|{shown}|"))]);
    let client = UnixStream::connect(&path).unwrap();
    let (server, _) = listener.accept().unwrap();
    assert_eq!(rows_of(&client), [row(&client, "1|0|||0|0||")]);
    assert_eq!(rows_of(&server), [row(&server, &format!("1|0|||0|0|{shown}|"))]);

    let path = directory.path().join("datagram");
    let datagram = UnixDatagram::bind(&path).unwrap();
    let expected = row(&datagram, &format!("1|0|||0|0|{}|", path.display()));
    assert_eq!(rows_of(&datagram), [expected]);

    let seqpacket = net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
    let name = format!("seq\0packet {}", pid());
    let address = SocketAddrUnix::new_abstract_name(name.as_bytes()).unwrap();
    net::bind(&seqpacket, &address).unwrap();
    let expected = row(&seqpacket, &format!("1|0|||0|0|@seq@packet {}|", pid()));
    assert_eq!(rows_of(&seqpacket), [expected]);
}

#[test]
fn a_path_that_imitates_a_line_about_another_kind_of_socket_is_not_believed() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let _forger = imitate_line_about(&inode(&listener));
    let expected = row(&listener, &format!("2|6|127.0.0.1|0.0.0.0|{port}|0||LISTEN"));
    assert_eq!(rows_of(&listener), [expected]);
}
