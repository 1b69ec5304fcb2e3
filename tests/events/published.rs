//! Queries of the kind that are published for osquery's tables of socket events, with the table's name changed, and
//! `path` for `process_path`, `auid` for `uid`.

use crate::*;

#[test]
fn published_queries_return_rows_with_the_names_changed() {
    let test = "published_queries_return_rows_with_the_names_changed";
    let Some((core, _extension)) = collecting(test, &[]) else { return };
    let (listener, port) = listener();
    connect(&listener);
    let refused = closed_port();
    assert!(TcpStream::connect(("127.0.0.1", refused)).is_err());
    let of_test = format!("SELECT eid FROM process_socket_events WHERE remote_port = {port}");
    wait_for_rows(&core, &of_test, 2);
    let queries = [
        format!(
            "SELECT action, uid, family, local_address, local_port, process_path AS path, pid, remote_address, \
             remote_port, success, time FROM process_socket_events WHERE success = 1 AND action = 'connect' \
             AND process_path NOT IN ('/usr/bin/ssh', '/usr/bin/curl') \
             AND remote_address NOT IN ('::1', '', '0.0.0.0', '::') AND remote_port = {port}"
        ),
        format!(
            "SELECT pid, process_path, remote_address, remote_port, time FROM process_socket_events \
             WHERE action = 'connect' AND status = 'succeeded' AND remote_port IN (22, 443, {port})"
        ),
        "SELECT * FROM process_socket_events WHERE family IN (2, 10) AND time > (strftime('%s','now') - 120)"
            .to_owned(),
        format!(
            "SELECT s.pid, p.name, s.process_path, s.remote_address FROM process_socket_events s \
             JOIN processes p ON s.pid = p.pid WHERE s.remote_port = {port}"
        ),
        format!(
            "SELECT process_path, remote_address, remote_port, count(*) AS connections \
             FROM process_socket_events WHERE action = 'connect' GROUP BY 1, 2, 3 HAVING remote_port = {port}"
        ),
        format!(
            "SELECT tid, pid, parent, uid, gid, process_path, fd, family, type, protocol, local_address, \
             remote_address, local_port, remote_port, duration_ns, ntime, time, eid FROM process_socket_events \
             WHERE action = 'listen' AND local_port = {port}"
        ),
        format!(
            "SELECT datetime(time, 'unixepoch') AS at, uptime, process_name, errno FROM process_socket_events \
             WHERE status = 'failed' AND remote_port = {refused}"
        ),
        format!(
            "SELECT DISTINCT pid, process_path, process_cmdline FROM process_socket_events \
             WHERE action = 'accept' AND local_port = {port} AND protocol = 6"
        ),
        format!(
            "SELECT process_name, sum(bytes_sent) AS sent, sum(bytes_received) AS received \
             FROM process_socket_events WHERE action = 'close' AND remote_port = {port} GROUP BY pid"
        ),
        format!(
            "SELECT a.pid AS client, b.pid AS server FROM process_socket_events a JOIN process_socket_events b \
             ON a.local_port = b.remote_port AND a.remote_port = b.local_port \
             WHERE a.action = 'connect' AND b.action = 'accept' AND a.remote_port = {port}"
        ),
        format!(
            "SELECT e.time, s.state FROM process_socket_events e JOIN alt_process_open_sockets s \
             ON e.pid = s.pid AND e.local_port = s.local_port \
             WHERE e.action = 'listen' AND s.state = 'LISTEN' AND e.local_port = {port}"
        ),
    ];
    for sql in &queries {
        let rows = core.query(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
        assert!(!rows.is_empty(), "no rows: {sql}");
    }
}
