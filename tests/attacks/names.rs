//! UNIX socket names that imitate a line of a file, a terminal escape sequence or the end of a string.

use std::collections::BTreeSet;

use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketType};

use super::attacker::{Attacker, bind_when_free, park, report_ready};
use super::scan::{NamedQuery, PROCFS, Row, SCANS, answer, sources, table};
use super::tally::{PidPromise, Sighting, Tally};
use super::{Attack, Test};
use crate::support::process::command;

pub(super) const ATTACKS: &[Attack] = &[("names", names)];

pub(super) const TESTS: &[Test] = &[
    ("hostile_names_forge_no_row_and_hide_no_socket", forge_no_row_and_hide_no_socket),
    ("hostile_names_put_no_control_byte_into_the_log", put_no_control_byte_into_the_log),
];

/// The inode in the forged lines.
const FORGED: &str = "4242424242";

/// The abstract names of the sockets, without the leading NUL.
fn hostile_names() -> Vec<Vec<u8>> {
    let line = format!("0000000000000000: 00000002 00000000 00010000 0001 01 {FORGED} /forged");
    let mut names: Vec<Vec<u8>> = vec![
        format!("a\n{line}").into_bytes(),
        format!("b\r\n{line}\n").into_bytes(),
        b"\x1b[2J\x1b[31mred\x07".to_vec(),
        b"nul\0inside\0".to_vec(),
        "left\u{202e}right".as_bytes().to_vec(),
        b"not\xff\xfeutf-8\xc0\x80".to_vec(),
        b"|-1|-1|0|".to_vec(),
        b"'\"; DROP TABLE x; --".to_vec(),
        vec![b' '; 20],
        vec![b'z'; 107],
    ];
    names.extend((1..=0x1f).map(|control| vec![b'c', control, b'd']));
    names
}

fn forge_no_row_and_hide_no_socket() {
    let attacker = Attacker::start("names", &[]);
    let bound: BTreeSet<String> = attacker.reported().iter().cloned().collect();
    assert_eq!(bound.len(), hostile_names().len());
    let pid = attacker.pid().to_string();
    let queries: [NamedQuery; 2] = [("SELECT *", &[]), ("pid = X", &[("pid", &pid)])];
    let mut tally = Tally::default();
    for source in sources("hostile_names_forge_no_row_and_hide_no_socket") {
        let table = table(source.1);
        for (query, equals) in (0..SCANS).flat_map(|_| queries) {
            let rows = answer(&table, equals);
            // Only in the text of /proc/net/unix does a forged line look like the others.
            let may_be_forged = |row: &Row| source == PROCFS && row.number("pid") == -1;
            let mut forged = rows.iter().filter(|row| row.has(&[("socket", FORGED)]));
            assert!(forged.all(may_be_forged), "{}, {query}", source.0);
            let of_attacker = rows.iter().filter(|row| row.has(&[("pid", &pid)]));
            let of_attacker: Vec<String> = of_attacker.map(|row| row.cell("socket")).collect();
            let count = of_attacker.len();
            let of_attacker: BTreeSet<String> = of_attacker.into_iter().collect();
            let sighting = Sighting::whole(of_attacker == bound && count == bound.len());
            tally.add(
                &format!("sockets of all names, {query}"),
                source,
                PidPromise::Always,
                sighting,
            );
        }
    }
    tally.check();
}

fn put_no_control_byte_into_the_log() {
    let _attacker = Attacker::start("names", &[]);
    for (name, _) in sources("hostile_names_put_no_control_byte_into_the_log") {
        let flags = ["query", &format!("--source={name}"), "--verbose"];
        let out = command().args(flags).arg("SELECT * FROM process_open_sockets").output().unwrap();
        assert!(out.status.success() && out.stdout.len() > 1000, "{name}: {}", out.stdout.len());
        let log = String::from_utf8(out.stderr).unwrap();
        let is_raw = |c: char| c != '\n' && c.is_control() || c == '\u{202e}';
        let raw: Vec<char> = log.chars().filter(|c| is_raw(*c)).collect();
        assert_eq!(raw, [' '; 0], "{name}: {log:?}");
        assert!(!log.lines().any(|line| line.starts_with("000000")), "{name}: {log:?}");
    }
}

/// Binds a socket to each name.
fn names(_: &[String]) -> ! {
    let bind = |name: Vec<u8>| {
        let socket = net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
        let address = SocketAddrUnix::new_abstract_name(&name).unwrap();
        bind_when_free(|| net::bind(&socket, &address));
        let inode = rustix::fs::fstat(&socket).unwrap().st_ino;
        std::mem::forget(socket);
        inode.to_string()
    };
    let inodes: Vec<String> = hostile_names().into_iter().map(bind).collect();
    // A log line may have the name of a thread beside the name of a socket.
    rustix::thread::set_name(c"\x1b[2J\nroot").unwrap();
    report_ready(&inodes.join(" "));
    park()
}
