//! Reads Thrift's binary protocol from an untrusted peer.
//!
//! The thrift crate (0.17) allocates the length that the peer claims, and its generated code reserves the
//! elements that a list claims. This reader allocates memory only for received bytes, and rejects messages
//! above a limit. thrift 0.25 has limits, but allocates claimed lengths up to them, and would be a second
//! copy beside the version that osquery-rust-ng requires.
//!
//! Format: `doc/specs/thrift-binary-protocol.md` in Apache Thrift, strict encoding only.

use std::io::{self, Read};

use thrift::protocol::{
    TFieldIdentifier, TInputProtocol, TListIdentifier, TMapIdentifier, TMessageIdentifier,
    TMessageType, TSetIdentifier, TStructIdentifier, TType,
};
use thrift::{ProtocolError, ProtocolErrorKind};

/// Longest message in bytes: an `IN` list of about 500,000 numbers.
pub const MAX_MESSAGE: u64 = 16 << 20;
/// Most elements of a list, set or map.
const MAX_ELEMENTS: i32 = 1 << 15;
/// Upper bytes of the first word of a message in the strict encoding.
const VERSION: u32 = 0x8001_0000;

/// Reads messages from a stream.
pub struct BinaryInput<R> {
    reader: R,
    remaining: u64,
}

impl<R: Read> BinaryInput<R> {
    /// Creates an input from a reader, which should be buffered: most reads are a few bytes.
    pub fn new(reader: R) -> Self {
        BinaryInput { reader, remaining: MAX_MESSAGE }
    }

    /// Returns the reader.
    pub fn reader(&mut self) -> &mut R {
        &mut self.reader
    }

    fn bytes<const N: usize>(&mut self) -> thrift::Result<[u8; N]> {
        self.consume(N as u64)?;
        let mut bytes = [0; N];
        self.reader.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn consume(&mut self, bytes: u64) -> thrift::Result<()> {
        self.remaining = self.remaining.checked_sub(bytes).ok_or_else(|| {
            protocol_error(
                ProtocolErrorKind::SizeLimit,
                format!("a message is longer than {MAX_MESSAGE} bytes"),
            )
        })?;
        Ok(())
    }

    fn kind(&mut self) -> thrift::Result<TType> {
        let [number] = self.bytes()?;
        Ok(match number {
            0 => TType::Stop,
            2 => TType::Bool,
            3 => TType::I08,
            4 => TType::Double,
            6 => TType::I16,
            8 => TType::I32,
            10 => TType::I64,
            11 => TType::String,
            12 => TType::Struct,
            13 => TType::Map,
            14 => TType::Set,
            15 => TType::List,
            _ => {
                let message = format!("unknown type {number}");
                return Err(protocol_error(ProtocolErrorKind::InvalidData, message));
            }
        })
    }

    fn count(&mut self) -> thrift::Result<i32> {
        let count = self.read_i32()?;
        if (0..=MAX_ELEMENTS).contains(&count) {
            return Ok(count);
        }
        let message = format!("a container claims {count} elements");
        Err(protocol_error(ProtocolErrorKind::SizeLimit, message))
    }
}

fn protocol_error(kind: ProtocolErrorKind, message: String) -> thrift::Error {
    thrift::Error::Protocol(ProtocolError { kind, message })
}

impl<R: Read> TInputProtocol for BinaryInput<R> {
    fn read_message_begin(&mut self) -> thrift::Result<TMessageIdentifier> {
        self.remaining = MAX_MESSAGE;
        let word = u32::from_be_bytes(self.bytes()?);
        if word & 0xffff_ff00 != VERSION {
            let message = format!("a message begins with {word:08x}");
            return Err(protocol_error(ProtocolErrorKind::BadVersion, message));
        }
        let [.., kind] = word.to_be_bytes();
        let kind = TMessageType::try_from(kind)?;
        let name = self.read_string()?;
        Ok(TMessageIdentifier::new(name, kind, self.read_i32()?))
    }

    fn read_message_end(&mut self) -> thrift::Result<()> {
        Ok(())
    }

    fn read_struct_begin(&mut self) -> thrift::Result<Option<TStructIdentifier>> {
        Ok(None)
    }

    fn read_struct_end(&mut self) -> thrift::Result<()> {
        Ok(())
    }

    fn read_field_begin(&mut self) -> thrift::Result<TFieldIdentifier> {
        let kind = self.kind()?;
        let id = if kind == TType::Stop { 0 } else { self.read_i16()? };
        Ok(TFieldIdentifier::new::<Option<String>, String, i16>(None, kind, id))
    }

    fn read_field_end(&mut self) -> thrift::Result<()> {
        Ok(())
    }

    fn read_bytes(&mut self) -> thrift::Result<Vec<u8>> {
        let length = self.read_i32()?;
        let length = u64::try_from(length).map_err(|_| {
            protocol_error(
                ProtocolErrorKind::NegativeSize,
                format!("a string claims {length} bytes"),
            )
        })?;
        self.consume(length)?;
        let mut bytes = Vec::new();
        let received = self.reader.by_ref().take(length).read_to_end(&mut bytes)?;
        if received as u64 == length { Ok(bytes) } else { Err(unexpected_end().into()) }
    }

    fn read_bool(&mut self) -> thrift::Result<bool> {
        Ok(self.read_i8()? != 0)
    }

    fn read_i8(&mut self) -> thrift::Result<i8> {
        self.bytes().map(i8::from_be_bytes)
    }

    fn read_i16(&mut self) -> thrift::Result<i16> {
        self.bytes().map(i16::from_be_bytes)
    }

    fn read_i32(&mut self) -> thrift::Result<i32> {
        self.bytes().map(i32::from_be_bytes)
    }

    fn read_i64(&mut self) -> thrift::Result<i64> {
        self.bytes().map(i64::from_be_bytes)
    }

    fn read_double(&mut self) -> thrift::Result<f64> {
        self.bytes().map(f64::from_be_bytes)
    }

    /// Replaces bytes that are not UTF-8 with U+FFFD: SQL can contain any bytes, and the query must not fail.
    fn read_string(&mut self) -> thrift::Result<String> {
        let bytes = self.read_bytes()?;
        Ok(String::from_utf8(bytes)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
    }

    fn read_list_begin(&mut self) -> thrift::Result<TListIdentifier> {
        let kind = self.kind()?;
        Ok(TListIdentifier::new(kind, self.count()?))
    }

    fn read_list_end(&mut self) -> thrift::Result<()> {
        Ok(())
    }

    fn read_set_begin(&mut self) -> thrift::Result<TSetIdentifier> {
        let kind = self.kind()?;
        Ok(TSetIdentifier::new(kind, self.count()?))
    }

    fn read_set_end(&mut self) -> thrift::Result<()> {
        Ok(())
    }

    fn read_map_begin(&mut self) -> thrift::Result<TMapIdentifier> {
        let (key, value) = (self.kind()?, self.kind()?);
        Ok(TMapIdentifier::new(key, value, self.count()?))
    }

    fn read_map_end(&mut self) -> thrift::Result<()> {
        Ok(())
    }

    fn read_byte(&mut self) -> thrift::Result<u8> {
        self.bytes().map(|[byte]| byte)
    }
}

fn unexpected_end() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the stream ends within a string")
}
