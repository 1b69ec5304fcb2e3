//! A flag that ends the threads of a test.

use std::sync::atomic::{AtomicBool, Ordering};

/// Sets the flag when dropped, also in a panic: then the threads of a scope end, and the test fails.
pub(crate) struct SetOnDrop<'a>(pub(crate) &'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
