//! Slots that count datagrams, of a test.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashSet};

use crate::model::DatagramSlots;
use crate::model::tcp_event::{SlotUse, UsedSlot};

/// Slots as the kernel has them.
#[derive(Default)]
pub(super) struct TestSlots {
    used: RefCell<BTreeMap<u32, UsedSlot>>,
    pub(super) retired: RefCell<Vec<u32>>,
    pub(super) live: RefCell<HashSet<u64>>,
    generations: RefCell<BTreeMap<u32, u32>>,
    /// Whether a program runs that has begun before the last slot was taken back.
    pub(super) has_late_program: Cell<bool>,
}

impl TestSlots {
    /// Takes a slot for a socket that exists.
    pub(super) fn take(&self, number: u32, cookie: u64) -> SlotUse {
        self.live.borrow_mut().insert(cookie);
        let generation = self.generations.borrow().get(&number).copied().unwrap_or_default();
        let slot = SlotUse { number, generation };
        self.used.borrow_mut().insert(number, UsedSlot { slot, cookie, ..UsedSlot::default() });
        slot
    }

    pub(super) fn send(&self, number: u32, bytes: u64, at: u64) {
        let mut used = self.used.borrow_mut();
        let slot = used.get_mut(&number).unwrap();
        slot.counts.bytes.sent += bytes;
        slot.counts.messages.sent += 1;
        slot.last_ns = at;
    }

    pub(super) fn close(&self, cookie: u64) {
        self.live.borrow_mut().remove(&cookie);
    }
}

impl DatagramSlots for TestSlots {
    fn set_asleep(&self) {}

    fn used(&self) -> Vec<UsedSlot> {
        self.used.borrow().values().copied().collect()
    }

    fn retire(&self, number: u32) {
        let mut used = self.used.borrow_mut();
        let slot = used.get_mut(&number).expect("a slot in use");
        slot.slot.generation += 1;
        self.generations.borrow_mut().insert(number, slot.slot.generation);
        self.retired.borrow_mut().push(number);
    }

    fn begin_grace_period(&self) {}

    fn is_grace_period_over(&self) -> bool {
        !self.has_late_program.get()
    }

    fn release(&self, number: u32) -> UsedSlot {
        assert!(self.retired.borrow().contains(&number), "{number} counts");
        self.retired.borrow_mut().retain(|it| *it != number);
        self.used.borrow_mut().remove(&number).unwrap()
    }
}
