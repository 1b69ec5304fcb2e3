//! A simulated Mac: processes, descriptors and lists, in the records of the kernel.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::CStr;
use std::io;
use std::net::IpAddr;
use std::slice::from_ref;
use std::time::Duration;

use super::Collector;
use crate::formats::macos::pcblist_n::PcbList;
use crate::formats::macos::proc_bsdinfo;
use crate::formats::macos::xnu_records::{KernelSocket, Layout, header, value};
use crate::macos::calls::{Calls, EBADF, ENOENT, ENOMEM, ENOTSOCK, ESRCH};
use crate::model::Families;
use crate::model::holders::HolderLimits;
use crate::model::omission::{OmissionKind, Omissions};
use crate::process_open_sockets::columns::Field;
use crate::process_open_sockets::correlate::correlate;
use crate::process_open_sockets::filter::Filter;
use crate::{ColumnsUsed, Constraint, Error, Operator, QueryContext, Rows, Value};

const EPERM: i32 = 1;
const EIO: i32 = 5;

/// What a descriptor is.
#[derive(Clone, Debug)]
enum Descriptor {
    File,
    Socket(KernelSocket),
    /// A socket; the kernel returns its record.
    Refused(i32),
    /// A socket; the kernel returns these bytes.
    Bytes(Vec<u8>),
}

#[derive(Clone, Debug)]
enum Process {
    Holding(BTreeMap<i32, Descriptor>),
    Refused(i32),
}

#[derive(Debug, Default)]
struct Mac {
    processes: BTreeMap<i32, Process>,
    /// A list, for each time that it is read; the last stays.
    lists: BTreeMap<&'static CStr, Vec<Result<Vec<u8>, i32>>>,
    /// The processes after one was read.
    later: BTreeMap<i32, Vec<(i32, Process)>>,
    /// The processes and lists that were read.
    calls: Vec<String>,
    pids_fail: bool,
    /// When a process started, for each time that it is read; the last stays. 0: it has ended.
    starts: BTreeMap<i32, Vec<u64>>,
    /// How often they can be listed, if not always.
    pids_fail_after: Option<u8>,
}

thread_local! {
    static MAC: RefCell<Mac> = RefCell::default();
}

const CALLS: Calls = Calls { pids, fds, socket, value: list, uid: |_| None, info, path, arguments };

/// When the processes started; a call takes the next, the last stays.
fn info(pid: i32, buffer: &mut [u8]) -> io::Result<usize> {
    let start = MAC.with_borrow_mut(|mac| {
        let starts = mac.starts.entry(pid).or_insert_with(|| vec![1_790_000_000]);
        if starts.len() > 1 { starts.remove(0) } else { starts[0] }
    });
    if start == 0 {
        return refused(ESRCH);
    }
    let mut record = [0; proc_bsdinfo::LENGTH];
    record[16..20].copy_from_slice(&1_u32.to_ne_bytes());
    record[20..24].copy_from_slice(&0_u32.to_ne_bytes());
    record[28..32].copy_from_slice(&501_u32.to_ne_bytes());
    record[64..69].copy_from_slice(b"a nam");
    record[120..128].copy_from_slice(&start.to_ne_bytes());
    Ok(fill(buffer, &record))
}

fn path(pid: i32, buffer: &mut [u8]) -> io::Result<usize> {
    if pid == 8 { refused(1) } else { Ok(fill(buffer, b"/bin/a longer name")) }
}

fn arguments(pid: i32, buffer: &mut [u8]) -> io::Result<usize> {
    if pid == 8 { refused(1) } else { Ok(fill(buffer, b"\x02\0\0\0/bin/a\0\0a\0b c\0HOME=/\0")) }
}

fn refused<T>(number: i32) -> io::Result<T> {
    Err(io::Error::from_raw_os_error(number))
}

/// As much as fits, or the size with some room.
fn fill(buffer: &mut [u8], bytes: &[u8]) -> usize {
    if buffer.is_empty() {
        return bytes.len() + 160;
    }
    let length = buffer.len().min(bytes.len());
    buffer[..length].copy_from_slice(&bytes[..length]);
    length
}

fn pids(buffer: &mut [u8]) -> io::Result<usize> {
    MAC.with_borrow_mut(|mac| {
        if mac.pids_fail || mac.pids_fail_after == Some(0) {
            return refused(EPERM);
        }
        if !buffer.is_empty() {
            mac.pids_fail_after = mac.pids_fail_after.map(|left| left - 1);
        }
        // The kernel's own is among them.
        let pids = mac.processes.keys().rev().chain([&0]);
        Ok(fill(buffer, &pids.flat_map(|pid| pid.to_ne_bytes()).collect::<Vec<_>>()))
    })
}

fn fds(pid: i32, buffer: &mut [u8]) -> io::Result<usize> {
    MAC.with_borrow_mut(|mac| {
        let held = match mac.processes.get(&pid) {
            None => return refused(ESRCH),
            Some(Process::Refused(number)) => return refused(*number),
            Some(Process::Holding(held)) => held,
        };
        let entry = |(fd, what): (&i32, &Descriptor)| {
            let kind = if matches!(what, Descriptor::File) { 1_u32 } else { 2 };
            [fd.to_ne_bytes(), kind.to_ne_bytes()].concat()
        };
        let bytes = held.iter().flat_map(entry).collect::<Vec<_>>();
        if !buffer.is_empty() {
            mac.calls.push(pid.to_string());
        }
        Ok(fill(buffer, &bytes))
    })
}

fn socket(pid: i32, fd: i32, buffer: &mut [u8]) -> io::Result<usize> {
    MAC.with_borrow_mut(|mac| {
        let Some(Process::Holding(held)) = mac.processes.get(&pid) else { return refused(ESRCH) };
        let answer = match held.get(&fd) {
            None => refused(EBADF),
            Some(Descriptor::File) => refused(ENOTSOCK),
            Some(Descriptor::Refused(number)) => refused(*number),
            Some(Descriptor::Bytes(bytes)) => Ok(fill(buffer, bytes)),
            Some(Descriptor::Socket(socket)) => Ok(fill(buffer, &socket.socket_fdinfo())),
        };
        let is_last = held.keys().last() == Some(&fd);
        let later = if is_last { mac.later.remove(&pid) } else { None };
        mac.processes.extend(later.into_iter().flatten());
        answer
    })
}

fn list(name: &CStr, buffer: &mut [u8]) -> (usize, io::Result<()>) {
    MAC.with_borrow_mut(|mac| {
        let Some(values) = mac.lists.get_mut(name) else { return (0, refused(ENOENT)) };
        let value = match values[0].clone() {
            Err(number) => return (0, refused(number)),
            Ok(value) => value,
        };
        if buffer.is_empty() {
            return (value.len(), Ok(()));
        }
        mac.calls.push(name.to_str().unwrap().to_owned());
        if values.len() > 1 {
            let _read = values.remove(0);
        }
        let written = fill(buffer, &value);
        (written, if written < value.len() { refused(ENOMEM) } else { Ok(()) })
    })
}

fn ip(address: &str, port: u16) -> (IpAddr, u16) {
    (address.parse().unwrap(), port)
}

const LISTENER: u64 = 0x9000_0000_0000_0001;
const SHARED: u64 = 2;
const PAIR: [u64; 2] = [3, 4];
const OTHERS: u64 = 5;
const OVER: u64 = 6;
const CONTROL: u64 = 7;

/// Of AF_INET6, for both versions.
fn listener() -> KernelSocket {
    KernelSocket {
        handle: LISTENER,
        generation: 11,
        family: 30,
        vflag: 3,
        options: 2,
        queue: [1, 0, 128],
        uid: 0,
        last_pid: 100,
        local: ip("::", 22),
        remote: ip("::", 0),
        tcp_state: 1,
        ..KernelSocket::default()
    }
}

/// That two processes hold.
fn shared() -> KernelSocket {
    KernelSocket {
        handle: SHARED,
        generation: 12,
        last_pid: 200,
        received: 5,
        tcp: [65_535, 1448, 336, 36],
        local: ip("192.0.2.10", 22),
        remote: ip("198.51.100.7", 50000),
        tcp_state: 4,
        ..KernelSocket::default()
    }
}

/// An end of a pair of UNIX sockets; the parts of the two are 31 and 41.
fn pair(end: usize) -> KernelSocket {
    let other = 1 - end;
    KernelSocket {
        handle: PAIR[end],
        pcb: PAIR[end] * 10 + 1,
        peer: PAIR[other],
        peer_pcb: PAIR[other] * 10 + 1,
        family: 1,
        protocol: 0,
        last_pid: 100,
        path: if end == 0 { b"/var/run/s" } else { b"" },
        soi_kind: 3,
        ..KernelSocket::default()
    }
}

/// Sockets of an unreadable process.
fn others() -> KernelSocket {
    KernelSocket {
        handle: OTHERS,
        generation: 13,
        kind: 2,
        protocol: 17,
        family: 30,
        vflag: 2,
        uid: 0,
        last_pid: 300,
        local: ip("fe80:4::1", 5353),
        remote: ip("::", 0),
        soi_kind: 1,
        ..KernelSocket::default()
    }
}

/// A closed connection.
fn over() -> KernelSocket {
    KernelSocket {
        handle: OVER,
        generation: 14,
        so_state: 1,
        last_pid: 100,
        local: ip("192.0.2.10", 22),
        remote: ip("198.51.100.7", 50001),
        tcp_state: 10,
        ..KernelSocket::default()
    }
}

/// Of user space.
fn flow() -> KernelSocket {
    KernelSocket {
        generation: 0,
        kind: 0,
        family: 0,
        uid: 0,
        last_pid: 200,
        local: ip("192.0.2.10", 50002),
        remote: ip("198.51.100.7", 443),
        tcp_state: 4,
        ..KernelSocket::default()
    }
}

fn control() -> KernelSocket {
    KernelSocket {
        handle: CONTROL,
        kind: 2,
        family: 32,
        protocol: 2,
        last_pid: 200,
        name: "com.apple.net.utun_control",
        soi_kind: 6,
        ..KernelSocket::default()
    }
}

fn holding(held: impl IntoIterator<Item = (i32, Descriptor)>) -> Process {
    Process::Holding(held.into_iter().collect())
}

/// Three processes; one is unreadable.
fn mac() -> Mac {
    use Descriptor::{File, Socket};
    let layout = Layout::Macos13;
    let lists = [
        (PcbList::Tcp, vec![listener(), shared(), over(), flow()]),
        (PcbList::Udp, vec![others()]),
        (PcbList::Raw, vec![]),
        (PcbList::LocalStream, vec![pair(0), pair(1)]),
        (PcbList::LocalDgram, vec![]),
        (PcbList::Kctl, vec![control()]),
        (PcbList::Kevt, vec![]),
    ];
    let lists = lists.map(|(list, sockets)| (list.name(), vec![Ok(value(list, layout, &sockets))]));
    let first = [(0, File), (3, Socket(listener())), (4, Socket(pair(0))), (5, Socket(shared()))];
    let second = [(3, Socket(shared())), (7, Socket(pair(1))), (8, Socket(control()))];
    Mac {
        processes: [(100, holding(first)), (200, holding(second)), (300, Process::Refused(EPERM))]
            .into(),
        lists: lists.into(),
        ..Mac::default()
    }
}

/// The result of a query: the selected columns of the rows, in the order of pids and descriptors; the omissions; and
/// the reads from the kernel.
struct Answered {
    rows: Vec<String>,
    omissions: Omissions,
    calls: Vec<String>,
}

const ALL: Families = Families::all();

#[test]
fn explanation_states_processes_lists_and_the_work_done() {
    let explained = |pid: Option<&str>| {
        MAC.set(Mac {
            processes: BTreeMap::from([(5, holding([])), (7, holding([]))]),
            ..Mac::default()
        });
        let column = Field::Pid.index().unwrap();
        let constraint =
            |text: &str| Constraint { column, operator: Operator::Equals, text: text.into() };
        let query = QueryContext {
            constraints: pid.map(constraint).into_iter().collect(),
            columns_used: ColumnsUsed((1 << 11) - 1),
        };
        let snapshot = collector().collect(&Filter::new(&query, Families::UNIX)).unwrap();
        let work = snapshot.work;
        (snapshot.plan, work.walks, work.walked, work.tables)
    };
    let source = "holders and their sockets from libproc; lists from sysctl";
    let lists = "net.local.stream.pcblist_n net.local.dgram.pcblist_n";
    let full = format!("full scan: lists, then holders; {source}: {lists}");
    assert_eq!(explained(None), (full, 1, 2, 2));
    let lookup = format!("lookup of 1 processes; {source}: none");
    assert_eq!(explained(Some("5")), (lookup, 1, 1, 0));
}

fn collector() -> Collector {
    let limits = HolderLimits { per_socket: Some(100), max: None };
    Collector { calls: CALLS, limits, scan_timeout: Duration::from_secs(600) }
}

fn run_query(mac: Mac, query: &QueryContext, families: Families, fields: &[Field]) -> Answered {
    MAC.set(mac);
    let filter = Filter::new(query, families);
    let snapshot = collector().collect(&filter).unwrap();
    let omissions = snapshot.omissions.clone();
    let answer = correlate(snapshot, &filter);
    let cell = |row, field| match answer.value(row, field) {
        Value::Null => "NULL".to_owned(),
        Value::Integer(number) => number.to_string(),
        Value::Text(text) => text.into_owned(),
    };
    let mut rows: Vec<usize> = (0..answer.len()).collect();
    let number = |row, field| cell(row, field).parse::<i64>().unwrap();
    rows.sort_by_key(|&row| [Field::Pid, Field::Fd, Field::Socket].map(|it| number(row, it)));
    let row = |row| fields.iter().map(|&field| cell(row, field)).collect::<Vec<_>>().join("|");
    let mut ids: Vec<i64> = rows.iter().map(|&row| answer.id(row)).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), rows.len(), "each row has a number of its own");
    Answered { rows: rows.into_iter().map(row).collect(), omissions, calls: MAC.take().calls }
}

fn query_rows(mac: Mac, constraints: &[(Field, &str)]) -> Answered {
    let constraint = |&(field, text): &(Field, &str)| Constraint {
        column: field.index().unwrap(),
        operator: Operator::Equals,
        text: text.into(),
    };
    let constraints = constraints.iter().map(constraint).collect();
    // The columns of osquery: the query does not read the hidden ones.
    let query = QueryContext { constraints, columns_used: ColumnsUsed((1 << 11) - 1) };
    run_query(mac, &query, Families::default(), &[Field::Pid, Field::Fd, Field::Socket])
}

/// Only sockets without a holder.
fn unheld_only() -> Vec<Constraint> {
    let column = Field::Pid.index().unwrap();
    vec![Constraint { column, operator: Operator::Equals, text: "-1".into() }]
}

fn kinds(omissions: &Omissions) -> Vec<(OmissionKind, u64, &str)> {
    omissions.iter().map(|omission| (omission.kind, omission.count, &omission.first[..])).collect()
}

const DENIED: (OmissionKind, u64, &str) =
    (OmissionKind::Fds, 1, "process 300: Operation not permitted (os error 1)");

#[test]
fn macos_shows_of_tcp_what_a_list_has() {
    let columns = [
        Field::Socket,
        Field::RttUs,
        Field::RttVarianceUs,
        Field::CongestionWindow,
        Field::SendMss,
        Field::BytesSent,
        Field::PeerPid,
        Field::PathInode,
    ];
    let answered = run_query(mac(), &QueryContext::default(), ALL, &columns);
    for row in answered.rows {
        let shared = format!("{SHARED}|10500|2250|65535|1448|NULL|NULL|NULL");
        let (socket, cells) = row.split_once('|').unwrap();
        let is_null = cells.split('|').all(|cell| cell == "NULL");
        assert_eq!(row == shared, socket == SHARED.to_string(), "{row}");
        assert!(is_null || row == shared, "{row}");
    }
}

#[test]
fn macos_has_a_row_for_each_holder_and_each_unheld_socket() {
    // Another test has the columns about processes.
    let fields = Field::on_macos().into_iter().take_while(|&field| field != Field::ProcessName);
    let fields: Vec<Field> = fields.collect();
    let answered = run_query(mac(), &QueryContext::default(), ALL, &fields);
    assert_eq!(
        answered.rows,
        [
            // pid, fd, socket, family, protocol, addresses, ports, path, state;
            // holder_unknown, socket_type, socket_uid, peer, queues, bound_interface, last_pid, control, descriptors,
            // listening, rows_omitted
            "-1|-1|0|2|6|192.0.2.10|198.51.100.7|50002|443||ESTABLISHED|user_space|1|NULL|NULL|0|0||200||NULL|0|0",
            "-1|-1|5|10|17|fe80::1|::|5353|0|||unreadable|2|0|NULL|0|0||300||NULL|1|0",
            "-1|-1|6|2|6|192.0.2.10|198.51.100.7|22|50001||TIME_WAIT|time_wait|1|501|NULL|0|0||100||NULL|0|0",
            "100|3|-8070450532247928831|10|6|0.0.0.0|0.0.0.0|22|0||LISTEN||1|0|NULL|1|128||100||1|1|0",
            "100|4|3|1|0|||0|0|/var/run/s|||1|501|4|0|0||100||1|0|0",
            "100|5|2|2|6|192.0.2.10|198.51.100.7|22|50000||ESTABLISHED||1|501|NULL|5|0||200||1|0|0",
            "200|3|2|2|6|192.0.2.10|198.51.100.7|22|50000||ESTABLISHED||1|501|NULL|5|0||200||1|0|0",
            "200|7|4|1|0|||0|0||||1|501|3|0|0||100||1|0|0",
            "200|8|7|32|2|||0|0||||2|501|NULL|0|0||200|com.apple.net.utun_control|1|0|0",
        ]
    );
    assert_eq!(kinds(&answered.omissions), [DENIED]);
}

#[test]
fn families_that_are_not_chosen_have_no_rows() {
    let answered = query_rows(mac(), &[(Field::Pid, "200")]);
    assert_eq!(answered.rows, ["200|3|2", "200|7|4"]);
    let mut with_ndrv = mac();
    let ndrv = KernelSocket { soi_kind: 4, family: 27, protocol: 0, handle: 8, ..control() };
    let ndrv = KernelSocket { name: "en", numbers: [0, 0, 0, 0], ..ndrv };
    with_ndrv.processes.insert(400, holding([(3, Descriptor::Socket(ndrv))]));
    let constraints = vec![Constraint {
        column: Field::Pid.index().unwrap(),
        operator: Operator::Equals,
        text: "400".into(),
    }];
    let query = QueryContext { constraints, ..QueryContext::default() };
    let fields = [Field::Pid, Field::Family, Field::BoundInterface];
    let answered = run_query(with_ndrv, &query, Families::NDRV, &fields);
    assert_eq!(answered.rows, ["400|27|en0"]);
}

#[test]
fn a_pid_costs_its_own_descriptors_and_no_list() {
    let answered = query_rows(mac(), &[(Field::Pid, "100")]);
    assert_eq!(answered.rows, ["100|3|-8070450532247928831", "100|4|3", "100|5|2"]);
    assert_eq!((answered.calls, kinds(&answered.omissions)), (vec!["100".into()], vec![]));
}

#[test]
fn a_pid_without_a_process_is_no_row_and_no_omission() {
    let answered = query_rows(mac(), &[(Field::Pid, "999")]);
    assert_eq!((answered.rows, kinds(&answered.omissions)), (vec![], vec![]));
}

#[test]
fn unheld_sockets_are_read_from_the_lists_that_can_have_them() {
    let answered = query_rows(mac(), &[(Field::Pid, "-1"), (Field::State, "TIME_WAIT")]);
    assert_eq!(answered.rows, ["-1|-1|6"]);
    assert_eq!(answered.calls, ["net.inet.tcp.pcblist_n", "100", "200"]);
    let answered = query_rows(mac(), &[(Field::Pid, "-1"), (Field::Family, "1")]);
    assert_eq!(answered.rows, [""; 0]);
    let lists = ["net.local.stream.pcblist_n", "net.local.dgram.pcblist_n"];
    assert_eq!(answered.calls, [&lists[..], &["100", "200"]].concat());
}

#[test]
fn the_owner_of_a_socket_is_the_same_with_and_without_a_pid() {
    let constraints = vec![Constraint {
        column: Field::Pid.index().unwrap(),
        operator: Operator::Equals,
        text: "100".into(),
    }];
    let query = QueryContext { constraints, ..QueryContext::default() };
    let fields = [Field::Fd, Field::SocketUid, Field::PeerSocket];
    let answered = run_query(mac(), &query, Families::default(), &fields);
    assert_eq!(answered.rows, ["3|0|NULL", "4|501|4", "5|501|NULL"]);
}

#[test]
fn unreadable_processes_and_descriptors_are_omissions() {
    let mut mac = mac();
    let held = [(3, Descriptor::Refused(EPERM)), (4, Descriptor::Refused(EIO))];
    mac.processes.insert(100, holding(held));
    let answered = query_rows(mac, &[(Field::Pid, "100"), (Field::Pid, "300")]);
    let first = "process 100, fd 4: Input/output error (os error 5)";
    assert_eq!(kinds(&answered.omissions), [(OmissionKind::Fds, 2, first)]);
}

#[test]
fn processes_and_sockets_that_end_are_no_omission() {
    let mut mac = mac();
    mac.processes.insert(50, Process::Refused(ESRCH));
    let gone = [EBADF, ENOTSOCK, ESRCH].map(Descriptor::Refused);
    mac.processes.insert(100, holding((3..).zip(gone)));
    let answered = query_rows(mac, &[(Field::Pid, "50"), (Field::Pid, "100")]);
    assert_eq!((answered.rows, kinds(&answered.omissions)), (vec![], vec![]));
}

#[test]
fn a_truncated_record_is_an_omission() {
    let mut mac = mac();
    let cut = listener().socket_fdinfo()[..300].to_vec();
    let nameless = KernelSocket { handle: 0, ..listener() };
    let held = [(3, Descriptor::Bytes(cut)), (4, Descriptor::Socket(nameless))];
    mac.processes.insert(100, holding(held));
    let answered = query_rows(mac, &[(Field::Pid, "100")]);
    let omissions = [(OmissionKind::Record, 2, "process 100, fd 3")];
    assert_eq!((answered.rows, kinds(&answered.omissions)), (vec![], omissions.to_vec()));
}

/// A Mac with these values of the TCP list, one for each read.
fn with_tcp(values: Vec<Result<Vec<u8>, i32>>) -> Mac {
    let mut mac = mac();
    mac.lists.insert(PcbList::Tcp.name(), values);
    mac
}

fn tcp(sockets: &[KernelSocket]) -> Result<Vec<u8>, i32> {
    Ok(value(PcbList::Tcp, Layout::Macos12, sockets))
}

const UNHELD_ROWS: [(Field, &str); 2] = [(Field::Pid, "-1"), (Field::Protocol, "6")];

#[test]
fn unreadable_lists_are_omissions_and_rows_of_holders_stay() {
    let name = "net.inet.tcp.pcblist_n";
    let whole = value(PcbList::Tcp, Layout::Macos13, &[over(), listener()]);
    let head = header(PcbList::Tcp, 250, 9);
    for (value, kind, first, unheld) in [
        (Err(EPERM), OmissionKind::PcbList, ": Operation not permitted (os error 1)", 0),
        (Ok(vec![]), OmissionKind::PcbList, ": not a list", 0),
        (Ok(whole[..whole.len() - 200].to_vec()), OmissionKind::PcbList, ": truncated", 1),
        (Ok([&head[..], &head].concat()), OmissionKind::Withheld, ": 0 of 250", 0),
    ] {
        let answered = query_rows(with_tcp(vec![value]), &[(Field::Protocol, "6")]);
        let first = format!("{name}{first}");
        assert_eq!(kinds(&answered.omissions), [(kind, 1, &*first), DENIED]);
        assert_eq!(answered.rows.len(), 3 + unheld, "{first}");
        let held = answered.rows.iter().filter(|row| !row.starts_with("-1"));
        let expected = ["100|3|-8070450532247928831", "100|5|2", "200|3|2"];
        assert_eq!(held.collect::<Vec<_>>(), expected, "{first}");
    }
}

#[test]
fn one_unix_list_can_be_empty_with_the_count_of_both() {
    let mut mac = mac();
    let head = header(PcbList::LocalDgram, 2, 9);
    mac.lists.insert(PcbList::LocalDgram.name(), vec![Ok([&head[..], &head].concat())]);
    assert_eq!(kinds(&query_rows(mac, &[]).omissions), [DENIED]);
    let mut mac = self::mac();
    for list in [PcbList::LocalStream, PcbList::LocalDgram] {
        mac.lists.insert(list.name(), vec![Ok([&head[..], &head].concat())]);
    }
    let answered = query_rows(mac, &[]);
    let withheld = (OmissionKind::Withheld, 1, "net.local.stream.pcblist_n: 0 of 2");
    assert_eq!(kinds(&answered.omissions), [withheld, DENIED]);
}

#[test]
fn a_list_is_withheld_if_it_shows_far_less_than_its_count() {
    let groups: Vec<u8> = [listener(), shared()]
        .iter()
        .flat_map(|it| it.group(PcbList::Tcp, Layout::Macos13))
        .collect();
    for (count, shown) in [(2, None), (20, None), (21, Some("2 of 21")), (250, Some("2 of 250"))] {
        let head = header(PcbList::Tcp, count, 1_000_000);
        let answered =
            query_rows(with_tcp(vec![Ok([&head[..], &groups, &head].concat())]), &UNHELD_ROWS);
        let shown = shown.map(|shown| format!("net.inet.tcp.pcblist_n: {shown}"));
        let withheld = shown.iter().map(|shown| (OmissionKind::Withheld, 1, &**shown));
        assert_eq!(
            kinds(&answered.omissions),
            withheld.chain([DENIED]).collect::<Vec<_>>(),
            "{count}"
        );
    }
    // The two of UNIX are held to their common count together.
    let mut mac = mac();
    let head = header(PcbList::LocalDgram, 30, 9);
    mac.lists.insert(PcbList::LocalDgram.name(), vec![Ok([&head[..], &head].concat())]);
    let withheld = (OmissionKind::Withheld, 1, "net.local.stream.pcblist_n: 2 of 30");
    assert_eq!(kinds(&query_rows(mac, &[(Field::Family, "1")]).omissions), [withheld, DENIED]);
    // Also if one of them is read again.
    let mut mac = self::mac();
    let alone = value(PcbList::LocalStream, Layout::Macos13, &[pair(0)]);
    let many: Vec<KernelSocket> =
        (1000..1030).map(|handle| KernelSocket { handle, flags1: 0x10_0000, ..pair(1) }).collect();
    let many = value(PcbList::LocalDgram, Layout::Macos13, &many);
    let count = 31_u32.to_le_bytes();
    for (list, mut value) in [(PcbList::LocalStream, alone), (PcbList::LocalDgram, many)] {
        value[4..8].copy_from_slice(&count);
        let end = value.len() - 20;
        value[end..end + 4].copy_from_slice(&count);
        mac.lists.insert(list.name(), vec![Ok(value)]);
    }
    mac.processes.clear();
    let answered = query_rows(mac, &[(Field::Family, "1"), (Field::Socket, "3")]);
    assert_eq!((answered.rows, kinds(&answered.omissions)), (vec!["-1|-1|3".into()], vec![]));
}

#[test]
fn a_list_that_this_macos_lacks_is_no_omission() {
    let mut mac = mac();
    mac.lists.retain(|name, _| !name.to_bytes().starts_with(b"net.local"));
    let answered = query_rows(mac, &[(Field::Family, "1")]);
    assert_eq!(answered.rows, ["100|4|3", "200|7|4"]);
    assert_eq!(kinds(&answered.omissions), [DENIED]);
}

#[test]
fn an_unheld_unix_socket_names_its_peer_too() {
    let mut mac = mac();
    mac.processes.remove(&200);
    let query = QueryContext { constraints: unheld_only(), ..QueryContext::default() };
    let fields = [Field::Socket, Field::PeerSocket, Field::HolderUnknown];
    let answered = run_query(mac, &query, Families::UNIX, &fields);
    assert_eq!(answered.rows, ["4|3|unreadable"]);
}

#[test]
fn a_socket_that_closes_during_the_scan_is_shown_as_such() {
    let alone = KernelSocket { handle: 99, generation: 15, last_pid: 100, ..shared() };
    let query = QueryContext { constraints: unheld_only(), ..QueryContext::default() };
    let fields = [Field::Socket, Field::HolderUnknown];
    let rows = |mac| run_query(mac, &query, Families::INET, &fields).rows;
    let stays = with_tcp(vec![tcp(from_ref(&alone))]);
    assert_eq!(rows(stays), ["5|unreadable", "99|unreadable"]);
    let closes = with_tcp(vec![tcp(from_ref(&alone)), tcp(&[])]);
    assert_eq!(rows(closes), ["5|unreadable", "99|closed_during_scan"]);
    // Another socket has its handle.
    let another = KernelSocket { generation: 16, ..alone.clone() };
    let replaced = with_tcp(vec![tcp(&[alone]), tcp(&[another])]);
    assert_eq!(rows(replaced), ["5|unreadable", "99|closed_during_scan"]);
}

/// A socket of TCP with a connection, of its own: its last user is not among the processes.
fn connection(handle: u64) -> KernelSocket {
    KernelSocket { handle, pcb: handle * 10, generation: handle, last_pid: 77, ..shared() }
}

#[test]
fn a_socket_passed_during_the_walk_has_its_new_holder() {
    let socket = connection(99);
    let moved = || holding([(9, Descriptor::Socket(socket.clone()))]);
    // To a process that was already read, and to one that starts later.
    for (pid, after) in [(100, 200), (150, 200), (900, 200)] {
        let mut mac = with_tcp(vec![tcp(from_ref(&socket))]);
        mac.later.insert(after, vec![(pid, moved())]);
        if pid == 900 {
            // It inherits it, and its parent ends.
            mac.processes
                .insert(200, holding([(3, Descriptor::File), (4, Descriptor::Refused(EBADF))]));
            mac.later.insert(200, vec![(200, Process::Refused(ESRCH)), (900, moved())]);
        }
        let answered = query_rows(mac, &[(Field::Protocol, "6"), (Field::Socket, "99")]);
        assert_eq!(answered.rows, [format!("{pid}|9|99")]);
    }
}

#[test]
fn a_connection_accepted_during_the_walk_has_its_holder() {
    // Complete, incomplete, and between the accept queue and its descriptor; no other socket lacks a holder.
    for (so_state, tcp_state) in [(0x1001, 4), (0x801, 3), (1, 4), (1, 5)] {
        let waiting = KernelSocket { so_state, tcp_state, ..connection(98) };
        let mut mac = with_tcp(vec![tcp(&[listener(), shared(), waiting.clone()])]);
        mac.processes.remove(&300);
        mac.lists.remove(PcbList::Udp.name());
        let accepted = KernelSocket { so_state: 0, tcp_state: 4, ..waiting };
        mac.later.insert(200, vec![(200, holding([(9, Descriptor::Socket(accepted))]))]);
        let answered = query_rows(mac, &[(Field::Protocol, "6"), (Field::Socket, "98")]);
        assert_eq!(answered.rows, ["200|9|98"], "{so_state:#x} {tcp_state}");
    }
}

#[test]
fn a_connection_accepted_after_both_walks_is_shown_as_queued() {
    let waiting = KernelSocket { so_state: 0x1001, ..connection(98) };
    let accepted = KernelSocket { so_state: 0, ..waiting.clone() };
    let mac = with_tcp(vec![tcp(&[waiting]), tcp(&[accepted])]);
    let query = QueryContext { constraints: unheld_only(), ..QueryContext::default() };
    let fields = [Field::Socket, Field::HolderUnknown];
    assert_eq!(
        run_query(mac, &query, Families::INET, &fields).rows,
        ["5|unreadable", "98|accept_queue"]
    );
}

#[test]
fn closed_connections_do_not_cause_a_second_walk() {
    let closing = KernelSocket { so_state: 1, tcp_state: 6, ..connection(97) };
    let mac = with_tcp(vec![tcp(&[over(), closing, flow()])]);
    let answered = query_rows(mac, &UNHELD_ROWS);
    assert_eq!(answered.rows, ["-1|-1|0", "-1|-1|6", "-1|-1|97"]);
    assert_eq!(answered.calls, ["net.inet.tcp.pcblist_n", "net.inet.raw.pcblist_n", "100", "200"]);
}

#[test]
fn details_of_a_list_stay_when_the_process_is_read_again() {
    // A socket without a holder causes a second read of everything.
    let mac = with_tcp(vec![tcp(&[listener(), shared(), connection(99)])]);
    let query = QueryContext::default();
    let fields = [Field::Pid, Field::Fd, Field::SocketUid, Field::LastPid, Field::PeerSocket];
    let answered = run_query(mac, &query, Families::INET | Families::UNIX, &fields);
    let twice = answered.calls.iter().filter(|it| *it == "200").count();
    assert_eq!(twice, 2, "{:?}", answered.calls);
    assert_eq!(
        answered.rows,
        [
            "-1|-1|0|300|NULL",
            "-1|-1|501|77|NULL",
            "100|3|0|100|NULL",
            "100|4|501|100|4",
            "100|5|501|200|NULL",
            "200|3|501|200|NULL",
            "200|7|501|100|3",
        ]
    );
}

#[test]
fn a_socket_listed_twice_has_one_row_and_one_omission() {
    let (waiting, alone) = (KernelSocket { so_state: 0x1001, ..connection(98) }, connection(99));
    let list = tcp(&[waiting.clone(), waiting, alone.clone(), alone, over(), over()]);
    let mut mac = with_tcp(vec![list]);
    let nameless = KernelSocket { handle: 0, ..shared() };
    mac.processes.insert(100, holding([(3, Descriptor::Socket(nameless))]));
    let answered = query_rows(mac, &[(Field::Protocol, "6")]);
    assert_eq!(answered.rows, ["-1|-1|6", "-1|-1|98", "-1|-1|99", "200|3|2"]);
    assert_eq!(answered.calls.iter().filter(|it| *it == "200").count(), 2);
    let record = (OmissionKind::Record, 1, "process 100, fd 3");
    assert_eq!(kinds(&answered.omissions), [record, DENIED]);
}

#[test]
fn a_failed_second_read_removes_no_row_and_is_an_omission() {
    let alone = [connection(98), connection(99)];
    let whole = value(PcbList::Tcp, Layout::Macos12, &alone);
    let head = header(PcbList::Tcp, 250, 1_000_000);
    let name = "net.inet.tcp.pcblist_n";
    for (second, kind, first) in [
        (Err(EPERM), OmissionKind::PcbList, ": Operation not permitted (os error 1)"),
        (Ok(vec![]), OmissionKind::PcbList, ": not a list"),
        (Ok(whole[..whole.len() - 200].to_vec()), OmissionKind::PcbList, ": truncated"),
        (Ok([&head[..], &head].concat()), OmissionKind::Withheld, ": 0 of 250"),
    ] {
        let answered = query_rows(with_tcp(vec![Ok(whole.clone()), second]), &UNHELD_ROWS);
        assert_eq!(answered.rows, ["-1|-1|98", "-1|-1|99"], "{first}");
        let first = format!("{name}{first}");
        assert_eq!(kinds(&answered.omissions), [DENIED, (kind, 1, &*first)]);
    }
}

#[test]
fn processes_that_cannot_be_listed_again_are_an_omission() {
    let mut mac = with_tcp(vec![tcp(&[connection(99)])]);
    mac.processes.remove(&300);
    mac.pids_fail_after = Some(1);
    let answered = query_rows(mac, &UNHELD_ROWS);
    assert_eq!(answered.rows, ["-1|-1|99"]);
    let first = "cannot list the processes: Operation not permitted (os error 1)";
    assert_eq!(kinds(&answered.omissions), [(OmissionKind::Fds, 1, first)]);
}

#[test]
fn a_reused_handle_has_the_holders_of_the_later_socket() {
    let mut mac = mac();
    let earlier = KernelSocket { handle: 99, generation: 15, ..shared() };
    let later = KernelSocket { generation: 16, local: ip("192.0.2.11", 80), ..earlier.clone() };
    mac.processes.insert(100, holding([(3, Descriptor::Socket(earlier.clone()))]));
    mac.processes.insert(200, holding([(4, Descriptor::Socket(later))]));
    mac.lists.insert(PcbList::Tcp.name(), vec![tcp(&[earlier])]);
    let query = QueryContext::default();
    let fields = [Field::Pid, Field::Fd, Field::LocalAddress, Field::LastPid];
    let answered = run_query(mac, &query, Families::INET, &fields);
    // The list is older than the walk: its details of the earlier socket do not apply to the later one.
    assert_eq!(answered.rows, ["-1|-1|fe80::1|300", "200|4|192.0.2.11|NULL"]);
}

#[test]
fn a_reused_handle_of_another_kind_is_another_socket() {
    let unix = pair(0);
    // The same handle: a UNIX socket with another part, and one of another family.
    let other_part = KernelSocket { pcb: 77, path: b"/other", ..unix.clone() };
    let of_inet = KernelSocket { handle: unix.handle, generation: 0, pcb: 0, ..shared() };
    for later in [other_part, of_inet] {
        let mut mac = mac();
        mac.processes = [
            (100, holding([(4, Descriptor::Socket(unix.clone()))])),
            (200, holding([(5, Descriptor::Socket(later.clone()))])),
        ]
        .into();
        let socket = unix.handle.to_string();
        let constraints = [(Field::Socket, &*socket)];
        assert_eq!(query_rows(mac, &constraints).rows, ["200|5|3"], "{:?}", later.family);
    }
    // One that has lost its part, since it is shut down, is the same.
    let shut_down = KernelSocket { pcb: 0, soi_kind: 0, ..unix.clone() };
    let mut mac = mac();
    mac.processes = [
        (100, holding([(4, Descriptor::Socket(unix.clone()))])),
        (200, holding([(5, Descriptor::Socket(shut_down))])),
    ]
    .into();
    assert_eq!(query_rows(mac, &[(Field::Socket, "3")]).rows, ["100|4|3", "200|5|3"]);
    // It is unheld, and replaced between the reads: the generation shows this.
    let name = PcbList::LocalStream.name();
    let list = |generation| {
        let socket = KernelSocket { generation, ..unix.clone() };
        Ok(value(PcbList::LocalStream, Layout::Macos13, &[socket]))
    };
    let query = QueryContext { constraints: unheld_only(), ..QueryContext::default() };
    let fields = [Field::Socket, Field::HolderUnknown];
    for (generations, row) in [([5, 5], "3|no_process"), ([5, 6], "3|closed_during_scan")] {
        let mut mac = self::mac();
        mac.processes.clear();
        mac.lists.insert(name, generations.map(list).to_vec());
        let rows = run_query(mac, &query, Families::UNIX, &fields).rows;
        assert!(rows.contains(&row.to_owned()), "{generations:?}: {rows:?}");
    }
}

#[test]
fn a_raw_socket_has_its_protocol_in_every_query() {
    let raw = KernelSocket {
        handle: 99,
        pcb: 990,
        generation: 99,
        kind: 3,
        protocol: 0,
        raw_protocol: 89,
        last_pid: 400,
        soi_kind: 1,
        ..KernelSocket::default()
    };
    let mac = || {
        let mut mac = mac();
        mac.processes.insert(400, holding([(3, Descriptor::Socket(raw.clone()))]));
        let list = value(PcbList::Raw, Layout::Macos13, from_ref(&raw));
        mac.lists.insert(PcbList::Raw.name(), vec![Ok(list)]);
        mac
    };
    for constraints in [
        &[(Field::Pid, "400")][..],
        &[(Field::Protocol, "89")],
        &[(Field::Pid, "400"), (Field::Protocol, "89")],
        &[(Field::Socket, "99")],
    ] {
        let answered = query_rows(mac(), constraints);
        assert_eq!(answered.rows, ["400|3|99"], "{constraints:?}");
    }
    let answered = query_rows(mac(), &[(Field::Pid, "400")]);
    assert_eq!(answered.calls, ["400", "net.inet.raw.pcblist_n"]);
    // If the list cannot be read, no source has it, and the omission is counted.
    let mut without = mac();
    without.lists.insert(PcbList::Raw.name(), vec![Err(EPERM)]);
    let answered = query_rows(without, &[(Field::Pid, "400"), (Field::Protocol, "0")]);
    let first = "net.inet.raw.pcblist_n: Operation not permitted (os error 1)";
    assert_eq!(answered.rows, ["400|3|99"]);
    assert_eq!(kinds(&answered.omissions), [(OmissionKind::PcbList, 1, first)]);
}

#[test]
fn no_list_of_processes_is_an_error() {
    MAC.set(Mac { pids_fail: true, ..mac() });
    let filter = Filter::new(&QueryContext::default(), Families::default());
    let error = collector().collect(&filter).unwrap_err();
    assert!(matches!(error, Error::Processes { .. }), "{error}");
    assert_eq!(
        error.to_string(),
        "cannot list the processes: Operation not permitted (os error 1)"
    );
}

#[test]
fn a_scan_reads_nothing_after_its_deadline_and_reports_it() {
    MAC.set(mac());
    let filter = Filter::new(&QueryContext::default(), Families::default());
    let late = Collector { scan_timeout: Duration::ZERO, ..collector() };
    let snapshot = late.collect(&filter).unwrap();
    assert!(snapshot.sockets.is_empty() && snapshot.omissions.has(OmissionKind::Deadline));
    assert_eq!(MAC.take().calls, [""; 0]);
}

/// A process with so many descriptors of one socket.
fn flood(descriptors: i32) -> Mac {
    let held = (3..3 + descriptors).map(|fd| (fd, Descriptor::Socket(listener())));
    Mac { processes: [(100, holding(held))].into(), ..mac() }
}

const COUNTED: [Field; 3] = [Field::Pid, Field::Fd, Field::Descriptors];

fn run_count_query(mac: Mac, constraints: &[(Field, &str)]) -> Vec<String> {
    let constraint = |&(field, text): &(Field, &str)| Constraint {
        column: field.index().unwrap(),
        operator: Operator::Equals,
        text: text.into(),
    };
    let constraints = constraints.iter().map(constraint).collect();
    let query = QueryContext { constraints, ..QueryContext::default() };
    let mut rows = run_query(mac, &query, Families::default(), &COUNTED).rows;
    rows.retain(|row| row.starts_with("100|"));
    rows
}

#[test]
fn the_lowest_hundred_descriptors_of_a_socket_have_rows() {
    let expected: Vec<String> = (3..103).map(|fd| format!("100|{fd}|5000")).collect();
    assert_eq!(run_count_query(flood(5000), &[]), expected);
    assert_eq!(run_count_query(flood(5000), &[(Field::Pid, "100")]), expected);
}

#[test]
fn a_descriptor_above_the_hundredth_has_no_row_if_selected() {
    let of_fd = |fd| run_count_query(flood(5000), &[(Field::Pid, "100"), (Field::Fd, fd)]);
    assert_eq!(of_fd("102"), ["100|102|5000"]);
    assert_eq!(of_fd("103"), [""; 0]);
}

/// The process columns of the first row of each process.
fn process_rows(mac: Mac) -> Answered {
    let fields = [
        Field::Pid,
        Field::ProcessName,
        Field::ProcessPath,
        Field::ProcessCmdline,
        Field::ProcessParent,
        Field::ProcessUid,
        Field::ProcessEuid,
        Field::ProcessStartTime,
    ];
    let mut answered = run_query(mac, &QueryContext::default(), ALL, &fields);
    answered.rows.dedup();
    answered
}

#[test]
fn a_row_has_the_process_of_its_holder() {
    let answered = process_rows(mac());
    let process = "a longer name|/bin/a longer name|a b c|1|501|0|1790000000";
    let unheld = "-1|NULL|NULL|NULL|NULL|NULL|NULL|NULL";
    let held = [100, 200].map(|pid| format!("{pid}|{process}"));
    assert_eq!(answered.rows, [unheld, &held[0], &held[1]]);
    assert!(!answered.omissions.has(OmissionKind::Process));
}

#[test]
fn a_pid_that_another_process_has_meanwhile_has_no_process() {
    // The walk reads one, the process is read at its begin and its end.
    for starts in [vec![5, 6], vec![5, 5, 6], vec![5, 0], vec![0]] {
        let mac = Mac { starts: [(100, starts.clone())].into(), ..mac() };
        let answered = process_rows(mac);
        let shown = answered.rows.iter().find(|row| row.starts_with("100|")).unwrap();
        assert_eq!(shown, "100|NULL|NULL|NULL|NULL|NULL|NULL|NULL", "{starts:?}");
        assert!(!answered.omissions.has(OmissionKind::Process));
    }
}

#[test]
fn a_process_whose_path_is_refused_has_its_short_name() {
    let mut mac = mac();
    let holder = mac.processes.remove(&100).unwrap();
    mac.processes.insert(8, holder);
    let answered = process_rows(mac);
    let shown = answered.rows.iter().find(|row| row.starts_with("8|")).unwrap();
    assert_eq!(shown, "8|a nam|NULL|NULL|1|501|0|1790000000");
    let refused = answered.omissions.iter().find(|it| it.kind == OmissionKind::Process).unwrap();
    assert_eq!(refused.count, 2);
}
