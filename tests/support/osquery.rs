//! The osquery of a scenario: the stand-in core with the extension, or a real osqueryi.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::core::{Core, Row};
use super::process::{BINARY, Extension};
use super::program::copy_program;

/// The name of the table beside the built-in one, in both.
pub(crate) const TABLE: &str = "alt_process_open_sockets";

/// The tables of events, which have no other names.
pub(crate) const EVENT_TABLES: &[&str] = if cfg!(target_os = "linux") {
    &["process_socket_events", "process_socket_flows", "socket_event_stats"]
} else {
    &[]
};

/// The names of all tables, with this name of the table of open sockets.
pub(crate) fn names(table: &str) -> Vec<&str> {
    [table].iter().chain(EVENT_TABLES).copied().collect()
}

/// The message that the extension is registered, with this name of the table of open sockets.
pub(crate) fn registered_message(table: &str) -> String {
    let names = names(table);
    let are = if names.len() == 1 { "table is" } else { "tables are" };
    let names = names.join(", ");
    format!("process_open_sockets: registered with osquery; the {are} named {names}\n")
}

/// The names of the extension's tables besides the tables of events, which must be there.
pub(crate) fn tables_beside_events(core: &Core) -> Vec<String> {
    let extensions = core.extensions().into_values();
    let mut names: Vec<String> = extensions.flat_map(|it| it.tables.into_keys()).collect();
    for events in EVENT_TABLES {
        let index = names.iter().position(|name| name == events);
        names.remove(index.unwrap_or_else(|| panic!("{events} is not among {names:?}")));
    }
    names
}

/// A captured tree of proc.
const CAPTURED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/one-of-each");

/// An osquery that has the extension.
pub(crate) enum Osquery {
    /// The stand-in core and its extension.
    StandIn { core: Core, extension: Extension },
    /// The real osqueryi: a new process for every query.
    Real { program: PathBuf, extension: PathBuf, _dir: TempDir },
}

impl Osquery {
    pub(crate) fn stand_in() -> Osquery {
        Osquery::stand_in_with(&[])
    }

    /// A stand-in over a captured tree, with a few sockets that never change.
    pub(crate) fn stand_in_over_captured() -> Osquery {
        Osquery::stand_in_with(&[&format!("--procfs={CAPTURED}")])
    }

    fn stand_in_with(flags: &[&str]) -> Osquery {
        let core = Core::stock();
        let extension = Extension::launch(core.socket(), flags);
        core.wait_for("process_open_sockets");
        core.take_requests();
        Osquery::StandIn { core, extension }
    }

    /// The program that the variable OSQUERYI names.
    pub(crate) fn real() -> Option<Osquery> {
        let program = PathBuf::from(std::env::var_os("OSQUERYI")?);
        // osquery only loads extensions with this suffix that no other user can write to.
        let dir = tempfile::tempdir().expect("a temporary directory");
        let owner_writes = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(dir.path(), owner_writes.clone()).expect("permissions");
        let extension = dir.path().join("process_open_sockets.ext");
        copy_program(Path::new(BINARY), &extension);
        std::fs::set_permissions(&extension, owner_writes).expect("permissions");
        Some(Osquery::Real { program, extension, _dir: dir })
    }

    pub(crate) fn query(&self, sql: &str) -> Result<Vec<Row>, String> {
        match self {
            Osquery::StandIn { core, .. } => core.query(sql),
            Osquery::Real { program, extension, .. } => {
                let output = Command::new(program)
                    .args(["--json", "--allow_unsafe", "--disable_database"])
                    .args(["--extensions_require=process_open_sockets", "--extensions_timeout=10"])
                    .arg("--extension")
                    .arg(extension)
                    .arg(sql)
                    .output()
                    .expect("OSQUERYI names a program");
                let errors = String::from_utf8_lossy(&output.stderr).into_owned();
                if !output.status.success() || errors.contains("Error: ") {
                    return Err(errors);
                }
                Ok(serde_json::from_slice(&output.stdout).expect("osqueryi --json prints rows"))
            }
        }
    }

    /// The rows of a query that does not fail.
    pub(crate) fn rows(&self, sql: &str) -> Vec<Row> {
        self.query(sql).unwrap_or_else(|error| panic!("{sql}: {error}"))
    }
}

/// Runs a scenario with the stand-in, and with the real osqueryi if OSQUERYI is set.
pub(crate) fn everywhere(scenario: impl Fn(&Osquery)) {
    scenario(&Osquery::stand_in());
    match Osquery::real() {
        Some(osquery) => scenario(&osquery),
        None => eprintln!("OSQUERYI is not set: ran with the stand-in core only"),
    }
}
