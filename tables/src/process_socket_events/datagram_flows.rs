//! Flows of datagrams: what each process has sent and received on each UDP, raw, ping and packet socket, until the socket
//! is closed or the process has not used it for a minute.
//!
//! The kernel counts in slots. A sweep takes back the slots of flows that have ended. After a grace period, when no program
//! can still count in them, the next sweep reads and frees them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::closed_sockets::ClosedSockets;
use super::event::{
    Action, Attribution, Direction, EndedFlow, Event, FlowCounts, FlowResult, Process,
};
use super::number_hash::NumberMap;
use crate::linux::clock::Clocks;
use crate::model::DatagramSlots;
use crate::model::tcp_event::{
    Actor, DatagramCounts, DatagramSocket, FirstDatagram, SlotUse, SocketKey, UsedSlot,
};

/// A flow ends when its process has not used the socket for so long.
const IDLE_NS: u64 = 60_000_000_000;
/// The time between two sweeps; and if more than half of the slots are in use.
const INTERVAL: Duration = Duration::from_secs(10);
const SHORT_INTERVAL: Duration = Duration::from_secs(1);
const HALF_OF_SLOTS: usize = 8_192;
/// The time between two sweeps is at least so many times that of the lists: users choose how many sockets there are.
const LIST_TIMES: u32 = 10;

/// What was counted for sockets whose record was lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct LostFlows {
    pub(super) flows: u64,
    pub(super) counts: DatagramCounts,
}

/// The flows of datagrams that have not ended.
#[derive(Debug, Default)]
pub(super) struct DatagramFlows {
    flows: NumberMap<FlowKey, Counted>,
    /// Their slots were taken back by the last sweep.
    ending: Vec<Counted>,
    /// The slots of the flows that count.
    known: HashSet<SlotUse>,
    /// Slots in use at the last sweep without a record: it can be on its way.
    unknown: HashSet<SlotUse>,
    /// Slots without a record that were taken back by the last sweep.
    ending_unknown: Vec<SlotUse>,
    /// How many of the flows each socket has.
    sockets: NumberMap<SocketKey, u32>,
    /// How sockets were closed whose flows have not ended.
    closed: NumberMap<SocketKey, Closed>,
    /// The generation that each slot had when it was freed.
    freed: NumberMap<u32, u32>,
    /// The number of slots in use at the last sweep.
    used: usize,
    lost: LostFlows,
    last_sweep: Option<Instant>,
    /// How long it took to list the sockets for the last sweep.
    list_time: Duration,
    has_logged: bool,
}

/// How a socket was closed.
#[derive(Debug)]
struct Closed {
    end_ns: u64,
    closer: Option<Arc<Process>>,
    /// Whether a sweep has seen it.
    is_swept: bool,
}

/// The key of a flow: a process on a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct FlowKey {
    socket: SocketKey,
    /// None: it is outside the PID namespace. Then each slot has a flow.
    process: Option<(i32, u64)>,
    slot: Option<SlotUse>,
}

#[derive(Debug)]
struct Counted {
    start_ns: u64,
    socket: DatagramSocket,
    fd: Option<i32>,
    process: Option<Arc<Process>>,
    direction: Direction,
    /// One, or some more if several threads began at once.
    slots: Vec<SlotUse>,
    /// When the socket was closed, if that is known, and by which process.
    end: Option<(u64, Option<Arc<Process>>)>,
    /// How the flow ended; None: its record was late.
    result: Option<FlowResult>,
}

impl DatagramFlows {
    /// A process begins to use a socket; this slot counts from now on.
    pub(super) fn begin(
        &mut self,
        first: &FirstDatagram,
        slot: SlotUse,
        process: Option<Arc<Process>>,
    ) {
        // The record comes so late that its slot was freed, and counted as lost.
        if self.freed.get(&slot.number).is_some_and(|freed| slot.generation <= *freed) {
            return;
        }
        let of_process = first.actor.as_ref().map(|actor| (actor.pid, actor.start_ns));
        let key = FlowKey {
            socket: first.socket.key,
            process: of_process,
            slot: of_process.is_none().then_some(slot),
        };
        let counted = || Counted {
            start_ns: first.boot_ns,
            socket: first.socket,
            fd: first.actor.as_ref().and_then(Actor::known_fd),
            process,
            direction: if first.is_received { Direction::Inbound } else { Direction::Outbound },
            slots: Vec::with_capacity(1),
            end: None,
            result: None,
        };
        // The slot was taken back already, since the record was late.
        if let Some(index) = self.ending_unknown.iter().position(|it| *it == slot) {
            self.ending_unknown.swap_remove(index);
            self.ending.push(Counted { slots: vec![slot], ..counted() });
            return;
        }
        self.known.insert(slot);
        let sockets = &mut self.sockets;
        let counted = self.flows.entry(key).or_insert_with(|| {
            *sockets.entry(first.socket.key).or_default() += 1;
            counted()
        });
        if !counted.slots.contains(&slot) {
            counted.slots.push(slot);
        }
    }

    /// A process has closed a socket: its flows end with the next sweep.
    pub(super) fn close(&mut self, socket: SocketKey, end_ns: u64, closer: Option<Arc<Process>>) {
        if self.sockets.contains_key(&socket) {
            self.closed.insert(socket, Closed { end_ns, closer, is_swept: false });
        }
    }

    /// The number of flows.
    pub(super) fn len(&self) -> usize {
        self.flows.len()
    }

    pub(super) fn lost(&self) -> LostFlows {
        self.lost
    }

    /// The memory of the flows, in bytes.
    pub(super) fn bytes(&self) -> usize {
        let of_flow = size_of::<(FlowKey, Counted)>() + 1 + 2 * size_of::<SlotUse>();
        let of_slot = 2 * size_of::<SlotUse>();
        let of_closed = size_of::<(SocketKey, Closed)>() + 1;
        self.flows.capacity() * of_flow
            + self.closed.capacity() * of_closed
            + (self.known.capacity() + self.freed.capacity()) * of_slot
    }

    /// Notes slots in use without a record: a sweep follows later.
    pub(super) fn note_used(&mut self, used: &[UsedSlot]) {
        let slots = used.iter().map(|used| used.slot);
        self.unknown.extend(slots.filter(|slot| !self.known.contains(slot)));
        self.last_sweep = Some(Instant::now());
    }

    /// The time until the next sweep; None: there is nothing to sweep.
    pub(super) fn until_sweep(&self) -> Option<Duration> {
        let is_idle = self.known.is_empty() && self.unknown.is_empty();
        if is_idle && self.ending.is_empty() && self.ending_unknown.is_empty() {
            return None;
        }
        let is_short = self.known.len().max(self.used) > HALF_OF_SLOTS;
        let interval = if is_short { SHORT_INTERVAL } else { INTERVAL };
        let interval = interval.max(self.list_time * LIST_TIMES);
        let elapsed = self.last_sweep.map_or(interval, |last| last.elapsed());
        Some(interval.saturating_sub(elapsed))
    }

    /// Begins a sweep of the slots that are in use now. None: programs run that can still count in slots that were taken back.
    pub(super) fn begin_sweep(&mut self, slots: &dyn DatagramSlots) -> Option<Vec<UsedSlot>> {
        self.last_sweep = Some(Instant::now());
        slots.is_grace_period_over().then(|| slots.used())
    }

    /// Ends the flows that are over, and hands over those that ended at the last sweep. The records of the slots that were in
    /// use when the sweep began have been read. `closed` are sockets of these slots.
    pub(super) fn sweep(
        &mut self,
        slots: &dyn DatagramSlots,
        in_use: &[UsedSlot],
        closed: ClosedSockets,
        now: Clocks,
        each: &mut dyn FnMut(Event),
    ) {
        self.last_sweep = Some(Instant::now());
        self.used = in_use.len();
        self.list_time = closed.took;
        let closed = closed.cookies.unwrap_or_else(|error| {
            if !std::mem::replace(&mut self.has_logged, true) {
                log::warn!(
                    "cannot list the datagram sockets: {error}; flows of closed ones without an exact end become idle a \
                     minute after their last datagram; logged once"
                );
            }
            HashSet::new()
        });
        let is_live =
            |socket: SocketKey| socket.cookie().is_none_or(|cookie| !closed.contains(&cookie));
        let freed = self.release(slots, &is_live, now, each);
        // A slot that is freed here can be in use again, with the same generation.
        let in_use: HashSet<SlotUse> = in_use
            .iter()
            .map(|used| used.slot)
            .filter(|slot| !freed.contains(&slot.number))
            .collect();
        let used: HashMap<SlotUse, u64> = slots
            .used()
            .iter()
            .filter(|used| in_use.contains(&used.slot))
            .map(|used| (used.slot, used.last_ns))
            .collect();
        self.end_flows(slots, &used, &is_live, now);
        self.end_without_record(slots, &used);
        if !self.ending.is_empty() || !self.ending_unknown.is_empty() {
            slots.begin_grace_period();
        }
    }

    /// Takes back the slots of the flows that are over.
    fn end_flows(
        &mut self,
        slots: &dyn DatagramSlots,
        used: &HashMap<SlotUse, u64>,
        is_live: &dyn Fn(SocketKey) -> bool,
        now: Clocks,
    ) {
        let ended = self.flows.extract_if(|_, counted| {
            let last = |slot| used.get(slot).copied().unwrap_or_default();
            let last_ns = counted.slots.iter().map(last).fold(counted.start_ns, u64::max);
            let is_idle = last_ns.saturating_add(IDLE_NS) <= now.boot_ns;
            // The slot of a flow that began during the sweep is not in `used`: the next sweep decides.
            let is_listed = counted.slots.iter().all(|slot| used.contains_key(slot));
            let is_closed =
                self.closed.contains_key(&counted.socket.key) || !is_live(counted.socket.key);
            is_listed && (is_idle || is_closed)
        });
        for (_, mut counted) in ended {
            let key = counted.socket.key;
            if let Some(closed) = self.closed.get(&key) {
                counted.end = Some((closed.end_ns, closed.closer.clone()));
            }
            let is_open = counted.end.is_none() && is_live(key);
            counted.result = Some(result(is_open));
            if let Some(flows) = self.sockets.get_mut(&key) {
                *flows -= 1;
                if *flows == 0 {
                    self.sockets.remove(&key);
                }
            }
            for slot in &counted.slots {
                slots.retire(slot.number);
                self.known.remove(slot);
            }
            self.ending.push(counted);
        }
        // A flow that is newer than the list of used slots ends with the next sweep.
        self.closed.retain(|_, closed| !std::mem::replace(&mut closed.is_swept, true));
    }

    /// Takes back the slots that have no record since the last sweep.
    fn end_without_record(&mut self, slots: &dyn DatagramSlots, used: &HashMap<SlotUse, u64>) {
        // Slots that were taken back have another generation already.
        let ending = self.ending.iter().flat_map(|counted| &counted.slots);
        let ending: HashSet<u32> = ending.map(|slot| slot.number).collect();
        let is_without =
            |slot: &&SlotUse| !self.known.contains(slot) && !ending.contains(&slot.number);
        let without: HashSet<SlotUse> = used.keys().filter(is_without).copied().collect();
        for slot in without.intersection(&self.unknown) {
            slots.retire(slot.number);
            self.ending_unknown.push(*slot);
        }
        self.unknown = &without - &self.unknown;
    }

    /// Frees the slots that the last sweep took back, and hands over their flows. Returns their numbers.
    fn release(
        &mut self,
        slots: &dyn DatagramSlots,
        is_live: &dyn Fn(SocketKey) -> bool,
        now: Clocks,
        each: &mut dyn FnMut(Event),
    ) -> HashSet<u32> {
        let mut freed = HashSet::new();
        let mut free = |slot: SlotUse, total: &mut Total| {
            total.add(&slots.release(slot.number));
            self.freed.insert(slot.number, slot.generation);
            freed.insert(slot.number);
        };
        for counted in std::mem::take(&mut self.ending) {
            let mut total = Total::default();
            counted.slots.iter().for_each(|slot| free(*slot, &mut total));
            let late = || result(is_live(counted.socket.key));
            let result = counted.result.unwrap_or_else(late);
            each(counted.event(&total, result, now));
        }
        for slot in std::mem::take(&mut self.ending_unknown) {
            let mut total = Total { counts: self.lost.counts, last_ns: 0 };
            free(slot, &mut total);
            self.lost = LostFlows { flows: self.lost.flows + 1, counts: total.counts };
        }
        freed
    }
}

/// Of a flow whose socket is open, or closed.
fn result(is_open: bool) -> FlowResult {
    if is_open { FlowResult::Idle } else { FlowResult::Closed }
}

/// The sum of some slots.
#[derive(Default)]
struct Total {
    counts: DatagramCounts,
    /// CLOCK_BOOTTIME.
    last_ns: u64,
}

impl Total {
    fn add(&mut self, slot: &UsedSlot) {
        let DatagramCounts { bytes, messages } = &mut self.counts;
        bytes.sent += slot.counts.bytes.sent;
        bytes.received += slot.counts.bytes.received;
        messages.sent += slot.counts.messages.sent;
        messages.received += slot.counts.messages.received;
        self.last_ns = self.last_ns.max(slot.last_ns);
    }
}

impl Counted {
    /// The event that ends the flow.
    fn event(self, total: &Total, result: FlowResult, now: Clocks) -> Event {
        let last_ns = total.last_ns.max(self.start_ns);
        let (end_ns, closer) =
            self.end.map_or((last_ns, None), |(ns, closer)| (ns.max(last_ns), closer));
        let attribution = Attribution::exact_or_unknown(self.process.is_some());
        let ended = EndedFlow {
            start_ns: Some(self.start_ns),
            end_ns,
            direction: Some(self.direction),
            result,
            opener: self.process.clone(),
            attribution,
            closer,
            counts: FlowCounts::Datagrams(total.counts),
        };
        let event = Event::of_datagrams(&self.socket, now.boot_ns, Action::Flow, self.process);
        Event {
            fd: self.fd,
            duration_ns: Some(end_ns - self.start_ns),
            bytes: Some(total.counts.bytes),
            ended: Some(Box::new(ended)),
            ..event
        }
    }
}

#[cfg(test)]
mod tests;
