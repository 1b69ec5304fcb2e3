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
    let open_sockets = ProcessOpenSockets::new(options.clone());
    #[cfg(target_os = "linux")]
    return with_events(open_sockets, options);
    #[cfg(not(target_os = "linux"))]
    vec![Arc::new(open_sockets)]
}

/// The tables of Linux. The collection of events counts datagrams for the first one.
#[cfg(target_os = "linux")]
fn with_events(open_sockets: ProcessOpenSockets, options: &Options) -> Vec<Arc<dyn Table>> {
    let events = ProcessSocketEvents::with_sockets(options, open_sockets.tcp_sockets());
    let (flows, statistics) = (events.flows(), events.statistics());
    vec![
        Arc::new(open_sockets.with_datagrams(events.datagrams())),
        Arc::new(events),
        Arc::new(flows),
        Arc::new(statistics),
    ]
}
