use proptest::prelude::*;

use super::super::xnu_records::{KernelSocket, Layout, fixture, header, value};
use super::*;

const TCP4: &str = include_str!("../../../../../fixtures/xnu/tcp4.pcblist_n");

const BOTH: [Layout; 2] = [Layout::Macos12, Layout::Macos13];

/// The handles of a list's sockets.
fn handles(listing: &Listing) -> Vec<u64> {
    listing.pcbs.iter().map(|pcb| pcb.socket.inode).collect()
}

fn with_handles(handles: &[u64]) -> Vec<KernelSocket> {
    let socket = |&handle| KernelSocket { handle, last_pid: 9, ..KernelSocket::default() };
    handles.iter().map(socket).collect()
}

#[test]
fn a_socket_without_addresses_is_being_torn_down_and_left_out() {
    let sockets = [KernelSocket { handle: 7, vflag: 0, ..Default::default() }];
    let listing = PcbList::Tcp.parse(&value(PcbList::Tcp, Layout::Macos13, &sockets)).unwrap();
    assert_eq!((listing.pcbs.len(), listing.malformed, listing.end), (0, 0, End::Whole));
}

#[test]
fn an_empty_list_has_one_header_and_no_sockets() {
    for list in PcbList::ALL {
        let listing = list.parse(&header(list, 0, 5)).unwrap();
        let none = Listing { pcbs: vec![], malformed: 0, end: End::Whole, count: 0, groups: 0 };
        assert_eq!(listing, none, "{list:?}");
    }
}

#[test]
fn a_list_has_its_count_and_its_number_of_groups() {
    for list in PcbList::ALL {
        let head = header(list, 250, 5);
        let listing = list.parse(&[&head[..], &head].concat()).unwrap();
        assert_eq!((listing.end, listing.count, listing.groups), (End::Whole, 250, 0), "{list:?}");
        // Cut before the first socket: nothing is known.
        assert_eq!(list.parse(&head).unwrap().end, End::Truncated, "{list:?}");
    }
    // A skipped group is counted too.
    let list = PcbList::Udp;
    let socket = |handle, generation| KernelSocket { handle, generation, ..Default::default() };
    let groups = [socket(1, 5), socket(2, 6)].map(|it| it.group(list, Layout::Macos13)).concat();
    let head = header(list, 3, 5);
    let listing = list.parse(&[&head[..], &groups, &head].concat()).unwrap();
    assert_eq!((handles(&listing), listing.count, listing.groups), (vec![1], 3, 2));
}

#[test]
fn a_record_as_long_as_the_header_would_not_be_the_end() {
    let value = fixture(TCP4, None);
    // Of a kind that is not known, between the records of a socket and after them.
    let unknown = [&[24, 0, 0, 0, 0, 4, 0, 0], &[0; 16][..]].concat();
    let expected = PcbList::Tcp.parse(&value);
    for at in [128, 232, 640] {
        let value = [&value[..at], &unknown, &value[at..]].concat();
        assert_eq!(PcbList::Tcp.parse(&value), expected, "{at}");
    }
}

#[test]
fn the_end_is_no_record_with_any_count() {
    for count in [1, 2, 4, 8, 0x10, 0x20, 0x80, 0x100, 0x200] {
        for list in PcbList::ALL {
            let head = header(list, count, 1_000_000);
            let group = with_handles(&[7])[0].group(list, Layout::Macos13);
            let listing = list.parse(&[&head[..], &group, &head].concat()).unwrap();
            assert_eq!((handles(&listing), listing.end), (vec![7], End::Whole), "{list:?} {count}");
            assert_eq!(listing.malformed, 0, "{list:?} {count}");
        }
    }
}

#[test]
fn unwritten_bytes_after_the_end_are_ignored() {
    let mut value = fixture(TCP4, None);
    let whole = PcbList::Tcp.parse(&value);
    value.extend([0; 999]);
    assert_eq!(PcbList::Tcp.parse(&value), whole);
    // Nor is it a socket where the end is missing.
    let mut cut = fixture(TCP4, None);
    cut.truncate(640);
    cut.extend([0; 999]);
    let listing = PcbList::Tcp.parse(&cut).unwrap();
    assert_eq!((listing.pcbs.len(), listing.malformed, listing.end), (1, 0, End::Truncated));
}

#[test]
fn a_truncated_list_keeps_its_whole_sockets() {
    for layout in BOTH {
        for list in PcbList::ALL {
            let sockets = with_handles(&[3, 4, 5]);
            let value = value(list, layout, &sockets);
            let head = header(list, 3, 1_000_000).len();
            let group = sockets[0].group(list, layout).len();
            for length in 0..value.len() {
                let parsed = list.parse(&value[..length]);
                if length < head {
                    assert_eq!(parsed, Err(Malformed), "{list:?} {length}");
                    continue;
                }
                let listing = parsed.unwrap();
                // What fills the last record up does not count.
                let filling = if list == PcbList::Tcp { 4 } else { 0 };
                let whole = (length + filling - head) / group;
                assert_eq!(handles(&listing), &[3, 4, 5][..whole.min(3)], "{list:?} {length}");
                assert_eq!(
                    (listing.malformed, listing.end),
                    (0, End::Truncated),
                    "{list:?} {length}"
                );
            }
        }
    }
}

#[test]
fn lengths_that_cannot_be_end_the_list() {
    let value = fixture(TCP4, None);
    for length in [0, 4, 7, 0x7fff_ffff, 0xffff_fffc, u32::MAX] {
        for at in [24, 128, 232, 432] {
            let mut value = value.clone();
            value[at..at + 4].copy_from_slice(&u32::to_le_bytes(length));
            let listing = PcbList::Tcp.parse(&value).unwrap();
            assert_eq!((listing.pcbs.len(), listing.end), (0, End::Truncated), "{length} {at}");
        }
    }
}

#[test]
fn a_socket_newer_than_the_header_is_left_out() {
    let list = PcbList::Udp;
    let socket = |handle, generation| KernelSocket { handle, generation, ..Default::default() };
    let groups = [socket(1, 50), socket(2, 51)].map(|it| it.group(list, Layout::Macos13)).concat();
    let head = header(list, 2, 50);
    let listing = list.parse(&[&head[..], &groups, &head].concat()).unwrap();
    assert_eq!((handles(&listing), listing.end), (vec![1], End::Whole));
}

#[test]
fn records_of_an_unknown_kind_are_skipped() {
    let value = fixture(TCP4, None);
    // 13 bytes, and 3 to the next record.
    let unknown = [&[13, 0, 0, 0, 0, 4, 0, 0], &[0xff; 8][..]].concat();
    let expected = PcbList::Tcp.parse(&value);
    for at in [24, 128, 232, 296, 432, 640] {
        let value = [&value[..at], &unknown, &value[at..]].concat();
        assert_eq!(PcbList::Tcp.parse(&value), expected, "{at}");
    }
}

#[test]
fn the_known_fields_of_longer_records_are_read() {
    let value = fixture(TCP4, None);
    let expected = PcbList::Tcp.parse(&value);
    for (at, length) in [(24, 104), (128, 104), (232, 32), (264, 32), (296, 136), (432, 204_u32)] {
        let end = at + usize::try_from(length).unwrap().next_multiple_of(8);
        let mut value = [&value[..end], &[0xee; 16], &value[end..]].concat();
        value[at..at + 4].copy_from_slice(&(length + 16).to_le_bytes());
        assert_eq!(PcbList::Tcp.parse(&value), expected, "{at}");
    }
}

#[test]
fn records_that_are_too_short_are_counted_and_left_out() {
    let short = |kind: u8| [&[16, 0, 0, 0, kind, 0, 0, 0], &[0; 8][..]].concat();
    for (list, kind) in [(PcbList::Tcp, 0x10), (PcbList::Kctl, 0x80), (PcbList::Kevt, 0)] {
        let group = with_handles(&[7])[0].group(list, Layout::Macos13);
        let head = header(list, 2, 1_000_000);
        let mut short = short(kind);
        if list == PcbList::Kevt {
            short[5] = 1;
        }
        let listing = list.parse(&[&head[..], &short, &group, &head].concat()).unwrap();
        assert_eq!((handles(&listing), listing.end), (vec![7], End::Whole), "{list:?}");
        assert_eq!(listing.malformed, 1, "{list:?}");
    }
}

#[test]
fn a_value_that_does_not_begin_as_a_list_is_malformed() {
    // A header that ends before its last field, and nothing missing behind it.
    let mut short = [0; 96];
    short[0] = 31;
    for bytes in [&b""[..], &[24, 0, 0, 0], &[0; 24], &[0; 64], &short, &[24; 24], &[0xff; 64]] {
        for list in PcbList::ALL {
            assert_eq!(list.parse(bytes), Err(Malformed), "{bytes:?}");
        }
    }
}

fn any_list() -> impl Strategy<Value = PcbList> {
    prop::sample::select(&PcbList::ALL[..])
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(
        list in any_list(),
        bytes in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let _ = list.parse(&bytes);
        let head = header(list, 1, 1_000_000);
        let _ = list.parse(&[&head[..], &bytes].concat());
    }

    #[test]
    fn changed_bytes_harm_no_socket_before_them(
        list in any_list(),
        old in any::<bool>(),
        index in any::<prop::sample::Index>(),
        change in 1..=u8::MAX,
    ) {
        let layout = BOTH[usize::from(!old)];
        let sockets = with_handles(&[3, 4, 5, 6]);
        let whole = value(list, layout, &sockets);
        let expected = list.parse(&whole).unwrap();
        let head = header(list, 4, 0).len();
        let group = sockets[0].group(list, layout).len();
        let at = head + index.index(whole.len() - head);
        let mut bytes = whole;
        bytes[at] ^= change;
        let listing = list.parse(&bytes).unwrap();
        let before = ((at - head) / group).min(4);
        prop_assert_eq!(listing.pcbs.get(..before), expected.pcbs.get(..before));
    }

    #[test]
    fn a_truncated_list_is_a_prefix_of_the_whole_one(
        list in any_list(),
        handles in prop::collection::vec(any::<u64>(), 0..5),
        length in any::<prop::sample::Index>(),
    ) {
        let value = value(list, Layout::Macos13, &with_handles(&handles));
        let whole = list.parse(&value).unwrap();
        if let Ok(listing) = list.parse(&value[..length.index(value.len())]) {
            prop_assert!(whole.pcbs.starts_with(&listing.pcbs));
            prop_assert_eq!((listing.end, listing.malformed), (End::Truncated, 0));
        }
    }
}
