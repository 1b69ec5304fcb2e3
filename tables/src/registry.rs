//! The list of tables, one line each.

use std::sync::Arc;

use crate::process_open_sockets::ProcessOpenSockets;
#[cfg(target_os = "linux")]
use crate::process_socket_events::ProcessSocketEvents;
use crate::{Options, Table};

/// Returns the tables, in the order of `--help` and `schema`. No file is opened before the first query.
///
/// ```
/// let tables = tables::tables(&tables::Options::default());
/// let names: Vec<&str> = tables.iter().map(|table| table.name()).collect();
/// # #[cfg(target_os = "linux")]
/// assert_eq!(names[..2], ["process_open_sockets", "process_socket_events"]);
/// # #[cfg(target_os = "linux")]
/// assert_eq!(names[2..], ["process_socket_flows", "socket_event_stats"]);
/// ```
pub fn tables(options: &Options) -> Vec<Arc<dyn Table>> {
    #[cfg(target_os = "linux")]
    let (events, flows, statistics) = {
        let events = ProcessSocketEvents::new(options);
        let (flows, statistics) = (events.flows(), events.statistics());
        (events, flows, statistics)
    };
    vec![
        Arc::new(ProcessOpenSockets::new(options.clone())),
        #[cfg(target_os = "linux")]
        Arc::new(events),
        #[cfg(target_os = "linux")]
        Arc::new(flows),
        #[cfg(target_os = "linux")]
        Arc::new(statistics),
    ]
}
