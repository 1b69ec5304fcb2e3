//! The counters of datagrams: an array in the kernel's memory, which programs add to and this process reads.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use rustix::mm::ProtFlags;

use super::super::calls::{self, MapCreate};
use super::super::error::LoadError;
use super::mapping::Mapping;
use super::maps::with_memory;
use crate::model::tcp_event::{Bytes, DatagramCounts, Messages, SlotUse, UsedSlot};

/// The number of slots; number 0 is not used.
pub(super) const SLOTS: usize = 16_384;

/// The counters of a process on a socket.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Slot {
    /// The socket cookie; 0: free. Of slot 0: not 0 while the reader sleeps.
    pub(super) cookie: AtomicU64,
    /// How often the slot was taken back.
    pub(super) generation: AtomicU32,
    /// The process, in the first PID namespace.
    pub(super) tgid: AtomicU32,
    /// `start_boottime` of the process's first task.
    pub(super) start_ns: AtomicU64,
    pub(super) bytes_sent: AtomicU64,
    pub(super) bytes_received: AtomicU64,
    pub(super) messages_sent: AtomicU64,
    pub(super) messages_received: AtomicU64,
    /// CLOCK_BOOTTIME of the last datagram, or about a tick of the kernel before.
    pub(super) last_ns: AtomicU64,
}
const _: () = assert!(size_of::<Slot>() == 64);

/// The key of a slot of a process that inherited the socket.
#[derive(Debug)]
#[repr(C)]
pub(super) struct ReferenceKey {
    pub(super) cookie: u64,
    pub(super) start_ns: u64,
    pub(super) tgid: u64,
}

/// The array, the queue of free numbers, and the references of processes that inherited a socket.
#[derive(Debug)]
pub(super) struct Slots {
    array: OwnedFd,
    memory: Mapping,
    pub(super) free: OwnedFd,
    pub(super) references: OwnedFd,
}

impl Slots {
    /// Creates the maps. All slots are free.
    pub(super) fn create(names: [[u8; 16]; 3]) -> Result<Slots, LoadError> {
        const ARRAY: u32 = 2;
        const HASH: u32 = 1;
        const QUEUE: u32 = 22;
        const MMAPABLE: u32 = 1 << 10;
        const NO_PREALLOC: u32 = 1;
        let create = |attributes: MapCreate| with_memory(|| calls::create_map(&attributes));
        let [array, free, references] = names;
        let length = SLOTS * size_of::<Slot>();
        let array = create(MapCreate {
            map_type: ARRAY,
            key_size: size_of::<u32>() as u32,
            value_size: length as u32,
            max_entries: 1,
            map_flags: MMAPABLE,
            map_name: array,
            ..MapCreate::default()
        })?;
        let free = create(MapCreate {
            map_type: QUEUE,
            value_size: size_of::<u32>() as u32,
            max_entries: SLOTS as u32,
            map_name: free,
            ..MapCreate::default()
        })?;
        let references = create(MapCreate {
            map_type: HASH,
            key_size: size_of::<ReferenceKey>() as u32,
            value_size: size_of::<u64>() as u32,
            // Some entries are void.
            max_entries: 2 * SLOTS as u32,
            map_flags: NO_PREALLOC,
            map_name: references,
            ..MapCreate::default()
        })?;
        let memory = Mapping::new(array.as_fd(), 0, length, ProtFlags::READ | ProtFlags::WRITE)
            .map_err(LoadError::Ring)?;
        let slots = Slots { array, memory, free, references };
        for number in 1..SLOTS as u32 {
            calls::push(slots.free.as_fd(), &number)?;
        }
        Ok(slots)
    }

    pub(super) fn array(&self) -> BorrowedFd<'_> {
        self.array.as_fd()
    }

    #[allow(unsafe_code)]
    fn all(&self) -> &[Slot] {
        // SAFETY: the mapping has so many slots, is aligned to a page, and lives as long as `self`. All members are
        // atomic, and each bit pattern is valid.
        unsafe { std::slice::from_raw_parts(self.memory.address.cast::<Slot>(), SLOTS) }
    }

    fn slot(&self, number: u32) -> Option<&Slot> {
        self.all().get(usize::try_from(number).ok()?)
    }

    /// Lets the next program that takes a slot wake the reader.
    pub(super) fn set_asleep(&self) {
        if let Some(header) = self.slot(0) {
            header.cookie.store(1, Ordering::SeqCst);
        }
    }

    /// The slots in use.
    pub(super) fn used(&self) -> Vec<UsedSlot> {
        let is_used = |(_, slot): &(u32, &Slot)| slot.cookie.load(Ordering::Acquire) != 0;
        let all = (0..).zip(self.all()).skip(1).filter(is_used);
        all.map(|(number, slot)| slot.read(number)).collect()
    }

    /// Takes a slot back: programs find it void, and count the next datagram in another one. A program that has found it
    /// before can still add to it.
    pub(super) fn retire(&self, number: u32) {
        let Some(slot) = self.slot(number) else { return };
        slot.generation.fetch_add(1, Ordering::SeqCst);
        let key = ReferenceKey {
            cookie: slot.cookie.load(Ordering::Relaxed),
            start_ns: slot.start_ns.load(Ordering::Relaxed),
            tgid: slot.tgid.load(Ordering::Relaxed).into(),
        };
        // Most slots have no entry; one that stays is void.
        let _ = calls::delete(self.references.as_fd(), &key);
    }

    /// Frees a slot that was taken back before a grace period, and returns what it has counted.
    pub(super) fn release(&self, number: u32) -> UsedSlot {
        let Some(slot) = self.slot(number).filter(|_| number != 0) else {
            return UsedSlot::default();
        };
        let read = slot.read(number);
        for counter in [
            &slot.start_ns,
            &slot.bytes_sent,
            &slot.bytes_received,
            &slot.messages_sent,
            &slot.messages_received,
            &slot.last_ns,
        ] {
            counter.store(0, Ordering::Relaxed);
        }
        slot.tgid.store(0, Ordering::Relaxed);
        slot.cookie.store(0, Ordering::Release);
        // The queue has room for the numbers of all slots.
        let _ = calls::push(self.free.as_fd(), &number);
        read
    }
}

impl Slot {
    fn read(&self, number: u32) -> UsedSlot {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let generation = self.generation.load(Ordering::Relaxed);
        UsedSlot {
            slot: SlotUse { number, generation },
            cookie: get(&self.cookie),
            counts: DatagramCounts {
                bytes: Bytes { sent: get(&self.bytes_sent), received: get(&self.bytes_received) },
                messages: Messages {
                    sent: get(&self.messages_sent),
                    received: get(&self.messages_received),
                },
            },
            last_ns: get(&self.last_ns),
        }
    }
}
