//! The iterator over the file descriptors of all tasks, with the program in it.

use std::fmt;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{AddressFamily, SocketType};

use super::calls;
use super::descriptor_tables::DescriptorTables;
use super::error::{FALLBACK, LoadError, PassError};
use super::iterator::{own_level, read_records};
use super::kernel_members::Layout;
use super::program::{Helpers, program};
use super::types::{TYPES, read_layout};
use crate::deadline::Deadline;
use crate::formats::linux::bpf_record::{Record, RecordError};
use crate::model::holders::Holder;

/// The records that a program writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Records {
    /// What most queries use.
    Basic,
    /// Basic records, and what only some queries use.
    Extended,
}

impl fmt::Display for Records {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Records::Basic => "basic",
            Records::Extended => "extended",
        })
    }
}

/// The loaded program. It can run any number of times.
#[derive(Debug)]
pub(crate) struct TaskFiles {
    program: OwnedFd,
    of_all: OwnedFd,
    visits_all_threads: bool,
    /// The log level of failures.
    level: log::Level,
}

impl TaskFiles {
    /// Loads the program that writes these records. It writes the pids of the PID namespace of this process. `level`
    /// is the log level of failures.
    pub(super) fn load(
        records: Records,
        has_first_pids: bool,
        level: log::Level,
    ) -> Result<TaskFiles, LoadError> {
        let layout = read_layout(&Layout::names(), Layout::of)?;
        let files = TaskFiles::load_for(&layout, None, records, level)?;
        if has_first_pids {
            return Ok(files);
        }
        let number = match files.own_level()? {
            0 => return Ok(files),
            depth => layout.task.pid_number_at(depth),
        };
        let number = number.map_err(|source| LoadError::Layout { path: TYPES, source })?;
        TaskFiles::load_for(&layout, Some(number), records, level)
    }

    fn load_for(
        layout: &Layout,
        pid_number: Option<i16>,
        records: Records,
        level: log::Level,
    ) -> Result<TaskFiles, LoadError> {
        let load = |helpers| TaskFiles::load_with(layout, pid_number, helpers, level);
        if records == Records::Basic {
            return load(None);
        }
        let ticks = ticks_per_second();
        let helpers = |socket_cookie, jiffies| Some(Helpers { socket_cookie, jiffies });
        // The kernel does not report which helpers a program can call.
        load(helpers(true, ticks))
            .or_else(|_| load(helpers(true, None)))
            .or_else(|_| load(helpers(false, None)))
    }

    fn load_with(
        layout: &Layout,
        pid_number: Option<i16>,
        extended: Option<Helpers>,
        level: log::Level,
    ) -> Result<TaskFiles, LoadError> {
        let code = program(layout, pid_number, extended)?;
        let program = calls::load(&code, layout.function, &mut []).inspect_err(|_| {
            if log::log_enabled!(log::Level::Debug) {
                log::debug!("{}", calls::verifier_log(&code, layout.function));
            }
        })?;
        let of_all = calls::link(program.as_fd(), None)?;
        let visits_all_threads = layout.visits_all_threads;
        Ok(TaskFiles { program, of_all, visits_all_threads, level })
    }

    /// Whether a pass over one process reads all its threads: since Linux 6.7.
    pub(crate) fn reads_all_threads(&self) -> bool {
        self.visits_all_threads
    }

    /// The message that a pass failed, with its level.
    pub(crate) fn failure(&self, error: &PassError) -> (log::Level, String) {
        let level = if error.is_expected() { log::Level::Debug } else { self.level };
        (level, format!("BPF failed: {error}; {FALLBACK}"))
    }

    /// Hands the descriptors of sockets to `each`, of all processes or of one. With `threads`, also those in the
    /// file descriptor tables of threads.
    ///
    /// # Errors
    /// Before Linux 6.1 if one process is selected. Before Linux 6.7 also if the threads of that process matter, or
    /// can matter because the first thread has no socket.
    pub(crate) fn run(
        &self,
        pid: Option<i32>,
        threads: bool,
        deadline: Deadline<'_>,
        mut each: impl FnMut(Holder, Record) -> Result<(), RecordError>,
    ) -> Result<(), PassError> {
        let mut tables = DescriptorTables::default();
        let mut is_first_seen = false;
        self.read(pid, deadline, |record| {
            let descriptor = record.descriptor();
            is_first_seen |= descriptor.tid == descriptor.pid;
            match tables.holder(&descriptor, threads) {
                Some(holder) => each(holder, record),
                None => Ok(()),
            }
        })?;
        match pid {
            Some(pid) if !self.visits_all_threads && (threads || !is_first_seen) => {
                Err(PassError::MissesThreads { pid })
            }
            _ => Ok(()),
        }
    }

    /// The depth of the PID namespace of this process.
    fn own_level(&self) -> Result<u32, LoadError> {
        own_level((AddressFamily::UNIX, SocketType::DGRAM), |each| {
            self.read(None, Deadline::NEVER, |record| {
                let descriptor = record.descriptor();
                each(descriptor.inode, descriptor.level);
                Ok(())
            })
        })
    }

    fn read(
        &self,
        pid: Option<i32>,
        deadline: Deadline<'_>,
        mut each: impl FnMut(Record) -> Result<(), RecordError>,
    ) -> Result<(), PassError> {
        let link = pid.map(|pid| calls::link(self.program.as_fd(), Some(pid))).transpose()?;
        let link = link.as_ref().unwrap_or(&self.of_all).as_fd();
        read_records(link, deadline, |bytes| {
            let Some(record) = Record::take(bytes)? else { return Ok(false) };
            each(record).map(|()| true)
        })
    }
}

/// The number of ticks that the kernel counts in a second (`CONFIG_HZ`): the coarse clocks change with each. None if
/// they show no usual number.
fn ticks_per_second() -> Option<u32> {
    let tick = rustix::time::clock_getres(rustix::time::ClockId::MonotonicCoarse);
    let nanoseconds = u32::try_from(tick.tv_nsec).ok().filter(|_| tick.tv_sec == 0)?;
    // The kernel rounds the length of a tick to nanoseconds.
    let ticks = (1_000_000_000 + nanoseconds / 2).checked_div(nanoseconds)?;
    (24..=1200).contains(&ticks).then_some(ticks)
}

#[cfg(test)]
mod tests;
