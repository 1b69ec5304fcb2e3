//! Datagram sockets that are open, and their ends.

use std::net::UdpSocket;
use std::os::fd::AsRawFd;

use rustix::net::sockopt::socket_cookie;

use crate::flows::{free_slots, is_counting_or_report};
use crate::*;

#[test]
fn open_datagram_sockets_have_bytes_while_they_are_counted() {
    let test = "open_datagram_sockets_have_bytes_while_they_are_counted";
    let old = UdpSocket::bind("127.0.0.1:0").unwrap();
    let Some((core, _extension)) = collecting(test, &["--events-datagrams=count"]) else { return };
    if !is_counting_or_report(test, &core) {
        return;
    }
    let new = UdpSocket::bind("127.0.0.1:0").unwrap();
    for size in [3, 70, 0] {
        new.send_to(&vec![7; size], old.local_addr().unwrap()).unwrap();
        old.send_to(&vec![7; 2 * size], new.local_addr().unwrap()).unwrap();
    }
    new.recv(&mut [0; 1000]).unwrap();
    let bytes = |socket: &UdpSocket, constraint: &str| {
        let (fd, pid) = (socket.as_raw_fd(), std::process::id());
        let sql = format!(
            "SELECT bytes_sent, bytes_received FROM alt_process_open_sockets WHERE {constraint} AND pid + 0 = {pid} AND fd + 0 = {fd}"
        );
        let rows = core.query(&sql).unwrap();
        assert_eq!(rows.len(), 1, "{rows:?}");
        cells(&rows[0], &["bytes_sent", "bytes_received"])
    };
    // By a lookup, and by a full scan.
    for constraint in [format!("pid = {}", std::process::id()), "1".to_owned()] {
        assert_eq!(
            (bytes(&new, &constraint), bytes(&old, &constraint)),
            ("73|6".into(), "|".into())
        );
    }
}

#[test]
fn a_closed_datagram_socket_has_its_exact_end() {
    let test = "a_closed_datagram_socket_has_its_exact_end";
    let _slots = free_slots();
    let flags = ["--events-datagrams=exact-end"];
    let Some((core, _extension)) = collecting(test, &flags) else { return };
    if !is_counting_or_report(test, &core) {
        return;
    }
    let row = program(&core, "cgroup/sock_release");
    if row["value"] != "1" {
        let detail = &row["detail"];
        let is_expected = ["control groups", "CAP_NET_ADMIN"].iter().any(|it| detail.contains(it));
        assert!(is_expected, "{detail}");
        return report_left_out(
            test,
            "no program can be attached to the root of the control groups",
        );
    }
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.send_to(&[7; 40], server.local_addr().unwrap()).unwrap();
    server.recv(&mut [0; 100]).unwrap();
    let cookie = socket_cookie(&server).unwrap();
    drop((client, server));
    let sql = format!(
        "SELECT pid, bytes_sent, bytes_received, closed_by FROM process_socket_events \
         WHERE action = 'close' AND socket_cookie = {cookie}"
    );
    let pid = std::process::id();
    let rows = wait_for_rows(&core, &sql, 1);
    let names = ["pid", "bytes_sent", "bytes_received", "closed_by"];
    assert_eq!(cells(&rows[0], &names), format!("{pid}|0|40|local"));
    let sql = format!(
        "SELECT f.result, f.closer_pid, f.end_time - e.time AS late, f.duration_ns > 0 AS lasted \
         FROM process_socket_flows f JOIN process_socket_events e ON f.socket_cookie = e.socket_cookie \
         WHERE e.action = 'close' AND f.socket_cookie = {cookie}"
    );
    let rows = wait_for_rows(&core, &sql, 1);
    let names = ["result", "closer_pid", "lasted"];
    assert_eq!(cells(&rows[0], &names), format!("closed|{pid}|1"));
    assert!(["-1", "0"].contains(&&*rows[0]["late"]), "{rows:?}");
}
