//! The maps of the programs for socket events.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::super::assembler::MapFd;
use super::super::calls::{CallError, Counters, MapCreate, create_map};
use super::writer::{Maps, ProcessKey};

/// What is not reported again, of processes or of sockets. The least recently seen are evicted; they are reported again.
const SEEN: u32 = 4096;
/// A cache line, so that no other data of the kernel shares it.
pub(super) const COUNTERS: usize = 8;

/// The names of the objects in the kernel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Names {
    pub(super) tracepoint: [u8; 16],
    pub(super) iterator: [u8; 16],
    pub(super) ring: [u8; 16],
    pub(super) seen: [u8; 16],
    pub(super) lost: [u8; 16],
    pub(super) send: [u8; 16],
    pub(super) marks: [u8; 16],
    pub(super) unmarked: [u8; 16],
    pub(super) count_sent: [u8; 16],
    pub(super) count_received: [u8; 16],
    pub(super) live: [u8; 16],
    pub(super) open: [u8; 16],
    pub(super) release: [u8; 16],
    pub(super) slots: [u8; 16],
    pub(super) free: [u8; 16],
    pub(super) references: [u8; 16],
}

/// The maps. The kernel frees them when they and the program are closed.
#[derive(Debug)]
pub(super) struct OwnedMaps {
    pub(super) ring: OwnedFd,
    ring_size: u32,
    pub(super) seen: OwnedFd,
    pub(super) lost: Counters<COUNTERS>,
}

impl OwnedMaps {
    /// `ring_size` is the size of the ring buffer in bytes, a power of two and of whole pages.
    pub(super) fn create(ring_size: u32, names: &Names) -> Result<OwnedMaps, CallError> {
        const RINGBUF: u32 = 27;
        let ring = create(&MapCreate {
            map_type: RINGBUF,
            max_entries: ring_size,
            map_name: names.ring,
            ..MapCreate::default()
        })?;
        let seen = create_set::<ProcessKey>(names.seen)?;
        let lost = with_memory(|| Counters::create(names.lost))?;
        Ok(OwnedMaps { ring, ring_size, seen, lost })
    }

    /// The maps as a program names them.
    pub(super) fn of_program(&self) -> Maps {
        Maps {
            ring: MapFd(self.ring.as_raw_fd()),
            ring_size: self.ring_size,
            seen: MapFd(self.seen.as_raw_fd()),
            lost: MapFd(self.lost.as_fd().as_raw_fd()),
        }
    }
}

/// A set of keys that evicts the least recently used. Its values have no meaning.
pub(super) fn create_set<Key>(map_name: [u8; 16]) -> Result<OwnedFd, CallError> {
    const LRU_HASH: u32 = 9;
    create(&MapCreate {
        map_type: LRU_HASH,
        key_size: size_of::<Key>() as u32,
        value_size: size_of::<u64>() as u32,
        max_entries: SEEN,
        map_name,
        ..MapCreate::default()
    })
}

fn create(attributes: &MapCreate) -> Result<OwnedFd, CallError> {
    with_memory(|| create_map(attributes))
}

/// Before Linux 5.11, maps and programs count as locked memory. If the limit refuses one, it is raised.
pub(super) fn with_memory<T>(make: impl Fn() -> Result<T, CallError>) -> Result<T, CallError> {
    let made = make();
    if !matches!(made, Err(CallError { errno: Errno::PERM, .. })) {
        return made;
    }
    let unlimited = Rlimit { current: None, maximum: None };
    let limit = getrlimit(Resource::Memlock);
    if limit == unlimited || setrlimit(Resource::Memlock, unlimited).is_err() {
        return made;
    }
    make()
}
