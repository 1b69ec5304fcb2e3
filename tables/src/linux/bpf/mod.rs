//! The holders of sockets, and the sockets themselves, in one pass: a BPF program that the kernel runs for every
//! file descriptor of every task (`kernel/bpf/task_iter.c`).
//!
//! It sees holders that `/proc` hides from a process that may not trace them. It needs CAP_BPF and CAP_PERFMON,
//! or CAP_SYS_ADMIN. The kernel has all that it needs from Linux 5.11 on.
//!
//! The program is assembled when it is needed, for the running kernel, whose types (BTF) have the offsets of
//! what it reads.

mod assembler;
mod calls;
mod descriptor_tables;
mod error;
mod layout;
mod load_once;
mod program;
mod task_files;

use std::sync::Once;
use std::time::{Duration, Instant};

pub(crate) use self::error::PassError;
use self::error::{FALLBACK, LoadError};
use self::load_once::LoadOnce;
pub(crate) use self::task_files::TaskFiles;
use super::proc_root::ProcRoot;
pub(crate) use crate::formats::linux::bpf_record::Description;
use crate::model::Source;

/// The program, if it is to be used: loaded when it is first needed, or later if that fails.
pub(crate) struct Bpf {
    source: Source,
    from_files: Option<u64>,
    loaded: LoadOnce<Loaded>,
    /// Completed once it is logged that BPF is disabled.
    disabled: Once,
}

struct Loaded {
    files: TaskFiles,
    /// The device of a mount of proc that shows the processes that the program visits, by the same pids.
    mount: u64,
}

impl Bpf {
    /// Nothing is loaded yet. The source decides whether it will be used, and `from_files` on which hosts: with
    /// as many files open; None disables it.
    pub(crate) fn new(source: Source, from_files: Option<u64>) -> Bpf {
        Bpf { source, from_files, loaded: LoadOnce::new(), disabled: Once::new() }
    }

    /// The loaded program; None if it was not to be loaded, or could not be.
    pub(crate) fn get(&self, root: &ProcRoot) -> Option<&TaskFiles> {
        let loaded = self.loaded.get()?;
        (root.device() == Some(loaded.mount)).then_some(&loaded.files)
    }

    /// Loads it, if it is to be used and is not loaded yet.
    pub(crate) fn load_if_needed(&self, root: &ProcRoot) -> Option<()> {
        let from_files = match self.source {
            Source::Bpf => 0,
            Source::Auto => self.from_files?,
            Source::Procfs | Source::Netlink => return None,
        };
        if self.loaded.get().is_none() && from_files > root.open_files() {
            log::debug!("BPF is not used: fewer than {from_files} files are open; {FALLBACK}");
            return None;
        }
        if self.from_files.is_none() {
            let level = self.level();
            self.disabled.call_once(|| log::log!(level, "BPF is disabled by --no-bpf; {FALLBACK}"));
            return None;
        }
        self.loaded.get_or_load(Instant::now(), |pause| self.load(root, pause)).map(drop)
    }

    /// How important it is that BPF does not answer.
    fn level(&self) -> log::Level {
        if self.source == Source::Bpf { log::Level::Warn } else { log::Level::Info }
    }

    /// Attempts to load it. A failure is logged, with the pause until the next attempt.
    fn load(&self, root: &ProcRoot, pause: Duration) -> Option<Loaded> {
        match Loaded::new(root, self.level()) {
            Ok(loaded) => {
                log::debug!("a BPF program is loaded");
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
    fn new(root: &ProcRoot, level: log::Level) -> Result<Loaded, LoadError> {
        let path = || root.path().to_owned();
        let mount = root.device().ok_or_else(|| LoadError::NotProc { path: path() })?;
        // The iterator visits the processes of this process's PID namespace.
        if !root.has_own_pids() {
            return Err(LoadError::PidNamespace { path: path() });
        }
        Ok(Loaded { files: TaskFiles::load(root.has_first_pids(), level)?, mount })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_that_is_no_proc_loads_nothing() {
        let tree = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("1", tree.path().join("self")).unwrap();
        let root = ProcRoot::open(tree.path()).unwrap();
        let error = Loaded::new(&root, log::Level::Info).map(|_| ()).unwrap_err();
        assert!(matches!(&error, LoadError::NotProc { path } if path == tree.path()), "{error}");
    }
}
