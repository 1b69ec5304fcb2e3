//! Which datagram sockets were closed: they are in none of two lists of the sockets that exist. One list can lack open sockets,
//! if others end meanwhile.

use std::collections::HashSet;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::background::{Background, Wake};
use crate::model::DatagramBytes;

/// The time between the two lists.
const PAUSE: Duration = Duration::from_millis(100);

/// The sockets that were used while datagrams are counted. A call takes time for each one.
pub(super) trait UsedSockets: Send + Sync {
    /// None: it is unknown which sockets were counted from their begin on.
    fn bytes(&self) -> Result<Option<DatagramBytes>, String>;
    /// Which of these cookies belong to sockets that still exist. It can lack some.
    fn live(&self, of: &HashSet<u64>) -> Result<HashSet<u64>, String>;
}

/// The sockets that were closed.
pub(super) struct ClosedSockets {
    /// Their cookies, or why they are unknown.
    pub(super) cookies: Result<HashSet<u64>, String>,
    /// How long it took to list the sockets.
    pub(super) took: Duration,
}

impl ClosedSockets {
    pub(super) fn unknown(reason: String) -> ClosedSockets {
        ClosedSockets { cookies: Err(reason), took: Duration::ZERO }
    }

    /// Finds in another thread which of these sockets were closed. `wake` is called at its end.
    pub(super) fn find(
        sockets: Arc<dyn UsedSockets>,
        of: HashSet<u64>,
        wake: &Wake,
    ) -> Background<ClosedSockets> {
        let list = move || {
            let mut took = Duration::ZERO;
            let cookies = closed(&*sockets, of, &mut took);
            ClosedSockets { cookies, took }
        };
        Background::start("closed sockets", Arc::clone(wake), list).unwrap_or_else(|error| {
            let reason = format!("no thread lists the sockets: {error}");
            Background::done(ClosedSockets::unknown(reason), wake)
        })
    }
}

fn closed(
    sockets: &dyn UsedSockets,
    of: HashSet<u64>,
    took: &mut Duration,
) -> Result<HashSet<u64>, String> {
    let mut missing_of = |of: &HashSet<u64>| {
        let begin = Instant::now();
        let live = sockets.live(of);
        *took += begin.elapsed();
        live.map(|live| of - &live)
    };
    let missing = missing_of(&of)?;
    if missing.is_empty() {
        return Ok(missing);
    }
    thread::sleep(PAUSE);
    missing_of(&missing)
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Mutex;

    use super::*;

    /// The results of the lists.
    struct Lists(Mutex<VecDeque<Result<HashSet<u64>, String>>>);

    impl UsedSockets for Lists {
        fn bytes(&self) -> Result<Option<DatagramBytes>, String> {
            unreachable!()
        }

        fn live(&self, _: &HashSet<u64>) -> Result<HashSet<u64>, String> {
            self.0.lock().unwrap().pop_front().expect("one more list")
        }
    }

    /// Which of the sockets 1, 2 and 3 were closed.
    fn closed_by<const N: usize>(
        lists: [Result<HashSet<u64>, String>; N],
    ) -> Result<HashSet<u64>, String> {
        let lists = Lists(Mutex::new(lists.into()));
        let closed = closed(&lists, [1, 2, 3].into(), &mut Duration::default());
        assert!(lists.0.lock().unwrap().is_empty());
        closed
    }

    #[test]
    fn a_socket_that_two_lists_lack_was_closed() {
        assert_eq!(closed_by([Ok([1].into()), Ok([2].into())]), Ok([3].into()));
    }

    #[test]
    fn a_list_that_has_all_sockets_suffices() {
        assert_eq!(closed_by([Ok([1, 2, 3].into())]), Ok([].into()));
    }

    #[test]
    fn without_two_lists_no_socket_was_closed() {
        let failure = || Err("a test".to_owned());
        assert_eq!(closed_by([failure()]), failure());
        assert_eq!(closed_by([Ok([1].into()), failure()]), failure());
    }
}
