//! The kernel as the source of records.

use std::time::Duration;

use super::collection::Open;
use super::drain::{Feed, Opened};
use super::join::MAX_SOCKETS;
use crate::Options;
use crate::linux::bpf::socket_events::{EventError, EventSource};
use crate::linux::proc_root::ProcRoot;
use crate::model::tcp_event::{EventRecord, Losses};

/// Loads the programs of the kernel.
pub(super) fn open(options: &Options) -> Open {
    let (procfs, datagrams) = (options.procfs.clone(), options.event_datagrams);
    Box::new(move || {
        let root = ProcRoot::open(&procfs).map_err(|error| error.to_string())?;
        let source = EventSource::start(&root, datagrams).map_err(|error| error.to_string())?;
        let mut open_sockets = Vec::new();
        let pass = source.open_sockets(&mut |open| {
            if open_sockets.len() < MAX_SOCKETS {
                open_sockets.push(open);
            }
        });
        if let Err(error) = pass {
            log::warn!(
                "the holders of sockets that are open already are unknown to events: {error}"
            );
        }
        let (programs, waker) = (source.programs(), source.waker());
        let wake = Box::new(move || waker.wake());
        Ok(Opened {
            feed: Box::new(Kernel { source, has_logged: false }),
            wake,
            programs,
            open_sockets,
        })
    })
}

struct Kernel {
    source: EventSource,
    /// Whether a malformed record was logged: that is an error of this crate's program, which repeats.
    has_logged: bool,
}

impl Feed for Kernel {
    fn drain(
        &mut self,
        timeout: Duration,
        each: &mut dyn FnMut(EventRecord),
    ) -> Result<(), String> {
        match self.source.drain(timeout, each) {
            // The record is skipped; the statistics do not count it as read.
            Err(EventError::Record(error)) => {
                if !std::mem::replace(&mut self.has_logged, true) {
                    log::warn!("a record of a socket event is skipped: {error}; logged once");
                }
                Ok(())
            }
            outcome => outcome.map_err(|error| error.to_string()),
        }
    }

    fn losses(&self) -> Losses {
        self.source.losses()
    }

    fn memory(&self) -> u64 {
        self.source.memory()
    }
}
