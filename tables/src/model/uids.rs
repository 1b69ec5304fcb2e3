//! The users of processes.

/// Reads the real uid of a process; called only if an answer is too long.
#[derive(Default)]
pub(crate) struct Uids(Option<Box<dyn Fn(i32) -> Option<u32> + Send>>);

impl Uids {
    pub(crate) fn new(read: impl Fn(i32) -> Option<u32> + Send + 'static) -> Uids {
        Uids(Some(Box::new(read)))
    }

    /// None if the process has ended, or its uid cannot be read.
    pub(crate) fn real_uid(&self, pid: i32) -> Option<u32> {
        self.0.as_ref()?(pid)
    }
}

impl std::fmt::Debug for Uids {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Uids")
    }
}
