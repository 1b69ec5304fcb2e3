//! What ends the extension.

/// What ends the extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// SIGTERM, SIGINT or SIGHUP came.
    Signal,
    /// osquery called `shutdown`.
    Shutdown,
}
