//! A core that restarts 100 times, or as many times as the variable `RESTARTS` has.

use std::thread;
use std::time::{Duration, Instant};

use crate::support::core::Core;
use crate::support::process::Extension;

const NAME: &str = "process_open_sockets";
const QUERY: &str = "SELECT fd FROM alt_process_open_sockets WHERE pid = 1";
/// After this number of restarts, the extension has opened everything that it opens only once.
const WARM_UP: usize = 10;
const TEST_TIMEOUT: Duration = Duration::from_secs(60);

/// Replaces the core, and checks that the extension serves the new one.
fn restart(core: Core) -> Core {
    let core = Core::start(core.crash(), &[NAME]);
    core.wait_for(NAME);
    core.query(QUERY).unwrap();
    core
}

#[test]
fn restarts_of_the_core_leave_no_descriptor_or_thread() {
    let restarts = std::env::var("RESTARTS").map_or(100, |number| number.parse().unwrap());
    assert!(restarts > WARM_UP, "RESTARTS is {restarts}");
    let mut core = Core::stock();
    let extension = Extension::sidecar(core.socket(), &[]);
    core.wait_for(NAME);
    core.query(QUERY).unwrap();
    for _ in 0..WARM_UP {
        core = restart(core);
    }
    let before = extension.descriptors_and_threads();
    for _ in WARM_UP..restarts {
        core = restart(core);
    }
    // A connection ends shortly after its answer.
    let start = Instant::now();
    let has_more = || {
        let (descriptors, threads) = extension.descriptors_and_threads();
        descriptors > before.0 || threads > before.1
    };
    while has_more() {
        let now = extension.descriptors_and_threads();
        assert!(
            start.elapsed() < TEST_TIMEOUT,
            "descriptors and threads: {before:?}, then {now:?}"
        );
        thread::sleep(Duration::from_millis(10));
    }
}
