//! The settings of the collection of events.

use std::path::PathBuf;
use std::time::Duration;

use crate::options::EventMode;
use crate::{EventDatagrams, Options};

/// Settings of the collection.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) mode: EventMode,
    pub(super) max: usize,
    pub(super) expiry: Duration,
    pub(super) idle: Duration,
    /// Whether datagrams are counted from the start of the collection on.
    pub(super) counts_at_once: bool,
    pub(super) procfs: PathBuf,
    /// Why no collection can start, if so.
    pub(super) forbidden: Option<&'static str>,
}

impl Settings {
    pub(super) fn new(options: &Options) -> Settings {
        let forbidden = if options.is_one_query {
            Some(
                "a single query has no events, since none were collected before it; use the subcommand \
                 'events', or osquery with this extension",
            )
        } else if options.bpf_from_files.is_none() {
            Some(
                "no events are collected, since BPF is disabled by --no-bpf or PROCESS_OPEN_SOCKETS_NO_BPF",
            )
        } else if options.events == EventMode::Off {
            Some(
                "no events are collected, since they are disabled by --events off or PROCESS_OPEN_SOCKETS_EVENTS",
            )
        } else {
            None
        };
        Settings {
            mode: options.events,
            max: options.events_max,
            expiry: options.events_expiry,
            idle: options.events_idle,
            counts_at_once: matches!(
                options.event_datagrams,
                EventDatagrams::Count | EventDatagrams::ExactEnd
            ),
            procfs: options.procfs.clone(),
            forbidden,
        }
    }
}
