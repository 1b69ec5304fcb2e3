//! The kernel as the source of records.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use super::background::Background;
use super::closed_sockets::UsedSockets;
use super::collection::Open;
use super::feed::{Feed, Opened, Program};
use super::join::MAX_SOCKETS;
use super::repair::ListSockets;
use crate::Options;
use crate::linux::bpf::socket_events::{CountedSockets, EventError, EventSource, LoadedCounting};
use crate::linux::proc_root::ProcRoot;
use crate::model::tcp_event::{EventRecord, Losses};
use crate::model::{DatagramBytes, DatagramSlots};

/// Loads the programs of the kernel.
pub(super) fn open(options: &Options, list_sockets: Option<ListSockets>) -> Open {
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
        let waker = source.waker();
        let wake = Arc::new(move || waker.wake());
        let root = Arc::new(root);
        let feed = Box::new(Kernel { source, root, loading: None, has_logged: false });
        Ok(Opened { feed, wake, open_sockets, list_sockets: list_sockets.clone() })
    })
}

struct Kernel {
    source: EventSource,
    root: Arc<ProcRoot>,
    /// While the counting programs are being loaded.
    loading: Option<Background<LoadedCounting>>,
    /// Whether a malformed record was logged: that is an error of this crate's program, which repeats.
    has_logged: bool,
}

impl Drop for Kernel {
    fn drop(&mut self) {
        // The thread uses maps of the source.
        if let Some(loading) = self.loading.take() {
            loading.join();
        }
    }
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

    fn programs(&self) -> Vec<Program> {
        self.source.programs()
    }

    fn begin_counting(&mut self) {
        let Some(loader) = self.source.counting_loader() else { return };
        let (root, waker) = (Arc::clone(&self.root), self.source.waker());
        let load = move || loader.load(&root);
        match Background::start("counting", Arc::new(move || waker.wake()), load) {
            Ok(loading) => self.loading = Some(loading),
            Err(error) => self.source.finish_counting(&self.root, LoadedCounting::nothing(error)),
        }
    }

    fn has_loaded_counting(&mut self) -> bool {
        let Some(loading) = &self.loading else { return true };
        let Poll::Ready(loaded) = loading.poll() else { return false };
        let panicked = || LoadedCounting::nothing(io::Error::other("the thread has ended"));
        self.source.finish_counting(&self.root, loaded.unwrap_or_else(panicked));
        self.loading = None;
        true
    }

    fn slots(&self) -> Option<&dyn DatagramSlots> {
        self.source.counting().map(|counting| counting as &dyn DatagramSlots)
    }

    fn used_sockets(&self) -> Option<Arc<dyn UsedSockets>> {
        self.source.counted_sockets().map(|sockets| Arc::clone(sockets) as Arc<dyn UsedSockets>)
    }
}

impl UsedSockets for CountedSockets {
    fn bytes(&self) -> Result<Option<DatagramBytes>, String> {
        CountedSockets::bytes(self).map_err(|error| error.to_string())
    }

    fn live(&self, of: &HashSet<u64>) -> Result<HashSet<u64>, String> {
        CountedSockets::live(self, of).map_err(|error| error.to_string())
    }
}
