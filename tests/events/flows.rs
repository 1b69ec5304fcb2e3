//! Flows: what connections and datagrams carried.

use std::net::UdpSocket;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use rustix::net::sockopt::socket_cookie;

use crate::*;

/// A flood of sockets uses up the slots of every collection of the host.
static SLOTS: RwLock<()> = RwLock::new(());

/// There is no flood before this is dropped.
pub(crate) fn free_slots() -> RwLockReadGuard<'static, ()> {
    SLOTS.read().unwrap_or_else(PoisonError::into_inner)
}

/// Whether datagrams are counted; otherwise the test is reported as left out.
pub(crate) fn is_counting_or_report(test: &str, core: &Core) -> bool {
    let start = Instant::now();
    let mut row = program(core, "sock_recv_length");
    while row["detail"].contains("are being loaded") {
        assert!(start.elapsed() < TEST_TIMEOUT, "{row:?}");
        row = program(core, "sock_recv_length");
    }
    if row["value"] == "1" {
        return true;
    }
    assert!(row["detail"].contains("needs Linux 6.3"), "{}", row["detail"]);
    report_left_out(test, "the kernel is older than 6.3");
    false
}

#[test]
fn a_connection_that_ended_is_a_flow_of_each_side() {
    let test = "a_connection_that_ended_is_a_flow_of_each_side";
    let Some((core, _extension)) = collecting(test, &[]) else { return };
    let (listener, port) = listener();
    connect(&listener);
    let sql = format!(
        "SELECT direction, result, pid, closer_pid, protocol, bytes_sent, bytes_received, messages_sent, \
         bytes_retransmitted, min_rtt_us > 0 AS has_rtt, end_time - start_time < 60 AS is_short, duration_ns > 0 AS lasted \
         FROM process_socket_flows WHERE {} AND {port} IN (local_port, remote_port) ORDER BY direction",
        own_tcp()
    );
    let rows = wait_for_rows(&core, &sql, 2);
    let pid = std::process::id();
    let events = format!(
        "SELECT bytes_sent, bytes_received FROM process_socket_events WHERE action = 'close' \
         AND {} AND {port} IN (local_port, remote_port) ORDER BY remote_port",
        own_tcp()
    );
    let bytes: Vec<String> = core
        .query(&events)
        .unwrap()
        .iter()
        .map(|row| cells(row, &["bytes_sent", "bytes_received"]))
        .collect();
    let shown = |row: &Row| {
        let names = ["direction", "result", "pid", "closer_pid", "protocol", "messages_sent"];
        let numbers = ["bytes_retransmitted", "has_rtt", "is_short", "lasted"];
        format!("{} {}", cells(row, &names), cells(row, &numbers))
    };
    assert_eq!(shown(&rows[0]), format!("inbound|closed|{pid}|{pid}|6| 0|1|1|1"));
    assert_eq!(shown(&rows[1]), format!("outbound|closed|{pid}|{pid}|6| 0|1|1|1"));
    let of_flows = [&rows[0], &rows[1]].map(|row| cells(row, &["bytes_sent", "bytes_received"]));
    assert!(of_flows.iter().all(|flow| bytes.contains(flow)), "{of_flows:?} {bytes:?}");
}

#[test]
fn an_exchange_of_datagrams_is_a_flow_of_each_socket() {
    let test = "an_exchange_of_datagrams_is_a_flow_of_each_socket";
    let _slots = free_slots();
    let Some((core, _extension)) = collecting(test, &["--events-datagrams=count"]) else { return };
    if !is_counting_or_report(test, &core) {
        return;
    }
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut buffer = [0; 2000];
    for _ in 0..3 {
        client.send_to(&[1; 40], server.local_addr().unwrap()).unwrap();
        let (length, from) = server.recv_from(&mut buffer).unwrap();
        server.send_to(&[2; 1000], from).unwrap();
        assert_eq!((length, client.recv(&mut buffer).unwrap()), (40, 1000));
    }
    let cookies = [&server, &client].map(|socket| socket_cookie(socket).unwrap().to_string());
    drop((server, client));
    let sql = format!(
        "SELECT direction, result, pid, remote_address, bytes_sent, bytes_received, messages_sent, messages_received, \
         closer_pid, attribution FROM process_socket_flows WHERE socket_cookie IN ({}) ORDER BY direction",
        cookies.join(", ")
    );
    let rows = wait_for_rows(&core, &sql, 2);
    let shown = |row: &Row| {
        let names =
            ["direction", "result", "pid", "remote_address", "bytes_sent", "bytes_received"];
        let numbers = ["messages_sent", "messages_received", "closer_pid", "attribution"];
        format!("{} {}", cells(row, &names), cells(row, &numbers))
    };
    let pid = std::process::id();
    assert_eq!(shown(&rows[0]), format!("inbound|closed|{pid}|0.0.0.0|3000|120 3|3||exact"));
    assert_eq!(shown(&rows[1]), format!("outbound|closed|{pid}|127.0.0.1|120|3000 3|3||exact"));
}

#[test]
fn by_default_counting_begins_with_the_first_query_of_flows() {
    let test = "by_default_counting_begins_with_the_first_query_of_flows";
    let Some((core, _extension)) = collecting(test, &[]) else { return };
    assert_eq!(program(&core, "sock_recv_length")["value"], "0");
    core.query("SELECT * FROM process_socket_flows WHERE pid = -5").unwrap();
    if !is_counting_or_report(test, &core) {
        return;
    }
    let rows = core.query("SELECT value FROM socket_event_stats WHERE kind = 'flows'").unwrap();
    assert_ne!(rows[0]["value"], "");
}

/// More sockets than slots, and more rows than the table keeps: each socket has a flow, or is counted as one without.
/// `EVENTS_SOCKETS` changes their number.
#[test]
fn many_sockets_have_flows_or_are_counted() {
    // The rows of as many sockets, and those of all slots, are in the table at once.
    const BATCH: u64 = 10_000;
    const MAX_MEMORY: u64 = 64 << 20;
    let test = "many_sockets_have_flows_or_are_counted";
    let _slots = SLOTS.write().unwrap_or_else(PoisonError::into_inner);
    let Some((core, extension)) = collecting(test, &["--events-datagrams=count"]) else { return };
    if !is_counting_or_report(test, &core) {
        return;
    }
    let sockets = std::env::var("EVENTS_SOCKETS").map_or(100_000, |it| it.parse().unwrap());
    let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = receiver.local_addr().unwrap();
    let (mut flows, mut last) = (0, "0".to_owned());
    let mut count_new_flows = || {
        let sql = format!(
            "SELECT count(*) AS count, max(eid) AS last FROM process_socket_flows WHERE pid = {} \
             AND remote_port = {} AND messages_sent = 1 AND bytes_sent = 3 AND eid > {last}",
            std::process::id(),
            address.port(),
        );
        let row = &core.query(&sql).unwrap()[0];
        if row["count"] != "0" {
            last.clone_from(&row["last"]);
        }
        flows += row["count"].parse::<u64>().unwrap();
        flows
    };
    for number in 0..sockets {
        UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"abc", address).unwrap();
        if number % BATCH == 0 {
            count_new_flows();
        }
    }
    let start = Instant::now();
    loop {
        // Before the statistics: a flow that ends in between has a row in the next round.
        let flows = count_new_flows();
        let rows = core.query("SELECT kind, value FROM socket_event_stats").unwrap();
        let statistic = |kind: &str| {
            let row = rows.iter().find(|row| row["kind"] == kind).unwrap();
            row["value"].parse::<u64>().unwrap()
        };
        let [uncounted, lost] = ["uncounted_datagrams", "lost_flows"].map(statistic);
        let text =
            format!("{flows} flows, {uncounted} uncounted, {lost} lost, of {sockets} sockets");
        assert!(flows <= sockets, "{text}");
        if flows + uncounted + lost >= sockets && flows > 1_000 {
            eprintln!("{text}, {} bytes of memory", extension.peak_memory());
            break;
        }
        assert!(start.elapsed() < TEST_TIMEOUT, "{text}");
        std::thread::sleep(Duration::from_millis(200));
    }
    assert!(extension.peak_memory() <= MAX_MEMORY, "{} bytes", extension.peak_memory());
}
