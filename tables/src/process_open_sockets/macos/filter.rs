//! Applies a filter to the socket lists of macOS.

use crate::formats::macos::pcblist_n::PcbList;
use crate::model::Families;
use crate::process_open_sockets::filter::Filter;

impl Filter {
    /// Whether the list can have a socket that the query selects.
    pub(crate) fn admits_list(&self, list: PcbList) -> bool {
        self.admits_families(list.families())
            && list.family().iter().any(|&family| self.family.admits(family as i64))
            && list.only_protocol().is_none_or(|protocol| self.protocol.admits(protocol.into()))
            && (list == PcbList::Tcp || self.state.admits(""))
            && (list.families() == Families::INET || self.admits_no_ports())
    }
}
