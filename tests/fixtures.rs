//! The table over trees in the format of `/proc`: a captured one, and hostile ones.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;

use support::log_capture::logged;
use support::proc_tree::{ProcTree, TCP_HEADER, UNIX_HEADER, tcp_line, unix_line};
use support::rows::{rows_where, table};
use tables::{Error, QueryContext, Table, Value};

/// All rows of the tree, and the warnings of the scan.
fn read(tree: &ProcTree) -> (Vec<String>, Vec<String>) {
    read_where(tree, &[])
}

fn read_where(tree: &ProcTree, equals: &[(&str, &str)]) -> (Vec<String>, Vec<String>) {
    let (rows, log) = logged(|| rows_where(&table(tree.path()), equals));
    let root = tree.path().display().to_string();
    (rows, log.into_iter().map(|line| line.replace(&root, "PROC")).collect())
}

#[test]
fn a_captured_socket_of_each_kind_has_every_column() {
    let captured = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/one-of-each");
    let (rows, log) = logged(|| rows_where(&table(&captured), &[]));
    let mut expected = vec![
        // A TCP listener that the child holds, too.
        "100|3|19023|2|6|127.0.0.1|0.0.0.0|8001|0||LISTEN|4026532177",
        "200|3|19023|2|6|127.0.0.1|0.0.0.0|8001|0||LISTEN|4026532177",
        // A connection over IPv4; the child holds the client's end.
        "100|4|19024|2|6|127.0.0.1|127.0.0.1|40001|8001||ESTABLISHED|4026532177",
        "200|4|19024|2|6|127.0.0.1|127.0.0.1|40001|8001||ESTABLISHED|4026532177",
        "100|5|19025|2|6|127.0.0.1|127.0.0.1|8001|40001||ESTABLISHED|4026532177",
        // A listener on every address of both families, and a connection over each.
        "100|6|19026|10|6|::|::|8002|0||LISTEN|4026532177",
        "100|7|19027|10|6|::1|::1|40002|8002||ESTABLISHED|4026532177",
        "100|8|19028|10|6|::1|::1|8002|40002||ESTABLISHED|4026532177",
        "100|9|19029|2|6|127.0.0.1|127.0.0.1|40003|8002||ESTABLISHED|4026532177",
        "100|11|19030|10|6|::ffff:127.0.0.1|::ffff:127.0.0.1|8002|40003||ESTABLISHED|4026532177",
        // A connection that the server has not accepted.
        "100|12|19033|2|6|127.0.0.1|127.0.0.1|40004|8001||ESTABLISHED|4026532177",
        "-1|-1|0|2|6|127.0.0.1|127.0.0.1|8001|40004||ESTABLISHED|4026532177",
        "-1|-1|0|2|6|127.0.0.1|127.0.0.1|40005|8001||TIME_WAIT|4026532177",
        // UDP: bound, connected, and in flight.
        "100|13|19034|2|17|127.0.0.1|0.0.0.0|8003|0|||4026532177",
        "100|14|19035|10|17|::1|::1|8004|8005|||4026532177",
        "-1|-1|19681|2|17|127.0.0.1|0.0.0.0|8007|0|||4026532177",
        // Raw ICMP and ICMPv6, then ping sockets of both, then UDP-Lite.
        "100|15|19036|2|255|0.0.0.0|0.0.0.0|1|0|||4026532177",
        "100|16|19037|10|255|::|::|58|0|||4026532177",
        "100|17|19038|2|1|127.0.0.1|0.0.0.0|7|0|||4026532177",
        "100|18|19039|10|58|::1|::|9|0|||4026532177",
        "100|19|19040|2|136|127.0.0.1|0.0.0.0|8006|0|||4026532177",
        "100|20|19041|17|35020|||0|0||NONE|4026532177",
        // UNIX: a listener, a connection to it that it has not accepted, an abstract name, a
        // seqpacket socket, a pair.
        "100|21|19675|1|0|||0|0|a path with blanks||4026532177",
        "100|22|19676|1|0|||0|0|||4026532177",
        "-1|-1|0|1|0|||0|0|a path with blanks||4026532177",
        "100|23|19677|1|0|||0|0|@abstract@name||4026532177",
        "100|24|19678|1|0|||0|0|seqpacket||4026532177",
        "100|25|19679|1|0|||0|0|||4026532177",
        "100|26|19680|1|0|||0|0|||4026532177",
    ];
    expected.sort();
    assert_eq!(rows, expected);
    assert_eq!(log, [""; 0]);
}

#[test]
fn every_holder_of_a_socket_is_a_row() {
    let tree = ProcTree::default()
        .namespace(5)
        .file(5, "tcp", format!("{TCP_HEADER}{}", tcp_line(80, "1001")))
        .process(1, 5, &[(3, "1001"), (7, "1001")])
        .process(2, 5, &[(3, "1001")]);
    let expected = [
        "1|3|1001|2|6|127.0.0.1|0.0.0.0|80|0||LISTEN|5",
        "1|7|1001|2|6|127.0.0.1|0.0.0.0|80|0||LISTEN|5",
        "2|3|1001|2|6|127.0.0.1|0.0.0.0|80|0||LISTEN|5",
    ];
    assert_eq!(read(&tree).0, expected);
    assert_eq!(read_where(&tree, &[("pid", "1")]).0, expected[..2]);
}

#[test]
fn a_socket_that_the_kernel_prints_twice_is_one() {
    let lines = tcp_line(80, "1001").repeat(2);
    let tree = ProcTree::default()
        .namespace(5)
        .file(5, "tcp", format!("{TCP_HEADER}{lines}"))
        .process(1, 5, &[(3, "1001")]);
    assert_eq!(read(&tree).0, ["1|3|1001|2|6|127.0.0.1|0.0.0.0|80|0||LISTEN|5"]);
    assert_eq!(read_where(&tree, &[("pid", "1")]).0.len(), 1);
}

#[test]
fn a_connection_without_inode_that_is_listed_twice_is_one_row() {
    let line = |state: &str| {
        format!(
            "   0: 0100007F:1F90 0100007F:9C40 {state} 00000000:00000000 03:000001F4 00000000     0        \
             0 0 3 0000000000000000\n"
        )
    };
    // The connection changed from FIN_WAIT2 to TIME_WAIT during the read, and was listed again.
    let lines = line("05") + &line("06");
    let tree = ProcTree::default()
        .namespace(5)
        .file(5, "tcp", format!("{TCP_HEADER}{lines}"))
        .process(1, 5, &[]);
    let address = if cfg!(target_endian = "little") { "127.0.0.1" } else { "1.0.0.127" };
    let expected = format!("-1|-1|0|2|6|{address}|{address}|8080|40000||FIN_WAIT2|5");
    assert_eq!(read(&tree).0, [expected]);
}

#[test]
fn an_unheld_ping_socket_in_both_files_is_one_row() {
    let line = |address: &str, inode: u32| {
        let nowhere = "0".repeat(address.len());
        format!(
            "    1: {address}:0007 {nowhere}:0000 07 00000000:00000000 00:00000000 00000000     0        \
             0 {inode} 2 0000000000000000 0\n"
        )
    };
    let loopback = "00000000000000000000000001000000";
    let nowhere = "0".repeat(32);
    let tree = ProcTree::default().namespace(5).process(1, 5, &[]);
    let tree = tree
        .file(5, "icmp", line("0100007F", 1001) + &line("00000000", 1002) + &line("00000000", 1003))
        .file(5, "icmp6", line(&nowhere, 1001) + &line(&nowhere, 1002) + &line(loopback, 1003));
    let (inet, inet6) = (
        ["-1|-1|1001|2|1|127.0.0.1|0.0.0.0|7|0|||5", "-1|-1|1002|2|1|0.0.0.0|0.0.0.0|7|0|||5"],
        ["-1|-1|1003|10|58|::1|::|7|0|||5"],
    );
    assert_eq!(read(&tree).0, [&inet[..], &inet6].concat());
    assert_eq!(read_where(&tree, &[("family", "2")]).0, inet);
    assert_eq!(read_where(&tree, &[("family", "10")]).0, inet6);
}

#[test]
fn files_that_do_not_exist_are_normal() {
    let tree = ProcTree::default().namespace(5).process(1, 5, &[]);
    assert_eq!(read(&tree), (vec![], vec![]));
}

#[test]
fn a_malformed_line_is_one_omission_and_the_next_are_read() {
    let text = format!("{TCP_HEADER}{}nonsense\n{}", tcp_line(80, "1001"), tcp_line(81, "1002"));
    let tree = ProcTree::default().namespace(5).file(5, "tcp", text).process(1, 5, &[(3, "1002")]);
    let (rows, log) = read_where(&tree, &[("pid", "1")]);
    assert_eq!(rows, ["1|3|1002|2|6|127.0.0.1|0.0.0.0|81|0||LISTEN|5"]);
    assert_eq!(
        log,
        [
            "WARN malformed lines: 1 (first: line 3 of PROC/1/net/tcp); each may be a socket that is missing, \
             or the rest of a UNIX path with a newline"
        ]
    );
}

#[test]
fn a_cut_file_gives_its_whole_lines() {
    let whole = format!("{TCP_HEADER}{}{}", tcp_line(80, "1001"), tcp_line(81, "1002"));
    let inode_ends = whole.rfind("1002").unwrap() + 4;
    // The line is truncated inside the last inode, after it, and before the end of the line.
    for length in [inode_ends - 1, inode_ends, whole.len() - 1] {
        let tree = ProcTree::default().namespace(5).file(5, "tcp", &whole[..length]).process(
            1,
            5,
            &[(3, "1001"), (4, "1002"), (5, "100")],
        );
        let (rows, log) = read(&tree);
        assert_eq!(rows, ["1|3|1001|2|6|127.0.0.1|0.0.0.0|80|0||LISTEN|5"], "cut at {length}");
        assert_eq!(log.len(), 1, "{log:?}");
        assert!(log[0].contains("line 3 of PROC/1/net/tcp"), "{log:?}");
    }
}

/// A column of every row, in order.
fn column(tree: &ProcTree, name: &str) -> Vec<Option<String>> {
    let table = table(tree.path());
    let index = table.columns().iter().position(|column| column.name == name).unwrap();
    let rows = table.generate(&QueryContext::default()).unwrap();
    let cell = |row| match rows.cell(row, index) {
        Value::Null => None,
        Value::Integer(number) => Some(number.to_string()),
        Value::Text(text) => Some(text.into_owned()),
    };
    let mut cells: Vec<_> = (0..rows.len()).map(cell).collect();
    cells.sort();
    cells
}

#[test]
fn a_socket_is_unheld_only_if_every_process_was_read() {
    let tree = || {
        let text = format!("{TCP_HEADER}{}{}", tcp_line(80, "1001"), tcp_line(81, "1002"));
        let tree = ProcTree::default().namespace(5).file(5, "tcp", text);
        tree.process(1, 5, &[(3, "1001")]).process(2, 5, &[])
    };
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(column(&tree(), "holder_unknown"), [text(""), text("no_process")]);
    let denied = tree().with_unreadable_fds(2);
    assert_eq!(column(&denied, "holder_unknown"), [text(""), text("unreadable")]);
}

#[test]
fn the_scope_is_1_in_the_namespace_of_pid_1_and_0_elsewhere() {
    let listening = |port, inode| format!("{TCP_HEADER}{}", tcp_line(port, inode));
    let tree = || {
        ProcTree::default()
            .namespace(5)
            .file(5, "tcp", listening(80, "1001"))
            .namespace(6)
            .file(6, "tcp", listening(81, "1002"))
            .process(1, 5, &[(3, "1001")])
            .process(2, 6, &[(3, "1002")])
            .process(3, 5, &[])
    };
    let number = |number: &str| Some(number.to_owned());
    assert_eq!(column(&tree(), "scope"), [number("0"), number("1")]);
    // Another process in the namespace has a readable link with its number.
    assert_eq!(column(&tree().without_namespace_link(1), "scope"), [number("0"), number("1")]);
    // No process has a readable link.
    let unknown = tree().without_namespace_link(1).without_namespace_link(3);
    assert_eq!(column(&unknown, "scope"), [None, None]);
}

#[test]
fn an_empty_file_lists_nothing() {
    let tree = ProcTree::default().namespace(5).file(5, "unix", "").process(1, 5, &[]);
    assert_eq!(read(&tree), (vec![], vec![]));
}

#[test]
fn an_endless_line_is_one_omission() {
    let text = format!("{UNIX_HEADER}{}\n{}", "x".repeat(1 << 20), unix_line("7", "/run/a"));
    let tree = ProcTree::default().namespace(5).file(5, "unix", text).process(1, 5, &[(3, "7")]);
    let (rows, log) = read(&tree);
    assert_eq!(rows, ["1|3|7|1|0|||0|0|/run/a||5"]);
    assert_eq!(log.len(), 1, "{log:?}");
}

#[test]
fn an_unreadable_file_is_an_omission_and_others_are_read() {
    let tree = ProcTree::default()
        .namespace(5)
        .file(5, "tcp", format!("{TCP_HEADER}{}", tcp_line(80, "1001")))
        .unreadable_file(5, "udp")
        .process(1, 5, &[(3, "1001")]);
    let (rows, log) = read(&tree);
    assert_eq!(rows, ["1|3|1001|2|6|127.0.0.1|0.0.0.0|80|0||LISTEN|5"]);
    assert_eq!(
        log,
        [
            "WARN files of sockets not read to their end: 1 (first: PROC/1/net/udp: Is a directory (os \
          error 21)); sockets are missing"
        ]
    );
}

#[test]
fn a_newline_in_a_path_only_removes_the_rest_of_the_path() {
    let text = format!("{UNIX_HEADER}{}{}", unix_line("7", "/run/a\nb"), unix_line("8", "/run/c"));
    let tree =
        ProcTree::default().namespace(5).file(5, "unix", text).process(1, 5, &[(3, "7"), (4, "8")]);
    let (rows, log) = read(&tree);
    assert_eq!(rows, ["1|3|7|1|0|||0|0|/run/a||5", "1|4|8|1|0|||0|0|/run/c||5"]);
    assert_eq!(log.len(), 1, "{log:?}");
}

#[test]
fn a_line_forged_in_a_path_hides_no_true_one() {
    let forged = "/tmp/x\n0000000000000000: 00000002 00000000 00010000 0001 01 8 /forged";
    let text = format!("{UNIX_HEADER}{}{}", unix_line("7", forged), unix_line("8", "/run/true"));
    let tree = ProcTree::default().namespace(5).file(5, "unix", text).process(1, 5, &[(4, "8")]);
    let (rows, _) = read(&tree);
    assert!(rows.contains(&"1|4|8|1|0|||0|0|/run/true||5".to_string()), "{rows:?}");
}

#[test]
fn a_line_forged_in_one_netns_hides_no_socket_of_another() {
    let forged = format!("{UNIX_HEADER}{}", unix_line("8", "/forged"));
    let tree = ProcTree::default()
        .namespace(5)
        .namespace(6)
        .file(5, "unix", forged)
        .file(6, "unix", format!("{UNIX_HEADER}{}", unix_line("8", "/run/true")))
        .process(1, 5, &[(3, "8")])
        .process(2, 6, &[(4, "8")]);
    let all = read(&tree).0;
    assert_eq!(all.len(), 4, "{all:?}");
    for pid in ["1", "2"] {
        let of_pid: Vec<_> = all.iter().filter(|row| row.starts_with(pid)).cloned().collect();
        assert_eq!(read_where(&tree, &[("pid", pid)]).0, of_pid);
    }
    assert_eq!(read_where(&tree, &[("pid", "1"), ("pid", "2")]).0, all);
}

#[test]
fn inodes_of_20_digits_are_shown_as_signed_numbers() {
    let text = format!(
        "{TCP_HEADER}{}{}",
        tcp_line(80, "18446744073709551615"),
        tcp_line(81, "18446744073709551616")
    );
    let tree = ProcTree::default().namespace(5).file(5, "tcp", text).process(
        1,
        5,
        &[(3, "18446744073709551615"), (4, "18446744073709551616")],
    );
    let expected = ["1|3|-1|2|6|127.0.0.1|0.0.0.0|80|0||LISTEN|5"];
    let (rows, log) = read(&tree);
    assert_eq!(rows, expected);
    assert_eq!(log.len(), 1, "{log:?}");
    assert_eq!(read_where(&tree, &[("socket", "-1")]).0, expected);
}

#[test]
fn a_netns_is_read_once_if_one_member_hides_its_link() {
    let tree = ProcTree::default()
        .namespace(5)
        .file(5, "tcp", format!("{TCP_HEADER}{}", tcp_line(80, "1001")))
        .process(1, 5, &[(3, "1001")])
        .process(2, 5, &[])
        .without_namespace_link(1);
    let expected =
        (vec!["1|3|1001|2|6|127.0.0.1|0.0.0.0|80|0||LISTEN|5".to_string()], Vec::<String>::new());
    assert_eq!(read(&tree), expected);
    assert_eq!(read_where(&tree, &[("pid", "1")]), expected);
    assert_eq!(read_where(&tree, &[("net_namespace", "5")]), expected);
}

#[test]
fn a_namespace_with_an_unreadable_number_is_read() {
    let tree = ProcTree::default()
        .namespace(5)
        .file(5, "tcp", format!("{TCP_HEADER}{}", tcp_line(80, "1001")))
        .process(1, 5, &[(3, "1001")])
        .without_namespace_link(1);
    let (rows, log) = read(&tree);
    assert_eq!(rows, ["1|3|1001|2|6|127.0.0.1|0.0.0.0|80|0||LISTEN|"]);
    assert_eq!(log.len(), 1, "{log:?}");
    assert!(log[0].starts_with("WARN network namespaces whose number could not be read: 1"));
}

#[test]
fn a_process_has_its_sockets_of_another_namespace() {
    let tree = ProcTree::default()
        .namespace(5)
        .namespace(6)
        .file(6, "tcp", format!("{TCP_HEADER}{}", tcp_line(80, "1001")))
        .process(1, 5, &[(3, "1001")])
        .process(2, 6, &[]);
    let expected = ["1|3|1001|2|6|127.0.0.1|0.0.0.0|80|0||LISTEN|6"];
    assert_eq!(read(&tree).0, expected);
    assert_eq!(read_where(&tree, &[("pid", "1")]).0, expected);
    assert_eq!(read_where(&tree, &[("pid", "1"), ("net_namespace", "6")]).0, expected);
}

#[test]
fn sockets_of_processes_that_cannot_be_read_have_no_holder() {
    let tree = ProcTree::default()
        .namespace(5)
        .file(5, "tcp", format!("{TCP_HEADER}{}", tcp_line(80, "1001")))
        .process(1, 5, &[])
        .process(2, 5, &[])
        .with_unreadable_fds(1)
        .with_unreadable_fds(2);
    let (rows, log) = read(&tree);
    assert_eq!(rows, ["-1|-1|1001|2|6|127.0.0.1|0.0.0.0|80|0||LISTEN|5"]);
    assert_eq!(log.len(), 1, "{log:?}");
    assert!(log[0].starts_with("WARN processes whose file descriptors could not be read: 2"));
    assert_eq!(read_where(&tree, &[("pid", "-1")]).0, rows);
}

#[test]
fn an_omission_is_logged_once_and_not_for_each_row_of_a_join() {
    let tree = ProcTree::default().namespace(5).process(1, 5, &[]).with_unreadable_fds(1);
    let table = table(tree.path());
    let (_, log) = logged(|| {
        for _ in 0..100 {
            rows_where(&table, &[("pid", "1")]);
        }
    });
    assert_eq!(log.len(), 1, "{log:?}");
}

#[test]
fn only_the_requested_processes_are_read() {
    let tree = ProcTree::default()
        .namespace(5)
        .file(5, "tcp", format!("{TCP_HEADER}{}", tcp_line(80, "1001")))
        .process(1, 5, &[(3, "1001")])
        .process(2, 5, &[])
        .with_unreadable_fds(2);
    let (rows, log) = read_where(&tree, &[("pid", "1")]);
    assert_eq!((rows.len(), log), (1, vec![]));
    assert_eq!(read(&tree).1.len(), 1, "the other one would have been noticed");
}

#[test]
fn only_files_of_the_requested_family_and_protocol_are_read() {
    let tree = ProcTree::default()
        .namespace(5)
        .file(5, "tcp", format!("{TCP_HEADER}{}", tcp_line(80, "1001")))
        .unreadable_file(5, "udp")
        .unreadable_file(5, "unix")
        .process(1, 5, &[(3, "1001")]);
    let (rows, log) = read_where(&tree, &[("protocol", "6")]);
    assert_eq!((rows.len(), log), (1, vec![]));
    let (rows, log) = read_where(&tree, &[("family", "10")]);
    assert_eq!((rows.len(), log), (0, vec![]));
    assert_eq!(read_where(&tree, &[("family", "1")]).1.len(), 1, "unix is read on request");
}

#[test]
fn a_process_without_sockets_costs_no_file_of_sockets() {
    let tree = ProcTree::default().namespace(5).unreadable_file(5, "udp").process(1, 5, &[]);
    assert_eq!(read_where(&tree, &[("pid", "1")]), (vec![], vec![]));
    assert_eq!(read(&tree).1.len(), 1, "the file would have been noticed");
}

#[test]
fn a_pid_that_is_no_process_has_no_rows() {
    let tree = ProcTree::default().namespace(5).process(1, 5, &[]);
    assert_eq!(read_where(&tree, &[("pid", "77")]), (vec![], vec![]));
}

#[test]
fn a_directory_without_proc_is_an_error_with_its_path() {
    let directory = tempfile::tempdir().unwrap();
    let error = table(directory.path()).generate(&QueryContext::default()).map(|_| ()).unwrap_err();
    assert!(matches!(&error, Error::NotProc { path } if path == directory.path()), "{error:?}");
    assert!(error.to_string().contains(&directory.path().display().to_string()), "{error}");

    let missing = directory.path().join("missing");
    let error = table(&missing).generate(&QueryContext::default()).map(|_| ()).unwrap_err();
    assert!(
        matches!(&error, Error::Read { path, source }
            if *path == missing && source.kind() == std::io::ErrorKind::NotFound),
        "{error:?}"
    );
}
