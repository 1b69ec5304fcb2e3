//! Invariants of each parser for any input, for the fuzzers. With the feature `fuzz` only.
//!
//! No parser of untrusted bytes may panic, return values that are not in the input, or return other values because the
//! input is truncated.

use std::num::NonZeroU64;

use crate::formats::linux::event_record::{Decoder, take_open_socket};
use crate::formats::linux::mountinfo::{Mount, mounts_of};
use crate::formats::linux::sock_diag::{Message, Messages, Request};
use crate::formats::macos::pcblist_n::{End, Listing, PcbList};
use crate::formats::macos::socket_fdinfo;
use crate::model::socket_table::{IPPROTO_MPTCP, SocketTable};
use crate::model::tcp_event::{
    Actor, DatagramEnd, DatagramSocket, EventRecord, Executable, FirstDatagram, StateChange,
};
use crate::model::{Binding, CongestionAlgorithm, Details, ExtendedFields, Socket};

/// The value of a sysctl list of macOS. Each parser of a list gets it.
///
/// # Panics
/// If an invariant is violated.
pub fn pcblist_n(value: &[u8]) {
    for list in PcbList::ALL {
        let whole = list.parse(value);
        let truncated = list.parse(prefix(value));
        let Ok(whole) = whole else {
            assert!(truncated.is_err(), "{list:?}: an invalid list is valid when it is truncated");
            continue;
        };
        // The header is complete, and as long as its length field.
        let length = value.first_chunk().map_or(0, |length| u32::from_le_bytes(*length));
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let parts = value.split_at_checked(length);
        assert!(parts.is_some(), "{list:?}: accepted without a complete header");
        let (header, groups) = parts.unwrap_or_default();
        assert_eq!(
            Some(whole.count),
            count_in(header),
            "{list:?}: the count is not that of the header"
        );
        check_listing(value, header, &whole);

        if let Ok(truncated) = truncated {
            assert_eq!(
                truncated.count, whole.count,
                "{list:?}: a truncated list has another count"
            );
            assert!(truncated.groups <= whole.groups, "{list:?}: a truncated list has more groups");
            // The last group can be truncated.
            let certain = truncated.pcbs.split_last().map_or(&[][..], |(_, certain)| certain);
            assert!(
                whole.pcbs.starts_with(certain),
                "{list:?}: a truncated list has other sockets"
            );
        }

        const UNKNOWN: [u8; 16] = [13, 0, 0, 0, 0, 4, 0, 0, 1, 1, 1, 1, 1, 0, 0, 0];
        let grown = list.parse(&[header, &UNKNOWN, groups].concat());
        assert_eq!(
            grown.as_ref(),
            Ok(&whole),
            "{list:?}: a record of an unknown kind changes the result"
        );
    }
}

/// `xig_count`, `xug_count` or `xg_count`: of 32 bits in the shortest header alone.
fn count_in(header: &[u8]) -> Option<u64> {
    let count = header.get(if header.len() == 24 { 4..8 } else { 8..16 })?;
    Some(count.iter().rfold(0, |count, &byte| count << 8 | u64::from(byte)))
}

/// Checks that the listing contains no more than the value.
fn check_listing(value: &[u8], header: &[u8], listing: &Listing) {
    /// A head alone, and the smallest record that is a socket: `struct xkevtpcb`.
    const HEAD: usize = 8;
    const SMALLEST: usize = 28;
    let sockets = listing.pcbs.len();
    let malformed = usize::try_from(listing.malformed).unwrap_or(usize::MAX);
    let groups = usize::try_from(listing.groups).unwrap_or(usize::MAX);
    assert!(sockets.saturating_add(malformed) <= groups, "more sockets than groups");
    // Only an empty list with the count 0 is complete without its header at the end.
    let is_empty = listing.count == 0 && groups == 0;
    let headers = if listing.end == End::Whole && !is_empty { 2 } else { 1 };
    let needed = (headers * header.len() + sockets * SMALLEST)
        .saturating_add((groups - sockets).saturating_mul(HEAD));
    assert!(needed <= value.len(), "more sockets than fit into the value");
    for pcb in &listing.pcbs {
        let generation = pcb.generation.map_or(0, NonZeroU64::get);
        for number in [pcb.socket.inode, pcb.pcb, pcb.peer_pcb, generation] {
            assert!(
                number == 0 || contains(value, &number.to_le_bytes()),
                "{number} is not in the input"
            );
        }
        check_macos_socket(value, &pcb.socket);
    }
}

/// The answer of macOS to PROC_PIDFDSOCKETINFO.
///
/// # Panics
/// If an invariant is violated.
pub fn socket_fdinfo(answer: &[u8]) {
    /// `soi_so` and `soi_pcb`.
    const HANDLES: usize = 160;
    let read = socket_fdinfo::parse(answer);
    if let Some((record, _)) = answer.split_at_checked(socket_fdinfo::LENGTH) {
        assert!(read.is_ok(), "a complete answer is rejected");
        assert_eq!(read, socket_fdinfo::parse(record), "bytes after the record change the result");
    }
    let truncated = socket_fdinfo::parse(prefix(answer));
    assert!(truncated.is_err() || truncated == read, "a truncated record shows another socket");
    if let Ok(held) = read {
        let handles = [held.socket.inode, held.pcb].map(u64::to_le_bytes).concat();
        let is_there = answer.get(HANDLES..).is_some_and(|rest| rest.starts_with(&handles));
        assert!(is_there, "the handles are not those of the answer");
        for number in [held.details.peer, held.generation].into_iter().flatten() {
            assert!(contains(answer, &number.get().to_le_bytes()), "{number} is not in the input");
        }
        check_macos_socket(answer, &held.socket);
    }
}

fn check_macos_socket(bytes: &[u8], socket: &Socket) {
    if let Binding::Unix { path } = &socket.binding {
        assert!(!path.contains(&0) && path.len() <= 253, "invalid path: {path:?}");
        assert!(contains(bytes, path), "{path:?} is not in the input");
    }
    for end in [socket.local(), socket.remote()].into_iter().flatten() {
        if let std::net::IpAddr::V6(v6) = end.address {
            let is_scoped = v6.is_unicast_link_local() && v6.segments()[1] != 0;
            assert!(!is_scoped, "{v6} contains the interface number");
        }
    }
}

/// The text of a file in `/proc/<pid>/net`. Each parser of a file gets it.
///
/// # Panics
/// If an invariant is violated.
pub fn proc_net(text: &[u8]) {
    for table in SocketTable::ALL {
        for line in text.split(|&byte| byte == b'\n') {
            let Ok(socket) = table.parse(line, ExtendedFields::all()) else { continue };
            check_table(table, &socket);
            let inode = socket.inode.to_string();
            assert!(contains(line, inode.as_bytes()), "{inode} is not in the input");
            if let Binding::Unix { path } = &socket.binding {
                assert!(line.ends_with(path), "{path:?} is not the end of the line");
            }
        }
    }
}

/// Datagrams of a dump of netlink's sock_diag, for the request that the first of them answers. The parser of
/// each table gets it.
///
/// # Panics
/// If an invariant is violated.
pub fn sock_diag(datagrams: &[u8]) {
    /// `nlmsg_seq`.
    const SEQUENCE: usize = 8;
    let sequence = datagrams.get(SEQUENCE..).and_then(|rest| rest.first_chunk());
    let sequence = u32::from_ne_bytes(sequence.copied().unwrap_or_default());
    let messages = |bytes| Messages::new(bytes, sequence).collect::<Vec<_>>();
    let whole = messages(datagrams);
    let ends_at_error =
        whole.iter().rposition(Result::is_err).is_none_or(|at| at + 1 == whole.len());
    assert!(ends_at_error, "messages follow a malformed message");
    let mut truncated = messages(prefix(datagrams));
    truncated.pop_if(|last| last.is_err());
    assert!(whole.starts_with(&truncated), "a truncated dump has other messages");
    for message in whole.into_iter().flatten() {
        let Message::Socket(message) = message else { continue };
        for table in SocketTable::ALL {
            let Some(Ok(listed)) = Request::of(table).map(|it| it.parse(message)) else { continue };
            check_table(table, &listed.socket);
            let inode = u32::try_from(listed.socket.inode);
            let is_there = inode.is_ok_and(|inode| contains(message, &inode.to_ne_bytes()));
            assert!(is_there, "{} is not in the input", listed.socket.inode);
            extended_details_are_added(table, message, &listed.socket);
        }
    }
}

/// A request for more details adds some that are in the message, and changes nothing else.
fn extended_details_are_added(table: SocketTable, message: &[u8], socket: &Socket) {
    let request = Request::of(table).map(|it| it.with_extended(ExtendedFields::all()));
    // The attribute of a detail can be malformed.
    let Some(Ok(mut more)) = request.map(|request| request.parse(message)) else { return };
    let extended = more.socket.details.extended.take();
    let basic =
        Socket { details: Details { extended: None, ..socket.details.clone() }, ..socket.clone() };
    assert_eq!(more.socket, basic, "{table:?}: a detail changes another");
    let interface = socket.details.interface();
    assert_eq!(interface, extended.as_ref().and_then(|it| it.interface.as_ref()), "{table:?}");
    let Some(extended) = extended else { return };
    let cookie = extended.cookie.map(|cookie| cookie.get().to_ne_bytes());
    assert!(cookie.is_none_or(|it| contains(message, &it)), "a cookie is not in the input");
    let inode = extended.bound_file.map(|file| u32::try_from(file.inode).unwrap_or_default());
    let is_there = inode.is_none_or(|inode| contains(message, &inode.to_ne_bytes()));
    assert!(is_there, "an inode of a file is not in the input");
    let Some(tcp) = extended.tcp else { return };
    for number in [tcp.rtt_us, tcp.min_rtt_us, tcp.retransmits, tcp.send_mss, tcp.last_sent_ms] {
        let is_there = number.is_none_or(|number| contains(message, &number.to_ne_bytes()));
        assert!(is_there, "{number:?} is not in the input");
    }
    let name = tcp.congestion_algorithm.as_ref().map(CongestionAlgorithm::name);
    assert!(name.is_none_or(|name| contains(message, name)), "a name is not in the input");
}

/// Constraints decide which tables are read, so no table may list a socket of another table.
fn check_table(table: SocketTable, socket: &Socket) {
    assert_eq!(socket.family(), Some(table.family() as u8), "{table:?}");
    if let Some(protocol) = table.protocol() {
        assert_eq!(socket.protocol(), Some(protocol), "{table:?}");
    }
    if let Some(state) = table.state() {
        assert_eq!(socket.state(), state, "{table:?}");
    }
    if !table.has_ports() {
        assert_eq!((socket.local_port(), socket.remote_port()), (0, 0), "{table:?}");
    }
}

/// The text of `/proc/<pid>/mountinfo`; and a path as a mount point.
///
/// # Panics
/// If an invariant is violated.
pub fn mountinfo(bytes: &[u8]) {
    for kind in [&b"nsfs"[..], b"cgroup2"] {
        let mounts: Vec<Mount> = mounts_of(bytes, kind).collect();
        let paths: usize = mounts.iter().map(|it| it.root.len() + it.mount_point.len()).sum();
        assert!(paths <= bytes.len(), "the paths are longer than the text");
        // A truncated last line can still be valid, with a shorter path.
        let truncated: Vec<Mount> = mounts_of(prefix(bytes), kind).collect();
        let certain = truncated.split_last().map_or(&[][..], |(_, certain)| certain);
        assert!(mounts.starts_with(certain), "a truncated text has other mounts");
    }
    let line =
        [b"1 1 0:1 net:[7] ", &escaped(bytes)[..], b" rw shared:1 - nsfs nsfs rw\n"].concat();
    let mount = Mount { root: b"net:[7]".to_vec(), mount_point: bytes.to_vec() };
    assert_eq!(mounts_of(&line, b"nsfs").collect::<Vec<_>>(), [mount]);
}

/// A record of the ring buffer of socket events; and records of the iterator over open sockets.
///
/// # Panics
/// If an invariant is violated.
pub fn event_record(bytes: &[u8]) {
    let decoder = Decoder { has_cookies: true, calls_with_descriptor: &[42, 50] };
    let whole = decoder.decode(bytes);
    if let Ok(record) = &whole {
        let cut = bytes.split_last().map_or(bytes, |(_, cut)| cut);
        assert!(decoder.decode(cut).is_err(), "a truncated record is decoded");
        let longer = [bytes, &[0]].concat();
        assert!(decoder.decode(&longer).is_err(), "a record with a byte behind it is decoded");
        match record {
            EventRecord::State(change) => state_change(bytes, change),
            EventRecord::Datagram(first) => first_send(bytes, first),
            EventRecord::DatagramEnd(end) => datagram_end(bytes, end),
            EventRecord::Executable(executable) => the_names_are_there(bytes, executable),
        }
    }
    let taken = |mut rest: &[u8]| {
        std::iter::from_fn(move || take_open_socket(&mut rest).ok().flatten()).collect::<Vec<_>>()
    };
    let (whole, cut) = (taken(bytes), taken(prefix(bytes)));
    assert!(whole.starts_with(&cut), "truncated records differ");
    for (open, _) in whole {
        assert!([2, 10].contains(&open.family), "family {}", open.family);
        assert!(contains(bytes, &open.inode.to_ne_bytes()), "{} is not in the input", open.inode);
    }
}

fn state_change(bytes: &[u8], change: &StateChange) {
    assert!([2, 10].contains(&change.family), "family {}", change.family);
    assert_eq!(change.local.address.is_ipv4(), change.family == 2, "an address of another family");
    assert_eq!(change.remote.address.is_ipv4(), change.family == 2, "an address of another family");
    let cookie = change.socket.cookie();
    assert_eq!(cookie.is_none(), change.protocol == IPPROTO_MPTCP, "an address for a cookie");
    for number in [change.boot_ns, change.inode].into_iter().chain(cookie) {
        assert!(contains(bytes, &number.to_ne_bytes()), "{number} is invented");
    }
    for port in [change.local.port, change.remote.port] {
        let is_there = contains(bytes, &port.to_ne_bytes()) || contains(bytes, &port.to_be_bytes());
        assert!(is_there, "port {port} is invented");
    }
    if let Some(actor) = change.actor {
        actor_is_there(bytes, &actor);
    }
}

fn first_send(bytes: &[u8], first: &FirstDatagram) {
    datagram_socket(bytes, &first.socket);
    assert!(first.errno >= 0, "errno {}", first.errno);
    if let Some(actor) = first.actor {
        actor_is_there(bytes, &actor);
    }
}

fn datagram_end(bytes: &[u8], end: &DatagramEnd) {
    datagram_socket(bytes, &end.socket);
    for number in [end.bytes.sent, end.bytes.received] {
        assert!(contains(bytes, &number.to_ne_bytes()), "{number} is invented");
    }
    if let Some(actor) = end.actor {
        actor_is_there(bytes, &actor);
    }
}

fn datagram_socket(bytes: &[u8], socket: &DatagramSocket) {
    assert!([2, 10, 17].contains(&socket.family), "family {}", socket.family);
    for end in [socket.local, socket.remote] {
        assert_eq!(end.address.is_ipv6(), socket.family == 10, "an address of another family");
        assert!(
            contains(bytes, &end.port.to_ne_bytes()) || contains(bytes, &end.port.to_be_bytes())
        );
    }
    assert!(contains(bytes, &socket.inode.to_ne_bytes()), "{} is invented", socket.inode);
}

fn actor_is_there(bytes: &[u8], actor: &Actor) {
    assert!(contains(bytes, &actor.comm), "{:?} is invented", actor.comm);
    for number in [actor.pid, actor.tid, actor.parent] {
        assert!(contains(bytes, &number.to_ne_bytes()), "{number} is invented");
    }
    let is_there = actor.fd == -1 || contains(bytes, &actor.fd.to_ne_bytes());
    assert!(is_there, "descriptor {} is invented", actor.fd);
}

fn the_names_are_there(bytes: &[u8], executable: &Executable) {
    let path = &executable.path;
    assert!(path.len() <= bytes.len() && !path.contains(&0), "no path: {path:?}");
    assert!(executable.is_truncated || path.starts_with(b"/"), "a relative path: {path:?}");
    for name in path.split(|&byte| byte == b'/') {
        assert!(contains(bytes, name), "{name:?} is invented");
    }
}

/// As `mangle` in `fs/seq_file.c` of Linux writes it.
fn escaped(path: &[u8]) -> Vec<u8> {
    let escape = |&byte: &u8| match byte {
        b' ' | b'\t' | b'\n' | b'\\' | b'#' => format!("\\{byte:03o}").into_bytes(),
        _ => vec![byte],
    };
    path.iter().flat_map(escape).collect()
}

/// A prefix of the bytes. Its length is arbitrary, but the same for the same bytes.
fn prefix(bytes: &[u8]) -> &[u8] {
    let mixed = bytes
        .iter()
        .fold(7_usize, |sum, &byte| sum.wrapping_mul(31).wrapping_add(usize::from(byte)));
    bytes.get(..mixed % (bytes.len() + 1)).unwrap_or_default()
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    part.is_empty() || bytes.windows(part.len()).any(|window| window == part)
}
