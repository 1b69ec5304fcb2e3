//! What a scan could not read, and what it did.

use super::gap::Gaps;
use super::work::Work;

/// What a scan could not read, and how much it did.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) gaps: Gaps,
    pub(crate) work: Work,
    /// What is logged when the scan has ended.
    pub(crate) messages: Vec<(log::Level, String)>,
}

impl Report {
    pub(crate) fn extend(&mut self, more: Report) {
        self.gaps.extend(more.gaps);
        self.work += more.work;
        self.messages.extend(more.messages);
    }
}
