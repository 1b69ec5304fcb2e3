//! Loads the programs that count datagrams. That takes as long as a flood of events needs to fill the ring buffer, so another
//! thread does it than the one that reads the ring buffer.

use std::io;
use std::sync::Arc;

use super::super::calls::Counters;
use super::counting::Counting;
use super::datagrams::{DatagramError, SocketMaps};
use super::maps::{COUNTERS, Names};
use super::members::Layout;
use super::releases::{ReleaseError, Releases};
use super::writer::Variant;
use crate::linux::proc_root::ProcRoot;

/// The parts of which the programs are made. The maps of the variant must exist.
#[derive(Debug)]
pub(crate) struct CountingLoader {
    pub(super) layout: Layout,
    pub(super) variant: Variant,
    pub(super) names: Names,
    pub(super) maps: Arc<SocketMaps>,
    pub(super) lost: Arc<Counters<COUNTERS>>,
    pub(super) wants_releases: bool,
}

/// The programs in the kernel, or why they are not there.
#[derive(Debug)]
pub(crate) struct LoadedCounting {
    pub(super) counting: Result<Counting, DatagramError>,
    pub(super) releases: Result<Releases, ReleaseError>,
}

impl LoadedCounting {
    /// Nothing, since no thread could be started.
    pub(crate) fn nothing(error: io::Error) -> LoadedCounting {
        LoadedCounting {
            counting: Err(DatagramError::Thread(error)),
            releases: Err(ReleaseError::NotCounting),
        }
    }
}

impl CountingLoader {
    /// Loads and attaches the programs.
    pub(crate) fn load(self, root: &ProcRoot) -> LoadedCounting {
        let CountingLoader { layout, variant, names, maps, lost, wants_releases } = self;
        let counting = Counting::start(&layout, &variant, &names, &maps, &lost);
        let releases = match &counting {
            Err(_) => Err(ReleaseError::NotCounting),
            Ok(_) if !wants_releases => Err(ReleaseError::NotChosen),
            Ok(_) => Releases::start(root, &layout, &variant, &names, &maps),
        };
        LoadedCounting { counting, releases }
    }
}
