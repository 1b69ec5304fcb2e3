//! The queries of the pack for events, on sockets for which they are made.

use std::collections::BTreeSet;
use std::net::UdpSocket;

use serde_json::Value;

use crate::flows::{free_slots, is_counting_or_report};
use crate::support::isolated::in_own_namespaces;
use crate::support::other_end::ip;
use crate::*;

/// The query of the pack.
fn query(name: &str) -> String {
    let pack: Value =
        serde_json::from_str(include_str!("../../packaging/packs/socket_events.conf")).unwrap();
    pack["queries"][name]["query"].as_str().unwrap_or_else(|| panic!("{name}")).to_owned()
}

/// Waits until all expected rows are there, by these cells. There must be no others then.
fn assert_found(core: &Core, sql: &str, names: &[&str], expected: &[&str]) {
    let expected: BTreeSet<String> = expected.iter().map(|row| (*row).to_owned()).collect();
    let start = Instant::now();
    loop {
        let rows = core.query(sql).unwrap();
        let found: BTreeSet<String> = rows.iter().map(|row| cells(row, names)).collect();
        if found.is_superset(&expected) {
            assert_eq!(found, expected, "{sql}");
            return;
        }
        assert!(start.elapsed() < TEST_TIMEOUT, "{found:?}, not {expected:?}: {sql}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A datagram to each of these addresses, from one socket.
fn send(from: &str, to: &[&str]) {
    let socket = UdpSocket::bind(from).unwrap();
    for address in to {
        socket.send_to(b"query", address).unwrap();
    }
}

/// A connection with so many bytes from the client to the server.
fn transfer(address: &str, bytes: usize) {
    let listener = TcpListener::bind(address).unwrap();
    std::thread::scope(|scope| {
        let read = scope.spawn(|| {
            std::io::copy(&mut listener.accept().unwrap().0, &mut std::io::sink()).unwrap()
        });
        let mut client = TcpStream::connect(address).unwrap();
        client.write_all(&vec![7; bytes]).unwrap();
        drop(client);
        assert_eq!(read.join().unwrap(), bytes as u64);
    });
}

/// Other hosts are addresses of the loopback interface that are not loopback addresses.
#[test]
fn the_queries_of_the_pack_find_what_they_are_for() {
    let _slots = free_slots();
    in_own_namespaces("packs::the_queries_of_the_pack_find_what_they_are_for", || {
        let test = "the_queries_of_the_pack_find_what_they_are_for";
        ip(&["address", "add", "192.0.2.0/24", "dev", "lo"]);
        ip(&["address", "add", "2001:db8::ffff:5", "dev", "lo", "nodad"]);
        let flags = ["--events-datagrams=count"];
        let Some((core, _extension)) = collecting(test, &flags) else { return };
        if !is_counting_or_report(test, &core) {
            return;
        }
        transfer("192.0.2.1:1000", 11_000_000);
        transfer("127.0.0.1:1001", 11_000_000);
        transfer("192.0.2.1:1002", 70);
        send("0.0.0.0:2000", &["192.0.2.1:53"]);
        // Not the first peer that is away, but the socket can reach it.
        send("0.0.0.0:2001", &["127.0.0.1:3000", "192.0.2.1:3000"]);
        send("127.0.0.1:2002", &["127.0.0.1:53"]);
        let refuse = |address: String| _ = TcpStream::connect(address).unwrap_err();
        (1..=10).for_each(|port| refuse(format!("192.0.2.2:{port}")));
        (11..=20).for_each(|port| refuse(format!("[::ffff:192.0.2.2]:{port}")));
        (1..=20).for_each(|port| refuse(format!("[2001:db8::ffff:5]:{port}")));
        (3..=22).for_each(|host| refuse(format!("192.0.2.{host}:22")));

        let names = ["remote_port"];
        let sql = own("outgoing_connections", "remote_port > 22");
        assert_found(&core, &sql, &names, &["1000", "1002"]);
        let names = ["local_address", "local_port"];
        let found = ["192.0.2.1|1000", "127.0.0.1|1001", "192.0.2.1|1002"];
        assert_found(&core, &own("new_listeners", "1"), &names, &found);
        let names = ["remote_address"];
        assert_found(&core, &own("dns_senders", "1"), &names, &["192.0.2.1"]);
        let group = own_group(&core);
        let of_resolver = own("dns_senders", "1").replace("/system.slice/named.service", &group);
        assert_found(&core, &of_resolver, &names, &[]);
        let names = ["host", "ports", "processes"];
        let found = ["192.0.2.2|20|1", "2001:db8::ffff:5|20|1"];
        assert_found(&core, &own("port_scans", "1"), &names, &found);
        let names = ["remote_port", "hosts", "processes"];
        assert_found(&core, &own("host_scans", "1"), &names, &["22|20|1"]);
        let names = ["remote_address", "bytes_sent"];
        let found = ["192.0.2.1|11000000", "127.0.0.1|11000000"];
        assert_found(&core, &own("transfers", "bytes_sent > 0"), &names, &found);

        // In a period that is so long that none ends during this test. The connects that failed are flows, too.
        let talkers = own("top_talkers", "1")
            .replace("600", "6000000")
            .replace("'now'", "'now', '+6000000 seconds'");
        let pid = std::process::id();
        let names = ["pid", "flows", "sent", "received"];
        assert_found(&core, &talkers, &names, &[&format!("{pid}|67|11000090|11000070")]);
        // Now the rows of all flows are there.
        let names = ["remote_address", "remote_port", "bytes_sent"];
        let found = ["192.0.2.1|1002|70", "192.0.2.1|53|5", "127.0.0.1|3000|10"];
        assert_found(&core, &own("short_connections", "bytes_sent < 100"), &names, &found);
        let names = ["remote_address", "messages_sent", "bytes_received"];
        let found = ["192.0.2.1|1|0", "127.0.0.1|1|0"];
        assert_found(&core, &documented("remote_port = 53"), &names, &found);
        let names = ["pid", "sent", "received"];
        let found = format!("{pid}|22000090|22000070");
        assert_found(&core, &documented("sum(bytes_sent) AS sent"), &names, &[&found]);
    });
}

/// The control group of this process, as events show it.
fn own_group(core: &Core) -> String {
    let sql = "SELECT process_cgroup_path AS path FROM process_socket_events WHERE action = 'send' AND pid > 0";
    let group = core.query(sql).unwrap()[0]["path"].clone();
    assert!(group.starts_with('/'), "this test needs a cgroup2 hierarchy: {group}");
    group
}

/// The query of the pack, for processes of this PID namespace: other tests make events, too.
fn own(name: &str, condition: &str) -> String {
    of_namespace(&query(name), condition)
}

/// The query of flows in the documentation that contains this text.
fn documented(text: &str) -> String {
    let page = include_str!("../../docs/events.md");
    let mut queries = page.split("```sql\n").skip(1).filter_map(|rest| rest.split("```").next());
    let is_it = |query: &&str| query.contains("process_socket_flows") && query.contains(text);
    of_namespace(queries.find(is_it).unwrap_or_else(|| panic!("{text}")), "1")
}

fn of_namespace(query: &str, condition: &str) -> String {
    let query = query.trim_end().trim_end_matches(';');
    format!("SELECT * FROM ({query}) WHERE pid > 0 AND {condition}")
}
