//! The interface to the operating system: only this module selects the platform.
//!
//! Each platform has one type,
//!
//! ```text
//! Collector::new(Options) -> Collector
//! Collector::collect(&self, &Filter) -> Result<Snapshot, Error>
//! ```
//!
//! with these guarantees:
//! - A socket is in the snapshot, once, if it is in the kernel's tables from the start of the call to its end and
//!   [`Filter::admits_socket`].
//! - A descriptor is in the snapshot or counted, if it holds such a socket all that time and
//!   [`Filter::admits_pid`] of its process. Of each process and socket, the lowest descriptors are in the snapshot.
//! - If [`Filter::admits_unheld`], the snapshot has a holder of each such socket, if any process was found to hold
//!   it.
//! - The snapshot can have more sockets and holders. It has the omissions. An error means that nothing could be
//!   read.
//! - Processes and files that cannot match are not read.
//!
//! [`Filter::admits_socket`]: super::filter::Filter::admits_socket
//! [`Filter::admits_pid`]: super::filter::Filter::admits_pid
//! [`Filter::admits_unheld`]: super::filter::Filter::admits_unheld

#[cfg(target_os = "linux")]
pub(super) use super::linux::Collector;
#[cfg(all(target_os = "linux", feature = "bench"))]
pub(super) use super::linux::bench;
#[cfg(target_os = "macos")]
pub(super) use super::macos::Collector;

#[cfg(not(any(target_os = "linux", target_os = "macos")))]
compile_error!("process_open_sockets can read the sockets of Linux and macOS only");
