//! The program under the capabilities of the unit in `packaging/systemd`.

use std::collections::BTreeMap;
use std::process::{Command, Output};

use tables::process_open_sockets::ProcessOpenSockets;
use tables::{Options, Table};

use super::expected::{self, Row, wait_for};
use super::netns::Netns;
use super::support::bpf;
use super::{Held, alone, can_run, open_every_kind};

const UNIT: &str = include_str!("../../packaging/systemd/process_open_sockets.service");

/// The capabilities of the unit, as setpriv(1) names them.
fn capabilities() -> Vec<String> {
    let line = UNIT.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet="));
    let names = line.unwrap().split(' ');
    names.map(|name| name.strip_prefix("CAP_").unwrap().to_lowercase()).collect()
}

/// A program of root with these capabilities and no others, which it cannot extend.
fn under_the_unit(program: &[&str]) -> Output {
    let bounding: Vec<String> = capabilities().iter().map(|name| format!("+{name}")).collect();
    let mut setpriv = Command::new("setpriv");
    setpriv.arg("--no-new-privs").arg("--inh-caps=-all");
    setpriv.arg(format!("--bounding-set=-all,{}", bounding.join(","))).args(program);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PROCESS_OPEN_SOCKETS_") || name == "RUST_LOG" {
            setpriv.env_remove(name);
        }
    }
    let output = setpriv.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

/// The rows of these namespaces that the program prints, and its log.
fn query(source: &str, namespaces: &[Netns]) -> (Vec<Row>, Vec<String>) {
    let table = ProcessOpenSockets::new(Options::default());
    let column = |name: &str| format!("coalesce({name}, 'NULL') AS {name}");
    let columns: Vec<String> = table.columns().iter().map(|it| column(it.name)).collect();
    let numbers: Vec<String> =
        namespaces.iter().map(|netns| format!("'{}'", netns.number)).collect();
    let sql = format!(
        "SELECT {} FROM process_open_sockets WHERE net_namespace IN ({})",
        columns.join(", "),
        numbers.join(", ")
    );
    let program = env!("CARGO_BIN_EXE_process_open_sockets");
    let output = under_the_unit(&[program, "--verbose", source, "query", "--json", &sql]);
    let rows: Vec<BTreeMap<String, String>> = serde_json::from_slice(&output.stdout).unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    (rows.into_iter().map(Row::from_cells).collect(), log.lines().map(str::to_owned).collect())
}

#[test]
fn setpriv_gives_exactly_the_capabilities_of_the_unit() {
    if !can_run("setpriv_gives_exactly_the_capabilities_of_the_unit") {
        return;
    }
    let mut expected = capabilities();
    expected.sort();
    let six = ["bpf", "dac_read_search", "net_admin", "perfmon", "sys_admin", "sys_ptrace"];
    assert_eq!(expected, six);
    // The bits of linux/capability.h.
    let mask = [39, 2, 12, 38, 21, 19].iter().fold(0_u64, |mask, bit| mask | 1 << bit);
    let output = under_the_unit(&["cat", "/proc/self/status"]);
    let status = String::from_utf8(output.stdout).unwrap();
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        assert!(status.contains(&format!("{set}:\t{mask:016x}\n")), "{set}: {status}");
    }
    assert!(status.contains("NoNewPrivs:\t1\n"), "{status}");
}

#[test]
fn every_row_is_shown_under_the_capabilities_of_the_unit() {
    let _alone = alone();
    let test = "every_row_is_shown_under_the_capabilities_of_the_unit";
    if !can_run(test) {
        return;
    }
    let mut held = Held::new();
    let (namespaces, rows) = open_every_kind(&mut held);
    // Segments in transit arrive.
    wait_for(|| expected::differences(Options::default(), &namespaces, &rows).is_empty());
    for source in ["--source=bpf", "--no-bpf"] {
        let (shown, log) = query(source, &namespaces);
        let different = expected::compare(shown, &namespaces, &rows);
        assert_eq!(different, [""; 0], "{source}: {log:#?}");
        if source == "--source=bpf" && !bpf::is_used_or_report(test, &log) {
            continue;
        }
        let warnings: Vec<_> = log.iter().filter(|line| line.contains(": warning: ")).collect();
        assert!(warnings.is_empty(), "{source}: {warnings:#?}");
    }
}
