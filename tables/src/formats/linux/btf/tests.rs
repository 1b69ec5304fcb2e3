use proptest::prelude::*;

use super::*;
use crate::formats::linux::btf_builder::Builder;

/// `typedef unsigned int u32; struct inner { u32 a; unsigned char b[6]; };
/// struct outer { struct outer *next; const u32 plain; union { struct { char x; u32 deep; }; struct inner
/// other; }; struct inner inner; u32 low:4, high:28; }; int f(void);`
fn few_types() -> Vec<u8> {
    let mut btf = Builder::new();
    let int = btf.int("unsigned int", 4);
    let char = btf.int("char", 1);
    let u32 = btf.add("u32", TYPEDEF << 24, int, &[]);
    let constant = btf.add("", CONST << 24, u32, &[]);
    let array = btf.add("", ARRAY << 24, 0, &[char, int, 6]);
    let inner = btf.structure("inner", 12, &[("a", u32, 0), ("b", array, 32)]);
    let pointer = btf.add("", PTR << 24, 11, &[]);
    let nameless = btf.structure("", 8, &[("x", char, 0), ("deep", u32, 32)]);
    let union = btf.compound(UNION << 24, "", 12, &[("", nameless, 0), ("other", inner, 0)]);
    let _enumeration = btf.add("kind", ENUM << 24 | 1, 4, &[0, 7]);
    let outer = btf.compound(
        1 << 31 | STRUCT << 24,
        "outer",
        48,
        &[
            ("next", pointer, 0),
            ("plain", constant, 64),
            ("", union, 96),
            ("inner", inner, 192),
            ("low", int, 4 << 24 | 288),
            ("high", int, 28 << 24 | 292),
        ],
    );
    assert_eq!(outer, 11);
    btf.function("f", int);
    btf.bytes()
}

const NAMES: [&str; 4] = ["inner", "outer", "f", "u32"];

#[test]
fn a_member_is_found_through_names_and_nameless_structures() {
    let bytes = few_types();
    let btf = Btf::parse(&bytes, &NAMES).unwrap();
    for (path, offset, size) in [
        ("next", 0, 8),
        ("plain", 8, 4),
        ("x", 12, 1),
        ("deep", 16, 4),
        ("other", 12, 12),
        ("other.b", 16, 6),
        ("inner", 24, 12),
        ("inner.a", 24, 4),
        ("inner.b", 28, 6),
    ] {
        assert_eq!(btf.member("outer", path), Ok(MemberLocation { offset, size }), "{path}");
    }
    assert_eq!(btf.function("f"), Ok(13));
    assert_eq!(btf.typedef("u32"), Ok(3));
    assert_eq!(btf.typedef("f"), Err(BtfError::NoTypedef("f".into())));
    assert_eq!(btf.size_of("inner"), Ok(12));
}

#[test]
fn a_path_leads_through_an_array_to_its_first_structure() {
    let mut btf = Builder::new();
    let int = btf.int("int", 4);
    let element = btf.structure("element", 8, &[("a", int, 0), ("b", int, 32)]);
    let array = btf.add("", ARRAY << 24, 0, &[element, int, 3]);
    // Of a flexible array, too.
    let flexible = btf.add("", ARRAY << 24, 0, &[element, int, 0]);
    btf.structure("s", 32, &[("list", array, 64), ("rest", flexible, 256)]);
    let bytes = btf.bytes();
    let btf = Btf::parse(&bytes, &["s"]).unwrap();
    for (path, offset, size) in [("list", 8, 24), ("list.b", 12, 4), ("rest.b", 36, 4)] {
        assert_eq!(btf.member("s", path), Ok(MemberLocation { offset, size }), "{path}");
    }
}

#[test]
fn an_unexpected_member_is_named_in_the_error() {
    let bytes = few_types();
    let btf = Btf::parse(&bytes, &NAMES).unwrap();
    let named = |member: &str| ("outer".to_owned(), member.to_owned());
    let no_member = |member| {
        let (structure, member) = named(member);
        Err(BtfError::NoMember { structure, member })
    };
    assert_eq!(btf.member("outer", "last"), no_member("last"));
    assert_eq!(btf.member("outer", "plain.a"), no_member("plain.a"));
    assert_eq!(btf.member("outer", "next.plain"), no_member("next.plain"));
    let (structure, member) = named("low");
    assert_eq!(btf.member("outer", "low"), Err(BtfError::BitField { structure, member }));
    let (structure, member) = named("inner.b");
    let size = Err(BtfError::Size { structure, member, size: 6 });
    assert_eq!(btf.sized("outer", "inner.b", 4), size);
    assert_eq!(btf.sized("outer", "inner.b", 6), Ok(28));
    let missing = Err(BtfError::NoStructure("other".into()));
    assert_eq!(btf.member("other", "a"), missing);
    assert_eq!(btf.function("outer"), Err(BtfError::NoFunction("outer".into())));
}

#[test]
fn other_bytes_are_no_types_and_cut_ones_are_damaged() {
    let bytes = few_types();
    let mut swapped = bytes.clone();
    swapped.swap(0, 1);
    assert_eq!(Btf::parse(&swapped, &NAMES).err(), Some(BtfError::NotBtf));
    for length in 0..bytes.len() {
        let error = Btf::parse(&bytes[..length], &NAMES).err();
        let expected = if length < 4 { BtfError::NotBtf } else { BtfError::Damaged };
        assert_eq!(error, Some(expected), "{length}");
    }
}

#[test]
fn types_that_lead_in_a_circle_are_damaged() {
    let mut btf = Builder::new();
    // Each is a name of the other.
    btf.add("a", TYPEDEF << 24, 2, &[]);
    btf.add("b", TYPEDEF << 24, 1, &[]);
    btf.structure("s", 4, &[("member", 1, 0), ("", 3, 0)]);
    let bytes = btf.bytes();
    let btf = Btf::parse(&bytes, &["s"]).unwrap();
    assert_eq!(btf.member("s", "member"), Err(BtfError::Damaged));
    assert_eq!(btf.member("s", "other"), Err(BtfError::Damaged));
}

proptest! {
    #[test]
    fn no_change_to_the_bytes_is_trusted(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut bytes = few_types();
        for (offset, byte) in changes {
            let offset = offset.index(bytes.len());
            bytes[offset] = byte;
        }
        if let Ok(btf) = Btf::parse(&bytes, &NAMES) {
            for path in ["plain", "deep", "other.b", "inner.a", "low"] {
                let _ = btf.member("outer", path);
            }
            let _ = btf.function("f");
        }
    }
}
