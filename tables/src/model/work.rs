//! The work of a scan.

/// The work of a scan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Work {
    /// Linux: passes of the BPF program over all processes.
    pub(crate) passes: u32,
    /// Walks of descriptors, and the number of processes that they read.
    pub(crate) walks: u32,
    pub(crate) walked: u64,
    /// Linux: processes with one descriptor read.
    pub(crate) tested: u64,
    /// Socket tables read; on Linux, also the netlink dumps.
    pub(crate) tables: u32,
    pub(crate) dumps: u32,
}

impl std::fmt::Display for Work {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Work { passes, walks, walked, tested, tables, dumps } = self;
        if cfg!(target_os = "linux") {
            write!(f, "{passes} BPF passes, ")?;
        }
        write!(f, "{walks} walks of {walked} processes, ")?;
        if cfg!(target_os = "linux") {
            write!(f, "{tested} processes tested, ")?;
        }
        write!(f, "{tables} socket tables")?;
        if cfg!(target_os = "linux") {
            write!(f, ", {dumps} dumps")?;
        }
        Ok(())
    }
}

impl std::ops::AddAssign for Work {
    fn add_assign(&mut self, more: Work) {
        self.passes += more.passes;
        self.walks += more.walks;
        self.walked += more.walked;
        self.tested += more.tested;
        self.tables += more.tables;
        self.dumps += more.dumps;
    }
}
