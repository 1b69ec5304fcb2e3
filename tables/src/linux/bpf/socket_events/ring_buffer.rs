//! The reader's side of a BPF ring buffer (`kernel/bpf/ringbuf.c`): memory that the kernel fills and this process reads.
//!
//! The first page has the consumer's position, which the reader writes; the second has the producer's position. Behind
//! it is the data, mapped twice in succession, so that every record is contiguous.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use rustix::io::Errno;
use rustix::mm::ProtFlags;
use rustix::param::page_size;

use super::mapping::Mapping;

/// `BPF_RINGBUF_HDR_SZ`: the length of the record with two flags, and its page.
const HEADER_SIZE: usize = 8;
/// `BPF_RINGBUF_BUSY_BIT`: the program has not submitted the record yet.
const BUSY: u32 = 1 << 31;
/// `BPF_RINGBUF_DISCARD_BIT`
const DISCARDED: u32 = 1 << 30;

/// The ring buffer's content is damaged: a record reaches beyond what was produced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DamagedRing {
    /// The length of the record, and the number of bytes that were produced.
    length: usize,
    available: usize,
}

impl fmt::Display for DamagedRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let DamagedRing { length, available } = self;
        write!(f, "the BPF ring buffer is damaged: a record of {length} bytes within {available}")
    }
}

impl std::error::Error for DamagedRing {}

/// How far [`RingBuffer::consume`] came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Consumed {
    /// All records that were there at the start.
    All,
    /// Up to a record that a program is still writing.
    UpToBusy,
}

/// A ring buffer, and its only reader.
#[derive(Debug)]
pub(super) struct RingBuffer {
    map: OwnedFd,
    consumer: Mapping,
    /// The producer's position, and the data.
    produced: Mapping,
    /// The size of the data in bytes: a power of two.
    size: usize,
}

impl RingBuffer {
    /// Maps the ring buffer, whose data has this size.
    pub(super) fn map(map: OwnedFd, size: usize) -> Result<RingBuffer, Errno> {
        let page = page_size();
        let (read, write) = (ProtFlags::READ, ProtFlags::WRITE);
        let length = size.checked_mul(2).and_then(|data| data.checked_add(page));
        let length = length.filter(|_| size.is_power_of_two()).ok_or(Errno::INVAL)?;
        let consumer = Mapping::new(map.as_fd(), 0, page, read | write)?;
        // The kernel refuses this unless the data is as long.
        let produced = Mapping::new(map.as_fd(), page, length, read)?;
        Ok(RingBuffer { map, consumer, produced, size })
    }

    /// Hands over the records that are there now, and frees their room one by one.
    #[allow(unsafe_code)]
    pub(super) fn consume(&mut self, mut each: impl FnMut(&[u8])) -> Result<Consumed, DamagedRing> {
        // SAFETY: the position is an aligned `unsigned long` at the start of the mapping, which lives as long as
        // `self`. Kernel and reader access it only atomically.
        let consumer = unsafe { &*self.consumer.address.cast::<AtomicUsize>() };
        // SAFETY: the same.
        let producer = unsafe { &*self.produced.address.cast::<AtomicUsize>() };
        // Nobody else writes it.
        let mut position = consumer.load(Ordering::Relaxed);
        // Acquire: the headers of the records before this position are written (smp_store_release in
        // __bpf_ringbuf_reserve).
        let end = producer.load(Ordering::Acquire);
        while position != end {
            let data = self.data(position);
            // SAFETY: records are aligned to 8 bytes, and a header lies within the data, which is mapped twice.
            let header = unsafe { &*data.cast::<AtomicU32>() };
            // Acquire: the record is written before its header loses the flag (xchg in bpf_ringbuf_commit).
            let header = header.load(Ordering::Acquire);
            if header & BUSY != 0 {
                return Ok(Consumed::UpToBusy);
            }
            let length = (header & !DISCARDED) as usize;
            let available = end.wrapping_sub(position);
            let whole = (length + HEADER_SIZE).next_multiple_of(8);
            if whole > available || available > self.size {
                // What is there cannot be read; go on with what follows.
                consumer.store(end, Ordering::Release);
                return Err(DamagedRing { length, available });
            }
            if header & DISCARDED == 0 {
                // SAFETY: the record lies within the data, since `available` is at most its size and the data is
                // mapped twice. No program writes it again before the reader's position has passed it, which happens
                // below, when the slice is gone.
                let record = unsafe { std::slice::from_raw_parts(data.add(HEADER_SIZE), length) };
                each(record);
            }
            position = position.wrapping_add(whole);
            // Release: the record has been read before a program reuses its room.
            consumer.store(position, Ordering::Release);
        }
        Ok(Consumed::All)
    }

    /// Where the byte at this position is: at least `size` bytes are mapped from there on.
    fn data(&self, position: usize) -> *const u8 {
        let offset = page_size() + (position & (self.size - 1));
        self.produced.address.cast::<u8>().cast_const().wrapping_add(offset)
    }
}

impl AsFd for RingBuffer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.map.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    use rustix::fs::{MemfdFlags, memfd_create};

    use super::*;

    const SIZE: usize = 1 << 16;

    /// A file with the pages of a ring buffer.
    struct Kernel(File);

    impl Kernel {
        /// Positions begin here.
        fn new(position: u64) -> (Kernel, RingBuffer) {
            let file = File::from(memfd_create("ring", MemfdFlags::CLOEXEC).unwrap());
            file.set_len((2 * page_size() + 2 * SIZE) as u64).unwrap();
            let kernel = Kernel(file);
            kernel.0.write_all_at(&position.to_ne_bytes(), 0).unwrap();
            kernel.produce(position);
            let ring = RingBuffer::map(kernel.0.try_clone().unwrap().into(), SIZE).unwrap();
            (kernel, ring)
        }

        fn produce(&self, position: u64) {
            self.0.write_all_at(&position.to_ne_bytes(), page_size() as u64).unwrap();
        }

        /// Writes a record; returns the position behind it.
        fn write(&self, position: u64, flags: u32, record: &[u8]) -> u64 {
            let header = record.len() as u32 | flags;
            let bytes = [&header.to_ne_bytes()[..], &[0; 4], record].concat();
            for (index, byte) in bytes.iter().enumerate() {
                let offset = (position as usize).wrapping_add(index) % SIZE;
                // The file has the data twice; the kernel maps one twice.
                for copy in [0, SIZE] {
                    let at = (2 * page_size() + copy + offset) as u64;
                    self.0.write_all_at(&[*byte], at).unwrap();
                }
            }
            position.wrapping_add((bytes.len() as u64).next_multiple_of(8))
        }

        fn consumed(&self) -> u64 {
            let mut position = [0; 8];
            self.0.read_exact_at(&mut position, 0).unwrap();
            u64::from_ne_bytes(position)
        }
    }

    fn consume(ring: &mut RingBuffer) -> (Result<Consumed, DamagedRing>, Vec<Vec<u8>>) {
        let mut records = Vec::new();
        (ring.consume(|record| records.push(record.to_vec())), records)
    }

    #[test]
    fn records_are_read_in_order_and_their_room_is_freed() {
        let (kernel, mut ring) = Kernel::new(0);
        assert_eq!(consume(&mut ring), (Ok(Consumed::All), vec![]));
        let discarded = kernel.write(0, 0, b"first");
        let second = kernel.write(discarded, DISCARDED, b"discarded");
        let end = kernel.write(second, 0, b"the second");
        kernel.produce(end);
        let records = vec![b"first".to_vec(), b"the second".to_vec()];
        assert_eq!(consume(&mut ring), (Ok(Consumed::All), records));
        assert_eq!(kernel.consumed(), end);
        assert_eq!(consume(&mut ring), (Ok(Consumed::All), vec![]));
    }

    #[test]
    fn a_record_that_is_being_written_stops_the_reader() {
        let (kernel, mut ring) = Kernel::new(0);
        let busy = kernel.write(0, 0, b"first");
        let third = kernel.write(busy, BUSY, b"second");
        kernel.produce(kernel.write(third, 0, b"third"));
        let first = (Ok(Consumed::UpToBusy), vec![b"first".to_vec()]);
        assert_eq!(consume(&mut ring), first);
        assert_eq!(kernel.consumed(), busy);
        kernel.write(busy, 0, b"second");
        let rest = vec![b"second".to_vec(), b"third".to_vec()];
        assert_eq!(consume(&mut ring), (Ok(Consumed::All), rest));
    }

    #[test]
    fn a_record_across_the_end_of_the_data_is_whole() {
        // The positions wrap, too.
        for start in [3 * SIZE as u64 - 16, 0_u64.wrapping_sub(16)] {
            let (kernel, mut ring) = Kernel::new(start);
            let record: Vec<u8> = (0..=255).collect();
            kernel.write(start, 0, &record);
            kernel.produce(start.wrapping_add(264));
            assert_eq!(consume(&mut ring), (Ok(Consumed::All), vec![record]));
            assert_eq!(kernel.consumed(), start.wrapping_add(264));
        }
    }

    #[test]
    fn a_record_beyond_what_is_there_is_an_error() {
        let (kernel, mut ring) = Kernel::new(0);
        let damaged = kernel.write(0, 0, b"first");
        kernel.write(damaged, 0, &[7; 100]);
        kernel.produce(damaged + 32);
        let error = DamagedRing { length: 100, available: 32 };
        assert_eq!(consume(&mut ring), (Err(error), vec![b"first".to_vec()]));
        // Later ones are read.
        let end = kernel.write(damaged + 32, 0, b"later");
        kernel.produce(end);
        assert_eq!(consume(&mut ring), (Ok(Consumed::All), vec![b"later".to_vec()]));
    }
}
