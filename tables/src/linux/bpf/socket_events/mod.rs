//! Events of sockets: a BPF program at the tracepoint `inet_sock_set_state` writes each change of a TCP socket's state into
//! a ring buffer, with the process and its executable. Another one at `sock_send_length` writes the first send of each UDP,
//! raw, ping and packet socket. On demand, two others count the datagrams of each process on each of these sockets.
//!
//! It needs Linux 5.10, a BPF JIT, CAP_BPF and CAP_PERFMON, or CAP_SYS_ADMIN. Everything ends with the process: nothing is
//! pinned.

#[cfg(feature = "bench")]
pub mod bench;
mod counted_sockets;
mod counting;
mod counting_loader;
mod counting_program;
mod datagram_program;
mod datagram_sockets_program;
mod datagrams;
mod executable_steps;
mod grace_period;
mod live_sockets_program;
mod mapping;
mod maps;
mod members;
mod open_sockets;
mod open_sockets_program;
mod record_steps;
mod release_program;
mod releases;
mod ring_buffer;
mod slots;
mod socket_storage;
mod state_program;
#[cfg(test)]
mod tests;
mod writer;

use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};
use rustix::io::Errno;

pub(crate) use self::counted_sockets::CountedSockets;
pub(crate) use self::counting::Counting;
use self::counting::RECEIVE;
pub(crate) use self::counting_loader::{CountingLoader, LoadedCounting};
use self::datagrams::{DatagramError, Datagrams, SEND};
use self::maps::{COUNTERS, Names, OwnedMaps, with_memory};
use self::members::Layout;
use self::open_sockets::OpenSockets;
use self::releases::{RELEASE, ReleaseError, Releases};
pub(crate) use self::ring_buffer::DamagedRing;
use self::ring_buffer::{Consumed, RingBuffer};
use self::writer::{
    LOST_DATAGRAMS, LOST_EXECUTABLES, LOST_STATES, PidNamespace, UNCOUNTED_BYTES,
    UNCOUNTED_MESSAGES, Variant,
};
use super::super::proc_root::ProcRoot;
use super::calls::{self, Counters, Program};
use super::error::{LoadError, PassError};
use super::types::{TYPES, read_layout};
use crate::formats::linux::event_record::{Decoder, EventRecordError};
use crate::formats::linux::proc_link;
use crate::model::tcp_event::{EventRecord, Losses, OpenSocket};
use crate::options::EventDatagrams;

/// The size of the ring buffer: 5,242 changes of states, 20 ms at 250,000 a second.
const RING_SIZE: u32 = 1 << 20;

/// The tracepoint, and what a connection's close needs besides it.
const TRACEPOINT: &str = "inet_sock_set_state";
const PATHS: &str = "executable paths";
const ITERATOR: &str = "open sockets";

/// Why events could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EventError {
    /// Waiting for events failed.
    Wait(Errno),
    Ring(DamagedRing),
    /// The program wrote a malformed record. It is skipped.
    Record(EventRecordError),
}

impl fmt::Display for EventError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EventError::Wait(errno) => write!(f, "cannot wait for socket events: {errno}"),
            EventError::Ring(error) => write!(f, "{error}"),
            EventError::Record(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for EventError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            EventError::Wait(source) => Some(source),
            EventError::Ring(source) => Some(source),
            EventError::Record(source) => Some(source),
        }
    }
}

/// The programs in the kernel, and the ring buffer that they fill.
#[derive(Debug)]
pub(crate) struct EventSource {
    program: OwnedFd,
    /// The program runs until this is closed.
    #[cfg_attr(
        not(feature = "bench"),
        allow(dead_code, reason = "only benches detach the program")
    )]
    link: Option<OwnedFd>,
    /// What programs that are loaded later need.
    layout: Layout,
    variant: Variant,
    names: Names,
    /// A map of the variant.
    _seen: OwnedFd,
    ring: Mutex<RingBuffer>,
    /// It waits for the ring buffer and the waker.
    epoll: OwnedFd,
    waker: Waker,
    lost: Arc<Counters<COUNTERS>>,
    decoder: Decoder,
    /// Why executables have no paths.
    paths: Result<(), String>,
    open_sockets: Result<OpenSockets, String>,
    datagrams: Result<Datagrams, String>,
    counting: CountingState,
    releases: Result<Releases, String>,
    /// Whether the ends of datagram sockets are reported, once they are counted.
    wants_releases: bool,
    memory: u64,
}

/// Ends a wait in [`EventSource::drain`].
#[derive(Clone, Debug)]
pub(crate) struct Waker(Arc<OwnedFd>);

impl Waker {
    /// A wake-up before the wait begins ends it, too.
    pub(crate) fn wake(&self) {
        // The only error is that the counter is full, and then it wakes.
        let _ = rustix::io::write(&*self.0, &1_u64.to_ne_bytes());
    }

    fn reset(&self) {
        let _ = rustix::io::read(&*self.0, &mut [0; 8]);
    }
}

impl EventSource {
    /// Loads the programs, each by itself, and starts the collection.
    ///
    /// # Errors
    /// The program at the tracepoint could not be loaded. Whether others run is in [`EventSource::programs`].
    pub(crate) fn start(
        root: &ProcRoot,
        datagrams: EventDatagrams,
    ) -> Result<EventSource, LoadError> {
        EventSource::start_with(root, &Settings { datagrams, ..Settings::default() })
    }

    fn start_with(root: &ProcRoot, settings: &Settings) -> Result<EventSource, LoadError> {
        let path = || root.path().to_owned();
        root.device().ok_or_else(|| LoadError::NotProc { path: path() })?;
        // The iterator visits the processes of this process's PID namespace.
        if !root.has_own_pids() {
            return Err(LoadError::PidNamespace { path: path() });
        }
        let layout = read_layout(&Layout::names(), Layout::of)?;
        let iterator = settings.names.iterator;
        let mut open_sockets = OpenSockets::load(&layout, iterator, None);
        let mut namespace = None;
        if !root.has_first_pids() {
            let loaded = open_sockets?;
            namespace = own_namespace(root, &layout, &loaded)?;
            open_sockets = match &namespace {
                None => Ok(loaded),
                Some(_) => OpenSockets::load(&layout, iterator, namespace.as_ref()),
            };
        }
        let maps = OwnedMaps::create(settings.ring_size, &settings.names)?;
        let variant = Variant { maps: maps.of_program(), namespace, has_paths: true };
        let (program, paths) = load_with_or_without_paths(&layout, variant, settings)?;
        let variant = Variant { has_paths: paths.is_ok(), ..variant };
        let datagrams = match settings.datagrams {
            EventDatagrams::Off => Err(DatagramError::Disabled),
            _ => Datagrams::start(&layout, &variant, &settings.names),
        };
        let counting = match (settings.datagrams, &datagrams) {
            (EventDatagrams::Off | EventDatagrams::FirstUse, _) => CountingState::NotChosen,
            (_, Ok(_)) => CountingState::NotBegun,
            // The counting programs need the same tracepoint and the same maps.
            (_, Err(error)) => CountingState::Failed(error.to_string()),
        };
        let wants_releases = settings.datagrams == EventDatagrams::ExactEnd;
        let not_begun =
            if wants_releases { ReleaseError::NotCounting } else { ReleaseError::NotChosen };
        if let (true, Err(reason)) = (wants_releases, &datagrams) {
            warn_of_unknown_ends(reason);
        }
        let waker = Waker(Arc::new(
            eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(LoadError::Ring)?,
        ));
        let memory = |object: BorrowedFd<'_>| memory_of(root, object);
        // Some kernels count nothing for a ring buffer.
        let memory = memory(maps.ring.as_fd()).max(settings.ring_size.into())
            + memory(maps.seen.as_fd())
            + memory(maps.lost.as_fd())
            + memory(program.as_fd())
            + datagrams.iter().flat_map(Datagrams::objects).map(memory).sum::<u64>();
        let OwnedMaps { ring, seen, lost, .. } = maps;
        let lost = Arc::new(lost);
        let ring = RingBuffer::map(ring, settings.ring_size as usize).map_err(LoadError::Ring)?;
        let epoll = wait_for(&ring, &waker).map_err(LoadError::Ring)?;
        let link = calls::attach(program.as_fd())?;
        Ok(EventSource {
            program,
            link: Some(link),
            layout,
            variant,
            names: settings.names,
            _seen: seen,
            ring: Mutex::new(ring),
            epoll,
            waker,
            lost,
            decoder: Decoder {
                has_cookies: layout.has_cookies,
                calls_with_descriptor: CALLS_WITH_DESCRIPTOR,
            },
            paths,
            open_sockets: open_sockets.map_err(|error| error.to_string()),
            datagrams: datagrams.map_err(|error| error.to_string()),
            counting,
            releases: Err(not_begun.to_string()),
            wants_releases,
            memory,
        })
    }

    /// Loads the counting programs, in any thread, while this source exists. None: that was begun before, or the settings or
    /// the kernel forbid it.
    pub(crate) fn counting_loader(&mut self) -> Option<CountingLoader> {
        let (CountingState::NotBegun, Ok(first_sends)) = (&self.counting, &self.datagrams) else {
            return None;
        };
        let &EventSource { layout, variant, names, wants_releases, .. } = &*self;
        let (maps, lost) = (first_sends.maps(), Arc::clone(&self.lost));
        self.counting = CountingState::Loading;
        Some(CountingLoader { layout, variant, names, maps, lost, wants_releases })
    }

    /// Loads them in this thread.
    #[cfg(any(test, feature = "bench"))]
    fn begin_counting(&mut self, root: &ProcRoot) {
        if let Some(loader) = self.counting_loader() {
            let loaded = loader.load(root);
            self.finish_counting(root, loaded);
        }
    }

    /// Takes over the programs that the loader has loaded. Whether they run is in [`EventSource::programs`].
    pub(crate) fn finish_counting(&mut self, root: &ProcRoot, loaded: LoadedCounting) {
        let LoadedCounting { counting, releases } = loaded;
        if let Ok(counting) = &counting {
            // The program after a send reports the first ones, too.
            self.datagrams.iter_mut().for_each(Datagrams::detach);
            self.memory +=
                counting.objects().into_iter().map(|it| memory_of(root, it)).sum::<u64>();
        }
        if let Ok(releases) = &releases {
            self.memory += memory_of(root, releases.object());
        }
        self.releases = releases.map_err(|error| error.to_string());
        if let Err(reason) = &self.releases
            && self.wants_releases
        {
            warn_of_unknown_ends(reason);
        }
        self.counting = match counting {
            Ok(counting) => CountingState::Runs(counting),
            Err(error) => CountingState::Failed(error.to_string()),
        };
    }

    /// The slots that count datagrams, while they are counted.
    pub(crate) fn counting(&self) -> Option<&Counting> {
        match &self.counting {
            CountingState::Runs(counting) => Some(counting),
            _ => None,
        }
    }

    /// The sockets whose datagrams are counted, while they are.
    pub(crate) fn counted_sockets(&self) -> Option<&Arc<CountedSockets>> {
        self.counting().map(Counting::sockets)
    }

    /// The programs, and why some do not run.
    pub(crate) fn programs(&self) -> Vec<(&'static str, Result<(), String>)> {
        vec![
            (TRACEPOINT, Ok(())),
            (SEND, self.datagrams.as_ref().map(drop).map_err(Clone::clone)),
            (RECEIVE, self.counting.reason().map_or(Ok(()), Err)),
            (RELEASE, self.releases.as_ref().map(drop).map_err(Clone::clone)),
            (PATHS, self.paths.clone()),
            (ITERATOR, self.open_sockets.as_ref().map(drop).map_err(Clone::clone)),
        ]
    }

    /// Waits until another eighth of the ring buffer is full, the waker is used, or the time is over. Then hands over all
    /// records that are there. One thread at a time can do this.
    ///
    /// # Errors
    /// The first one. After it, the next call hands over what follows.
    pub(crate) fn drain(
        &self,
        timeout: Duration,
        each: &mut dyn FnMut(EventRecord),
    ) -> Result<(), EventError> {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        self.wait(timeout).map_err(EventError::Wait)?;
        let mut malformed = None;
        // While a program writes a record, those behind it cannot be read. From Linux 7 on, the task can be preempted then.
        const ATTEMPTS: u32 = 20;
        const PAUSE: Duration = Duration::from_micros(100);
        for _ in 0..ATTEMPTS {
            let consumed = ring.consume(|record| match self.decoder.decode(record) {
                Ok(record) => each(record),
                Err(error) => _ = malformed.get_or_insert(error),
            });
            match consumed.map_err(EventError::Ring)? {
                Consumed::All => break,
                Consumed::UpToBusy => thread::sleep(PAUSE),
            }
        }
        malformed.map_or(Ok(()), |error| Err(EventError::Record(error)))
    }

    /// A signal does not end the wait.
    fn wait(&self, timeout: Duration) -> Result<(), Errno> {
        let end = Instant::now().checked_add(timeout);
        loop {
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            let left = left.map(Timespec::try_from).transpose().unwrap_or_default();
            let mut events = [epoll::Event { flags: epoll::EventFlags::empty(), data: RING }; 2];
            match epoll::wait(&self.epoll, &mut events[..], left.as_ref()) {
                Ok(_) => break,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        self.waker.reset();
        Ok(())
    }

    pub(crate) fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// What was lost since the start.
    pub(crate) fn losses(&self) -> Losses {
        // The call does not fail for the descriptor of a map.
        let lost = self.lost.get().unwrap_or_default();
        let count = |index| lost.get(index).copied().unwrap_or_default();
        let skipped_states = calls::skipped(self.program.as_fd());
        let skipped = skipped_states
            + self.datagrams.as_ref().map_or(0, Datagrams::skipped)
            + self.counting().map_or(0, Counting::skipped);
        Losses {
            ring_events: count(LOST_STATES),
            ring_executables: count(LOST_EXECUTABLES),
            ring_datagrams: count(LOST_DATAGRAMS),
            uncounted_messages: count(UNCOUNTED_MESSAGES),
            uncounted_bytes: count(UNCOUNTED_BYTES),
            skipped,
            skipped_states,
        }
    }

    /// Hands over the TCP sockets that are open now, each with each process that holds it.
    pub(crate) fn open_sockets(&self, each: &mut dyn FnMut(OpenSocket)) -> Result<(), PassError> {
        match &self.open_sockets {
            Ok(open_sockets) => open_sockets.run(each),
            Err(reason) => Err(PassError::NotLoaded(reason.clone())),
        }
    }

    /// The memory of the program and its maps in the kernel, in bytes.
    pub(crate) fn memory(&self) -> u64 {
        self.memory
    }
}

/// Whether datagrams are counted.
#[derive(Debug)]
enum CountingState {
    NotChosen,
    NotBegun,
    Loading,
    Runs(Counting),
    Failed(String),
}

impl CountingState {
    /// Why datagrams are not counted; None if they are.
    fn reason(&self) -> Option<String> {
        let reason = match self {
            CountingState::Runs(_) => return None,
            CountingState::NotChosen => {
                "datagrams are not counted, with this value of --events-datagrams"
            }
            CountingState::NotBegun => {
                "datagrams are counted from the first query of process_socket_flows on"
            }
            CountingState::Loading => "the programs that count datagrams are being loaded",
            CountingState::Failed(reason) => reason,
        };
        Some(reason.to_owned())
    }
}

/// What tests change.
#[derive(Clone, Copy, Debug)]
struct Settings {
    ring_size: u32,
    names: Names,
    datagrams: EventDatagrams,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            ring_size: RING_SIZE,
            names: Names {
                tracepoint: *b"tcp_states\0\0\0\0\0\0",
                iterator: *b"tcp_sockets\0\0\0\0\0",
                ring: *b"tcp_events\0\0\0\0\0\0",
                seen: *b"tcp_seen\0\0\0\0\0\0\0\0",
                lost: *b"tcp_lost\0\0\0\0\0\0\0\0",
                send: *b"first_sends\0\0\0\0\0",
                marks: *b"sent_sockets\0\0\0\0",
                unmarked: *b"sent_cookies\0\0\0\0",
                count_sent: *b"count_sent\0\0\0\0\0\0",
                count_received: *b"count_received\0\0",
                live: *b"live_sockets\0\0\0\0",
                open: *b"open_datagrams\0\0",
                release: *b"datagram_ends\0\0\0",
                slots: *b"datagram_slots\0\0",
                free: *b"free_slots\0\0\0\0\0\0",
                references: *b"slot_references\0",
            },
            datagrams: EventDatagrams::Auto,
        }
    }
}

/// Loads the program. Lockdown in its confidentiality mode forbids the helper that reads paths.
fn load_with_or_without_paths(
    layout: &Layout,
    variant: Variant,
    settings: &Settings,
) -> Result<(OwnedFd, Result<(), String>), LoadError> {
    let load = |has_paths| {
        let code = state_program::program(layout, &Variant { has_paths, ..variant })?;
        let program = Program::tracepoint(settings.names.tracepoint, &code, layout.tracepoint);
        with_memory(|| program.load_or_log()).map_err(LoadError::from)
    };
    match load(true) {
        Ok(program) => Ok((program, Ok(()))),
        // Without the typed members of tasks, or in a PID namespace, the helper is needed for more than paths.
        Err(error) if layout.has_typed_task && variant.namespace.is_none() => {
            Ok((load(false)?, Err(error.to_string())))
        }
        Err(error) => Err(error),
    }
}

fn warn_of_unknown_ends(reason: &dyn fmt::Display) {
    log::warn!("datagram sockets have no exact end (--events-datagrams exact-end): {reason}");
}

/// The PID namespace of this process; None if it is the first one.
fn own_namespace(
    root: &ProcRoot,
    layout: &Layout,
    open_sockets: &OpenSockets,
) -> Result<Option<PidNamespace>, LoadError> {
    let path = || root.path().to_owned();
    let level = open_sockets.own_level()?;
    if level == 0 {
        return Ok(None);
    }
    let inum = root.own_process().and_then(|own| own.link("ns/pid", proc_link::pid_namespace));
    let inum = inum.ok().flatten().and_then(|inum| u32::try_from(inum).ok());
    let inum = inum.ok_or_else(|| LoadError::PidNamespace { path: path() })?;
    let at = layout.pid.at(level);
    let (number, namespace) = at.map_err(|source| LoadError::Layout { path: TYPES, source })?;
    Ok(Some(PidNamespace { level, inum, number, namespace }))
}

const RING: epoll::EventData = epoll::EventData::new_u64(0);
const WAKER: epoll::EventData = epoll::EventData::new_u64(1);

/// The ring buffer counts as readable as long as it is not empty, so that the wait ends at its wake-ups only.
fn wait_for(ring: &RingBuffer, waker: &Waker) -> Result<OwnedFd, Errno> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
    epoll::add(&epoll, ring.as_fd(), RING, flags)?;
    epoll::add(&epoll, &*waker.0, WAKER, epoll::EventFlags::IN)?;
    Ok(epoll)
}

/// The memory that an object of BPF takes, as proc(5) shows it.
fn memory_of(root: &ProcRoot, object: BorrowedFd<'_>) -> u64 {
    let path = format!("fdinfo/{}", object.as_raw_fd());
    let read = || root.own_process().ok()?.read(&path).ok();
    let text = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let memory = text.lines().find_map(|line| line.strip_prefix("memlock:"));
    memory.and_then(|memory| memory.trim().parse().ok()).unwrap_or_default()
}

/// System calls that connect a socket, let it listen, send or receive, and whose first argument is its descriptor.
const CALLS_WITH_DESCRIPTOR: &[u32] = &[
    libc::SYS_connect as u32,
    libc::SYS_listen as u32,
    libc::SYS_sendto as u32,
    libc::SYS_sendmsg as u32,
    libc::SYS_sendmmsg as u32,
    libc::SYS_write as u32,
    libc::SYS_writev as u32,
    libc::SYS_recvfrom as u32,
    libc::SYS_recvmsg as u32,
    libc::SYS_recvmmsg as u32,
    libc::SYS_read as u32,
    libc::SYS_readv as u32,
];
