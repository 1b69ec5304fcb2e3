//! The list of faults in `docs/faults.md`.

const LIST: &str = include_str!("../../docs/faults.md");
const TESTS: [&str; 13] = [
    include_str!("answers.rs"),
    include_str!("core.rs"),
    include_str!("clients.rs"),
    include_str!("descriptors.rs"),
    include_str!("end.rs"),
    include_str!("large_lists.rs"),
    include_str!("log.rs"),
    include_str!("malformed.rs"),
    include_str!("refusals.rs"),
    include_str!("restarts.rs"),
    include_str!("signals.rs"),
    include_str!("socket.rs"),
    include_str!("stderr.rs"),
];
/// The list marks tests of this file with an asterisk.
const ELSEWHERE: &str = include_str!("../extension/launch.rs");

#[test]
fn every_listed_fault_names_existing_tests() {
    let faults = LIST.lines().filter(|line| line.starts_with("| ") && !line.ends_with("| test |"));
    let mut count = 0;
    for fault in faults {
        let (_, tests) = fault.trim_end_matches(" |").rsplit_once(" | ").unwrap();
        for test in tests.split(", ") {
            let function = format!("fn {}(", test.trim_end_matches('*').trim_matches('`'));
            let exists = match test.ends_with('*') {
                true => ELSEWHERE.contains(&function),
                false => TESTS.iter().any(|file| file.contains(&function)),
            };
            assert!(exists, "there is no test {test} for: {fault}");
            count += 1;
        }
    }
    assert!(count > 40, "{count} tests are listed");
}
