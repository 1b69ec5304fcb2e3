//! Records of BPF programs as C structures: a program stores each member at its `offset_of!`, and a decoder reads it
//! there.

use std::marker::PhantomData;

/// Declares a record, and asserts that it has no padding.
macro_rules! record {
    (
        $(#[$about:meta])*
        struct $name:ident {
            $($(#[$doc:meta])* $member:ident: $type:ty,)*
        }
    ) => {
        $(#[$about])*
        #[cfg_attr(test, derive(Clone, Copy, Debug))]
        #[repr(C)]
        pub(crate) struct $name {
            $($(#[$doc])* pub(crate) $member: $type,)*
        }

        const _: () = assert!(size_of::<$name>() == 0 $(+ size_of::<$type>())*);

        #[cfg(test)]
        impl $name {
            /// The bytes as the program writes them.
            pub(super) fn to_bytes(self) -> Vec<u8> {
                use $crate::formats::linux::record_layout::Written;
                let mut bytes = Vec::new();
                $(
                    assert_eq!(bytes.len(), std::mem::offset_of!($name, $member));
                    bytes.extend(Written::to_bytes(self.$member));
                )*
                bytes
            }
        }
    };
}
pub(super) use record;

/// A member of a record R: its offset, and by its type T its width.
pub(crate) struct Field<R, T> {
    pub(crate) offset: usize,
    types: PhantomData<(R, T)>,
}

// A derived implementation would need R and T to be Copy.
impl<R, T> Clone for Field<R, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<R, T> Copy for Field<R, T> {}

impl<R, T> Field<R, T> {
    /// `member` gives the types.
    pub(crate) const fn new(offset: usize, _member: fn(R) -> T) -> Field<R, T> {
        Field { offset, types: PhantomData }
    }

    /// The same member of a record that follows so many bytes.
    pub(crate) const fn after(self, bytes: usize) -> Field<R, T> {
        Field { offset: bytes + self.offset, types: PhantomData }
    }
}

impl<R> Field<R, [u8; 16]> {
    /// The first four bytes, for an IPv4 address.
    pub(crate) const fn ipv4(self) -> Field<R, u32> {
        Field { offset: self.offset, types: PhantomData }
    }

    /// The two halves of an IPv6 address.
    pub(crate) const fn halves(self) -> [Field<R, u64>; 2] {
        [
            Field { offset: self.offset, types: PhantomData },
            Field { offset: self.offset + size_of::<u64>(), types: PhantomData },
        ]
    }
}

/// A type of a member that a decoder reads.
pub(super) trait Value: Default {
    fn from_bytes(bytes: &[u8]) -> Option<Self>;
}

/// A type of a member, as a program writes it.
#[cfg(test)]
pub(super) trait Written {
    fn to_bytes(self) -> Vec<u8>;
}

macro_rules! numbers {
    ($($type:ty)*) => {
        $(
            impl Value for $type {
                fn from_bytes(bytes: &[u8]) -> Option<$type> {
                    bytes.first_chunk().map(|bytes| <$type>::from_ne_bytes(*bytes))
                }
            }

            #[cfg(test)]
            impl Written for $type {
                fn to_bytes(self) -> Vec<u8> {
                    self.to_ne_bytes().into()
                }
            }
        )*
    };
}
numbers!(u8 u16 u32 u64);

macro_rules! arrays {
    ($($length:literal)*) => {
        $(
            impl Value for [u8; $length] {
                fn from_bytes(bytes: &[u8]) -> Option<[u8; $length]> {
                    bytes.first_chunk().copied()
                }
            }
        )*
    };
}
arrays!(16 32);

#[cfg(test)]
impl<const N: usize> Written for [u8; N] {
    fn to_bytes(self) -> Vec<u8> {
        self.into()
    }
}
