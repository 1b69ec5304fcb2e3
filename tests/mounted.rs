//! The table as a plugin of another extension: `examples/mounted.rs` under the stand-in core.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod support;

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;

use support::core::Core;
use support::process::Extension;

/// The path of the example that cargo builds with this test.
fn example() -> PathBuf {
    let binary = Path::new(env!("CARGO_BIN_EXE_process_open_sockets"));
    binary.parent().unwrap().join("examples/mounted")
}

#[test]
fn an_extension_of_osquery_rust_serves_the_table() {
    let example = example();
    assert!(example.exists(), "not built yet: cargo build --example mounted");
    let core = Core::stock();
    let mut launch = Command::new(example);
    launch.arg("--socket").arg(core.socket()).args(["--timeout", "3", "--interval", "3"]);
    let _extension = Extension::run(&mut launch);
    core.wait_for("mounted");

    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let (pid, port) = (std::process::id(), listener.local_addr().unwrap().port());
    let sql = format!(
        "SELECT state, local_address, family, protocol FROM mounted_sockets \
         WHERE pid = {pid} AND local_port = {port}"
    );
    let rows = core.query(&sql).unwrap();
    assert_eq!(rows.len(), 1, "{rows:?}");
    let cells = ["state", "local_address", "family", "protocol"].map(|name| &rows[0][name][..]);
    assert_eq!(cells, ["LISTEN", "127.0.0.1", "2", "6"]);
}
