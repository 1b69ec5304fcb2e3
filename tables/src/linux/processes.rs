//! What a query reads of the processes that hold sockets (proc_pid(5)).
//!
//! The crate procfs reads the same files. It returns an error for arguments that are not UTF-8, reads them without a
//! limit, and parses all of `stat` and `status` for a few of their fields. And each read that a process can block
//! must be a [step](super::steps).

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use rustix::io::Errno;

use super::cores;
use super::proc_root::{ProcRoot, Process as Directory, is_gone};
use crate::deadline::Deadline;
use crate::formats::linux::proc_pid_stat::Stat;
use crate::formats::linux::{proc_cgroup, proc_status};
use crate::model::omission::{OmissionKind, Omissions};
use crate::model::process::{joined_arguments, lossy};
use crate::model::{Process, ProcessFields, Processes};

/// The maximum length of the arguments of a process. Longer ones are cut off.
const MAX_ARGUMENTS: usize = 32 * 1024;
/// This length of each process is kept even if [`MAX_TOTAL`] is exceeded.
const MIN_ARGUMENTS: usize = 1024;
/// The maximum length of all arguments together, besides the kept ones.
const MAX_TOTAL: usize = 32 * 1024 * 1024;
/// The maximum length of a file of control groups: 13 hierarchies with paths of 4,096 bytes are shorter.
const MAX_CGROUP: usize = 64 * 1024;
/// Processes that justify another thread of this program.
const PROCESSES: usize = 64;
/// The maximum number of threads that are read if the first one has ended.
const MAX_THREADS: usize = 64;

/// Reads the processes of one query. It keeps those that it has read, so that a new attempt does not repeat them.
#[derive(Debug)]
pub(crate) struct ProcessReader {
    fields: ProcessFields,
    /// Pids with start times in clock ticks, in the order of reading.
    wanted: Vec<(i32, u64)>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// None: the process has ended.
    read: HashMap<i32, Option<Process>>,
    omissions: Omissions,
    /// The length of the arguments beyond [`MIN_ARGUMENTS`] of each process.
    arguments: usize,
}

impl ProcessReader {
    pub(crate) fn new(fields: ProcessFields, mut wanted: Vec<(i32, u64)>) -> ProcessReader {
        wanted.sort_unstable();
        ProcessReader { fields, wanted, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the processes that were not read before, on several processors if there are many.
    pub(crate) fn read(&self, root: &ProcRoot, deadline: Deadline<'_>) {
        let is_used = self.fields.contains(ProcessFields::START_TIME);
        let boot_time = if is_used { root.boot_time() } else { None };
        let known: HashSet<i32> = self.state().read.keys().copied().collect();
        let wanted: Vec<_> =
            self.wanted.iter().copied().filter(|(pid, _)| !known.contains(pid)).collect();
        let begun = AtomicUsize::new(0);
        let read_rest = || {
            let mut buffer = vec![0; MAX_CGROUP];
            while let Some(&one) = wanted.get(begun.fetch_add(1, Ordering::Relaxed)) {
                if deadline.has_passed() {
                    return;
                }
                self.read_one(root, one, boot_time, deadline, &mut buffer);
            }
        };
        thread::scope(|scope| {
            for _ in 1..cores().min(wanted.len() / PROCESSES) {
                let reader = thread::Builder::new().name("reader".into());
                // If no thread can be started, the others do the work.
                if reader.spawn_scoped(scope, read_rest).is_err() {
                    break;
                }
            }
            read_rest();
        });
    }

    fn read_one(
        &self,
        root: &ProcRoot,
        (pid, start_ticks): (i32, u64),
        boot_time: Option<i64>,
        deadline: Deadline<'_>,
        buffer: &mut [u8],
    ) {
        let mut one = OneProcess::new(root, self.fields, pid, boot_time);
        let room = MAX_TOTAL.saturating_sub(self.state().arguments);
        let process = one.read(start_ticks, room, buffer);
        // What an abandoned attempt has not read, the next one reads.
        if deadline.has_passed() && one.omissions.has(OmissionKind::ProcessBlocked) {
            return;
        }
        let mut state = self.state();
        state.arguments += one.arguments.saturating_sub(MIN_ARGUMENTS);
        state.omissions.extend(one.omissions);
        state.read.insert(pid, process);
    }

    /// The processes that were read. Each other process is an omission.
    pub(crate) fn finish(&self, root: &std::path::Path) -> (Processes, Omissions) {
        let State { read, mut omissions, .. } = std::mem::take(&mut *self.state());
        for (pid, _) in self.wanted.iter().filter(|(pid, _)| !read.contains_key(pid)) {
            omissions
                .add(OmissionKind::Deadline, || root.join(pid.to_string()).display().to_string());
        }
        let processes = read.into_iter().filter_map(|(pid, process)| Some((pid, process?)));
        (processes.collect(), omissions)
    }
}

/// Makes the reads of a process that it can block, to find out whether it does.
pub(crate) fn probe(root: &ProcRoot, pid: i32) {
    if let Ok(process) = root.process(pid) {
        // It blocks `stat` too.
        let _ = process.executable();
        let _ = process.arguments(&mut [0]);
    }
}

/// The files that these fields come from, for people.
pub(crate) fn files(fields: ProcessFields) -> Vec<&'static str> {
    let files = [
        (ProcessFields::all(), "stat"),
        (IN_STATUS, "status"),
        (ProcessFields::PATH, "exe"),
        (ProcessFields::CMDLINE, "cmdline"),
        (IN_CGROUP, "cgroup"),
    ];
    files.into_iter().filter(|(of, _)| fields.intersects(*of)).map(|(_, file)| file).collect()
}

const IN_STATUS: ProcessFields = ProcessFields::NAME.union(ProcessFields::UIDS);
const IN_CGROUP: ProcessFields = ProcessFields::CGROUP_PATH.union(ProcessFields::CONTAINER);

/// The read of one process.
struct OneProcess<'a> {
    root: &'a ProcRoot,
    fields: ProcessFields,
    pid: i32,
    boot_time: Option<i64>,
    omissions: Omissions,
    /// The length of its arguments.
    arguments: usize,
}

impl<'a> OneProcess<'a> {
    fn new(
        root: &'a ProcRoot,
        fields: ProcessFields,
        pid: i32,
        boot_time: Option<i64>,
    ) -> OneProcess<'a> {
        OneProcess { root, fields, pid, boot_time, omissions: Omissions::default(), arguments: 0 }
    }

    /// None if the process has ended, also if another process has its pid. The directory belongs to one process, so
    /// that its start time, once read, holds for all other files.
    fn read(&mut self, start_ticks: u64, room: usize, buffer: &mut [u8]) -> Option<Process> {
        let directory = self.noted("", self.root.process(self.pid))?;
        let mut line = [0; 1024];
        let text = self.noted("stat", directory.stat_line(&mut line))?;
        let stat = Stat::parse(text).filter(|stat| stat.start_ticks == start_ticks)?;
        let thread = if stat.has_ended_leader() { running_thread(&directory) } else { None };
        let of_memory = thread.as_ref().unwrap_or(&directory);
        let mut process = Process::default();
        if self.fields.contains(ProcessFields::PARENT) {
            process.parent = Some(stat.parent);
        }
        if self.fields.contains(ProcessFields::START_TIME) {
            process.start_time = self.boot_time.and_then(|boot| {
                let since = start_ticks.checked_div(rustix::param::clock_ticks_per_second())?;
                boot.checked_add(i64::try_from(since).ok()?)
            });
        }
        if self.fields.intersects(IN_STATUS)
            && let Some(status) = self.noted("status", directory.read_start("status", &mut line))
        {
            process.name = proc_status::name(status).map(lossy);
            process.uids = proc_status::real_and_effective_uid(status);
        }
        if self.fields.contains(ProcessFields::PATH) {
            process.path = self.executable(of_memory);
        }
        if self.fields.contains(ProcessFields::CMDLINE) {
            process.cmdline = self.cmdline(of_memory, room, buffer);
        }
        if self.fields.intersects(IN_CGROUP) {
            self.read_cgroup(of_memory, buffer, &mut process);
        }
        Some(process)
    }

    /// Kernel threads and zombies have no executable, and so no link.
    fn executable(&mut self, directory: &Directory) -> Option<Box<str>> {
        match directory.executable() {
            Err(Errno::NOENT) if directory.stat("stat").is_ok() => Some("".into()),
            result => self.noted("exe", result).map(|path| lossy(&path)),
        }
    }

    fn cmdline(
        &mut self,
        directory: &Directory,
        room: usize,
        buffer: &mut [u8],
    ) -> Option<Box<str>> {
        // One byte more shows whether there are more.
        let most = MAX_ARGUMENTS.min(room.max(MIN_ARGUMENTS));
        let buffer = buffer.get_mut(..=most)?;
        let read = self.noted("cmdline", directory.arguments(buffer))?;
        let kept = read.get(..most).unwrap_or(read);
        if kept.len() < read.len() {
            self.omissions.add(OmissionKind::CommandLine, || path(self.root, self.pid, "cmdline"));
        }
        self.arguments = kept.len();
        Some(joined_arguments(kept))
    }

    fn read_cgroup(&mut self, directory: &Directory, buffer: &mut [u8], process: &mut Process) {
        let text = match directory.read_start("cgroup", buffer) {
            // A kernel without control groups.
            Err(Errno::NOENT) if directory.stat("stat").is_ok() => Some(&[][..]),
            result => self.noted("cgroup", result),
        };
        let Some(text) = text else { return };
        if self.fields.contains(ProcessFields::CGROUP_PATH) {
            process.cgroup_path = Some(lossy(proc_cgroup::first_path(text).unwrap_or_default()));
        }
        if self.fields.contains(ProcessFields::CONTAINER) {
            process.container = Some(proc_cgroup::innermost_container(text));
        }
    }

    /// The result of a read. An error is counted, unless the process has ended.
    fn noted<T>(&mut self, file: &str, result: rustix::io::Result<T>) -> Option<T> {
        let errno = match result {
            Ok(value) => return Some(value),
            Err(errno) if is_gone(errno) => return None,
            Err(errno) => errno,
        };
        let (root, pid) = (self.root, self.pid);
        if errno == Errno::BUSY {
            let first = || format!("{} of {}", path(root, pid, file), root.user(pid));
            self.omissions.add(OmissionKind::ProcessBlocked, first);
        } else {
            let error = std::io::Error::from(errno);
            let first = || format!("{}: {error}", path(root, pid, file));
            self.omissions.add(OmissionKind::Process, first);
        }
        None
    }
}

/// A thread that has not ended.
fn running_thread<'a>(process: &Directory<'a>) -> Option<Directory<'a>> {
    let tasks = process.tasks()?;
    let threads = tasks.others().into_iter().take(MAX_THREADS);
    let mut threads = threads.filter_map(|tid| tasks.thread(tid).ok());
    threads.find(|thread| {
        let mut buffer = [0; 1024];
        let stat = thread.stat_line(&mut buffer).ok().and_then(Stat::parse);
        stat.is_some_and(|stat| !matches!(stat.state, b'Z' | b'X'))
    })
}

fn path(root: &ProcRoot, pid: i32, file: &str) -> String {
    root.path().join(pid.to_string()).join(file).display().to_string()
}

#[cfg(test)]
mod tests;
