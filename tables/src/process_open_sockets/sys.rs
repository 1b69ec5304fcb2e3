//! Asking the operating system: the only place that knows which one it is.
//!
//! Each platform gives one type,
//!
//! ```text
//! Collector::new(Options) -> Collector
//! Collector::collect(&self, &Filter) -> Result<Snapshot, Error>
//! ```
//!
//! and keeps these promises:
//! - Every socket that is in the kernel's tables from before the call to its end, and that
//!   [`Filter::admits_socket`], is in the snapshot, once.
//! - Every descriptor that holds one of them all that time, of a process that [`Filter::admits_pid`], is
//!   in it or counted: of each process and socket the lowest are in it. When [`Filter::admits_unheld`], so is enough of the others that a socket without
//!   an owner in the snapshot is one that nobody was seen to hold.
//! - More may be in it. What could not be read is in its omissions; the error is for when nothing could.
//! - It costs what the filter asks for: processes and files that cannot match are not read.
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
