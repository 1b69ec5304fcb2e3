//! The kernel's description of its own types: BTF, as in `/sys/kernel/btf/vmlinux`
//! (`include/uapi/linux/btf.h`, `Documentation/bpf/btf.rst`).
//!
//! Read as far as it takes to find where a member of a structure lies, and the number of a function.

use std::collections::{HashMap, HashSet};
use std::fmt;

use crate::formats::take;

/// Types by their numbers, and some structures and functions by their names.
pub(crate) struct Btf<'a> {
    types: &'a [u8],
    strings: &'a [u8],
    /// Where in `types` each begins; number 0 is `void`.
    places: Vec<u32>,
    /// Of several with one name, as of `struct` private to several files, the first.
    structures: HashMap<&'a [u8], u32>,
    functions: HashMap<&'a [u8], u32>,
}

/// Where a member lies, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// From the beginning of the structure.
    pub(crate) offset: u32,
    pub(crate) size: u32,
}

/// Why the types do not tell what is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum BtfError {
    /// It does not begin as BTF does, or is of another byte order or version.
    NotBtf,
    /// It ends too early, or refers to what is not there.
    Damaged,
    NoStructure(String),
    NoFunction(String),
    NoMember {
        structure: String,
        member: String,
    },
    /// It shares its bytes with others.
    BitField {
        structure: String,
        member: String,
    },
    /// It is of another size than its users know.
    Size {
        structure: String,
        member: String,
        size: u32,
    },
}

impl fmt::Display for BtfError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BtfError::NotBtf => write!(f, "not BTF of this machine's byte order, version 1"),
            BtfError::Damaged => write!(f, "damaged BTF"),
            BtfError::NoStructure(name) => write!(f, "no struct {name}"),
            BtfError::NoFunction(name) => write!(f, "no function {name}"),
            BtfError::NoMember { structure, member } => {
                write!(f, "struct {structure} has no member {member}")
            }
            BtfError::BitField { structure, member } => {
                write!(f, "member {member} of struct {structure} is a bit field")
            }
            BtfError::Size { structure, member, size } => {
                write!(f, "member {member} of struct {structure} has {size} bytes")
            }
        }
    }
}

const INT: u32 = 1;
const PTR: u32 = 2;
const ARRAY: u32 = 3;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const ENUM: u32 = 6;
const FWD: u32 = 7;
const TYPEDEF: u32 = 8;
const VOLATILE: u32 = 9;
const CONST: u32 = 10;
const RESTRICT: u32 = 11;
const FUNC: u32 = 12;
const FUNC_PROTO: u32 = 13;
const VAR: u32 = 14;
const DATASEC: u32 = 15;
const FLOAT: u32 = 16;
const DECL_TAG: u32 = 17;
const TYPE_TAG: u32 = 18;
const ENUM64: u32 = 19;

/// `struct btf_type`.
#[derive(Clone, Copy)]
struct Type<'a> {
    name: u32,
    kind: u32,
    /// How many members, or the like, follow.
    count: usize,
    /// Whether the offsets of members hold the sizes of bit fields, too.
    kind_flag: bool,
    /// A size for some kinds, a type for the others.
    size_or_type: u32,
    /// What follows, up to the end of all types.
    rest: &'a [u8],
}

/// `struct btf_member`.
struct Member {
    name: u32,
    kind: u32,
    bits: u32,
    /// 0 if it is no bit field.
    bit_field: u32,
}

impl<'a> Btf<'a> {
    /// Finds these structures and functions: a kernel has some 60,000.
    pub(crate) fn parse(bytes: &'a [u8], names: &[&str]) -> Result<Btf<'a>, BtfError> {
        const MAGIC: u16 = 0xeb9f;
        const VERSION: u8 = 1;
        let header = &mut &*bytes;
        let magic = u16::from_ne_bytes(take(header).ok_or(BtfError::NotBtf)?);
        let [version, _flags] = take(header).ok_or(BtfError::NotBtf)?;
        if magic != MAGIC || version != VERSION {
            return Err(BtfError::NotBtf);
        }
        let mut number = || word(header).and_then(|number| usize::try_from(number).ok());
        let mut numbers = || Some([number()?, number()?, number()?, number()?, number()?]);
        let [header_length, types, types_length, strings, strings_length] =
            numbers().ok_or(BtfError::Damaged)?;
        let section =
            |start: usize, length: usize| bytes.get(header_length..)?.get(start..)?.get(..length);
        let mut btf = Btf {
            types: section(types, types_length).ok_or(BtfError::Damaged)?,
            strings: section(strings, strings_length).ok_or(BtfError::Damaged)?,
            places: vec![0],
            structures: HashMap::new(),
            functions: HashMap::new(),
        };
        btf.index(names).ok_or(BtfError::Damaged)?;
        Ok(btf)
    }

    fn index(&mut self, names: &[&str]) -> Option<()> {
        let wanted: HashSet<&[u8]> = names.iter().map(|name| name.as_bytes()).collect();
        let mut rest = self.types;
        while !rest.is_empty() {
            let number = u32::try_from(self.places.len()).ok()?;
            self.places.push(u32::try_from(self.types.len() - rest.len()).ok()?);
            let found = type_at(rest)?;
            let names = match found.kind {
                STRUCT => Some(&mut self.structures),
                FUNC => Some(&mut self.functions),
                _ => None,
            };
            if let Some(names) = names {
                let name = name_at(self.strings, found.name)?;
                if wanted.contains(name) {
                    names.entry(name).or_insert(number);
                }
            }
            rest = found.rest.get(found.length()?..)?;
        }
        Some(())
    }

    /// The number of a function.
    pub(crate) fn function(&self, name: &str) -> Result<u32, BtfError> {
        let number = self.functions.get(name.as_bytes()).copied();
        number.ok_or_else(|| BtfError::NoFunction(name.into()))
    }

    /// How many bytes a structure has.
    pub(crate) fn size_of(&self, structure: &str) -> Result<u32, BtfError> {
        self.size(self.structure(structure)?).ok_or(BtfError::Damaged)
    }

    fn structure(&self, name: &str) -> Result<u32, BtfError> {
        let number = self.structures.get(name.as_bytes()).copied();
        number.ok_or_else(|| BtfError::NoStructure(name.into()))
    }

    /// Where a member of a structure lies. `path` names it, with dots between, through members that are
    /// structures themselves; nameless ones are looked through.
    pub(crate) fn member(&self, structure: &str, path: &str) -> Result<Place, BtfError> {
        let mut number = self.structure(structure)?;
        let named = || (structure.to_owned(), path.to_owned());
        let mut bits: u32 = 0;
        for name in path.split('.') {
            let found = self.find(number, name.as_bytes(), 0).ok_or(BtfError::Damaged)?;
            let Some(found) = found else {
                let (structure, member) = named();
                return Err(BtfError::NoMember { structure, member });
            };
            if found.bit_field != 0 {
                let (structure, member) = named();
                return Err(BtfError::BitField { structure, member });
            }
            bits = bits.checked_add(found.bits).ok_or(BtfError::Damaged)?;
            number = found.kind;
        }
        // Of an array without a length it is 0.
        let size = self.size(number).ok_or(BtfError::Damaged)?;
        Ok(Place { offset: bits / 8, size })
    }

    /// The same, if it is of that size.
    pub(crate) fn sized(&self, structure: &str, path: &str, size: u32) -> Result<u32, BtfError> {
        let place = self.member(structure, path)?;
        if place.size != size {
            let (structure, member) = (structure.into(), path.into());
            return Err(BtfError::Size { structure, member, size: place.size });
        }
        Ok(place.offset)
    }

    /// The member of that name. The outer None is damage.
    fn find(&self, number: u32, name: &[u8], depth: usize) -> Option<Option<Member>> {
        if depth > DEEPEST {
            return None;
        }
        let within = self.resolved(number)?;
        if !matches!(within.kind, STRUCT | UNION) {
            return Some(None);
        }
        let members = &mut &*within.rest;
        for _ in 0..within.count {
            let member = member(members, within.kind_flag)?;
            match name_at(self.strings, member.name)? {
                [] => {
                    if let Some(inner) = self.find(member.kind, name, depth + 1)? {
                        let bits = inner.bits.checked_add(member.bits)?;
                        return Some(Some(Member { bits, ..inner }));
                    }
                }
                found if found == name => return Some(Some(member)),
                _ => {}
            }
        }
        Some(None)
    }

    fn get(&self, number: u32) -> Option<Type<'a>> {
        let place = *self.places.get(usize::try_from(number).ok()?)?;
        type_at(self.types.get(usize::try_from(place).ok()?..)?)
    }

    /// What another name or a qualifier stands for.
    fn resolved(&self, number: u32) -> Option<Type<'a>> {
        let mut found = self.get(number)?;
        for _ in 0..DEEPEST {
            match found.kind {
                TYPEDEF | VOLATILE | CONST | RESTRICT | TYPE_TAG => {
                    found = self.get(found.size_or_type)?;
                }
                _ => return Some(found),
            }
        }
        None
    }

    fn size(&self, number: u32) -> Option<u32> {
        let mut elements: u32 = 1;
        let mut found = self.resolved(number)?;
        for _ in 0..DEEPEST {
            let size = match found.kind {
                INT | STRUCT | UNION | ENUM | ENUM64 | FLOAT => found.size_or_type,
                PTR => 8,
                ARRAY => {
                    let array = &mut &*found.rest;
                    let (element, _index, count) = (word(array)?, word(array)?, word(array)?);
                    elements = elements.checked_mul(count)?;
                    found = self.resolved(element)?;
                    continue;
                }
                _ => return None,
            };
            return elements.checked_mul(size);
        }
        None
    }
}

/// How many types may lead from one to another: more than the kernel's do.
const DEEPEST: usize = 32;

impl Type<'_> {
    /// How many bytes follow that are its own.
    fn length(&self) -> Option<usize> {
        let each = match self.kind {
            INT | VAR | DECL_TAG => return Some(4),
            ARRAY => return Some(12),
            PTR | FWD | TYPEDEF | VOLATILE | CONST | RESTRICT | FUNC | FLOAT | TYPE_TAG => 0,
            ENUM | FUNC_PROTO => 8,
            STRUCT | UNION | DATASEC | ENUM64 => 12,
            _ => return None,
        };
        self.count.checked_mul(each)
    }
}

fn type_at(mut bytes: &[u8]) -> Option<Type<'_>> {
    let name = word(&mut bytes)?;
    let info = word(&mut bytes)?;
    let size_or_type = word(&mut bytes)?;
    let count = usize::try_from(info & 0xffff).ok()?;
    let kind = info >> 24 & 0x1f;
    Some(Type { name, kind, count, kind_flag: info >> 31 == 1, size_or_type, rest: bytes })
}

fn member(bytes: &mut &[u8], kind_flag: bool) -> Option<Member> {
    let name = word(bytes)?;
    let kind = word(bytes)?;
    let offset = word(bytes)?;
    let (bits, bit_field) =
        if kind_flag { (offset & 0xff_ffff, offset >> 24) } else { (offset, 0) };
    Some(Member { name, kind, bits, bit_field })
}

fn name_at(strings: &[u8], offset: u32) -> Option<&[u8]> {
    let name = strings.get(usize::try_from(offset).ok()?..)?;
    name.get(..name.iter().position(|&byte| byte == 0)?)
}

fn word(bytes: &mut &[u8]) -> Option<u32> {
    take(bytes).map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Types as the kernel writes them, in the order in which they are added.
    #[derive(Default)]
    struct Builder {
        types: Vec<u32>,
        strings: Vec<u8>,
        count: u32,
    }

    /// Name, type, and offset in bits, or with `struct`'s flag also the size of a bit field.
    type Members<'a> = &'a [(&'a str, u32, u32)];

    impl Builder {
        fn new() -> Builder {
            Builder { strings: vec![0], ..Builder::default() }
        }

        fn name(&mut self, name: &str) -> u32 {
            if name.is_empty() {
                return 0;
            }
            let place = self.strings.len() as u32;
            self.strings.extend(name.as_bytes());
            self.strings.push(0);
            place
        }

        fn add(&mut self, name: &str, info: u32, size_or_type: u32, rest: &[u32]) -> u32 {
            let name = self.name(name);
            self.types.extend([name, info, size_or_type]);
            self.types.extend(rest);
            self.count += 1;
            self.count
        }

        fn int(&mut self, name: &str, size: u32) -> u32 {
            self.add(name, INT << 24, size, &[size * 8])
        }

        fn compound(&mut self, info: u32, name: &str, size: u32, members: Members) -> u32 {
            let mut rest = Vec::new();
            for &(name, kind, offset) in members {
                let name = self.name(name);
                rest.extend([name, kind, offset]);
            }
            self.add(name, info | members.len() as u32, size, &rest)
        }

        fn structure(&mut self, name: &str, size: u32, members: Members) -> u32 {
            self.compound(STRUCT << 24, name, size, members)
        }

        fn bytes(&self) -> Vec<u8> {
            let types = self.types.len() as u32 * 4;
            let mut bytes = 0xeb9f_u16.to_ne_bytes().to_vec();
            // Version and flags, then the lengths of the header and of the sections with their offsets.
            bytes.extend([1, 0]);
            let numbers = [24, 0, types, types, self.strings.len() as u32];
            for number in numbers.iter().chain(&self.types) {
                bytes.extend(number.to_ne_bytes());
            }
            bytes.extend(&self.strings);
            bytes
        }
    }

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
        let prototype = btf.add("", FUNC_PROTO << 24, int, &[]);
        btf.add("f", FUNC << 24, prototype, &[]);
        btf.bytes()
    }

    const NAMES: [&str; 3] = ["inner", "outer", "f"];

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
            assert_eq!(btf.member("outer", path), Ok(Place { offset, size }), "{path}");
        }
        assert_eq!(btf.function("f"), Ok(13));
        assert_eq!(btf.size_of("inner"), Ok(12));
    }

    #[test]
    fn what_is_not_as_it_is_asked_for_is_named() {
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
            for (place, byte) in changes {
                let place = place.index(bytes.len());
                bytes[place] = byte;
            }
            if let Ok(btf) = Btf::parse(&bytes, &NAMES) {
                for path in ["plain", "deep", "other.b", "inner.a", "low"] {
                    let _ = btf.member("outer", path);
                }
                let _ = btf.function("f");
            }
        }
    }
}
