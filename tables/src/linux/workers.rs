//! Threads that run one job after the other. To start a thread takes ten times as long as to wake one.

use std::cell::Cell;
use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;

/// A job. It calls its argument when only its result is left to pass on.
type Job = Box<dyn FnOnce(&dyn Fn()) + Send>;

/// Threads that wait for a job. They end when this is dropped.
#[derive(Debug, Default)]
pub(crate) struct Workers(Mutex<Vec<Sender<Job>>>);

/// The maximum number of waiting threads.
const MAX_IDLE: usize = 2;

impl Workers {
    fn idle(&self) -> MutexGuard<'_, Vec<Sender<Job>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs the job in a waiting thread, or in a new one. A job that never ends does not delay others.
    ///
    /// # Errors
    /// If no thread can be started.
    pub(crate) fn run(
        self: &Arc<Self>,
        job: impl FnOnce(&dyn Fn()) + Send + 'static,
    ) -> io::Result<()> {
        let mut job: Job = Box::new(job);
        let idle = self.idle().pop();
        if let Some(worker) = idle {
            match worker.send(job) {
                Ok(()) => return Ok(()),
                Err(unsent) => job = unsent.0,
            }
        }
        let workers = Arc::downgrade(self);
        thread::Builder::new().name("scan".into()).spawn(move || work(&workers, job)).map(drop)
    }
}

/// Runs jobs as long as this thread is one of the waiting ones.
fn work(workers: &Weak<Workers>, first: Job) {
    let mut next = Some(first);
    while let Some(job) = next {
        let jobs = Cell::new(None);
        job(&|| jobs.set(wait_for_job(workers)));
        next = jobs.take().and_then(|jobs| jobs.recv().ok());
    }
}

/// Adds the calling thread to the waiting ones, up to the maximum; returns the channel of its next job.
fn wait_for_job(workers: &Weak<Workers>) -> Option<Receiver<Job>> {
    let workers = workers.upgrade()?;
    let mut idle = workers.idle();
    let (send, jobs) = channel();
    (idle.len() < MAX_IDLE).then(|| idle.push(send))?;
    Some(jobs)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The thread in which a job ran.
    fn thread_of_job(workers: &Arc<Workers>) -> thread::ThreadId {
        let (send, result) = channel();
        let job = move |done: &dyn Fn()| {
            done();
            send.send(thread::current().id()).unwrap();
        };
        workers.run(job).unwrap();
        result.recv().unwrap()
    }

    #[test]
    fn jobs_one_after_the_other_share_a_thread() {
        let workers = Arc::default();
        let first = thread_of_job(&workers);
        assert_eq!([thread_of_job(&workers), thread_of_job(&workers)], [first; 2]);
    }

    #[test]
    fn a_job_that_does_not_end_delays_no_other() {
        let workers = Arc::default();
        let first = thread_of_job(&workers);
        let (release, released) = channel::<()>();
        let blocked = move |_: &dyn Fn()| released.recv().unwrap_or_default();
        workers.run(blocked).unwrap();
        assert_ne!(thread_of_job(&workers), first);
        drop(release);
    }

    #[test]
    fn threads_end_with_the_workers() {
        let workers = Arc::new(Workers::default());
        thread_of_job(&workers);
        let idle = workers.idle().len();
        let weak = Arc::downgrade(&workers);
        drop(workers);
        assert_eq!((idle, weak.upgrade().is_none()), (1, true));
    }
}
