//! The sockets that have storage in a map: those that were used while datagrams are counted.

use std::collections::{HashMap, HashSet};
use std::error::Error;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;

use super::super::calls::{self, Counters, Program};
use super::super::error::{LoadError, PassError};
use super::super::iterator::read_records;
use super::maps::{COUNTERS, with_memory};
use super::members::{Counting, Layout};
use super::writer::WITHOUT_STORAGE;
use super::{datagram_sockets_program, live_sockets_program};
use crate::deadline::Deadline;
use crate::formats::linux::event_record::members::LiveSocketRecord;
use crate::formats::linux::event_record::{EventRecordError, take_live_socket};
use crate::model::DatagramBytes;
use crate::model::tcp_event::Bytes;

/// The iterator, and the sockets that are older than the counting.
#[derive(Debug)]
pub(crate) struct CountedSockets {
    link: OwnedFd,
    lost: Arc<Counters<COUNTERS>>,
    /// The programs that count.
    programs: Arc<[OwnedFd; 2]>,
    /// The cookies of the sockets that processes held when counting began, sorted; None: they could not be listed.
    opened_before: Option<Arc<[u64]>>,
}

impl CountedSockets {
    /// Loads the iterator over the sockets that have storage in the map.
    pub(super) fn load(
        counting: &Counting,
        name: [u8; 16],
        map: BorrowedFd<'_>,
        lost: &Arc<Counters<COUNTERS>>,
        programs: &Arc<[OwnedFd; 2]>,
    ) -> Result<CountedSockets, LoadError> {
        let code = live_sockets_program::program(&counting.context)?;
        let program = Program::iterator(name, &code, counting.function);
        let program = with_memory(|| program.load_or_log())?;
        let link = calls::link_storage(program.as_fd(), map)?;
        let (lost, programs) = (Arc::clone(lost), Arc::clone(programs));
        Ok(CountedSockets { link, lost, programs, opened_before: None })
    }

    /// Lists the sockets that processes of this PID namespace hold now.
    pub(super) fn list_open(&mut self, layout: &Layout, name: [u8; 16]) {
        match open_sockets(layout, name) {
            Ok(Some(cookies)) => self.opened_before = Some(Arc::from(cookies)),
            Ok(None) => log::warn!(
                "process_open_sockets will have no bytes of datagram sockets: more than {MAX_SOCKETS} are open already"
            ),
            Err(error) => log::warn!(
                "process_open_sockets will have no bytes of datagram sockets: those that are open already cannot be listed: \
                 {error}"
            ),
        }
    }

    /// Which of these cookies belong to sockets that still exist. Where sockets end meanwhile, the kernel can pass over others.
    pub(crate) fn live(&self, of: &HashSet<u64>) -> Result<HashSet<u64>, PassError> {
        self.live_before(of, Deadline::after(MAX_LIST_TIME))
    }

    pub(super) fn live_before(
        &self,
        of: &HashSet<u64>,
        deadline: Deadline<'_>,
    ) -> Result<HashSet<u64>, PassError> {
        let mut cookies = HashSet::new();
        self.read(deadline, |cookie, _| {
            if of.contains(&cookie) {
                cookies.insert(cookie);
            }
        })?;
        if deadline.has_passed() {
            return Err(PassError::Read(Errno::TIME));
        }
        Ok(cookies)
    }

    /// The bytes of the sockets that were opened since counting began. None: it is unknown which these are.
    pub(crate) fn bytes(&self) -> Result<Option<DatagramBytes>, PassError> {
        let Some(opened_before) = &self.opened_before else { return Ok(None) };
        // Read before the sockets: one that gets no storage from now on is newer than the answer.
        let without_storage = self.lost.get()?.get(WITHOUT_STORAGE).copied();
        let mut counted = HashMap::new();
        self.read(Deadline::NEVER, |cookie, bytes| _ = counted.insert(cookie, bytes))?;
        // Where sockets end between two reads, the kernel can pass over others.
        let is_complete =
            without_storage == Some(0) && self.skipped() == 0 && counted.len() <= SOCKETS_OF_A_READ;
        Ok(Some(DatagramBytes { counted, opened_before: Arc::clone(opened_before), is_complete }))
    }

    /// The runs that the kernel skipped.
    pub(super) fn skipped(&self) -> u64 {
        self.programs.iter().map(|program| calls::skipped(program.as_fd())).sum()
    }

    fn read(
        &self,
        deadline: Deadline<'_>,
        mut each: impl FnMut(u64, Bytes),
    ) -> Result<(), PassError> {
        read_records(self.link.as_fd(), deadline, |bytes| {
            let taken = take_live_socket(bytes);
            let is_complete = taken.is_some();
            if let Some((cookie, bytes)) = taken {
                each(cookie, bytes);
            }
            Ok::<_, EventRecordError>(is_complete)
        })
    }
}

/// The time limit of a list.
const MAX_LIST_TIME: Duration = Duration::from_secs(10);

/// The kernel fills 32 KiB at a time.
const SOCKETS_OF_A_READ: usize = (32 << 10) / size_of::<LiveSocketRecord>() - 1;

/// The maximum number of sockets that are open when counting begins: 8 MiB.
const MAX_SOCKETS: usize = 1 << 20;

/// The cookies of the datagram sockets that processes hold, sorted; None: they are too many.
fn open_sockets(layout: &Layout, name: [u8; 16]) -> Result<Option<Vec<u64>>, Box<dyn Error>> {
    let iterator = layout.iterator.as_ref().ok_or(LoadError::NoCookies)?;
    let code = datagram_sockets_program::program(layout, &iterator.context)?;
    let program = Program::iterator(name, &code, iterator.function);
    let program = with_memory(|| program.load_or_log())?;
    let link = calls::link(program.as_fd(), None)?;
    let mut cookies = HashSet::new();
    read_records(link.as_fd(), Deadline::NEVER, |bytes| {
        let Some((cookie, rest)) = bytes.split_first_chunk() else { return Ok(false) };
        *bytes = rest;
        if cookies.len() <= MAX_SOCKETS {
            cookies.insert(u64::from_ne_bytes(*cookie));
        }
        Ok::<_, EventRecordError>(true)
    })?;
    if cookies.len() > MAX_SOCKETS {
        return Ok(None);
    }
    let mut cookies: Vec<u64> = cookies.into_iter().collect();
    cookies.sort_unstable();
    Ok(Some(cookies))
}
