//! The holders of sockets, and the sockets themselves, in one pass: the kernel runs a BPF program for every file
//! descriptor of every task (`kernel/bpf/task_iter.c`).
//!
//! The program shows holders that `/proc` hides from a process without the right to trace them. It needs CAP_BPF
//! and CAP_PERFMON, or CAP_SYS_ADMIN, and Linux 5.11 or later.
//!
//! The program is assembled for the running kernel on first use: the types of the kernel (BTF) have the offsets
//! of the members that it reads.

mod assembler;
mod calls;
mod descriptor_tables;
mod error;
mod helper_ids;
mod iterator;
mod kernel_members;
mod load_once;
mod program;
pub(crate) mod socket_events;
mod task_files;
mod types;

use std::sync::Once;
use std::time::{Duration, Instant};

use self::error::FALLBACK;
pub(crate) use self::error::{LoadError, PassError};
use self::load_once::LoadOnce;
pub(crate) use self::task_files::{Records, TaskFiles};
use super::proc_root::ProcRoot;
pub(crate) use crate::formats::linux::bpf_record::Description;
use crate::model::Source;

/// The programs, each loaded on first use, or later if that fails.
pub(crate) struct Bpf {
    source: Source,
    from_files: Option<u64>,
    basic: LoadOnce<Loaded>,
    extended: LoadOnce<Loaded>,
    /// Completed after the message that BPF is disabled.
    disabled: Once,
}

struct Loaded {
    files: TaskFiles,
    /// The device of a mount of proc that shows the processes that the program visits, by the same pids.
    mount: u64,
}

impl Bpf {
    /// Nothing is loaded yet. The source decides whether BPF is used; `from_files` is the minimum number of open
    /// files on the host; None disables BPF.
    pub(crate) fn new(source: Source, from_files: Option<u64>) -> Bpf {
        let (basic, extended) = (LoadOnce::new(), LoadOnce::new());
        Bpf { source, from_files, basic, extended, disabled: Once::new() }
    }

    /// The loaded program that writes these records; None if it is disabled or could not be loaded. Instead of a
    /// missing extended program, it is the basic one.
    pub(crate) fn get(&self, root: &ProcRoot, records: Records) -> Option<&TaskFiles> {
        let loaded = match records {
            Records::Basic => self.basic.get(),
            Records::Extended => self.extended.get().or_else(|| self.basic.get()),
        }?;
        (root.device() == Some(loaded.mount)).then_some(&loaded.files)
    }

    /// Loads the program that writes these records, if BPF is used on this host and it is not loaded yet.
    pub(crate) fn load_if_needed(&self, root: &ProcRoot, records: Records) -> Option<()> {
        let program = match records {
            Records::Basic => &self.basic,
            Records::Extended => &self.extended,
        };
        let from_files = match self.source {
            Source::Bpf => 0,
            Source::Auto => self.from_files?,
            Source::Procfs | Source::Netlink => return None,
        };
        if program.get().is_none() && from_files > root.open_files() {
            log::debug!("BPF is not used: fewer than {from_files} files are open; {FALLBACK}");
            return None;
        }
        if self.from_files.is_none() {
            let level = self.level();
            self.disabled.call_once(|| {
                log::log!(
                    level,
                    "BPF is disabled by --no-bpf or PROCESS_OPEN_SOCKETS_NO_BPF; {FALLBACK}"
                )
            });
            return None;
        }
        let loaded = program.get_or_load(Instant::now(), |pause| self.load(root, records, pause));
        match records {
            Records::Extended if loaded.is_none() => self.load_if_needed(root, Records::Basic),
            _ => loaded.map(drop),
        }
    }

    /// The log level of failures.
    fn level(&self) -> log::Level {
        if self.source == Source::Bpf { log::Level::Warn } else { log::Level::Info }
    }

    /// Attempts to load the program. Logs a failure, with the pause until the next attempt.
    fn load(&self, root: &ProcRoot, records: Records, pause: Duration) -> Option<Loaded> {
        match Loaded::new(root, records, self.level()) {
            Ok(loaded) => {
                log::debug!("a BPF program is loaded, for {records} records");
                Some(loaded)
            }
            Err(error) => {
                let seconds = pause.as_secs();
                log::log!(
                    self.level(),
                    "BPF is not available: {error}; {FALLBACK}; next attempt in {seconds} s, none with --no-bpf"
                );
                None
            }
        }
    }
}

impl Loaded {
    fn new(root: &ProcRoot, records: Records, level: log::Level) -> Result<Loaded, LoadError> {
        let path = || root.path().to_owned();
        let mount = root.device().ok_or_else(|| LoadError::NotProc { path: path() })?;
        // The iterator visits the processes of this process's PID namespace.
        if !root.has_own_pids() {
            return Err(LoadError::PidNamespace { path: path() });
        }
        Ok(Loaded { files: TaskFiles::load(records, root.has_first_pids(), level)?, mount })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_is_no_procfs_loads_no_program() {
        let tree = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("1", tree.path().join("self")).unwrap();
        let root = ProcRoot::open(tree.path()).unwrap();
        let error = Loaded::new(&root, Records::Basic, log::Level::Info).map(|_| ()).unwrap_err();
        assert!(matches!(&error, LoadError::NotProc { path } if path == tree.path()), "{error}");
    }
}
