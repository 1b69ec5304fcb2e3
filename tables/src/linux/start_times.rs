//! When processes started: a pid and a start time name one process, even if the pid is used again.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Mutex, PoisonError};

use super::proc_root::{ProcRoot, Process};
use crate::formats::linux::proc_pid_stat::{Stat, ticks_of};
use crate::formats::linux::timens_offsets;

/// The start times of the processes whose descriptors a scan reads, in clock ticks.
#[derive(Debug, Default)]
pub(crate) struct StartTimes {
    by_pid: Mutex<HashMap<i32, Option<u64>>>,
    last: AtomicI32,
    /// The time of boot in the time namespace of this process, whose times `/proc` shows, before that of the host, in
    /// nanoseconds.
    boottime_offset: i64,
}

impl StartTimes {
    pub(crate) fn new(root: &ProcRoot) -> StartTimes {
        let own = root.own_process().and_then(|own| {
            let mut buffer = [0; 256];
            Ok(timens_offsets::boottime(own.read_start("timens_offsets", &mut buffer)?))
        });
        // Before Linux 5.6 there are no time namespaces.
        StartTimes { boottime_offset: own.ok().flatten().unwrap_or(0), ..StartTimes::default() }
    }

    /// Whether the last call had another pid: the descriptors of a process follow each other.
    pub(crate) fn is_next(&self, pid: i32) -> bool {
        self.last.swap(pid, Ordering::Relaxed) != pid
    }

    /// Notes when a process started. After two processes with the same pid, none is known: either can have been the
    /// holder of a socket.
    pub(crate) fn note(&self, pid: i32, ticks: u64) {
        let mut times = self.by_pid.lock().unwrap_or_else(PoisonError::into_inner);
        let known = times.entry(pid).or_insert(Some(ticks));
        if *known != Some(ticks) {
            *known = None;
        }
    }

    /// The same, of nanoseconds since the boot of the host.
    pub(crate) fn note_boottime(&self, pid: i32, nanoseconds: u64) {
        let shown = nanoseconds.saturating_add_signed(self.boottime_offset);
        self.note(pid, ticks_of(shown, rustix::param::clock_ticks_per_second()));
    }

    /// Reads and notes when that process started.
    pub(crate) fn note_process(&self, pid: i32, process: &Process) {
        if let Some(Stat { start_ticks, .. }) = stat(process) {
            self.note(pid, start_ticks);
        }
    }

    pub(crate) fn into_known(self) -> HashMap<i32, u64> {
        let times = self.by_pid.into_inner().unwrap_or_else(PoisonError::into_inner);
        times.into_iter().filter_map(|(pid, ticks)| Some((pid, ticks?))).collect()
    }
}

fn stat(process: &Process) -> Option<Stat> {
    Stat::parse(process.stat_line(&mut [0; 1024]).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_of_two_processes_has_no_start_time() {
        let times = StartTimes::default();
        for (pid, ticks) in [(1, 5), (2, 7), (1, 5), (2, 8), (2, 7)] {
            times.note(pid, ticks);
        }
        assert_eq!(times.into_known(), HashMap::from([(1, 5)]));
    }
}
