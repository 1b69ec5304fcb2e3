//! The end of threads that go on until a test is over.

use std::sync::atomic::{AtomicBool, Ordering};

/// Sets the flag when it is dropped, in a panic too: the threads of a scope end, and the test fails.
pub(crate) struct Over<'a>(pub(crate) &'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
