//! The kernel's description of its own types: BTF, as in `/sys/kernel/btf/vmlinux`
//! (`include/uapi/linux/btf.h`, `Documentation/bpf/btf.rst`).
//!
//! The parser reads only the offsets of structure members and the numbers of functions and typedefs.

use std::collections::{HashMap, HashSet};
use std::fmt;

use crate::formats::take;

/// Types by their numbers, and some structures, functions and typedefs by their names.
pub(crate) struct Btf<'a> {
    types: &'a [u8],
    strings: &'a [u8],
    /// The offset in `types` of each type; number 0 is `void`.
    offsets: Vec<u32>,
    /// Of several with one name, as of `struct` private to several files, the first.
    structures: HashMap<&'a [u8], u32>,
    functions: HashMap<&'a [u8], u32>,
    typedefs: HashMap<&'a [u8], u32>,
}

/// The location of a member, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MemberLocation {
    /// The offset in the structure.
    pub(crate) offset: u32,
    pub(crate) size: u32,
}

/// The location of a few bits in a byte: the byte, and after a shift to the right a mask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BitsOfByte {
    pub(crate) offset: u32,
    pub(crate) shift: u32,
    pub(crate) mask: u8,
}

/// Why a member or function is not found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum BtfError {
    /// The data has no BTF header, or one of another byte order or version.
    NotBtf,
    /// The data is truncated, or has an invalid reference.
    Damaged,
    NoStructure(String),
    NoFunction(String),
    NoTypedef(String),
    NoMember {
        structure: String,
        member: String,
    },
    /// The member is a bit field.
    BitField {
        structure: String,
        member: String,
    },
    /// The member has another size than expected.
    Size {
        structure: String,
        member: String,
        size: u32,
    },
}

impl fmt::Display for BtfError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BtfError::NotBtf => {
                write!(
                    f,
                    "the kernel's types are not BTF of version 1 in this machine's byte order"
                )
            }
            BtfError::Damaged => write!(f, "the kernel's types are damaged BTF"),
            BtfError::NoStructure(name) => write!(f, "the kernel's types have no struct {name}"),
            BtfError::NoFunction(name) => write!(f, "the kernel's types have no function {name}"),
            BtfError::NoTypedef(name) => write!(f, "the kernel's types have no typedef {name}"),
            BtfError::NoMember { structure, member } => {
                write!(f, "the kernel's struct {structure} has no member {member}")
            }
            BtfError::BitField { structure, member } => {
                write!(f, "member {member} of the kernel's struct {structure} is a bit field")
            }
            BtfError::Size { structure, member, size } => {
                write!(f, "member {member} of the kernel's struct {structure} has {size} bytes")
            }
        }
    }
}

impl std::error::Error for BtfError {}

pub(super) const INT: u32 = 1;
pub(super) const PTR: u32 = 2;
const ARRAY: u32 = 3;
pub(super) const STRUCT: u32 = 4;
const UNION: u32 = 5;
const ENUM: u32 = 6;
const FWD: u32 = 7;
pub(super) const TYPEDEF: u32 = 8;
const VOLATILE: u32 = 9;
const CONST: u32 = 10;
const RESTRICT: u32 = 11;
pub(super) const FUNC: u32 = 12;
pub(super) const FUNC_PROTO: u32 = 13;
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
    /// The number of members, or other entries, that follow.
    count: usize,
    /// Whether the offsets of members hold the sizes of bit fields, too.
    kind_flag: bool,
    /// A size for some kinds, a type for the others.
    size_or_type: u32,
    /// The bytes that follow, up to the end of all types.
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
    /// Finds these structures, functions and typedefs: a kernel has some 60,000.
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
            offsets: vec![0],
            structures: HashMap::new(),
            functions: HashMap::new(),
            typedefs: HashMap::new(),
        };
        btf.index(names).ok_or(BtfError::Damaged)?;
        Ok(btf)
    }

    fn index(&mut self, names: &[&str]) -> Option<()> {
        let names: HashSet<&[u8]> = names.iter().map(|name| name.as_bytes()).collect();
        let mut rest = self.types;
        while !rest.is_empty() {
            let number = u32::try_from(self.offsets.len()).ok()?;
            self.offsets.push(u32::try_from(self.types.len() - rest.len()).ok()?);
            let found = type_at(rest)?;
            let numbers = match found.kind {
                STRUCT => Some(&mut self.structures),
                FUNC => Some(&mut self.functions),
                TYPEDEF => Some(&mut self.typedefs),
                _ => None,
            };
            if let Some(numbers) = numbers {
                let name = name_at(self.strings, found.name)?;
                if names.contains(name) {
                    numbers.entry(name).or_insert(number);
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

    /// The number of a typedef.
    pub(crate) fn typedef(&self, name: &str) -> Result<u32, BtfError> {
        let number = self.typedefs.get(name.as_bytes()).copied();
        number.ok_or_else(|| BtfError::NoTypedef(name.into()))
    }

    /// The size of a structure in bytes.
    pub(crate) fn size_of(&self, structure: &str) -> Result<u32, BtfError> {
        self.size(self.structure(structure)?).ok_or(BtfError::Damaged)
    }

    fn structure(&self, name: &str) -> Result<u32, BtfError> {
        let number = self.structures.get(name.as_bytes()).copied();
        number.ok_or_else(|| BtfError::NoStructure(name.into()))
    }

    /// The location of a member of a structure. `path` has the names, separated by dots, of nested members.
    /// In an array of structures, the member of the first element is found. Members of anonymous structures are
    /// found without a name.
    pub(crate) fn member(&self, structure: &str, path: &str) -> Result<MemberLocation, BtfError> {
        let (found, bits) = self.follow(structure, path)?;
        if found.bit_field != 0 {
            let (structure, member) = (structure.into(), path.into());
            return Err(BtfError::BitField { structure, member });
        }
        // Of an array without a length it is 0.
        let size = self.size(found.kind).ok_or(BtfError::Damaged)?;
        Ok(MemberLocation { offset: bits / 8, size })
    }

    /// The location of a member that is a byte or a bit field within one.
    pub(crate) fn bits_of_byte(&self, structure: &str, path: &str) -> Result<BitsOfByte, BtfError> {
        let (found, bits) = self.follow(structure, path)?;
        let size = self.size(found.kind).ok_or(BtfError::Damaged)?;
        let count = if found.bit_field == 0 { size.saturating_mul(8) } else { found.bit_field };
        let (offset, first) = (bits / 8, bits % 8);
        if count > 8 || first + count > 8 {
            let (structure, member) = (structure.into(), path.into());
            return Err(BtfError::Size { structure, member, size });
        }
        let mask = u8::try_from((1_u32 << count) - 1).unwrap_or(u8::MAX);
        // The first bit is the highest on machines with the most significant octet first.
        let shift = if cfg!(target_endian = "little") { first } else { 8 - first - count };
        Ok(BitsOfByte { offset, shift, mask })
    }

    /// Finds a member by its path; returns its offset in bits, too.
    fn follow(&self, structure: &str, path: &str) -> Result<(Member, u32), BtfError> {
        let mut number = self.structure(structure)?;
        let named = || (structure.to_owned(), path.to_owned());
        let mut bits: u32 = 0;
        let mut last = None;
        for name in path.split('.') {
            let within = self.without_array(number).ok_or(BtfError::Damaged)?;
            let found = self.find(within, name.as_bytes(), 0).ok_or(BtfError::Damaged)?;
            let Some(found) = found else {
                let (structure, member) = named();
                return Err(BtfError::NoMember { structure, member });
            };
            bits = bits.checked_add(found.bits).ok_or(BtfError::Damaged)?;
            number = found.kind;
            last = Some(found);
        }
        Ok((last.ok_or(BtfError::Damaged)?, bits))
    }

    /// The offset of a member, if it has this size.
    pub(crate) fn sized(&self, structure: &str, path: &str, size: u32) -> Result<u32, BtfError> {
        let location = self.member(structure, path)?;
        if location.size != size {
            let (structure, member) = (structure.into(), path.into());
            return Err(BtfError::Size { structure, member, size: location.size });
        }
        Ok(location.offset)
    }

    /// The member with this name. The outer None means damaged data.
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

    /// The element type of an array; any other type itself.
    fn without_array(&self, number: u32) -> Option<u32> {
        let found = self.resolved(number)?;
        if found.kind == ARRAY { word(&mut &*found.rest) } else { Some(number) }
    }

    fn get(&self, number: u32) -> Option<Type<'a>> {
        let offset = *self.offsets.get(usize::try_from(number).ok()?)?;
        type_at(self.types.get(usize::try_from(offset).ok()?..)?)
    }

    /// The type behind typedefs and qualifiers.
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

/// The maximum length of a chain of types: longer than any in the kernel.
const DEEPEST: usize = 32;

impl Type<'_> {
    /// The number of bytes of the type that follow.
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
mod tests;
