//! Long `IN` lists, which osquery sends as one constraint a member.

use std::thread;

use crate::support::core::Core;
use crate::support::osquery::TABLE;
use crate::support::process::Extension;
use crate::support::wire::{call, exchange, response};

#[test]
fn twelve_lists_of_20_000_pids_take_less_than_100_mb() {
    const MB: u64 = 1_000_000;
    // Above the highest possible pid (PID_MAX_LIMIT in include/linux/threads.h).
    let member = |pid: usize| format!(r#"{{"op":2,"expr":"{}"}}"#, 5_000_000 + pid);
    let members: Vec<String> = (0..20_000).map(member).collect();
    let list = members.join(",");
    let context = format!(
        r#"{{"constraints":[{{"name":"pid","list":[{list}],"affinity":"INTEGER"}}],"colsUsed":["fd"]}}"#
    );
    let request = call("table", TABLE, &[("action", "generate"), ("context", &context)]);
    let core = Core::stock();
    let extension = Extension::launch::<&str>(core.socket(), &[]);
    let socket = core.socket_of(core.wait_for("process_open_sockets"));
    let before = extension.peak_memory();
    thread::scope(|scope| {
        let clients: Vec<_> =
            (0..12).map(|_| scope.spawn(|| exchange(&socket, &request))).collect();
        for client in clients {
            assert_eq!(client.join().unwrap(), response(0, "OK", &[]));
        }
    });
    let peak = extension.peak_memory();
    println!("peak {peak} bytes, {before} before");
    assert!(peak < 100 * MB, "{peak} bytes");
}
