//! A core that restarts again and again: 100 times, or as often as `RESTARTS` says.

use std::thread;
use std::time::{Duration, Instant};

use crate::support::core::Core;
use crate::support::process::Extension;

const NAME: &str = "process_open_sockets";
const QUERY: &str = "SELECT fd FROM alt_process_open_sockets WHERE pid = 1";
/// What is opened once is open after so many.
const WARM_UP: usize = 10;
const LONG: Duration = Duration::from_secs(60);

/// Another core takes the place of this one, and the extension serves it.
fn restart(core: Core) -> Core {
    let core = Core::start(core.die(), &[NAME]);
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
    // Connections end a moment after their answers.
    let start = Instant::now();
    let has_more = || {
        let (descriptors, threads) = extension.descriptors_and_threads();
        descriptors > before.0 || threads > before.1
    };
    while has_more() {
        let now = extension.descriptors_and_threads();
        assert!(start.elapsed() < LONG, "descriptors and threads: {before:?}, then {now:?}");
        thread::sleep(Duration::from_millis(10));
    }
}
