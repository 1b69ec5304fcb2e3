//! Who holds what, and what that is, in one pass: a BPF program that the kernel runs for every descriptor of
//! every task (`kernel/bpf/task_iter.c`).
//!
//! It sees what `/proc` hides from who may not trace a process, and it needs CAP_BPF with CAP_PERFMON, or
//! CAP_SYS_ADMIN. The kernel has all that it needs from Linux 5.11 on.
//!
//! The program is made here for the kernel that runs, whose types tell where everything lies.

mod assembler;
mod calls;
mod layout;
mod load_once;
mod program;
mod record;

use std::collections::HashMap;
use std::fmt::Display;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::sync::Once;
use std::time::{Duration, Instant};

use rustix::fs::fstat;
use rustix::io::Errno;

use self::layout::Layout;
use self::load_once::LoadOnce;
use self::record::Held;
pub(crate) use self::record::{Malformed, Record, Told};
use super::proc_root::ProcRoot;
use crate::deadline::Deadline;
use crate::formats::linux::btf::Btf;
use crate::model::Source;
use crate::model::holders::Holder;

/// The program, if it is to be used: loaded when it is first asked for, or later if that fails.
pub(crate) struct Bpf {
    source: Source,
    from_files: Option<u64>,
    loaded: LoadOnce<Loaded>,
    /// Completed once it is logged that BPF is forbidden.
    forbidden: Once,
}

struct Loaded {
    files: TaskFiles,
    /// The device of a mount of proc that shows the processes that the program sees, by the same pids.
    mount: u64,
}

impl Bpf {
    /// Nothing is loaded yet. It is to be used by that source, where so many files are open; None forbids it.
    pub(crate) fn new(source: Source, from_files: Option<u64>) -> Bpf {
        Bpf { source, from_files, loaded: LoadOnce::new(), forbidden: Once::new() }
    }

    /// The loaded program; None if it was not to be loaded, or could not be.
    pub(crate) fn get(&self, root: &ProcRoot) -> Option<&TaskFiles> {
        let loaded = self.loaded.get()?;
        (root.device() == Some(loaded.mount)).then_some(&loaded.files)
    }

    /// Loads it, if it is to be used and is not loaded yet.
    pub(crate) fn load_if_wanted(&self, root: &ProcRoot) -> Option<()> {
        let from_files = match self.source {
            Source::Bpf => 0,
            Source::Auto => self.from_files?,
            Source::Procfs | Source::Netlink => return None,
        };
        if self.loaded.get().is_none() && from_files > root.open_files() {
            log::debug!("without BPF: the host has less than {from_files} files open");
            return None;
        }
        if self.from_files.is_none() {
            self.forbidden.call_once(|| say_without(self.loudness(), "it is forbidden"));
            return None;
        }
        self.loaded.get_or_load(Instant::now(), |pause| self.load(root, pause)).map(drop)
    }

    fn loudness(&self) -> log::Level {
        if self.source == Source::Bpf { log::Level::Warn } else { log::Level::Info }
    }

    /// Attempts to load it. A failure is logged, with the pause until the next attempt.
    fn load(&self, root: &ProcRoot, pause: Duration) -> Option<Loaded> {
        match load(root, self.loudness()) {
            Ok(loaded) => {
                log::debug!("a BPF program is loaded");
                Some(loaded)
            }
            Err(why) => {
                let next = format!("{why}; next attempt in {} s", pause.as_secs());
                say_without(self.loudness(), next);
                None
            }
        }
    }
}

fn load(root: &ProcRoot, loudness: log::Level) -> Result<Loaded, String> {
    // The iterator goes through the processes of our PID namespace.
    let path = root.path().display();
    let mount = root.device().filter(|_| root.has_own_pids());
    let mount =
        mount.ok_or_else(|| format!("{path} is of another PID namespace than this process"))?;
    let layout = layout()?;
    let mut files = TaskFiles::load(&layout, 0, loudness)?;
    if !root.has_first_pids() {
        let level = files.own_level().map_err(|error| format!("its own level: {error}"))?;
        files = TaskFiles::load(&layout, level, loudness)?;
    }
    Ok(Loaded { files, mount })
}

fn say_without(loudness: log::Level, why: impl Display) {
    log::log!(loudness, "{}", without(why));
}

fn without(why: impl Display) -> String {
    format!("read from /proc and netlink, without BPF: {why}")
}

/// Where the kernel that runs keeps what the program reads.
fn layout() -> Result<Layout, String> {
    const TYPES: &str = "/sys/kernel/btf/vmlinux";
    let bytes = std::fs::read(TYPES).map_err(|error| format!("{TYPES}: {error}"))?;
    let layout = Btf::parse(&bytes, &layout::NAMES).and_then(|btf| Layout::of(&btf));
    layout.map_err(|error| format!("{TYPES}: {error}"))
}

/// The iterator over the descriptors of all tasks, with the program in it.
#[derive(Debug)]
pub(crate) struct TaskFiles {
    program: OwnedFd,
    of_all: OwnedFd,
    tells_threads: bool,
    /// Of what is said where it fails.
    loudness: log::Level,
}

impl TaskFiles {
    /// Tells pids as the PID namespaces of that level have them.
    ///
    /// # Errors
    /// Why the kernel does not take it, for people.
    fn load(layout: &Layout, level: u32, loudness: log::Level) -> Result<TaskFiles, String> {
        let code =
            program::program(layout, level).map_err(|_| "a member lies too far".to_owned())?;
        let program = calls::load(&code, layout.function, &mut []).map_err(|error| {
            if log::log_enabled!(log::Level::Debug) {
                log::debug!("{}", calls::why_refused(&code, layout.function));
            }
            format!("the kernel does not load the program: {error}")
        })?;
        let of_all = calls::link(program.as_fd(), None)
            .map_err(|error| format!("the kernel does not run the program: {error}"))?;
        Ok(TaskFiles { program, of_all, tells_threads: layout.tells_threads, loudness })
    }

    /// Whether it tells all of one process, whichever it is; before Linux 6.7 it does not.
    pub(crate) fn reads_all_threads(&self) -> bool {
        self.tells_threads
    }

    /// The message that it failed and that other sources are used, with its level.
    pub(crate) fn failure(&self, error: &io::Error) -> (log::Level, String) {
        // Of older kernels nothing else is to be expected: see `run`.
        let is_old = error.kind() == io::ErrorKind::Unsupported
            || error.raw_os_error() == Some(Errno::TOOBIG.raw_os_error());
        let level = if is_old { log::Level::Debug } else { self.loudness };
        (level, without(error))
    }

    /// Hands the descriptors of sockets to `each`, those of all processes or of one. Those of threads that
    /// have a table of their own are among them if that is asked for.
    ///
    /// # Errors
    /// What the kernel says: E2BIG before Linux 6.1 where one process is asked for. Before Linux 6.7, that it
    /// is unsupported where that one's threads matter, or may: no socket was seen with the first.
    pub(crate) fn run(
        &self,
        pid: Option<i32>,
        threads: bool,
        deadline: Deadline<'_>,
        mut each: impl FnMut(Holder, Record) -> Result<(), Malformed>,
    ) -> io::Result<()> {
        let mut tables = Tables::default();
        let mut is_first_told = false;
        self.read(pid, deadline, |record| {
            let held = record.held()?;
            is_first_told |= held.tid == held.pid;
            match tables.owner(&held, threads) {
                Some(owner) => each(owner, record),
                None => Ok(()),
            }
        })?;
        if pid.is_some() && !self.tells_threads && (threads || !is_first_told) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        Ok(())
    }

    /// How deep the PID namespace of this process is.
    fn own_level(&self) -> io::Result<u32> {
        let socket = UnixDatagram::unbound()?;
        let inode = fstat(&socket)?.st_ino;
        let mut level = None;
        self.read(None, Deadline::NEVER, |record| {
            let held = record.held()?;
            if held.inode == inode {
                level = Some(held.level);
            }
            Ok(())
        })?;
        level.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn read(
        &self,
        pid: Option<i32>,
        deadline: Deadline<'_>,
        mut each: impl FnMut(Record) -> Result<(), Malformed>,
    ) -> io::Result<()> {
        let link = pid.map(|pid| calls::link(self.program.as_fd(), Some(pid))).transpose()?;
        let file = calls::iterator(link.as_ref().unwrap_or(&self.of_all).as_fd())?;
        // The kernel fills half of it at a time.
        let mut buffer = vec![0; 64 * 1024];
        let mut filled = 0;
        while !deadline.has_passed() {
            let room = buffer.get_mut(filled..).unwrap_or_default();
            match rustix::io::read(&file, room) {
                Ok(0) => return Ok(()),
                Ok(length) => filled += length,
                // It has looked at a million of others' files in vain.
                Err(Errno::AGAIN | Errno::INTR) => continue,
                Err(errno) => return Err(errno.into()),
            }
            let mut rest = buffer.get(..filled).unwrap_or_default();
            while let Some(record) = record::next(&mut rest).map_err(io::Error::other)? {
                each(record).map_err(io::Error::other)?;
            }
            let left = rest.len();
            buffer.copy_within(filled - left..filled, 0);
            filled = left;
        }
        Ok(())
    }
}

/// The tables of descriptors that are not those of a process's first task, and the thread that each was seen
/// with first.
#[derive(Default)]
struct Tables {
    of_threads: HashMap<(i32, u64), i32>,
    /// That of each process's first task, or, where it has ended, the one that stands for it.
    of_processes: HashMap<i32, u64>,
    /// The last process whose first task was seen.
    last: Option<i32>,
}

impl Tables {
    /// Whose descriptor it is; None if it is known already, or not asked for.
    fn owner(&mut self, held: &Held, threads: bool) -> Option<Holder> {
        let Held { pid, tid, fd, inode, files, leader_files, .. } = *held;
        // The first task may end while the others are looked at.
        let of_process = |tables: &mut Tables| *tables.of_processes.entry(pid).or_insert(files);
        let is_first = tid == pid || files == leader_files;
        if is_first && self.last != Some(pid) {
            self.of_processes.insert(pid, files);
            self.last = Some(pid);
        }
        let is_process = is_first || (leader_files == 0 && of_process(self) == files);
        let tid = if is_process {
            None
        } else if threads && *self.of_threads.entry((pid, files)).or_insert(tid) == tid {
            Some(tid)
        } else {
            return None;
        };
        Some(Holder { inode, pid, fd, tid })
    }
}

#[cfg(test)]
mod tests;
