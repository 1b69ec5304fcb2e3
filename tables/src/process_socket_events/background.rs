//! Work in another thread than the one that drains the ring buffer: that one must not wait.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::task::Poll;
use std::thread::{self, JoinHandle};

/// Wakes the thread that drains.
pub(super) type Wake = Arc<dyn Fn() + Send + Sync>;

/// Work that goes on, to its end even if this is dropped.
pub(super) struct Background<T> {
    result: Receiver<T>,
    /// None: the work was done at once.
    thread: Option<JoinHandle<()>>,
}

/// Wakes at the end of the work, also after a panic.
struct WakeOnDrop(Wake);

impl Drop for WakeOnDrop {
    fn drop(&mut self) {
        (self.0)();
    }
}

impl<T: Send + 'static> Background<T> {
    /// Starts a thread of that name.
    ///
    /// # Errors
    /// That of the system, if there can be no further thread.
    pub(super) fn start(
        name: &str,
        wake: Wake,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<Background<T>> {
        let (send, result) = channel();
        let run = move || {
            let _wake = WakeOnDrop(wake);
            // Dropped before `_wake`, so that the woken thread sees that there is no result.
            let send = send;
            // If the collection has ended, there is no receiver.
            let _ = send.send(work());
        };
        let thread = thread::Builder::new().name(name.into()).spawn(run)?;
        Ok(Background { result, thread: Some(thread) })
    }

    /// The result of work that needs no thread.
    pub(super) fn done(result: T, wake: &Wake) -> Background<T> {
        let (send, received) = channel();
        // The receiver exists.
        let _ = send.send(result);
        wake();
        Background { result: received, thread: None }
    }

    /// The result, once; None if the work has panicked.
    pub(super) fn poll(&self) -> Poll<Option<T>> {
        match self.result.try_recv() {
            Ok(result) => Poll::Ready(Some(result)),
            Err(TryRecvError::Empty) => Poll::Pending,
            Err(TryRecvError::Disconnected) => Poll::Ready(None),
        }
    }

    /// Waits for the end of the work.
    pub(super) fn join(self) {
        if let Some(thread) = self.thread {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The result of work, after the thread was woken.
    fn result(work: impl FnOnce() -> u32 + Send + 'static) -> Poll<Option<u32>> {
        let (send, woken) = channel();
        let wake = Arc::new(move || send.send(()).unwrap());
        let background = Background::start("test", wake, work).unwrap();
        woken.recv().unwrap();
        background.poll()
    }

    #[test]
    fn the_end_of_the_work_wakes_with_its_result() {
        assert_eq!(result(|| 7), Poll::Ready(Some(7)));
    }

    #[test]
    fn a_panic_of_the_work_wakes_without_result() {
        assert_eq!(result(|| std::panic::resume_unwind(Box::new(()))), Poll::Ready(None));
    }

    #[test]
    fn work_that_is_done_wakes_at_once() {
        let (send, woken) = channel();
        let wake: Wake = Arc::new(move || send.send(()).unwrap());
        let background = Background::done(7, &wake);
        assert_eq!((woken.try_recv(), background.poll()), (Ok(()), Poll::Ready(Some(7))));
        background.join();
    }

    #[test]
    fn work_that_goes_on_is_pending() {
        let (end, wait) = channel::<()>();
        let background = Background::start("test", Arc::new(|| ()), move || wait.recv()).unwrap();
        assert_eq!(background.poll(), Poll::Pending);
        drop(end);
        background.join();
    }
}
