//! Events that end a registration or the extension.

/// An event that ends a registration or the extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The process received SIGTERM, SIGINT or SIGHUP.
    Signal,
    /// osquery called `shutdown`.
    Shutdown,
}
