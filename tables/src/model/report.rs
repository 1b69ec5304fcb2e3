//! What a scan could not read, and what it did.

use super::omission::Omissions;
use super::work::Work;

/// What a scan could not read, and how much it did.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) omissions: Omissions,
    pub(crate) work: Work,
    /// What is logged when the scan has ended.
    pub(crate) messages: Vec<(log::Level, String)>,
}

impl Report {
    pub(crate) fn extend(&mut self, more: Report) {
        self.omissions.extend(more.omissions);
        self.work += more.work;
        self.messages.extend(more.messages);
    }
}
