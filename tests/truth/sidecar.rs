//! The program under the capabilities of the unit in `packaging/systemd`.

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tables::Options;

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

/// A program of root, and its arguments.
fn root(program: &[&str]) -> Command {
    let mut command = Command::new("setpriv");
    command.arg("--no-new-privs").arg("--inh-caps=-all").args(program);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PROCESS_OPEN_SOCKETS_") || name == "RUST_LOG" {
            command.env_remove(name);
        }
    }
    command
}

/// The same, with the capabilities of the unit and no others.
fn sidecar(program: &[&str]) -> Command {
    let names = capabilities().iter().map(|name| format!(",+{name}")).collect::<String>();
    let set = format!("--bounding-set=-all{names}");
    root(&[&[set.as_str()], program].concat())
}

/// The rows of these namespaces that the program prints, and its log.
///
/// The program itself has inherited some of the sockets: its own rows are not returned.
fn query(
    start: fn(&[&str]) -> Command,
    source: &str,
    columns: &[String],
    namespaces: &[Netns],
) -> (Vec<Row>, Vec<String>) {
    let column = |name: &String| format!("coalesce({name}, 'NULL') AS {name}");
    let columns: Vec<String> = columns.iter().map(column).collect();
    let numbers: Vec<String> =
        namespaces.iter().map(|netns| format!("'{}'", netns.number)).collect();
    let sql = format!(
        "SELECT {} FROM process_open_sockets WHERE net_namespace IN ({})",
        columns.join(", "),
        numbers.join(", ")
    );
    let program = env!("CARGO_BIN_EXE_process_open_sockets");
    let mut command = start(&[program, "--verbose", source, "query", "--json", &sql]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    let pid = child.id().to_string();
    let output = child.wait_with_output().unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{log}");
    let rows: Vec<BTreeMap<String, String>> = serde_json::from_slice(&output.stdout).unwrap();
    let others = rows.into_iter().filter(|row| row["pid"] != pid);
    (others.map(Row::from_cells).collect(), log.lines().map(str::to_owned).collect())
}

/// The beginnings of the warnings of a log, without their numbers.
fn warnings(log: &[String]) -> BTreeSet<&str> {
    let texts = log.iter().filter_map(|line| line.split_once(": warning: "));
    texts.map(|(_, text)| text.split(':').next().unwrap()).collect()
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
    let output = sidecar(&["cat", "/proc/self/status"]).output().unwrap();
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
    let columns = rows[0].names();
    for source in ["--source=bpf", "--no-bpf"] {
        // On a busy host, a process can be slow to read: another scan shows it.
        let start = Instant::now();
        let (different, log) = loop {
            let (shown, log) = query(sidecar, source, &columns, &namespaces);
            let different = expected::compare(shown, &namespaces, &rows);
            if different.is_empty() || start.elapsed() > Duration::from_secs(60) {
                break (different, log);
            }
        };
        assert_eq!(different, [""; 0], "{source}: {log:#?}");
        if source == "--source=bpf" {
            bpf::is_used_or_report(test, &log);
        }
        // A host can deny a process to root, too.
        let (_, log_of_root) = query(root, source, &columns, &namespaces);
        assert_eq!(warnings(&log), warnings(&log_of_root), "{source}: {log:#?}");
    }
}
