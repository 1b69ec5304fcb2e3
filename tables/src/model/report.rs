//! The omissions and the work of a scan.

use super::omission::Omissions;
use super::work::Work;

/// The omissions and the work of a scan.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) omissions: Omissions,
    pub(crate) work: Work,
    /// Messages to log at the end of the scan.
    pub(crate) messages: Vec<(log::Level, String)>,
}

impl Report {
    pub(crate) fn extend(&mut self, more: Report) {
        self.omissions.extend(more.omissions);
        self.work += more.work;
        self.messages.extend(more.messages);
    }
}
