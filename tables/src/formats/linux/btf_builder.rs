//! Writes BTF for tests, as the kernel does.

use super::btf::{FUNC, FUNC_PROTO, INT, PTR, STRUCT};

/// Types as the kernel writes them, in the order in which they are added.
#[derive(Default)]
pub(crate) struct Builder {
    types: Vec<u32>,
    strings: Vec<u8>,
    count: u32,
}

/// Name, type, and offset in bits, or with `struct`'s flag also the size of a bit field.
pub(crate) type Members<'a> = &'a [(&'a str, u32, u32)];

impl Builder {
    pub(crate) fn new() -> Builder {
        Builder { strings: vec![0], ..Builder::default() }
    }

    fn name(&mut self, name: &str) -> u32 {
        if name.is_empty() {
            return 0;
        }
        let offset = self.strings.len() as u32;
        self.strings.extend(name.as_bytes());
        self.strings.push(0);
        offset
    }

    pub(crate) fn add(&mut self, name: &str, info: u32, size_or_type: u32, rest: &[u32]) -> u32 {
        let name = self.name(name);
        self.types.extend([name, info, size_or_type]);
        self.types.extend(rest);
        self.count += 1;
        self.count
    }

    pub(crate) fn int(&mut self, name: &str, size: u32) -> u32 {
        self.add(name, INT << 24, size, &[size * 8])
    }

    /// A pointer to `void`.
    pub(crate) fn pointer(&mut self) -> u32 {
        self.add("", PTR << 24, 0, &[])
    }

    /// A function without arguments that returns that type.
    pub(crate) fn function(&mut self, name: &str, returned: u32) -> u32 {
        let prototype = self.add("", FUNC_PROTO << 24, returned, &[]);
        self.add(name, FUNC << 24, prototype, &[])
    }

    pub(crate) fn compound(&mut self, info: u32, name: &str, size: u32, members: Members) -> u32 {
        let mut rest = Vec::new();
        for &(name, kind, offset) in members {
            let name = self.name(name);
            rest.extend([name, kind, offset]);
        }
        self.add(name, info | members.len() as u32, size, &rest)
    }

    pub(crate) fn structure(&mut self, name: &str, size: u32, members: Members) -> u32 {
        self.compound(STRUCT << 24, name, size, members)
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
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
